"""Convolution in float32 on register blocks: the loops behind numba_conv.py, and how they are blocked.

**Slices.** A batch (C, H, W, N) is cut into slices of LANES images and packed as [slice][channel][row][column][lane]. A
vector register then holds one pixel of LANES images, so every shift of the kernel window is an aligned load, no channel
count wastes lanes, and the borders are zeros in the packed copy. Packing costs a few percent of the convolution.

**Registers.** A processor starts two multiply-adds and two loads a cycle, and a multiply-add is ready four cycles
later. So at least eight must be under way, each with its own accumulator, and each loaded value must serve several. The
output is cut into blocks of PIXELS neighbouring pixels x OUTPUTS channels, whose 20 accumulators stay in registers
during the whole sum over channels and kernel taps:

    for every input channel c and tap (i, j):
        load    PIXELS vectors   x[c, u + i, v + j + p]
        load    OUTPUTS scalars  w[o + q, c, i, j], each spread over the lanes
        block[p, q] += x[p] w[q]               9 loads for 20 multiply-adds; a plain loop has 2 for 1

Weights are packed in the order of this walk, [O / OUTPUTS][C][i][j][OUTPUTS]. Missing outputs have zero weights, and
missing pixels are computed from padding and not stored. Rows of the window that lie outside the image are skipped, so
a weight that is not finite shows only where it meets the image.

**Caches.** A block's weights (some KiB) and the image rows under it are used again by the next pixels and the next
outputs, so both come from the first two caches. A task is one row of one slice: its rows of x stay where they are while
all outputs are formed.

**The gradient in x** is the same walk over gy with transposed, flipped weights; with a stride, one walk for each of its
phases. **The gradient in w** sums over pixels and images instead: a block is TAPS taps x OUTPUTS channels, both factors
are vectors, and the lanes of each accumulator are added up at the end. _SWEEP pixels at a time keep the gradients of
OUTPUTS channels in the first cache while all taps pass over them. Before that, each lane holds the gradient of one
image alone: **its square**, summed over the images, takes one product more, once a slice has been walked through.

Sums run in an order that depends on the shapes only, never on the number of threads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

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
    add_lane_sums,
    add_products,
    add_scaled,
    store_pixels,
    zero_pixel_block,
    zero_tap_block,
)
from .simd_pointwise import load_some, multiply, store


def up(size: int, block: int) -> int:
    """The least multiple of `block` that is no less than `size`."""
    return -(-size // block) * block


_SWEEP = 64  # output pixels a weight-gradient block adds up at once: 5 gradients and the image rows stay in L1
_PARTS = 8  # partial sums of a weight gradient at most, added in fixed order
_TASKS = 64  # that a weight gradient is cut into at least, if it can be
_ROOM = up(TAPS * OUTPUTS, LANES)  # for the lane sums of a block, in whole vectors
MIN_BATCH = LANES // 4  # with fewer, most lanes would be empty: gemm_conv.py is faster


class Slices(NamedTuple):
    """Packed images: flat `data` as [slice][channel][row][column][LANES], of `shape` (slices, channels, rows, columns).

    Image pixel (h, w) stands at row top + h and column left + w; what lies outside the `size` of the image is 0. Lanes
    beyond the batch are 0 in packed images; what is formed in slices may hold numbers there, which meet those zeros.
    """

    data: Array
    shape: tuple[int, int, int, int]
    top: int
    left: int
    size: tuple[int, int]


# ---- packing --------------------------------------------------------------------------------------------------------


@compiled(parallel=True)
def _pack(x, extent, packed, channels, top, left, height, width):  # type: ignore[no-untyped-def]
    """Copy flat x of extent (C, H, W, N) into packed [slice][channels][height][width][LANES], zeros elsewhere."""
    count, rows, columns, batch = extent
    for task in prange(channels * height):
        c, h = task // height, task % height
        inside = c < count and 0 <= h - top < rows
        for s in range((batch + LANES - 1) // LANES):
            lanes = min(LANES, batch - s * LANES)
            at = ((s * channels + c) * height + h) * width * LANES
            source = ((c * rows + h - top) * columns - left) * batch + s * LANES
            for w in range(width):
                here = lanes if inside and 0 <= w - left < columns else 0
                store(load_some(x, source + w * batch, here), packed, at + w * LANES, LANES)


def pack_images(x: Array, channels: int, top: int, left: int, height: int, width: int) -> Slices:
    """Contiguous x (C, H, W, N) in slices, shifted by (top, left) in images of (channels, height, width)."""
    shape = (-(-x.shape[3] // LANES), channels, height, width)
    packed = empty(int(np.prod(shape)) * LANES, np.float32)
    _pack(x.reshape(-1), x.shape, packed, channels, top, left, height, width)
    return Slices(packed, shape, top, left, (x.shape[1], x.shape[2]))


def pack_padded(x: Array, kernel: Shape, stride: int, padding: int) -> Slices:
    """The batch x with its padding around, as a convolution and its weight gradient read it."""
    channels, height, width, _ = x.shape
    columns = up(output_size(width, kernel[1], stride, padding), PIXELS)
    reach = (columns - 1) * stride + kernel[1]  # the last block may read beyond the last pixel
    return pack_images(x, channels, padding, padding, height + 2 * padding, max(reach, width + 2 * padding))


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
    """Weights (O, C, kh, kw), any strides, in the order in which blocks walk along them."""
    outputs, channels, kh, kw = w.shape
    packed = empty(up(outputs, OUTPUTS) * channels * kh * kw, np.float32)
    _pack_weights(w, packed)
    return packed


# ---- forward, and the gradient in x ---------------------------------------------------------------------------------


@compiled()
def add_window(block, x, at, plane, line, rows, w, w_at, taps, channels, stride):  # type: ignore[no-untyped-def]
    """Add the sum over channels, kernel rows first .. last-1 and columns to a block of pixels and outputs."""
    kh, kw = taps
    first, last = rows
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
    """y[o, u, v] = Σ w[o, c, i, j] x[c, u stride + top + i, v stride + left + j] over rows low .. high-1 of x.

    Shapes: x [slice][planes][H][W][LANES] for image (planes, H, W, channels that count); w packed; y flat, written at
    base + o steps[0] + u steps[1] + v steps[2] + n for extent (O, rows, columns, N).
    """
    planes, height, width, channels = image
    kh, kw = kernel
    outputs, rows, columns, batch = extent
    stride, top, left, low, high = geometry
    line, plane = width * LANES, height * width * LANES
    for task in prange(((batch + LANES - 1) // LANES) * rows):
        s, u = task // rows, task % rows
        scratch = np.empty(PIXELS * OUTPUTS * LANES, dtype=np.float32)
        lanes = min(LANES, batch - s * LANES)
        begin = u * stride + top
        inside = (max(0, low - begin), min(kh, high - begin))
        for o in range(0, outputs, OUTPUTS):
            for v in range(0, columns, PIXELS):
                at = s * planes * plane + begin * line + (v * stride + left) * LANES
                block = add_window(
                    zero_pixel_block(), x, at, plane, line, inside, w, o * channels * kh * kw, kernel, channels, stride
                )
                target = base + o * steps[0] + u * steps[1] + v * steps[2] + s * LANES
                pixels, missing = min(PIXELS, columns - v), min(OUTPUTS, outputs - o)
                if pixels == PIXELS and missing == OUTPUTS and lanes == LANES:
                    store_pixels(block, y, target, steps[2], steps[0])
                else:
                    _store_corner(block, scratch, y, target, (steps[2], steps[0]), pixels, missing, lanes)


def correlate(x: Array, w: Array, stride: int, padding: int) -> Array:
    """The convolution of x (C, H, W, N) with w (O, C, kh, kw), float32."""
    outputs, channels, kh, kw = w.shape
    rows, columns = (output_size(x.shape[k + 1], w.shape[k + 2], stride, padding) for k in (0, 1))
    y = empty((outputs, rows, columns, x.shape[3]), np.float32)
    packed = pack_padded(x, (kh, kw), stride, padding)
    steps = (rows * columns * x.shape[3], columns * x.shape[3], x.shape[3])
    geometry = (stride, 0, 0, padding, padding + x.shape[1])
    _correlate(
        packed.data, (*packed.shape[1:], channels), pack_weights(w), (kh, kw), y.reshape(-1), 0, steps, y.shape,
        geometry,
    )  # fmt: skip
    return y


def padded_gradient(columns: int, kw: int, width: int, stride: int, padding: int) -> tuple[int, int]:
    """Zero columns before a row of gy, and the row's length with all that blocks of gx may read, over the phases."""
    left, reach = 0, columns
    for q in range(min(stride, width)):
        shift, taps = (q + padding) // stride, len(range((q + padding) % stride, kw, stride))
        left = max(left, taps - 1 - shift)
        reach = max(reach, shift + up(-(-(width - q) // stride), PIXELS))
    return left, left + reach


def correlate_adjoint(gy: Array, w: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """The gradient of `correlate` in x."""
    left, columns = padded_gradient(gy.shape[2], w.shape[3], x_shape[2], stride, padding)
    packed = pack_images(gy, gy.shape[0], 0, left, gy.shape[1], columns)
    return adjoint_of_slices(packed, w, x_shape, stride, padding)


def adjoint_of_slices(gy: Slices, w: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """The gradient in x from slices of gy as padded_gradient has them: a stride-1 correlation for each of its phases.

    Math: the pixels u = stride a + r of gx meet the kernel rows i = stride b + (r + padding) % stride only, in the rows
    a + (r + padding) // stride - b of gy: a correlation with the transposed, flipped sub-kernel. Columns alike.
    """
    channels, height, width, batch = x_shape
    outputs, rows = w.shape[0], gy.shape[2]
    seen = stride <= min(w.shape[2:])  # by some output, every pixel that lies under the windows; the others stay 0
    gx = (empty if seen else zeros)(x_shape, np.float32)
    adjoint = w.transpose(1, 0, 2, 3)
    for r in range(min(stride, height)):
        for q in range(min(stride, width)):
            part = adjoint[:, :, (r + padding) % stride :: stride, (q + padding) % stride :: stride][:, :, ::-1, ::-1]
            kh, kw = part.shape[2:]
            if kh == 0 or kw == 0:
                continue  # no output looks at these pixels
            extent = (channels, -(-(height - r) // stride), -(-(width - q) // stride), batch)
            steps = (height * width * batch, stride * width * batch, stride * batch)
            top, shift = (r + padding) // stride - kh + 1, (q + padding) // stride - kw + 1
            _correlate(
                gy.data, (*gy.shape[1:], outputs), pack_weights(part), (kh, kw), gx.reshape(-1),
                (r * width + q) * batch, steps, extent, (1, top, gy.left + shift, 0, rows),
            )  # fmt: skip
    return gx


# ---- the gradient in w ----------------------------------------------------------------------------------------------


@compiled(parallel=True)
def _weight_parts(x, image, gy, gradient, taps, spans, stride, sweep, parts):  # type: ignore[no-untyped-def]
    """parts[g, b, t, k, o] = Σ gy[b OUTPUTS + o, u, v, n] x[taps[t TAPS + k] + (u, v) stride, n] over the g-th share.

    A share is some sweeps of (slices, rows). Block t of TAPS taps meets rows of x that are not padding for u from
    spans[t, 0] to spans[t, 1] - 1 only.

    Shapes: x [slice][C][H][W][LANES], padded, for image (C H W LANES, W); gy [slice][planes][rows][pitch][LANES]
    for gradient (slices, planes, rows, pitch, left, columns); parts [share][planes / OUTPUTS][block of taps][ROOM],
    flat but for the shares.
    """
    plane, width = image
    slices, planes, rows, pitch, left, columns = gradient
    deep, high = sweep
    sweeps = (rows + high - 1) // high
    items, shares, blocks = (slices + deep - 1) // deep * sweeps, parts.shape[0], planes // OUTPUTS
    for task in prange(shares * blocks):
        g, o = task // blocks, task % blocks * OUTPUTS
        own = parts[g]
        for item in range(g * items // shares, (g + 1) * items // shares):
            first, begin = item // sweeps * deep, item % sweeps * high
            for t in range(spans.shape[0]):
                block = zero_tap_block()
                for s in range(first, min(first + deep, slices)):
                    for u in range(max(begin, spans[t, 0]), min(begin + high, spans[t, 1])):
                        at = s * plane + u * stride * width * LANES
                        gy_at = (((s * planes + o) * rows + u) * pitch + left) * LANES
                        for v in range(columns):
                            block = add_products(
                                block, x, at + v * stride * LANES, taps, t * TAPS, gy, gy_at + v * LANES,
                                rows * pitch * LANES,
                            )  # fmt: skip
                add_lane_sums(block, own, (task % blocks * spans.shape[0] + t) * _ROOM)


@compiled(parallel=True)
def _fold(parts, depth, gw):  # type: ignore[no-untyped-def]
    """gw[o, t] (O, C kh kw) = the sum of the parts of output o and tap t; `depth` blocks of taps an output."""
    for o in prange(gw.shape[0]):
        first = o // OUTPUTS * depth
        for t in range(gw.shape[1]):
            at = (first + t // TAPS) * _ROOM + t % TAPS * OUTPUTS + o % OUTPUTS
            total = parts[0, at]
            for g in range(1, parts.shape[0]):
                total += parts[g, at]
            gw[o, t] = total


@lru_cache(maxsize=64)
def _taps(w_shape: Shape, x_shape: Shape, rows: int, stride: int, padding: int) -> tuple[Array, Array]:
    """Where each tap's first pixel lies in a slice of padded x, the last repeated to fill a block; and the spans."""
    _, channels, kh, kw = w_shape
    _, _, height, width = x_shape
    c, i, j = (np.pad(k, (0, -k.size % TAPS), mode="edge") for k in np.indices((channels, kh, kw)).reshape(3, -1))
    taps = ((c * height + i) * width + j) * LANES
    low, high = (bound(i.reshape(-1, TAPS), axis=1) for bound in (np.min, np.max))
    first = -((high - padding) // stride)  # the least u with u stride + i >= padding for some i
    last = (height - padding - 1 - low) // stride + 1  # and beyond the largest with u stride + i < height - padding
    spans = np.clip(np.stack([first, last], axis=1), 0, rows)
    if padding >= kh:  # windows of padding only: a NaN in their gradients must show all the same
        spans[:] = 0, rows
    return taps, spans


def correlate_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """The gradient of `correlate` in w."""
    packed = pack_padded(x, w_shape[2:], stride, padding)
    gradient = pack_images(gy, up(w_shape[0], OUTPUTS), 0, 0, gy.shape[1], gy.shape[2])
    return weight_of_slices(gradient, packed, w_shape, stride, padding)


def weight_of_slices(gy: Slices, x: Slices, w_shape: Shape, stride: int, padding: int) -> Array:
    """The gradient in w from slices of gy, planes rounded up to OUTPUTS, and of x as pack_padded has them."""
    outputs, channels, kh, kw = w_shape
    slices, planes, height, width = x.shape
    taps, spans = _taps(tuple(w_shape), x.shape, gy.shape[2], stride, padding)
    size, blocks = channels * kh * kw, gy.shape[1] // OUTPUTS
    rows, columns = gy.size
    sweep = (max(1, _SWEEP // (rows * columns)), max(1, min(rows, _SWEEP // columns)))  # slices, rows of one
    items = -(-slices // sweep[0]) * -(-rows // sweep[1])
    parts = zeros((max(1, min(_PARTS, items, -(-_TASKS // blocks))), blocks * len(spans) * _ROOM), np.float32)
    image = (planes * height * width * LANES, width)
    _weight_parts(x.data, image, gy.data, (*gy.shape, gy.left, columns), taps, spans, stride, sweep, parts)
    gw: Array = empty((outputs, size), np.float32)
    _fold(parts, len(spans), gw)
    return gw.reshape(w_shape)


@compiled(parallel=True)
def _square_parts(x, image, gy, gradient, taps, spans, stride, parts):  # type: ignore[no-untyped-def]
    """As _weight_parts, the lanes squared at the end of every slice, where each is an image's own gradient."""
    plane, width = image
    slices, planes, rows, pitch, left, columns = gradient
    shares, blocks = parts.shape[0], planes // OUTPUTS
    for task in prange(shares * blocks):
        g, o = task // blocks, task % blocks * OUTPUTS
        own = parts[g]
        for s in range(g * slices // shares, (g + 1) * slices // shares):
            for t in range(spans.shape[0]):
                block = zero_tap_block()
                for u in range(spans[t, 0], spans[t, 1]):
                    at = s * plane + u * stride * width * LANES
                    gy_at = (((s * planes + o) * rows + u) * pitch + left) * LANES
                    for v in range(columns):
                        block = add_products(
                            block, x, at + v * stride * LANES, taps, t * TAPS, gy, gy_at + v * LANES,
                            rows * pitch * LANES,
                        )  # fmt: skip
                add_lane_sums(multiply(block, block), own, (task % blocks * spans.shape[0] + t) * _ROOM)


def weight_squares(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """Σ over the images of the squared gradient of `correlate` in w, each image's on its own."""
    packed = pack_padded(x, w_shape[2:], stride, padding)
    gradient = pack_images(gy, up(w_shape[0], OUTPUTS), 0, 0, gy.shape[1], gy.shape[2])
    taps, spans = _taps(tuple(w_shape), packed.shape, gy.shape[1], stride, padding)
    slices, planes, height, width = packed.shape
    blocks = gradient.shape[1] // OUTPUTS
    parts = zeros((max(1, min(_PARTS, slices, -(-_TASKS // blocks))), blocks * len(spans) * _ROOM), np.float32)
    image, whole = (planes * height * width * LANES, width), (*gradient.shape, gradient.left, gy.shape[2])
    _square_parts(packed.data, image, gradient.data, whole, taps, spans, stride, parts)
    squares: Array = empty((w_shape[0], int(np.prod(w_shape[1:]))), np.float32)
    _fold(parts, len(spans), squares)
    return squares.reshape(w_shape)
