"""GPU twins: batch normalisation, alone and in the blocks that it is a part of; cuda_norm.py says how."""

from __future__ import annotations

from dataclasses import dataclass

import cupy
import numpy as np

from ..typing import Array
from .checks import expect, expect_conv, expect_pool, expect_rows
from .cuda_source import BLOCK
from .cupy_conv import conv2d_grad_input, conv2d_grad_weight, convolution
from .cupy_launch import NOTHING, adders, each, floats, launch, spans
from .cupy_pool import maxpool2d

MOST_PARTS = 64
"""Blocks that share the sums of a channel, at most."""


def _parts(count: int) -> int:
    """Blocks that share the sums over `count` entries."""
    return max(1, spans(count, 8 * BLOCK, MOST_PARTS))


def _rows(x: Array) -> tuple[int, int]:
    """The grid of a kernel that runs along the rows of x (C, M)."""
    return max(1, spans(x.shape[1], 4 * BLOCK, 2**20)), x.shape[0]


def _statistics(x: Array, gamma: Array, bias: Array | None, eps: float) -> tuple[Array, Array, Array, Array]:
    """For x (C, M) without its bias: its centre, the mean with the bias, the variance and γ/√(var + eps), (C,) each."""
    channels, count = x.shape
    parts = _parts(count)
    partial = cupy.empty((2, channels, parts), dtype=np.float64)
    launch("moments", x.dtype, (parts, channels), BLOCK, x, partial, channels, np.int64(count))
    centre, mean, var, scale = (cupy.empty_like(gamma) for _ in range(4))
    start = NOTHING if bias is None else bias
    arguments = (x, partial, gamma, start, np.float64(eps), centre, mean, var, scale)
    launch("norm_coefficients", x.dtype, each(channels), BLOCK, *arguments, channels, np.int64(count), parts)
    return centre, mean, var, scale


def _coefficients(
    partial: Array, gamma: Array, var: Array, eps: float, count: int
) -> tuple[Array, Array, Array]:  # fmt: skip
    """What makes gx of gy and x, (3, C), and the gradients of γ and β, from the parts of the two sums."""
    _, channels, parts = partial.shape
    coefficients = cupy.empty((3, channels), dtype=gamma.dtype)
    ggamma, gbeta = cupy.empty_like(gamma), cupy.empty_like(gamma)
    arguments = (partial, gamma, var, np.float64(eps), coefficients, ggamma, gbeta, channels, np.int64(count), parts)
    launch("gradient_coefficients", gamma.dtype, each(channels), BLOCK, *arguments)
    return coefficients, ggamma, gbeta


