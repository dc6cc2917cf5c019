"""The GPU column of the table of hot loops: the same functions as reference.py, compiled by NVRTC on first use.

Each wrapper checks shapes (the kernels check no bounds), settles one floating type, makes its arguments contiguous and
launches a kernel of cuda_source.py. A convolution is one kernel that lays the windows side by side and one matrix
product, a block of output rows at a time, so that its scratch memory stays bounded. Every result is the same on every
run.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import cupy
import numpy as np

from ..typing import Array, Shape
from .checks import expect, expect_conv, expect_gather, expect_pool, expect_rows
from .cuda_source import SOURCE

BLOCK = 256
"""Threads of a block; of a whole warp less where the batch is smaller."""
COLUMN_BYTES = 256 * 2**20
"""Scratch memory of a convolution, unless a single output row takes more."""
MOST_BLOCKS_Y = 65535

_C_TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


@cache
def _module(kind: np.dtype[Any]) -> Any:
    """All kernels for one floating type."""
    return cupy.RawModule(code=f"#define BLOCK {BLOCK}\ntypedef {_C_TYPES[kind]} real;\n{SOURCE}")


@cache
def _kernel(name: str, kind: np.dtype[Any]) -> Any:
    """One kernel for one floating type."""
    return _module(kind).get_function(name)


def _launch(name: str, kind: np.dtype[Any], grid: tuple[int, int], threads: int, *arguments: Any) -> None:
    """Queue a kernel; whole numbers go as C int, so 64-bit sizes must come as np.int64."""
    values = tuple(np.int32(value) if type(value) is int else value for value in arguments)
    if min(grid) > 0 and threads > 0:
        block = min(BLOCK, (threads + 31) // 32 * 32)
        _kernel(name, kind)((grid[0], min(grid[1], MOST_BLOCKS_Y)), (block,), values)


def _spans(count: int, share: int, most: int) -> int:
    """How many blocks share a run of `count` elements, each taking about `share`."""
    return min(most, (count + share - 1) // share)


def _floats(*arrays: Array) -> list[Array]:
    """The arrays, contiguous and of their common floating type."""
    kind = np.result_type(*(array.dtype for array in arrays))
    kind = kind if kind in _C_TYPES else np.dtype(np.float64)
    return [cupy.ascontiguousarray(array, dtype=kind).reshape(array.shape) for array in arrays]


def _row_blocks(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each block whose columns fit into COLUMN_BYTES."""
    step = max(1, COLUMN_BYTES // max(1, row_bytes))
    for first in range(0, rows, step):
        yield first, min(step, rows - first)


def _im2col(x: Array, window: Shape, stride: int, padding: int, first: int, rows: int, cols: int) -> Array:
    """The windows of some output rows of contiguous x side by side: (C kh kw, rows cols N)."""
    channels, batch, (kh, kw) = x.shape[0], x.shape[3], window
    columns = cupy.empty((channels * kh * kw, rows * cols * batch), dtype=x.dtype)
    sizes = (*x.shape, kh, kw, stride, padding, first, rows, cols)
    _launch("im2col", x.dtype, (rows * cols, channels), batch, x, columns, *sizes)
    return columns


def conv2d(x: Array, w: Array, stride: int, padding: int) -> Array:
    """See reference.conv2d."""
    rows, cols = expect_conv("conv2d", x.shape, w.shape, None, stride, padding)
    x, w = _floats(x, w)
    out, window, batch = w.shape[0], w.shape[2:], x.shape[3]
    weights = w.reshape(out, -1)
    parts = [
        (weights @ _im2col(x, window, stride, padding, first, count, cols)).reshape(out, count, cols, batch)
        for first, count in _row_blocks(rows, weights[0].nbytes * cols * batch)
    ]
    return parts[0] if len(parts) == 1 else cupy.concatenate(parts, axis=1)


def conv2d_grad_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_weight."""
    rows, cols = expect_conv("conv2d_grad_weight", x.shape, w_shape, gy, stride, padding)
    gy, x = _floats(gy, x)
    out, window = w_shape[0], w_shape[2:]
    gw = cupy.zeros((out, int(np.prod(w_shape[1:]))), dtype=x.dtype)
    for first, count in _row_blocks(rows, gw[0].nbytes * cols * x.shape[3]):
        columns = _im2col(x, window, stride, padding, first, count, cols)
        gw += gy[:, first : first + count].reshape(out, -1) @ columns.T
    return gw.reshape(w_shape)


def conv2d_grad_input(gy: Array, w: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_input."""
    rows, cols = expect_conv("conv2d_grad_input", x_shape, w.shape, gy, stride, padding)
    gy, w = _floats(gy, w)
    (out, channels, kh, kw), (_, height, width, batch) = w.shape, x_shape
    weights = w.reshape(out, -1)
    gx = cupy.zeros(x_shape, dtype=gy.dtype)
    for first, count in _row_blocks(rows, weights[0].nbytes * cols * batch):
        columns = weights.T @ gy[:, first : first + count].reshape(out, -1)  # (C kh kw, count cols N)
        columns = cupy.ascontiguousarray(columns)  # as the kernel reads it, whatever order the product came in
        top = max(0, first * stride - padding)
        bottom = min(height, (first + count - 1) * stride - padding + kh)
        sizes = (channels, height, width, batch, kh, kw, stride, padding, first, count, cols, top)
        _launch("col2im", gy.dtype, (max(0, bottom - top) * width, channels), batch, columns, gx, *sizes)
    return gx


def maxpool2d(x: Array, kernel: int, stride: int) -> tuple[Array, Array]:
    """See reference.maxpool2d."""
    rows, cols = expect_pool("maxpool2d", x.shape, None, kernel, stride)
    (x,) = _floats(x)
    channels, _, _, batch = x.shape
    y = cupy.empty((channels, rows, cols, batch), dtype=x.dtype)
    argmax = cupy.empty(y.shape, dtype=np.uint8)
    sizes = (*x.shape, kernel, stride, rows, cols)
    _launch("maxpool2d", x.dtype, (rows * cols, channels), batch, x, y, argmax, *sizes)
    return y, argmax


def maxpool2d_backward(gy: Array, argmax: Array, x_shape: Shape, kernel: int, stride: int) -> Array:
    """See reference.maxpool2d_backward."""
    rows, cols = expect_pool("maxpool2d_backward", x_shape, gy, kernel, stride)
    expect("maxpool2d_backward", gy.shape == argmax.shape, "gy and argmax of one shape", gy, argmax)
    (gy,) = _floats(gy)
    where = cupy.ascontiguousarray(argmax, dtype=np.uint8)
    channels, height, width, batch = x_shape
    gx = cupy.empty(x_shape, dtype=gy.dtype)
    sizes = (channels, height, width, batch, kernel, stride, rows, cols)
    _launch("maxpool2d_backward", gy.dtype, (height * width, channels), batch, gy, where, gx, *sizes)
    return gx


def relu_backward(y: Array, gy: Array) -> Array:
    """See reference.relu_backward."""
    fits = y.shape == gy.shape or y.shape == (*gy.shape[:-2], *gy.shape[-1:])
    expect("relu_backward", fits, "y (..., N) and gy (..., N) or (..., K, N)", y, gy)
    y, gy = _floats(y if y.ndim == gy.ndim else cupy.broadcast_to(y[..., None, :], gy.shape), gy)
    gx = cupy.empty_like(gy)
    _launch("relu_backward", gy.dtype, (_spans(gy.size, BLOCK, 2**20), 1), BLOCK, y, gy, gx, np.int64(gy.size))
    return gx


def batchnorm_apply(x: Array, scale: Array, shift: Array) -> Array:
    """See reference.batchnorm_apply."""
    expect_rows("batchnorm_apply", x, scale, shift)
    x, scale, shift = _floats(x, scale, shift)
    y = cupy.empty_like(x)
    channels, count = x.shape
    grid = (_spans(count, 4 * BLOCK, 2**20), channels)
    _launch("batchnorm_apply", x.dtype, grid, min(count, BLOCK), x, scale, shift, y, channels, np.int64(count))
    return y


def batchnorm_backward(
    gy: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """See reference.batchnorm_backward; the two sums are kept in float64."""
    expect_rows("batchnorm_backward", x, gamma, mean, var)
    expect("batchnorm_backward", gy.shape == x.shape, "gy and x of one shape", gy, x)
    gy, x, gamma, mean, var = _floats(gy, x, gamma, mean, var)
    channels, count = x.shape
    parts = max(1, _spans(count, 8 * BLOCK, 64))
    partial = cupy.empty((2, channels, parts), dtype=np.float64)
    _launch("batchnorm_sums", x.dtype, (parts, channels), BLOCK, gy, x, mean, partial, channels, np.int64(count))
    gx, ggamma, gbeta = cupy.empty_like(x), cupy.empty_like(gamma), cupy.empty_like(gamma)
    grid = (max(1, _spans(count, 4 * BLOCK, 2**20)), channels)
    arguments = (gy, x, gamma, mean, var, partial, np.float64(eps), gx, ggamma, gbeta)
    _launch("batchnorm_gradient", x.dtype, grid, BLOCK, *arguments, channels, np.int64(count), parts)
    return gx, ggamma, gbeta


def adam_step(
    theta: Array, grad: Array, m: Array, v: Array, *, lr: float, beta1: float, beta2: float, eps: float, step: int,
    l1: float, l2: float, centre: float, scale: float,
) -> None:  # fmt: skip
    """See reference.adam_step: theta, m and v change in place."""
    expect("adam_step", all(array.shape == theta.shape for array in (grad, m, v)), "one shape", theta, grad, m, v)
    kind = theta.dtype if theta.dtype in _C_TYPES else np.dtype(np.float64)
    values = (beta1, 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1**step), (1 - beta2**step) ** -0.5, eps)
    factors = tuple(kind.type(value) for value in (*values, l1, l2, centre, scale))
    flat = [cupy.ascontiguousarray(array, dtype=kind) for array in (theta, grad, m, v)]
    _launch("adam_step", kind, (_spans(theta.size, BLOCK, 2**20), 1), BLOCK, *flat, np.int64(theta.size), *factors)
    for array, done in zip((theta, m, v), (flat[0], flat[2], flat[3]), strict=True):
        if array is not done:  # it was not contiguous, or of another type
            array[...] = done.reshape(array.shape)


def gather_images(images: Array, rows: Array, source: Array, table: Array, table_row: Array) -> Array:
    """See reference.gather_images; an index out of range, negative ones included, gives NaN in its place."""
    expect_gather("gather_images", images, rows, source, table, table_row)
    (table,) = _floats(table)
    pixels = cupy.ascontiguousarray(images)
    order, at, kind = (cupy.ascontiguousarray(indices, dtype=np.int64) for indices in (rows, source, table_row))
    out = cupy.empty((source.size, rows.size), dtype=table.dtype)
    limits = (np.int64(images.shape[0]), np.int64(images.shape[1]), np.int64(table.shape[0]))
    grid = (source.size, 1)
    _launch("gather_images", table.dtype, grid, rows.size, pixels, order, at, table, kind, out, rows.size, *limits)
    return out
