"""Convolution in float32 on register blocks: the loops behind numba_conv.py.

A batch is cut into slices of LANES images and packed as [slice][channel][row][column][lane]. One vector then holds one
pixel of LANES images, so every shift of the kernel window is an aligned load, no channel count wastes lanes and the
borders are zeros in the packed copy. Packing costs a few percent of the convolution. Sums run in an order that depends
on the shapes only, never on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from ..typing import Array, Shape
from .buffers import empty, zeros
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
_PARTS = 8  # partial sums of a weight gradient, added in fixed order
MIN_BATCH = LANES // 4  # with fewer, most lanes would be empty: gemm_conv.py is faster


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
    packed = empty(_up(x.shape[3], LANES) * channels * height * width * LANES, np.float32)
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
    packed = empty(_up(outputs, OUTPUTS) * OUTPUTS * channels * kh * kw, np.float32)
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
    y = empty((outputs, rows, columns, batch), np.float32)
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
    gx = (empty if seen else zeros)(x_shape, np.float32)
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
    parts = zeros((shares, outputs, taps.size), np.float32)
    extent = (_up(outputs, OUTPUTS) * OUTPUTS, rows, columns, slices)
    image = (channels * height * width * LANES, width)
    _weight_parts(packed, image, gradient, extent, np.concatenate([taps, spare]), stride, parts)
    total: Array = parts.sum(axis=0).reshape(w_shape)
    return total