def batchnorm_train(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    """See reference.batchnorm_train."""
    expect_rows("batchnorm_train", x, gamma, beta)
    x, gamma, beta = floats(x, gamma, beta)
    centre, mean, var, scale = _statistics(x, gamma, None, eps)
    y = cupy.empty_like(x)
    launch("normalise", x.dtype, _rows(x), BLOCK, x, centre, scale, beta, y, x.shape[0], np.int64(x.shape[1]))
    return y, mean, var


def batchnorm_apply(x: Array, scale: Array, shift: Array) -> Array:
    """See reference.batchnorm_apply."""
    expect_rows("batchnorm_apply", x, scale, shift)
    x, scale, shift = floats(x, scale, shift)
    y = cupy.empty_like(x)
    launch("batchnorm_apply", x.dtype, _rows(x), BLOCK, x, scale, shift, y, x.shape[0], np.int64(x.shape[1]))
    return y


def batchnorm_backward(
    gy: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """See reference.batchnorm_backward."""
    expect_rows("batchnorm_backward", x, gamma, mean, var)
    expect("batchnorm_backward", gy.shape == x.shape, "gy and x of one shape", gy, x)
    gy, x, gamma, mean, var = floats(gy, x, gamma, mean, var)
    channels, count = x.shape
    partial = cupy.empty((2, channels, _parts(count)), dtype=np.float64)
    grid = (partial.shape[2], channels)
    launch("batchnorm_sums", x.dtype, grid, BLOCK, gy, x, mean, partial, channels, np.int64(count))
    coefficients, ggamma, gbeta = _coefficients(partial, gamma, var, eps, count)
    gx = cupy.empty_like(x)
    arguments = (gy, x, mean, coefficients, gx, channels, np.int64(count))
    launch("batchnorm_gradient", x.dtype, _rows(x), BLOCK, *arguments)
    return gx, ggamma, gbeta


def norm_relu(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    """See reference.norm_relu: one kernel, a block a row."""
    expect_rows("norm_relu", x, gamma, beta)
    x, gamma, beta = floats(x, gamma, beta)
    channels, count = x.shape
    y, mean, var = cupy.empty_like(x), cupy.empty_like(gamma), cupy.empty_like(gamma)
    arguments = (x, gamma, beta, np.float64(eps), y, mean, var, channels, np.int64(count))
    launch("norm_relu", x.dtype, (1, channels), adders(count), *arguments)
    return y, mean, var


def norm_relu_backward(
    gy: Array, y: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """See reference.norm_relu_backward: one kernel, a block a row."""
    expect_rows("norm_relu_backward", x, gamma, mean, var)
    expect("norm_relu_backward", gy.shape == y.shape == x.shape, "gy, y and x of one shape", gy, y, x)
    gy, y, x, gamma, mean, var = floats(gy, y, x, gamma, mean, var)
    channels, count = x.shape
    gx, ggamma, gbeta = cupy.empty_like(x), cupy.empty_like(gamma), cupy.empty_like(gamma)
    arguments = (gy, y, x, gamma, mean, var, np.float64(eps), gx, ggamma, gbeta, channels, np.int64(count))
    launch("norm_relu_backward", x.dtype, (1, channels), adders(count), *arguments)
    return gx, ggamma, gbeta


@dataclass(frozen=True, eq=False)
class Saved:
    """What conv_block keeps for its way back; z is the convolution without the bias."""

    x: Array
    w: Array
    gamma: Array
    z: Array
    centre: Array
    var: Array
    y: Array
    argmax: Array
    eps: float
    stride: int
    padding: int
    pool: int
    rectify: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that the kernels of a normalised and pooled image take."""
        return (*self.z.shape, self.pool, *self.y.shape[1:3], int(self.rectify))


def conv_block(
    x: Array, w: Array, bias: Array, gamma: Array, beta: Array, eps: float, stride: int, padding: int, pool: int,
    rectify: bool = True,
) -> tuple[Array, Array, Array, Saved]:  # fmt: skip
    """See reference.conv_block: the bias, which normalisation takes away again, is added to the mean alone."""
    size = expect_conv("conv_block", x.shape, w.shape, None, stride, padding)
    rows, cols = expect_pool("conv_block", (w.shape[0], *size, x.shape[3]), None, pool, pool)
    fits = bias.shape == gamma.shape == beta.shape == w.shape[:1]
    expect("conv_block", fits, "bias, gamma and beta (O,) for w (O, C, kh, kw)", bias, gamma, beta, w)
    x, w, bias, gamma, beta = floats(x, w, bias, gamma, beta)
    z = convolution(x, w, None, stride, padding)
    centre, mean, var, scale = _statistics(z.reshape(z.shape[0], -1), gamma, bias, eps)
    y = cupy.empty((z.shape[0], rows, cols, z.shape[3]), dtype=z.dtype)
    argmax = cupy.empty(y.shape, dtype=np.uint8)
    saved = Saved(x, w, gamma, z, centre, var, y, argmax, eps, stride, padding, pool, rectify)
    grid = (rows * cols, z.shape[0])
    launch("norm_pool", z.dtype, grid, z.shape[3], z, centre, scale, beta, y, argmax, *saved.sizes)
    return y, mean, var, saved


def conv_block_backward(
    gy: Array, saved: Saved, input_gradient: bool = True, weight_gradient: bool = True
) -> tuple[Array | None, Array | None, Array, Array]:
    """See reference.conv_block_backward."""
    z = saved.z
    expect("conv_block_backward", gy.shape == saved.y.shape, "gy of the block's output's shape", gy, saved.y)
    gy = cupy.ascontiguousarray(gy, dtype=z.dtype)
    channels, height, width, batch = z.shape
    count = height * width * batch
    partial = cupy.empty((2, channels, max(1, spans(gy[0].size, 8 * BLOCK, MOST_PARTS))), dtype=np.float64)
    arrays = (gy, saved.y, saved.argmax, z, saved.centre)
    grid = (partial.shape[2], channels)
    launch("norm_pool_sums", z.dtype, grid, adders(batch), *arrays, partial, *saved.sizes)
    coefficients, ggamma, gbeta = _coefficients(partial, saved.gamma, saved.var, saved.eps, count)
    gz = cupy.empty_like(z)
    grid = (height * width, channels)
    launch("norm_pool_gradient", z.dtype, grid, batch, *arrays, coefficients, gz, *saved.sizes)
    places = {"stride": saved.stride, "padding": saved.padding}
    gw = conv2d_grad_weight(gz, saved.x, saved.w.shape, **places) if weight_gradient else None
    gx = conv2d_grad_input(gz, saved.w, saved.x.shape, **places) if input_gradient else None
    return gx, gw, ggamma, gbeta


def conv_block_apply(
    x: Array, w: Array, bias: Array, stride: int, padding: int, pool: int, rectify: bool = True
) -> Array:  # fmt: skip
    """See reference.conv_block_apply; the ReLU comes before the pooling, with which it may change places."""
    size = expect_conv("conv_block_apply", x.shape, w.shape, None, stride, padding)
    expect_pool("conv_block_apply", (w.shape[0], *size, x.shape[3]), None, pool, pool)
    expect("conv_block_apply", bias.shape == w.shape[:1], "bias (O,) for w (O, C, kh, kw)", bias, w)
    x, w, bias = floats(x, w, bias)
    y = convolution(x, w, bias, stride, padding, rectify)
    return y if pool == 1 else maxpool2d(y, pool, pool)[0]
