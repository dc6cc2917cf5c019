"""GPU twins: convolution and the matrix product; cuda_conv.py and cuda_matmul.py say how."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ..typing import Array, Shape
from .checks import expect, expect_conv
from .cuda_conv import ADDING, OUTS, PIXELS, TAPS
from .cuda_matmul import DEPTH, TILE
from .cuda_source import BLOCK
from .cupy_launch import NOTHING, contiguous, each, floating, floats, launch, spans

ENOUGH_BLOCKS = 512
"""Blocks that fill a GPU: with fewer, a sum is cut into parts. A constant, so that no result depends on the GPU."""
LEAST_INNER = 8 * DEPTH
"""Terms of a matrix product that a part has at least."""
MOST_PRODUCTS = 2**31
"""Multiplications of a matrix product from which on cuBLAS serves: too long a time for a launch to matter."""
THREADS = 128


def matmul(a: Array, b: Array) -> Array:
    """See reference.matmul; a very large one by cuBLAS."""
    expect("matmul", a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0], "a (M, K) and b (K, N)", a, b)
    return _product(a, b, None)


def linear(x: Array, W: Array, bias: Array | None = None, scale: Array | None = None) -> Array:
    """See reference.linear; a very large product by cuBLAS."""
    _expect_linear("linear", x, W, bias)
    expect("linear", scale is None or scale.shape == x.shape[:1], "scale (I,) for x (I, N)", x)
    return _product(W, x, bias, scale)


def linear_add(y: Array, scale: Array, x: Array, W: Array, bias: Array | None = None) -> Array:
    """See reference.linear_add; a very large product by cuBLAS."""
    _expect_linear("linear_add", x, W, bias)
    fits = y.shape == (W.shape[0], x.shape[1]) and scale.shape == W.shape[:1]
    expect("linear_add", fits, "y (J, N) and scale (J,) for x (I, N) and W (J, I)", y, scale, x, W)
    return _product(W, x, bias, None, (scale, y))


def _expect_linear(where: str, x: Array, W: Array, bias: Array | None) -> None:
    """Raise ShapeError unless x, W and the bias belong together."""
    fits = x.ndim == W.ndim == 2 and W.shape[1] == x.shape[0] and (bias is None or bias.shape == W.shape[:1])
    expect(where, fits, "x (I, N), W (J, I) and bias (J,)", x, W, *(() if bias is None else (bias,)))


def _product(
    a: Array, b: Array, bias: Array | None, weight: Array | None = None, start: tuple[Array, Array] | None = None
) -> Array:
    """a (weight ⊙ b) + bias + scale ⊙ y, with `start` = (scale, y); every vector has an entry a row."""
    (rows, inner), cols = a.shape, b.shape[1]
    given = [array for array in (a, b, bias, weight, *(start or ())) if array is not None]
    kind = floating(np.result_type(*(array.dtype for array in given)))
    if rows * inner * cols > MOST_PRODUCTS:
        partial = (a @ (b if weight is None else weight[:, None] * b)).astype(kind, copy=False)[None]
    else:
        partial = _partial_products(a.astype(kind, copy=False), b.astype(kind, copy=False), _or_none(weight, kind))
    return _added(partial, _or_none(bias, kind), *(_or_none(array, kind) for array in start or (None, None)))


def _or_none(array: Array | None, kind: np.dtype[Any]) -> Array | None:
    """The array, contiguous and of this type, if there is one."""
    return None if array is None else contiguous(array, kind)


def _partial_products(a: Array, b: Array, weight: Array | None) -> Array:
    """a (weight ⊙ b) in parts of the inner sum, (parts, M, N), of arrays in any memory order."""
    (rows, inner), cols, kind = a.shape, b.shape[1], a.dtype
    if inner == 0:
        return cupy.zeros((1, rows, cols), dtype=kind)
    tiles = (spans(rows, TILE, rows), spans(cols, TILE, cols))
    parts = min(spans(ENOUGH_BLOCKS, max(1, tiles[0] * tiles[1]), ENOUGH_BLOCKS), spans(inner, LEAST_INNER, inner))
    share = spans(spans(inner, parts, inner), DEPTH, inner) * DEPTH
    partial = cupy.empty((spans(inner, share, parts), rows, cols), dtype=kind)
    strides = [np.int64(step // kind.itemsize) for step in (*a.strides, *b.strides)]
    arrays = (a, b, NOTHING if weight is None else weight, partial)
    launch("matmul", kind, (*tiles, partial.shape[0]), BLOCK, *arrays, rows, inner, cols, *strides, share)
    return partial


def _added(partial: Array, bias: Array | None = None, scale: Array | None = None, start: Array | None = None) -> Array:
    """The sum over the first axis, in its order, + bias + scale ⊙ start, row by row."""
    if partial.shape[0] == 1 and bias is None and start is None:
        return partial[0]
    y = cupy.empty(partial.shape[1:], dtype=partial.dtype)
    cols = np.int64(max(1, y.size // max(1, y.shape[0])))
    extra = (NOTHING if array is None else array for array in (bias, scale, start))
    launch("add_parts", y.dtype, each(y.size), BLOCK, partial, *extra, y, np.int64(y.size), cols, partial.shape[0])
    return y


def _packed(w: Array, turned: bool) -> Array:
    """The weights as `convolve` reads them: by channel and tap, outputs last and filled up to whole tiles."""
    out, channels, kh, kw = w.shape
    source, target = (out, channels) if turned else (channels, out)
    packed = cupy.empty((source, kh, kw, spans(target, OUTS, target) * OUTS), dtype=w.dtype)
    arguments = (w, packed, out, channels, kh, kw, packed.shape[3], int(turned))
    launch("pack_weights", w.dtype, each(packed.size), BLOCK, *arguments)
    return packed


def _convolve(
    x: Array,
    packed: Array,
    y: Array,
    places: tuple[int, int, int, int],
    bias: Array | None = None,
    rectify: bool = False,
) -> Array:
    """Fill y from x, both contiguous; `places`: the stride, the spacing of x's pixels, the padding above and left."""
    channels, height, width, batch = x.shape
    outs, rows, cols = y.shape[:3]
    _, kh, kw, padded = packed.shape
    sizes = (channels, height, width, batch, outs, padded, rows, cols, kh, kw, *places, int(rectify))
    grid = (spans(rows * spans(cols, PIXELS, cols) * batch, THREADS, 2**31 - 1), padded // OUTS)
    launch("convolve", x.dtype, grid, THREADS, x, packed, NOTHING if bias is None else bias, y, *sizes)
    return y


def convolution(x: Array, w: Array, bias: Array | None, stride: int, padding: int, rectify: bool = False) -> Array:
    """conv2d(x, w) + bias, rectified if asked, of contiguous arrays of one type and known shapes."""
    rows, cols = expect_conv("conv2d", x.shape, w.shape, None, stride, padding)
    y = cupy.empty((w.shape[0], rows, cols, x.shape[3]), dtype=x.dtype)
    return _convolve(x, _packed(w, False), y, (stride, 1, padding, padding), bias, rectify)


def conv2d(x: Array, w: Array, stride: int, padding: int) -> Array:
    """See reference.conv2d."""
    x, w = floats(x, w)
    return convolution(x, w, None, stride, padding)


def conv2d_grad_input(gy: Array, w: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_input."""
    expect_conv("conv2d_grad_input", x_shape, w.shape, gy, stride, padding)
    gy, w = floats(gy, w)
    kh, kw = w.shape[2:]
    gx = cupy.empty(x_shape, dtype=gy.dtype)
    return _convolve(gy, _packed(w, True), gx, (1, stride, kh - 1 - padding, kw - 1 - padding))


def conv2d_grad_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_weight."""
    rows, cols = expect_conv("conv2d_grad_weight", x.shape, w_shape, gy, stride, padding)
    gy, x = floats(gy, x)
    out, channels, kh, kw = w_shape
    grid = (spans(channels * kh * kw, TAPS, 2**31 - 1), spans(out, OUTS, out))
    parts = min(rows, spans(ENOUGH_BLOCKS, grid[0] * grid[1], ENOUGH_BLOCKS))
    partial = cupy.empty((parts, *w_shape), dtype=x.dtype)
    sizes = (*x.shape, out, rows, cols, kh, kw, stride, padding, max(1, min(x.shape[3], ADDING)))
    launch("conv_weight_gradient", x.dtype, (*grid, parts), ADDING, gy, x, partial, *sizes)
    return _added(partial)
