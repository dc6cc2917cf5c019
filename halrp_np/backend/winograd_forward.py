"""Winograd's forward product, and with other weights the gradient in x: winograd.py says how it is cut into tasks."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from ..typing import Array
from .buffers import empty, zeros
from .direct_conv import Slices
from .jit import compiled
from .simd import LANES, OUTPUTS, PIXELS, add_scaled, store_pixels, zero_pixel_block
from .winograd_simd import clear_vector, transform_line, transform_output
from .winograd_tables import OUTPUT, tables

_SCRATCH = 2**15  # floats of M that a task keeps at once


class Target(NamedTuple):
    """Where outputs go in flat memory: pixel (o, u, v) of image s LANES + lane to s, o, u, v times steps + lane.

    Images from `shape[3]` on, for shape (O, rows, columns, N), are not written.
    """

    data: Array
    steps: tuple[int, int, int, int]
    shape: tuple[int, int, int, int]


def batch_last(y: Array) -> Target:
    """A contiguous batch (O, rows, columns, N)."""
    _, height, width, batch = y.shape
    return Target(y.reshape(-1), (LANES, height * width * batch, width * batch, batch), y.shape)


def packed(y: Slices) -> Target:
    """The images of slices, all lanes of them; what lies around the images is not written."""
    slices, channels, height, width = y.shape
    steps = (channels * height * width * LANES, height * width * LANES, width * LANES, LANES)
    start = (y.top * width + y.left) * LANES
    return Target(y.data[start:], steps, (channels, *y.size, slices * LANES))


# ---- transforms -----------------------------------------------------------------------------------------------------


@compiled()
def fill_places(places, grid, first, origin, side, size):  # type: ignore[no-untyped-def]
    """Where the windows of the tiles from `first` on lie: slice, then for rows and columns the line they cross.

    places[k] = (slice, row, begin, end, column, begin, end): of the `side` rows from `row` on, begin .. end-1 exist in
    an image of size (height, width). A window outside it has none. Beyond the last tile, the last comes again.
    """
    rows, columns, tiles = grid
    for k in range(places.shape[0]):
        t = min(first + k, tiles - 1)
        places[k, 0] = t // (rows * columns)
        corner = (t // columns % rows * OUTPUT - origin[0], t % columns * OUTPUT - origin[1])
        for axis in range(2):
            begin, end = max(0, -corner[axis]), min(side, size[axis] - corner[axis])
            exists = begin < end
            places[k, 1 + 3 * axis] = corner[axis] if exists else 0
            places[k, 2 + 3 * axis] = begin if exists else 0
            places[k, 3 + 3 * axis] = end if exists else 0


@compiled()
def _transform_tile(tile, n, x, at, line, place, middle, out, out_at, position_step):  # type: ignore[no-untyped-def]
    """out[i, j] = (Bᵀ x B)[i, j], positions position_step apart: columns first, then rows."""
    at += place[1] * line + place[4] * LANES
    begin, end, left, right = place[2], place[3], place[5], place[6]
    for j in range(n):
        if left <= j < right:
            transform_line(tile, tile, x, at + j * LANES, line, begin, end, middle, j * LANES, n * LANES)
        else:
            for i in range(n):
                clear_vector(middle, (i * n + j) * LANES)
    for i in range(n):
        to = out_at + i * n * position_step
        transform_line(tile, tile, middle, i * n * LANES, LANES, 0, len(tile), out, to, position_step)


@compiled()
def _transform_back(tile, n, m, at, position_step, middle, out, out_at, row_step, step):  # type: ignore[no-untyped-def]
    """out[u, v] = (Aᵀ m A)[u, v]: columns first, then rows."""
    for j in range(n):
        transform_output(tile, m, at + j * position_step, n * position_step, middle, j * LANES, n * LANES)
    for u in range(OUTPUT):
        transform_output(tile, middle, u * n * LANES, LANES, out, out_at + u * row_step, step)


@lru_cache
def weight_map(r: int) -> Array:
    """G ⊗ G (n², r²) in float64: vec(G g Gᵀ) = (G ⊗ G) vec(g), so all weights together are one matrix product."""
    G = np.array(tables(r).G, dtype=np.float64)
    return np.kron(G, G)


def _transform_weights(w: Array, swapped: bool) -> Array:
    """u[position][o / OUTPUTS][c][OUTPUTS] = (G w[o, c] Gᵀ)[position], zeros for the missing outputs.

    `swapped` takes the transposed, flipped kernel w[c, o, r-1-i, r-1-j] instead.
    """
    w = w.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1] if swapped else w
    outputs, channels, r = w.shape[:3]
    square, taps = weight_map(r).shape
    kernels = zeros((r, r, -(-outputs // OUTPUTS), channels, OUTPUTS), np.float64)
    for q in range(min(OUTPUTS, outputs)):
        part = w[q::OUTPUTS].transpose(2, 3, 0, 1)
        kernels[:, :, : part.shape[2], :, q] = part
    values = empty((square, kernels.size // taps), np.float64)
    u = empty(values.shape, np.float32)
    with np.errstate(all="ignore"):  # what is not finite shows in the result
        np.matmul(weight_map(r), kernels.reshape(taps, -1), out=values)
        np.copyto(u, values, casting="same_kind")
    return u.reshape(-1)


# ---- a group of tiles -----------------------------------------------------------------------------------------------


@compiled()
def _input_tiles(tile, n, x, image, places, middle, v, position_step, channels):  # type: ignore[no-untyped-def]
    """v[position][c][p] = (Bᵀ d B)[position] for PIXELS tiles."""
    _, planes, height, width = image
    for c in range(channels):
        for p in range(PIXELS):  # neighbours share pixels
            at, to = (places[p, 0] * planes + c) * height * width * LANES, (c * PIXELS + p) * LANES
            _transform_tile(tile, n, x, at, width * LANES, places[p], middle, v, to, position_step)


@compiled()
def _multiply(v, v_step, channels, u, u_at, u_step, blocks, m, m_step, positions):  # type: ignore[no-untyped-def]
    """m[position][o][p] = Σ_c u[position][o][c] v[position][c][p] for `blocks` blocks of OUTPUTS outputs."""
    for position in range(positions):
        for b in range(blocks):
            block = zero_pixel_block()
            at, weight = position * v_step, u_at + position * u_step + b * channels * OUTPUTS
            for c in range(channels):
                block = add_scaled(block, v, at + c * PIXELS * LANES, LANES, u, weight + c * OUTPUTS, 1)
            store_pixels(block, m, position * m_step + b * OUTPUTS * PIXELS * LANES, LANES, PIXELS * LANES)


@compiled()
def _output_tiles(tile, n, m, position_step, grid, first, begin, end, middle, y, steps, shape):  # type: ignore[no-untyped-def]
    """Transform m [position][o][p] back and write outputs begin .. end-1 of the tiles from `first` on."""
    rows, columns, _ = grid
    _, height, width, batch = shape
    patch = n * n * LANES  # in `middle`, behind what the transform uses
    for p in range(min(PIXELS, grid[2] - first)):
        t = first + p
        s, row, column = t // (rows * columns), t // columns % rows * OUTPUT, t % columns * OUTPUT
        lanes, tall, wide = min(LANES, batch - s * LANES), min(OUTPUT, height - row), min(OUTPUT, width - column)
        for o in range(begin, end):
            at = ((o - begin) * PIXELS + p) * LANES
            to = s * steps[0] + o * steps[1] + row * steps[2] + column * steps[3]
            if lanes == LANES and tall == OUTPUT and wide == OUTPUT:
                _transform_back(tile, n, m, at, position_step, middle, y, to, steps[2], steps[3])
                continue
            _transform_back(tile, n, m, at, position_step, middle, middle, patch, OUTPUT * LANES, LANES)
            for h in range(tall):
                for w in range(wide):
                    target, source = to + h * steps[2] + w * steps[3], patch + (h * OUTPUT + w) * LANES
                    for lane in range(lanes):
                        y[target + lane] = middle[source + lane]


@compiled()
def _correlate_share(tile, share, x, image, window, grid, u, channels, y, y_steps, y_shape, chunk, scratch):  # type: ignore[no-untyped-def]
    """The part of _correlate of one share (first group, last group) of the groups of tiles."""
    n, origin = window[2], window[:2]
    outputs = y_shape[0]
    v_step, m_step = (channels * PIXELS + 1) * LANES, (chunk * PIXELS + 1) * LANES  # + 1: not all in one cache set
    u_step = (outputs + OUTPUTS - 1) // OUTPUTS * channels * OUTPUTS
    behind = (n * n + OUTPUT * OUTPUT) * LANES
    middle = scratch[:behind]
    v = scratch[behind : behind + n * n * v_step]
    m = scratch[behind + n * n * v_step :]
    places = np.empty((PIXELS, 7), dtype=np.int64)
    for group in range(share[0], share[1]):
        first = group * PIXELS
        fill_places(places, grid, first, origin, n, image[2:])
        _input_tiles(tile, n, x, image, places, middle, v, v_step, channels)
        for begin in range(0, outputs, chunk):
            end = min(outputs, begin + chunk)
            count = (end - begin + OUTPUTS - 1) // OUTPUTS
            _multiply(v, v_step, channels, u, begin * channels, u_step, count, m, m_step, n * n)
            _output_tiles(tile, n, m, m_step, grid, first, begin, end, middle, y, y_steps, y_shape)


@compiled(parallel=True)
def _correlate(tile, x, image, window, grid, u, channels, y, y_steps, y_shape, chunk, scratch):  # type: ignore[no-untyped-def]
    """y = x correlated with the weights of u; each row of scratch serves a share of the groups of PIXELS tiles.

    Shapes: window (top, left, n), grid (rows, columns, all tiles), chunk: outputs at once, scratch (workers, ...).
    """
    groups, workers = (grid[2] + PIXELS - 1) // PIXELS, scratch.shape[0]
    for k in prange(workers):
        worker = int(k)
        share = (worker * groups // workers, (worker + 1) * groups // workers)
        _correlate_share(tile, share, x, image, window, grid, u, channels, y, y_steps, y_shape, chunk, scratch[worker])


def tile_grid(rows: int, columns: int, slices: int) -> tuple[int, int, int]:
    """Rows and columns of tiles that cover an output, and the tiles of all slices."""
    tall, wide = -(-rows // OUTPUT), -(-columns // OUTPUT)
    return tall, wide, tall * wide * slices


def _multiply_tiles(x: Slices, w: Array, swapped: bool, border: int, y: Target) -> None:
    """y[o, u, v] = Σ w[o, c, i, j] x[c, u - border + i, v - border + j], or the same with the kernel swapped."""
    outputs, channels = w.shape[1::-1] if swapped else w.shape[:2]
    n, blocks, grid = OUTPUT + w.shape[2] - 1, -(-outputs // OUTPUTS), tile_grid(*y.shape[1:3], x.shape[0])
    chunk = OUTPUTS * max(1, min(blocks, _SCRATCH // (n * n * PIXELS * LANES * OUTPUTS)))
    size = LANES * (n * n + OUTPUT * OUTPUT + n * n * (channels * PIXELS + 1 + chunk * PIXELS + 1))
    scratch = empty((min(get_num_threads(), -(-grid[2] // PIXELS)), size), np.float32)
    window = (border - x.top, border - x.left, n)
    u = _transform_weights(w, swapped)
    _correlate((0,) * n, x.data, x.shape, window, grid, u, channels, *y, chunk, scratch)


def convolve(x: Slices, w: Array, padding: int, y: Target) -> None:
    """Fill y with the stride-1 convolution of x and w, zeros around x.

    Shapes: w (O, C, r, r), r in KERNELS; x of at least C channels, y of O.
    Math: y[o, u, v] = Σ w[o, c, i, j] x[c, u - padding + i, v - padding + j].
    """
    _multiply_tiles(x, w, False, padding, y)


def convolve_adjoint(gy: Slices, w: Array, padding: int, gx: Target) -> None:
    """Fill gx with the gradient of `convolve` in x: the correlation of gy with the transposed, flipped kernel."""
    _multiply_tiles(gy, w, True, w.shape[2] - 1 - padding, gx)
