"""Batch normalisation and other sums over rows on the CPU, one row a task, its sums in float64."""

from __future__ import annotations

import numpy as np
from numba import prange

from ..typing import Array
from .arguments import floats
from .buffers import empty, empty_like
from .checks import expect, expect_rows
from .jit import REASSOCIATE, compiled, threads_for


@compiled(fastmath=REASSOCIATE)
def _sum(row):  # type: ignore[no-untyped-def]
    """Σ row in float64."""
    total = 0.0
    for i in range(row.size):
        total += np.float64(row[i])
    return total


@compiled(fastmath=REASSOCIATE)
def _sum_of_products(row, other, mean):  # type: ignore[no-untyped-def]
    """Σ (row - mean) other in float64."""
    total = 0.0
    for i in range(row.size):
        total += (np.float64(row[i]) - mean) * np.float64(other[i])
    return total


@compiled(fastmath=REASSOCIATE)
def _sum_of_squares(row, mean):  # type: ignore[no-untyped-def]
    """Σ (row - mean)² in float64."""
    total = 0.0
    for i in range(row.size):
        difference = np.float64(row[i]) - mean
        total += difference * difference
    return total


@compiled()
def _normalised(x, gamma, beta, eps, y):  # type: ignore[no-untyped-def]
    """Normalise one row; its mean and its biased variance."""
    mean = _sum(x) / x.size
    var = _sum_of_squares(x, mean) / x.size
    high = x.dtype.type(mean)
    low = x.dtype.type(mean - np.float64(high))  # what the rounding of the mean left over
    scale = x.dtype.type(np.float64(gamma) / np.sqrt(var + eps))
    for i in range(x.size):
        y[i] = ((x[i] - high) - low) * scale + beta
    return mean, var


@compiled(parallel=True)
def _batchnorm_train(x, gamma, beta, eps, y, mean, var):  # type: ignore[no-untyped-def]
    """Two passes over a row, which stays in the cache, then the output."""
    for c in prange(x.shape[0]):
        mean[c], var[c] = _normalised(x[c], gamma[c], beta[c], eps, y[c])


