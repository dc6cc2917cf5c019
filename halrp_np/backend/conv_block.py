"""Convolution, batch normalisation, ReLU and max pooling as one op, on the slices of direct_conv.py.

**Forward.** A task is one band of one slice: the rows of z = w * x under one row of pooling windows. While a band of
OUTPUTS channels is still in the first cache, its mean and sum of squared deviations are taken, lane by lane, and every
window's largest entry with its position. (Normalisation rises with z where γ > 0 and falls where γ < 0, so sign(γ) z
has its maximum where the normalised value has.) The bands' statistics are combined in float64, in fixed order, and one
pass over the maxima, not over z, gives y. The bias moves z and its mean alike, so it is added to the mean only.

**Backward.** Only maxima whose y is positive have a gradient g, so both sums of the normalisation run over arrays of
y's size. Then one pass over z writes

    gz = a g + b (z - mean) + d      a = γ/σ,  b = -γ/σ² Σ g x̂ / M,  d = -γ/σ Σ g / M      for M values a channel

in slices, with the zero columns that the gradient in x reads around it; both gradients of the convolution use it, and
the one in w the slices of x that the forward pass packed.

**Evaluation.** A task takes PIXELS windows of OUTPUTS channels at a time; z exists only in a scratch of that size.

With `fast_math` the three convolutions are those of winograd.py, on the same slices; all else stays as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..typing import Array, Shape
from . import conv_block_kernels as kernels
from . import winograd
from .buffers import empty
from .direct_conv import (
    Slices,
    adjoint_of_slices,
    pack_padded,
    pack_weights,
    padded_gradient,
    up,
    weight_of_slices,
)
from .reference import output_size
from .simd import LANES, OUTPUTS, PIXELS

_NOTHING = np.empty(0, dtype=np.float32)


class Kept(NamedTuple):
    """What a forward pass keeps for its backward pass."""

    x: Slices
    x_shape: Shape
    w: Array
    z: Slices
    peaks: Slices  # every window's entry of z that became y; z itself without pooling
    positions: Array  # of the peaks in their windows, uint8, laid out as they are; empty without pooling
    channels: tuple[Array, ...]  # float64, each (O,): mean of z, 1/√(var + ε), γ, β
    window: tuple[int, int, int]  # stride, padding, pool
    rectify: bool
    fast_math: bool


def forward(
    x: Array, w: Array, bias: Array, gamma: Array, beta: Array, eps: float, stride: int, padding: int, pool: int,
    rectify: bool, fast_math: bool,
) -> tuple[Array, Array, Array, Kept]:  # fmt: skip
    """See reference.conv_block; float32."""
    packed = pack_padded(x, w.shape[2:], stride, padding)
    moments = empty((packed.shape[0] * -(-_output(x, w, stride, padding)[0] // pool), w.shape[0], 2), np.float64)
    z, peaks, positions = _convolved(packed, x, w, np.sign(gamma), moments, (stride, padding, pool), fast_math)
    mean, var = np.empty(w.shape[0]), np.empty(w.shape[0])
    kernels.combine(moments, pool, *z.size, x.shape[3], mean, var)
    mean, var = mean + 0.0 * bias, var + 0.0 * bias  # a bias that is not finite must show
    channels = (mean, 1.0 / np.sqrt(var + eps), gamma.astype(np.float64), beta.astype(np.float64))
    kept = Kept(packed, x.shape, w, z, peaks, positions, channels, (stride, padding, pool), rectify, fast_math)
    y = _output_of(peaks, _factors(kept), x.shape[3], rectify)
    return y, (mean + bias).astype(np.float32), var.astype(np.float32), kept


def _output(x: Array, w: Array, stride: int, padding: int) -> tuple[int, int]:
    """Rows and columns of z."""
    rows, columns = (output_size(x.shape[k + 1], w.shape[k + 2], stride, padding) for k in (0, 1))
    return rows, columns


def _images(slices: int, planes: int, rows: int, columns: int, pitch: int, left: int = 0) -> Slices:
    """Room for images, rows `pitch` pixels apart."""
    shape = (slices, planes, rows, pitch)
    return Slices(empty(int(np.prod(shape)) * LANES, np.float32), shape, 0, left, (rows, columns))


def _convolved(
    packed: Slices, x: Array, w: Array, signs: Array, moments: Array, window: tuple[int, int, int], fast_math: bool
) -> tuple[Slices, Slices, Array]:
    """z = w * x, its peaks and their positions; each band's moments, if there is room for them."""
    stride, padding, pool = window
    rows, columns = _output(x, w, stride, padding)
    slices, planes, pitch = packed.shape[0], up(w.shape[0], OUTPUTS), up(columns, PIXELS)
    z = _images(slices, planes, rows, columns, pitch)
    peaks, positions = z, np.empty(0, dtype=np.uint8)
    if pool > 1:
        peaks = _images(slices, planes, rows // pool, columns // pool, columns // pool)
        positions = empty(peaks.data.size, np.uint8)
    if fast_math:
        winograd.convolve(packed, w, padding, winograd.packed(z))
    kernels.forward(
        packed.data, packed.shape[1:], _NOTHING if fast_math else pack_weights(w), w.shape[2:],
        _padded(np.zeros(len(w))), _padded(signs), z.data, (w.shape[0], planes, rows, columns, pitch, x.shape[3]),
        (stride, padding, padding + x.shape[1]), pool, peaks.data, positions, moments,
    )  # fmt: skip
    return z, peaks, positions


def _padded(values: Array) -> Array:
    """Per-channel values in float32, zeros up to a multiple of OUTPUTS."""
    padded = np.zeros(up(values.size, OUTPUTS), dtype=np.float32)
    padded[: values.size] = values
    return padded


def _factors(kept: Kept) -> Array:
    """(4, O) in float32: y = ((z - mean) - rest) scale + β, where rest is what the rounding of the mean left over."""
    mean, inverse, gamma, beta = kept.channels
    rounded = mean.astype(np.float32)
    return np.stack([rounded, mean - rounded, gamma * inverse, beta]).astype(np.float32)


def _output_of(peaks: Slices, factors: Array, batch: int, rectify: bool) -> Array:
    """y (O, H', W', N) from the peaks."""
    y = empty((factors.shape[1], *peaks.size, batch), np.float32)
    kernels.normalise(peaks.data, (*y.shape, *peaks.shape[1:]), factors, rectify, y.reshape(-1))
    return y


def backward(
    gy: Array, kept: Kept, input_gradient: bool, weight_gradient: bool
) -> tuple[Array | None, Array | None, Array, Array]:
    """See reference.conv_block_backward; float32."""
    stride, padding, _ = kept.window
    gz, ggamma, gbeta = _output_gradient(gy, kept, input_gradient)
    gx: Array | None = None
    gw: Array | None = None
    if weight_gradient and kept.fast_math:
        gw = winograd.weight_gradient(gz, kept.x, kept.w.shape, padding)
    elif weight_gradient:
        gw = weight_of_slices(gz, kept.x, kept.w.shape, stride, padding)
    if input_gradient and kept.fast_math:
        gx = empty(kept.x_shape, np.float32)
        winograd.convolve_adjoint(gz, kept.w, padding, winograd.batch_last(gx))
    elif input_gradient:
        gx = adjoint_of_slices(gz, kept.w, kept.x_shape, stride, padding)
    return gx, gw, ggamma.astype(np.float32), gbeta.astype(np.float32)


def _output_gradient(gy: Array, kept: Kept, input_gradient: bool) -> tuple[Slices, Array, Array]:
    """gz in slices, as the convolution's own gradients read it, and the gradients of γ and β in float64."""
    stride, padding, pool = kept.window
    _, inverse, gamma, _ = kept.channels
    z, batch = kept.z, gy.shape[3]
    layout, factors = (*gy.shape, *kept.peaks.shape[1:]), _factors(kept)
    sums = np.empty((2, gy.shape[0]))
    kernels.gradient_sums(gy.reshape(-1), layout, kept.peaks.data, factors, kept.rectify, sums)
    ggamma, gbeta = sums[1] * inverse, sums[0]
    count = z.size[0] * z.size[1] * batch
    slope, level = -gamma * inverse**2 * ggamma / count, -gamma * inverse * gbeta / count
    factors = np.concatenate([factors, np.stack([slope, level]).astype(np.float32)])
    left, pitch = 0, z.size[1]
    if input_gradient and not kept.fast_math:
        left, pitch = padded_gradient(z.size[1], kept.w.shape[3], kept.x_shape[2], stride, padding)
    gz = _images(*z.shape[:2], *z.size, pitch, left)
    kernels.form_gradient(
        gy.reshape(-1), layout, z.data, (z.shape[0], *z.size, z.shape[3]), kept.peaks.data, kept.positions, factors,
        pool, kept.rectify, gz.data, (left, pitch),
    )  # fmt: skip
    return gz, ggamma, gbeta


def apply(
    x: Array, w: Array, bias: Array, stride: int, padding: int, pool: int, rectify: bool, fast_math: bool
) -> Array:
    """See reference.conv_block_apply; float32."""
    rows, columns = _output(x, w, stride, padding)
    packed = pack_padded(x, w.shape[2:], stride, padding)
    if fast_math:
        one, none = np.ones_like(bias), np.empty((0, 0, 2))
        _, peaks, _ = _convolved(packed, x, w, one, none, (stride, padding, pool), fast_math)
        return _output_of(peaks, np.stack([-bias, 0 * one, one, 0 * one]), x.shape[3], rectify)
    y = empty((w.shape[0], rows // pool, columns // pool, x.shape[3]), np.float32)
    kernels.apply(
        packed.data, packed.shape[1:], pack_weights(w), w.shape[2:], _padded(bias), (*y.shape[:3], columns, x.shape[3]),
        (stride, padding, padding + x.shape[1]), pool, rectify, y.reshape(-1),
    )  # fmt: skip
    return y
