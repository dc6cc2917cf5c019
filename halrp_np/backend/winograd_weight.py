"""Winograd's gradient in w: winograd.py says how it is cut into tasks."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange

from ..typing import Array, Shape
from .buffers import empty
from .direct_conv import Slices
from .jit import compiled
from .simd import LANES, add_lane_sums
from .winograd_forward import fill_places, tile_grid, weight_map
from .winograd_simd import COLUMNS, ROWS, add_outer, transform_line, weighted_sum, zero_outer_block
from .winograd_tables import OUTPUT, tables, transpose

_CHUNK = 16  # tiles that are transformed at once
_PARTS = 8  # partial sums, added in fixed order
_SIDE = (0,) * OUTPUT  # stands for its length in a kernel's type


@compiled()
def _row_of_tiles(tile, side, size, factors, i, x, image, channels, places, count, middle, out, position_step):  # type: ignore[no-untyped-def]
    """out[j][channel][k] = row i of the transformed tiles k: factors[i] adds up their rows, then each line as usual.

    `side`, of length `size`, tells inputs (n pixels) from gradients (OUTPUT pixels).
    """
    _, planes, height, width = image
    line = width * LANES
    for c in range(channels):
        for k in range(count):
            s, row, column = places[k, 0], places[k, 1], places[k, 4]
            begin, end, left, right = places[k, 2], places[k, 3], places[k, 5], places[k, 6]
            at = ((s * planes + c) * height + row) * line + column * LANES
            for j in range(left, right):
                weighted_sum(side, factors, i * size, x, at + j * LANES, line, begin, end, middle, j * LANES)
            transform_line(tile, side, middle, 0, LANES, left, right, out, (c * _CHUNK + k) * LANES, position_step)


@compiled()
def _add_products(z, z_step, v, v_step, n, count, parts, at, blocks):  # type: ignore[no-untyped-def]
    """parts[j][o][c] += Σ over `count` tiles and the lanes of z[j][o] v[j][c], by blocks of ROWS x COLUMNS."""
    for j in range(n):
        for o in range(blocks[0]):
            for c in range(blocks[1]):
                block = zero_outer_block()
                z_at = j * z_step + o * ROWS * _CHUNK * LANES
                v_at = j * v_step + c * COLUMNS * _CHUNK * LANES
                for k in range(count):
                    block = add_outer(block, z, z_at + k * LANES, _CHUNK * LANES, v, v_at + k * LANES, _CHUNK * LANES)
                add_lane_sums(block, parts, at)
                at += ROWS * COLUMNS


@compiled()
def _weight_rows(tile, side, share, x, image, gy, gradient, window, sizes, grid, Bt, A, parts, scratch):  # type: ignore[no-untyped-def]
    """The part of _weight_parts of one share (first row, last row) of the rows of all parts."""
    n, blocks, shares = parts.shape[1], parts.shape[3:5], parts.shape[0]
    channels, outputs = sizes
    v_step, z_step = blocks[1] * COLUMNS * _CHUNK * LANES, blocks[0] * ROWS * _CHUNK * LANES
    middle = scratch[: n * LANES]
    v = scratch[n * LANES : n * (LANES + v_step)]
    z = scratch[n * (LANES + v_step) :]
    z[:] = 0  # the channels that fill up the last blocks
    v[:] = 0
    flat = parts.reshape(-1)
    places = np.empty((_CHUNK, 7), dtype=np.int64)
    row_size = parts.size // (shares * n)
    chunks = (grid[2] + _CHUNK - 1) // _CHUNK
    for row in range(share[0], share[1]):
        g, i = row // n, row % n
        flat[row * row_size : (row + 1) * row_size] = 0
        for chunk in range(g * chunks // shares, (g + 1) * chunks // shares):
            first = chunk * _CHUNK
            count = min(_CHUNK, grid[2] - first)
            fill_places(places, grid, first, window[:2], n, image[2:])
            _row_of_tiles(tile, tile, n, Bt, i, x, image, channels, places, count, middle, v, v_step)
            fill_places(places, grid, first, window[2:], OUTPUT, gradient[2:])
            _row_of_tiles(tile, side, OUTPUT, A, i, gy, gradient, outputs, places, count, middle, z, z_step)
            _add_products(z, z_step, v, v_step, n, count, flat, row * row_size, blocks)


@compiled(parallel=True)
def _weight_parts(tile, side, x, image, gy, gradient, window, sizes, grid, Bt, A, parts, scratch):  # type: ignore[no-untyped-def]
    """parts[g][i][j][o / ROWS][c / COLUMNS][ROWS][COLUMNS] = Σ Z V over the g-th share of the tiles."""
    rows, workers = parts.shape[0] * parts.shape[1], scratch.shape[0]
    for k in prange(workers):
        worker = int(k)
        share = (worker * rows // workers, (worker + 1) * rows // workers)
        _weight_rows(
            tile, side, share, x, image, gy, gradient, window, sizes, grid, Bt, A, parts, scratch[worker]
        )  # fmt: skip


def _fold(parts: Array, w_shape: Shape) -> Array:
    """gw[o, c] = Gᵀ (Σ over the shares of parts)[o, c] G."""
    outputs, channels, r = w_shape[:3]
    square, taps = weight_map(r).shape
    total = empty(parts.shape[1:], np.float32)
    products = empty((square, total.size // square), np.float64)
    kernels = empty((taps, products.shape[1]), np.float64)
    gw = empty(w_shape, np.float32)
    with np.errstate(all="ignore"):  # what is not finite shows in the result
        np.add.reduce(parts, axis=0, out=total)
        np.copyto(products, total.reshape(products.shape))
        np.matmul(weight_map(r).T, products, out=kernels)
        blocks = kernels.reshape(r, r, *parts.shape[3:5], ROWS, COLUMNS)
        for o in range(min(ROWS, outputs)):
            for c in range(min(COLUMNS, channels)):
                target = gw[o::ROWS, c::COLUMNS]
                target[...] = blocks[:, :, : target.shape[0], : target.shape[1], o, c].transpose(2, 3, 0, 1)
    return gw


def weight_gradient(gy: Slices, x: Slices, w_shape: Shape, padding: int) -> Array:
    """The gradient (O, C, r, r) of `convolve` in w; lanes beyond the batch are 0 in x, whatever they are in gy."""
    outputs, channels, r = w_shape[:3]
    n, grid, table = OUTPUT + r - 1, tile_grid(*gy.size, gy.shape[0]), tables(r)
    blocks = (-(-outputs // ROWS), -(-channels // COLUMNS))
    size = n * n * blocks[0] * ROWS * blocks[1] * COLUMNS
    shares = max(1, min(_PARTS, -(-grid[2] // _CHUNK), 2**23 // size))
    parts = empty((shares, n, n, *blocks, ROWS * COLUMNS), np.float32)
    rows = n * LANES * (1 + _CHUNK * (blocks[0] * ROWS + blocks[1] * COLUMNS))
    scratch = empty((min(get_num_threads(), shares * n), rows), np.float32)
    Bt, A = (np.array(matrix, dtype=np.float32).reshape(-1) for matrix in (table.Bt, transpose(table.At)))
    window, sizes = (padding - x.top, padding - x.left, -gy.top, -gy.left), (channels, outputs)
    _weight_parts((0,) * n, _SIDE, x.data, x.shape, gy.data, gy.shape, window, sizes, grid, Bt, A, parts, scratch)
    return _fold(parts, w_shape)
