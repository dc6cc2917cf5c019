"""Batch normalisation on the CPU, one channel a task, its statistics in float64."""

from __future__ import annotations

import numpy as np
from numba import prange

from ..typing import Array
from .arguments import floats
from .buffers import empty_like
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


@compiled(parallel=True)
def _batchnorm_train(x, gamma, beta, eps, y, mean, var):  # type: ignore[no-untyped-def]
    """One channel a task; two passes over its row, which stays in the cache, then the output."""
    for c in prange(x.shape[0]):
        centre = _sum(x[c]) / x.shape[1]
        spread = _sum_of_squares(x[c], centre) / x.shape[1]
        mean[c], var[c] = centre, spread
        high = x.dtype.type(centre)
        low = x.dtype.type(centre - np.float64(high))  # what the rounding of the mean left over
        scale = x.dtype.type(np.float64(gamma[c]) / np.sqrt(spread + eps))
        shift = beta[c] - low * scale
        for i in range(x.shape[1]):
            y[c, i] = (x[c, i] - high) * scale + shift


def batchnorm_train(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    """See reference.batchnorm_train; the statistics are summed in float64."""
    expect_rows("batchnorm_train", x, gamma, beta)
    x, gamma, beta = floats(x, gamma, beta)
    y, mean, var = empty_like(x), empty_like(gamma), empty_like(gamma)
    with threads_for(x.size):
        _batchnorm_train(x, gamma, beta, float(eps), y, mean, var)
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


@compiled(parallel=True)
def _batchnorm_backward(gy, x, gamma, mean, var, eps, gx, ggamma, gbeta):  # type: ignore[no-untyped-def]
    """One channel a task: two sums, then gx = a gy + b (x - mean) + d."""
    for c in prange(x.shape[0]):
        inverse, count = 1.0 / np.sqrt(np.float64(var[c]) + eps), x.shape[1]
        total = _sum(gy[c])
        along = _sum_of_products(x[c], gy[c], np.float64(mean[c])) * inverse
        ggamma[c], gbeta[c] = along, total
        a = x.dtype.type(gamma[c] * inverse)
        b = x.dtype.type(-gamma[c] * inverse * inverse * along / count)
        d = x.dtype.type(-gamma[c] * inverse * total / count)
        for i in range(count):
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
