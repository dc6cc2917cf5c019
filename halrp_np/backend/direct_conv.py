"""Convolution and matrix product in float32 on register blocks: the loops behind numba_kernels.py.

A batch is cut into slices of LANES images and packed as [slice][channel][row][column][lane]. One vector then holds one
pixel of LANES images, so every shift of the kernel window is an aligned load, no channel count wastes lanes and the
borders are zeros in the packed copy. Packing costs a few percent of the convolution. Sums run in an order that depends
on the shapes only, never on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from ..typing import Array, Shape
from .jit import compiled
from .reference import output_size
from .simd import (
    LANES,
    OUTPUTS,
    PIXELS,
    TAPS,
    add_products,
    add_scaled,
    store_lane_sums,
    store_pixels,
    zero_pixel_block,
    zero_tap_block,
)

_SWEEP = 128  # output pixels a weight-gradient block adds up at once: 5 gradients and the image rows stay in L1
_DEPTH = 256  # inner indices that a matrix-product block adds up at once: its panels of b stay in L2
_PARTS = 8  # partial sums of a weight gradient, added in fixed order
MIN_BATCH, MIN_COLUMNS = LANES // 4, LANES // 2  # with fewer, most lanes would be empty: gemm_conv.py is faster
_PANEL = PIXELS * LANES  # columns of a matrix-product panel
_CHUNK, _GROUP = 4 * OUTPUTS, 2 * _PANEL  # rows and columns of a matrix-product task


def aligned(size: int) -> Array:
    """An uninitialised flat float32 array that starts on a cache line, so that no vector straddles two."""
    raw = np.empty(size + 16, dtype=np.float32)
    start = (-raw.ctypes.data % 64) // 4
    return raw[start : start + size]


def _up(size: int, block: int) -> int:
    """The number of blocks that cover `size`."""
    return -(-size // block)


@compiled(parallel=True)
def _pack(x, packed, channels, top, left, height, width):  # type: ignore[no-untyped-def]
    """Copy x (C, H, W, N) into packed [slice][channels][height][width][LANES], zeros around and in spare lanes."""
    count, rows, columns, batch = x.shape
    for task in prange(channels * height):
        c, h = task // height, task % height
        inside = c < count and 0 <= h - top < rows
        for s in range((batch + LANES - 1) // LANES):
            lanes = min(LANES, batch - s * LANES)
            at = ((s * channels + c) * height + h) * width * LANES
            for w in range(width):
                if inside and 0 <= w - left < columns:
                    for lane in range(lanes):
                        packed[at + lane] = x[c, h - top, w - left, s * LANES + lane]
                    for lane in range(lanes, LANES):
                        packed[at + lane] = 0
                else:
                    for lane in range(LANES):
                        packed[at + lane] = 0
                at += LANES


def pack_images(x: Array, channels: int, top: int, left: int, height: int, width: int) -> Array:
    """The batch x (C, H, W, N) in slices, shifted by (top, left) into images of (channels, height, width)."""
    packed = aligned(_up(x.shape[3], LANES) * channels * height * width * LANES)
    _pack(x, packed, channels, top, left, height, width)
    return packed


@compiled(parallel=True)
def _pack_weights(w, packed):  # type: ignore[no-untyped-def]
    """Copy w (O, C, kh, kw) into packed [O / OUTPUTS][C][kh][kw][OUTPUTS], zeros for the missing outputs."""
    outputs, channels, kh, kw = w.shape
    for task in prange(((outputs + OUTPUTS - 1) // OUTPUTS) * channels):
        first, c, at = task // channels * OUTPUTS, task % channels, task * kh * kw * OUTPUTS
        for i in range(kh):
            for j in range(kw):
                for o in range(first, first + OUTPUTS):
                    packed[at] = w[o, c, i, j] if o < outputs else 0
                    at += 1


def pack_weights(w: Array) -> Array:
    """Weights (O, C, kh, kw), any strides, in the order in which _correlate walks along them."""
    outputs, channels, kh, kw = w.shape
    packed = np.empty(_up(outputs, OUTPUTS) * OUTPUTS * channels * kh * kw, dtype=np.float32)
    _pack_weights(w, packed)
    return packed


@compiled()
def _correlate_block(x, at, plane, line, rows, w, w_at, taps, channels, stride):  # type: ignore[no-untyped-def]
    """Sum over channels, kernel rows and columns for PIXELS pixels and OUTPUTS outputs."""
    kh, kw = taps
    first, last = rows
    block = zero_pixel_block()
    for c in range(channels):
        for i in range(first, last):
            pixel = at + c * plane + i * line
            weight = w_at + (c * kh + i) * kw * OUTPUTS
            for j in range(kw):
                block = add_scaled(block, x, pixel + j * LANES, stride * LANES, w, weight + j * OUTPUTS, 1)
    return block


@compiled()
def _store_corner(block, scratch, y, at, steps, pixels, outputs, lanes):  # type: ignore[no-untyped-def]
    """Write the part of a block that lies inside y: its first pixels, outputs and lanes."""
    step, output_step = steps
    store_pixels(block, scratch, 0, OUTPUTS * LANES, LANES)
    for p in range(pixels):
        for o in range(outputs):
            target, source = at + p * step + o * output_step, (p * OUTPUTS + o) * LANES
            for lane in range(lanes):
                y[target + lane] = scratch[source + lane]


@compiled(parallel=True)
def _correlate(x, image, w, kernel, y, base, steps, extent, geometry):  # type: ignore[no-untyped-def]
    """y[o, u, v] = Σ w[o, c, i, j] x[c, u stride - top + i, v stride + first + j], rows outside x skipped.

    Shapes: x [slice][C][H][W][LANES] and w [O / OUTPUTS][C][kh][kw][OUTPUTS], flat; y flat, written at
    base + o steps[0] + u steps[1] + v steps[2] + n for extent (O, rows, columns, N).
    """
    channels, height, width = image
    kh, kw = kernel
    outputs, rows, columns, batch = extent
    stride, top, first = geometry
    line, plane = width * LANES, height * width * LANES
    for task in prange(((batch + LANES - 1) // LANES) * rows):
        s, u = task // rows, task % rows
        scratch = np.empty(PIXELS * OUTPUTS * LANES, dtype=np.float32)
        lanes = min(LANES, batch - s * LANES)
        begin = u * stride - top
        inside = (max(0, -begin), min(kh, height - begin))
        for o in range(0, outputs, OUTPUTS):
            for v in range(0, columns, PIXELS):
                at = s * channels * plane + begin * line + (v * stride + first) * LANES
                block = _correlate_block(
                    x, at, plane, line, inside, w, o * channels * kh * kw, kernel, channels, stride
                )
                target = base + o * steps[0] + u * steps[1] + v * steps[2] + s * LANES
                pixels, left = min(PIXELS, columns - v), min(OUTPUTS, outputs - o)
                if pixels == PIXELS and left == OUTPUTS and lanes == LANES:
                    store_pixels(block, y, target, steps[2], steps[0])
                else:
                    _store_corner(block, scratch, y, target, (steps[2], steps[0]), pixels, left, lanes)


def correlate(x: Array, w: Array, stride: int, padding: int) -> Array:
    """The convolution of x (C, H, W, N) with w (O, C, kh, kw), float32."""
    outputs, channels, kh, kw = w.shape
    _, height, width, batch = x.shape
    rows, columns = output_size(height, kh, stride, padding), output_size(width, kw, stride, padding)
    y = np.empty((outputs, rows, columns, batch), dtype=np.float32)
    padded = (_up(columns, PIXELS) * PIXELS - 1) * stride + kw  # the last block may read beyond the last pixel
    packed = pack_images(x, channels, 0, padding, height, padded)
    steps = (rows * columns * batch, columns * batch, batch)
    _correlate(
        packed, (channels, height, padded), pack_weights(w), (kh, kw), y.reshape(-1), 0, steps, y.shape,
        (stride, padding, 0),
    )  # fmt: skip
    return y


def correlate_adjoint(gy: Array, w: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """The gradient of `correlate` in x: one stride-1 correlation of gy for each phase of the stride.

    Math: the pixels u = stride a + r of gx meet the kernel rows i = stride b + (r + padding) % stride only, in the rows
    a + (r + padding) // stride - b of gy: a correlation with the transposed, flipped sub-kernel. Columns alike.
    """
    channels, height, width, batch = x_shape
    outputs, rows = gy.shape[:2]
    seen = stride <= min(w.shape[2:])  # by some output, every pixel that lies under the windows; the others stay 0
    gx = (np.empty if seen else np.zeros)(x_shape, dtype=np.float32)
    left = w.shape[3] - 1  # at least every phase's shift
    padded = left + (padding + width) // stride + PIXELS + w.shape[3]  # beyond the last block's last read
    packed = pack_images(gy, outputs, 0, left, rows, padded)
    adjoint = w.transpose(1, 0, 2, 3)
    for r in range(min(stride, height)):
        for q in range(min(stride, width)):
            part = adjoint[:, :, (r + padding) % stride :: stride, (q + padding) % stride :: stride][:, :, ::-1, ::-1]
            kh, kw = part.shape[2:]
            if kh == 0 or kw == 0:
                continue  # no output looks at these pixels
            extent = (channels, _up(height - r, stride), _up(width - q, stride), batch)
            steps = (height * width * batch, stride * width * batch, stride * batch)
            top, shift = kh - 1 - (r + padding) // stride, kw - 1 - (q + padding) // stride
            _correlate(
                packed, (outputs, rows, padded), pack_weights(part), (kh, kw), gx.reshape(-1),
                (r * width + q) * batch, steps, extent, (1, top, left - shift),
            )  # fmt: skip
    return gx


@compiled(parallel=True)
def _weight_parts(x, image, gy, extent, taps, stride, parts):  # type: ignore[no-untyped-def]
    """parts[g, o, t] = Σ gy[o, u, v, n] x[taps[t] + (u, v) stride, n] over the g-th share of slices and rows.

    Shapes: x [slice][C][H][W][LANES] with its padding, gy [slice][O][rows][columns][LANES], O a multiple of OUTPUTS.
    """
    plane, width = image
    outputs, rows, columns, slices = extent
    sweep = max(1, _SWEEP // columns)
    sweeps = (rows + sweep - 1) // sweep
    items, shares, blocks = slices * sweeps, parts.shape[0], outputs // OUTPUTS
    for task in prange(shares * blocks):
        g, o = task // blocks, task % blocks * OUTPUTS
        sums = np.empty(TAPS * OUTPUTS, dtype=np.float32)
        for item in range(g * items // shares, (g + 1) * items // shares):
            s, begin = item // sweeps, item % sweeps * sweep
            for t in range(0, parts.shape[2], TAPS):
                block = zero_tap_block()
                for u in range(begin, min(begin + sweep, rows)):
                    at = s * plane + u * stride * width * LANES
                    gy_at = ((s * outputs + o) * rows + u) * columns * LANES
                    for v in range(columns):
                        block = add_products(
                            block, x, at + v * stride * LANES, taps, t, gy, gy_at + v * LANES, rows * columns * LANES
                        )
                store_lane_sums(block, sums, 0)
                for k in range(min(TAPS, parts.shape[2] - t)):
                    for p in range(min(OUTPUTS, parts.shape[1] - o)):
                        parts[g, o + p, t + k] += sums[k * OUTPUTS + p]


def correlate_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """The gradient of `correlate` in w: each accumulator is one weight, its lanes summed at the end."""
    outputs, channels, kh, kw = w_shape
    rows, columns, batch = gy.shape[1:]
    height, width = x.shape[1] + 2 * padding, x.shape[2] + 2 * padding
    packed = pack_images(x, channels, padding, padding, height, width)
    gradient = pack_images(gy, _up(outputs, OUTPUTS) * OUTPUTS, 0, 0, rows, columns)
    c, i, j = np.indices((channels, kh, kw)).reshape(3, -1)
    taps = ((c * height + i) * width + j) * LANES
    spare = np.full(_up(taps.size, TAPS) * TAPS - taps.size, taps[-1])  # the last block repeats a tap, unused
    slices, size = _up(batch, LANES), outputs * taps.size
    shares = max(1, min(_PARTS, slices, 2**23 // size))
    parts = np.zeros((shares, outputs, taps.size), dtype=np.float32)
    extent = (_up(outputs, OUTPUTS) * OUTPUTS, rows, columns, slices)
    image = (channels * height * width * LANES, width)
    _weight_parts(packed, image, gradient, extent, np.concatenate([taps, spare]), stride, parts)
    total: Array = parts.sum(axis=0).reshape(w_shape)
    return total


@compiled(parallel=True)
def _pack_panels(b, packed):  # type: ignore[no-untyped-def]
    """Copy b (K, N) into packed [panel][K][_PANEL], zeros beyond the last column."""
    depth, columns = b.shape
    chunks = (depth + _DEPTH - 1) // _DEPTH
    for task in prange(((columns + _PANEL - 1) // _PANEL) * chunks):
        panel, chunk = task // chunks, task % chunks
        for k in range(chunk * _DEPTH, min((chunk + 1) * _DEPTH, depth)):
            at = (panel * depth + k) * _PANEL
            wide = min(_PANEL, columns - panel * _PANEL)
            for n in range(wide):
                packed[at + n] = b[k, panel * _PANEL + n]
            for n in range(wide, _PANEL):
                packed[at + n] = 0


@compiled()
def _add_rows(scratch, out, row, skip, column, fresh):  # type: ignore[no-untyped-def]
    """Add (or write, if fresh) a block in scratch [row][_PANEL] to out, from its row `skip` on."""
    columns = min(_PANEL, out.shape[1] - column)
    for o in range(skip, OUTPUTS):
        for n in range(columns):
            value = scratch[o * _PANEL + n]
            out[row + o, column + n] = value if fresh else out[row + o, column + n] + value


@compiled(parallel=True)
def _product(a, a_steps, panels, depth, out):  # type: ignore[no-untyped-def]
    """out = a b, for flat a with element steps (row, column), and b packed in panels."""
    row_step, column_step = a_steps
    rows, columns = out.shape
    chunks, groups = (rows + _CHUNK - 1) // _CHUNK, (columns + _GROUP - 1) // _GROUP
    for task in prange(chunks * groups):
        low, left = task % chunks * _CHUNK, task // chunks * _GROUP
        scratch = np.empty(OUTPUTS * _PANEL, dtype=np.float32)
        for start in range(0, depth, _DEPTH):
            for column in range(left, min(left + _GROUP, columns), _PANEL):
                for m in range(low, min(low + _CHUNK, rows), OUTPUTS):
                    first = min(m, rows - OUTPUTS)  # the last block goes back over rows that are done, and skips them
                    block = zero_pixel_block()
                    for k in range(start, min(start + _DEPTH, depth)):
                        a_at = first * row_step + k * column_step
                        block = add_scaled(block, panels, column * depth + k * _PANEL, LANES, a, a_at, row_step)
                    store_pixels(block, scratch, 0, LANES, _PANEL)
                    _add_rows(scratch, out, first, m - first, column, start == 0)


def product(a: Array, b: Array) -> Array:
    """a b for float32 (M, K) and (K, N) with K > 0; neither a nor a transposed view of it is copied."""
    rows, depth = a.shape
    if rows < OUTPUTS:
        return product(np.concatenate([a, np.zeros((OUTPUTS - rows, depth), dtype=a.dtype)]), b)[:rows]
    flipped = a.T.flags.c_contiguous
    flat = (a.T if flipped else np.ascontiguousarray(a)).reshape(-1)
    packed = aligned(_up(b.shape[1], _PANEL) * depth * _PANEL)
    _pack_panels(b if b.flags.c_contiguous or b.flags.f_contiguous else np.ascontiguousarray(b), packed)
    out = np.empty((rows, b.shape[1]), dtype=np.float32)
    _product(flat, (1, rows) if flipped else (depth, 1), packed, depth, out)
    return out
