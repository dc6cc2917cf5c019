"""GPU twins: max pooling; cuda_pool.py says how."""

from __future__ import annotations

import cupy
import numpy as np

from ..typing import Array, Shape
from .checks import expect, expect_pool
from .cupy_launch import contiguous, floats, launch


def maxpool2d(x: Array, kernel: int, stride: int) -> tuple[Array, Array]:
    """See reference.maxpool2d."""
    rows, cols = expect_pool("maxpool2d", x.shape, None, kernel, stride)
    (x,) = floats(x)
    channels, _, _, batch = x.shape
    y = cupy.empty((channels, rows, cols, batch), dtype=x.dtype)
    argmax = cupy.empty(y.shape, dtype=np.uint8)
    sizes = (*x.shape, kernel, stride, rows, cols)
    launch("maxpool2d", x.dtype, (rows * cols, channels), batch, x, y, argmax, *sizes)
    return y, argmax


def maxpool2d_backward(gy: Array, argmax: Array, x_shape: Shape, kernel: int, stride: int) -> Array:
    """See reference.maxpool2d_backward."""
    rows, cols = expect_pool("maxpool2d_backward", x_shape, gy, kernel, stride)
    expect("maxpool2d_backward", gy.shape == argmax.shape, "gy and argmax of one shape", gy, argmax)
    (gy,) = floats(gy)
    channels, height, width, batch = x_shape
    gx = cupy.empty(x_shape, dtype=gy.dtype)
    sizes = (channels, height, width, batch, kernel, stride, rows, cols)
    arrays = (gy, contiguous(argmax, np.uint8), gx)
    launch("maxpool2d_backward", gy.dtype, (height * width, channels), batch, *arrays, *sizes)
    return gx


def maxpool2d_take(x: Array, argmax: Array, kernel: int, stride: int) -> Array:
    """See reference.maxpool2d_take."""
    rows, cols = expect_pool("maxpool2d_take", x.shape, argmax, kernel, stride)
    (x,) = floats(x)
    y = cupy.empty(argmax.shape, dtype=x.dtype)
    sizes = (*x.shape, kernel, stride, rows, cols)
    arrays = (x, contiguous(argmax, np.uint8), y)
    launch("maxpool2d_take", x.dtype, (rows * cols, x.shape[0]), x.shape[3], *arrays, *sizes)
    return y