def batchnorm_train(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    """See reference.batchnorm_train; the statistics are summed in float64."""
    expect_rows("batchnorm_train", x, gamma, beta)
    x, gamma, beta = floats(x, gamma, beta)
    y, mean, var = empty_like(x), empty_like(gamma), empty_like(gamma)
    with threads_for(x.size):
        _batchnorm_train(x, gamma, beta, float(eps), y, mean, var)
    return y, mean, var


@compiled(parallel=True)
def _norm_relu(x, gamma, beta, eps, y, mean, var):  # type: ignore[no-untyped-def]
    """As _batchnorm_train, and the rectifier over the row just written; a NaN is not below 0 and stays."""
    zero = x.dtype.type(0)
    for c in prange(x.shape[0]):
        mean[c], var[c] = _normalised(x[c], gamma[c], beta[c], eps, y[c])
        for i in range(x.shape[1]):
            y[c, i] = zero if y[c, i] <= zero else y[c, i]


def norm_relu(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    """See reference.norm_relu."""
    expect_rows("norm_relu", x, gamma, beta)
    x, gamma, beta = floats(x, gamma, beta)
    y, mean, var = empty_like(x), empty_like(gamma), empty_like(gamma)
    with threads_for(x.size):
        _norm_relu(x, gamma, beta, float(eps), y, mean, var)
    return y, mean, var


@compiled(parallel=True)
def _batchnorm_apply(x, scale, shift, y):  # type: ignore[no-untyped-def]
    """One channel a task."""
    for c in prange(x.shape[0]):
        a, b = scale[c], shift[c]
        for i in range(x.shape[1]):
            y[c, i] = a * x[c, i] + b


def batchnorm_apply(x: Array, scale: Array, shift: Array) -> Array:
    """See reference.batchnorm_apply."""
    expect_rows("batchnorm_apply", x, scale, shift)
    x, scale, shift = floats(x, scale, shift)
    y: Array = empty_like(x)
    with threads_for(x.size):
        _batchnorm_apply(x, scale, shift, y)
    return y


@compiled()
def _norm_gradient(gy, x, gamma, mean, var, eps):  # type: ignore[no-untyped-def]
    """∂γ and ∂β, sums over one row, and the a, b, d of gx = a gy + b (x - mean) + d."""
    inverse, count = 1.0 / np.sqrt(np.float64(var) + eps), x.size
    gbeta = _sum(gy)
    ggamma = _sum_of_products(x, gy, np.float64(mean)) * inverse
    a = x.dtype.type(gamma * inverse)
    b = x.dtype.type(-gamma * inverse * inverse * ggamma / count)
    d = x.dtype.type(-gamma * inverse * gbeta / count)
    return ggamma, gbeta, a, b, d


@compiled(parallel=True)
def _batchnorm_backward(gy, x, gamma, mean, var, eps, gx, ggamma, gbeta):  # type: ignore[no-untyped-def]
    """One channel a task."""
    for c in prange(x.shape[0]):
        ggamma[c], gbeta[c], a, b, d = _norm_gradient(gy[c], x[c], gamma[c], mean[c], var[c], eps)
        for i in range(x.shape[1]):
            gx[c, i] = a * gy[c, i] + b * (x[c, i] - mean[c]) + d


def batchnorm_backward(
    gy: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """See reference.batchnorm_backward; the two sums are kept in float64."""
    expect_rows("batchnorm_backward", x, gamma, mean, var)
    expect("batchnorm_backward", gy.shape == x.shape, "gy and x of one shape", gy, x)
    gy, x, gamma, mean, var = floats(gy, x, gamma, mean, var)
    gx, ggamma, gbeta = empty_like(x), empty_like(gamma), empty_like(gamma)
    with threads_for(x.size):
        _batchnorm_backward(gy, x, gamma, mean, var, float(eps), gx, ggamma, gbeta)
    return gx, ggamma, gbeta


@compiled(parallel=True)
def _norm_relu_backward(gy, y, x, gamma, mean, var, eps, gx, ggamma, gbeta):  # type: ignore[no-untyped-def]
    """What the rectifier lets through goes to gx first; a product, so that a NaN shows even where y is 0."""
    zero, one = gy.dtype.type(0), gy.dtype.type(1)
    for c in prange(x.shape[0]):
        for i in range(x.shape[1]):
            gx[c, i] = gy[c, i] * (one if y[c, i] > zero else zero)
        ggamma[c], gbeta[c], a, b, d = _norm_gradient(gx[c], x[c], gamma[c], mean[c], var[c], eps)
        for i in range(x.shape[1]):
            gx[c, i] = a * gx[c, i] + b * (x[c, i] - mean[c]) + d


def norm_relu_backward(
    gy: Array, y: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """See reference.norm_relu_backward."""
    expect_rows("norm_relu_backward", x, gamma, mean, var)
    expect("norm_relu_backward", gy.shape == y.shape == x.shape, "gy, y and x of one shape", gy, y, x)
    gy, y, x, gamma, mean, var = floats(gy, y, x, gamma, mean, var)
    gx, ggamma, gbeta = empty_like(x), empty_like(gamma), empty_like(gamma)
    with threads_for(x.size):
        _norm_relu_backward(gy, y, x, gamma, mean, var, float(eps), gx, ggamma, gbeta)
    return gx, ggamma, gbeta


@compiled(parallel=True)
def _row_dots(a, b, out):  # type: ignore[no-untyped-def]
    """One row a task."""
    for i in prange(a.shape[0]):
        out[i] = _sum_of_products(a[i], b[i], 0.0)


def row_dots(a: Array, b: Array) -> Array:
    """See reference.row_dots; summed in float64."""
    expect("row_dots", a.ndim == 2 and a.shape == b.shape, "(I, N) and (I, N)", a, b)
    a, b = floats(a, b)
    out: Array = empty(a.shape[0], a.dtype)
    with threads_for(a.size):
        _row_dots(a, b, out)
    return out
