"""Convolution, normalisation, ReLU and pooling in one op on the CPU: which loops serve which arrays.

float32 runs on the slices of conv_block.py; float64 and tiny batches run the chain of the plain ops of this column.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ..typing import Array
from . import conv_block as blocks
from . import reference_blocks
from .arguments import floats
from .checks import expect, expect_conv, expect_pool
from .jit import PER_ELEMENT, threads_for
from .numba_conv import by_winograd, conv2d, conv2d_grad_input, conv2d_grad_weight, sliced
from .numba_norm import batchnorm_backward, batchnorm_train
from .numba_pointwise import relu, relu_backward
from .numba_pool import maxpool2d, maxpool2d_backward
from .reference import output_size

_COLUMN = SimpleNamespace(
    conv2d=conv2d,
    conv2d_grad_input=conv2d_grad_input,
    conv2d_grad_weight=conv2d_grad_weight,
    batchnorm_train=batchnorm_train,
    batchnorm_backward=batchnorm_backward,
    relu=relu,
    relu_backward=relu_backward,
    maxpool2d=maxpool2d,
    maxpool2d_backward=maxpool2d_backward,
)


def _check(where: str, x: Array, w: Array, rows: tuple[Array, ...], stride: int, padding: int, pool: int) -> None:
    """Raise ShapeError unless everything fits together."""
    height, width = expect_conv(where, x.shape, w.shape, None, stride, padding)
    expect(where, all(row.shape == w.shape[:1] for row in rows), "w (O, C, kh, kw) and per-channel (O,)", w, *rows)
    expect_pool(where, (w.shape[0], height, width, x.shape[3]), None, pool, pool)


def _work(x: Array, w: Array, stride: int, padding: int) -> int:
    """The cost of the convolution, as `threads_for` counts it."""
    height, width = (output_size(x.shape[k + 1], w.shape[k + 2], stride, padding) for k in (0, 1))
    return int(w.size * height * width * x.shape[3] // PER_ELEMENT)


def conv_block(
    x: Array, w: Array, bias: Array, gamma: Array, beta: Array, eps: float, stride: int, padding: int, pool: int,
    rectify: bool = True,
) -> tuple[Array, Array, Array, Any]:  # fmt: skip
    """See reference.conv_block; the statistics are combined in float64."""
    _check("conv_block", x, w, (bias, gamma, beta), stride, padding, pool)
    x, w, bias, gamma, beta = floats(x, w, bias, gamma, beta)
    arguments = (x, w, bias, gamma, beta, float(eps), stride, padding, pool, rectify)
    with threads_for(_work(x, w, stride, padding)), np.errstate(all="ignore"):  # what is not finite shows in the result
        if sliced(x):
            return blocks.forward(*arguments, by_winograd(w.shape, x.shape, stride))
        return reference_blocks.forward(_COLUMN, *arguments)


def conv_block_backward(
    gy: Array, saved: Any, input_gradient: bool = True, weight_gradient: bool = True
) -> tuple[Array | None, Array | None, Array, Array]:
    """See reference.conv_block_backward."""
    if isinstance(saved, reference_blocks.Kept):
        return reference_blocks.backward(_COLUMN, gy, saved, input_gradient, weight_gradient)
    shape = (saved.w.shape[0], *saved.peaks.size, saved.x_shape[3])
    expect("conv_block_backward", gy.shape == shape, f"gy of y's shape {shape}", gy)
    gy = np.ascontiguousarray(gy, dtype=np.float32)
    work = saved.w.size * saved.z.size[0] * saved.z.size[1] * shape[3] // PER_ELEMENT
    with threads_for(work), np.errstate(all="ignore"):
        return blocks.backward(gy, saved, input_gradient, weight_gradient)


def conv_block_apply(
    x: Array, w: Array, bias: Array, stride: int, padding: int, pool: int, rectify: bool = True
) -> Array:
    """See reference.conv_block_apply."""
    _check("conv_block_apply", x, w, (bias,), stride, padding, pool)
    x, w, bias = floats(x, w, bias)
    arguments = (x, w, bias, stride, padding, pool, rectify)
    with threads_for(_work(x, w, stride, padding)), np.errstate(all="ignore"):  # what is not finite shows in the result
        if sliced(x):
            return blocks.apply(*arguments, by_winograd(w.shape, x.shape, stride))
        return reference_blocks.apply(_COLUMN, *arguments)
