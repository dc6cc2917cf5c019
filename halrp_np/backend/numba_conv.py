"""Convolution and matrix product on the CPU: which loops serve which arrays.

float32 runs on the register blocks of direct_conv.py; float64 and tiny batches run on im2col and BLAS in gemm_conv.py.
"""

from __future__ import annotations

import numpy as np

from ..typing import Array, Shape
from . import direct_conv, gemm, gemm_conv
from .arguments import floats
from .buffers import zeros
from .checks import expect, expect_conv
from .jit import threads_for

_LANES = 16  # multiply-adds in the time of one element of an elementwise op, roughly


def matmul(a: Array, b: Array) -> Array:
    """See reference.matmul."""
    expect("matmul", a.ndim == 2 and b.ndim == 2 and a.shape[1] == b.shape[0], "(M, K) and (K, N)", a, b)
    if 0 in (*a.shape, b.shape[1]):
        return zeros((a.shape[0], b.shape[1]), np.result_type(a, b))
    direct = a.dtype == b.dtype == np.float32 and b.shape[1] >= gemm.MIN_COLUMNS
    with threads_for(a.size * b.shape[1] // _LANES):
        return (gemm if direct else gemm_conv).product(a, b)


def _direct(images: Array) -> bool:
    """Whether the register blocks serve: float32, and lanes that are not mostly empty."""
    return bool(images.dtype == np.float32 and images.shape[-1] >= direct_conv.MIN_BATCH)


def conv2d(x: Array, w: Array, stride: int, padding: int) -> Array:
    """See reference.conv2d."""
    rows, columns = expect_conv("conv2d", x.shape, w.shape, None, stride, padding)
    x, w = floats(x, w)
    with threads_for(w.size * rows * columns * x.shape[3] // _LANES):
        return (direct_conv if _direct(x) else gemm_conv).correlate(x, w, stride, padding)


def conv2d_grad_input(gy: Array, w: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_input."""
    expect_conv("conv2d_grad_input", x_shape, w.shape, gy, stride, padding)
    gy, w = floats(gy, w)
    with threads_for(gy.size * w.size // max(1, len(w)) // _LANES):
        return (direct_conv if _direct(gy) else gemm_conv).correlate_adjoint(gy, w, x_shape, stride, padding)


def conv2d_grad_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_weight."""
    expect_conv("conv2d_grad_weight", x.shape, w_shape, gy, stride, padding)
    gy, x = floats(gy, x)
    with threads_for(gy.size * int(np.prod(w_shape[1:])) // _LANES):
        return (direct_conv if _direct(gy) else gemm_conv).correlate_weight(gy, x, w_shape, stride, padding)
