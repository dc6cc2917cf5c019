"""Convolution on the CPU: which loops serve which arrays.

float32 runs on the register blocks of direct_conv.py, or with `fast_math` on winograd.py where that applies; float64
and tiny batches run on im2col and BLAS in gemm_conv.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..typing import Array, Shape
from . import direct_conv, gemm_conv, ops, reference, winograd
from .arguments import floats
from .checks import expect_conv
from .jit import PER_ELEMENT, threads_for


def by_winograd(w_shape: Shape, x_shape: Shape, stride: int) -> bool:
    """Whether a float32 convolution on slices is to be Winograd's: it was asked for and applies."""
    return ops.kernels_in_use() == "winograd" and winograd.applies(w_shape, x_shape, stride)


def sliced(images: Array) -> bool:
    """Whether slices of the batch serve: float32, and lanes that are not mostly empty."""
    return bool(images.dtype == np.float32 and images.shape[3] >= direct_conv.MIN_BATCH)


def _loops(images: Array, w_shape: Shape, x_shape: Shape, stride: int) -> Any:
    """The module whose loops serve."""
    if not sliced(images):
        return gemm_conv
    return winograd if by_winograd(w_shape, x_shape, stride) else direct_conv


def conv2d(x: Array, w: Array, stride: int, padding: int) -> Array:
    """See reference.conv2d."""
    rows, columns = expect_conv("conv2d", x.shape, w.shape, None, stride, padding)
    x, w = floats(x, w)
    with threads_for(w.size * rows * columns * x.shape[3] // PER_ELEMENT):
        y: Array = _loops(x, w.shape, x.shape, stride).correlate(x, w, stride, padding)
    return y


def conv2d_grad_input(gy: Array, w: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_input."""
    expect_conv("conv2d_grad_input", x_shape, w.shape, gy, stride, padding)
    gy, w = floats(gy, w)
    with threads_for(gy.size * w.size // max(1, len(w)) // PER_ELEMENT):
        gx: Array = _loops(gy, w.shape, x_shape, stride).correlate_adjoint(gy, w, x_shape, stride, padding)
    return gx


def conv2d_grad_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_weight."""
    expect_conv("conv2d_grad_weight", x.shape, w_shape, gy, stride, padding)
    gy, x = floats(gy, x)
    with threads_for(gy.size * int(np.prod(w_shape[1:])) // PER_ELEMENT):
        gw: Array = _loops(gy, w_shape, x.shape, stride).correlate_weight(gy, x, w_shape, stride, padding)
    return gw


def conv2d_weight_squares(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_weight_squares, which runs float64 and tiny batches here, too: products by BLAS."""
    expect_conv("conv2d_weight_squares", x.shape, w_shape, gy, stride, padding)
    gy, x = floats(gy, x)
    if not sliced(x):
        return reference.conv2d_weight_squares(gy, x, w_shape, stride, padding)
    with threads_for(gy.size * int(np.prod(w_shape[1:])) // PER_ELEMENT):
        return direct_conv.weight_squares(gy, x, w_shape, stride, padding)
