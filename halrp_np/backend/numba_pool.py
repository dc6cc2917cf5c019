"""Pooling on the CPU; the batch is the inner loop, so a window is compared for many images at once."""

from __future__ import annotations

import numpy as np
from numba import prange

from ..typing import Array, Shape
from .arguments import floats
from .buffers import empty, zeros
from .checks import expect, expect_pool
from .jit import compiled, threads_for


@compiled(parallel=True)
def _maxpool2d(x, kernel, stride, y, argmax):  # type: ignore[no-untyped-def]
    """One output row a task; the batch is the inner loop, so a window is compared for many images at once."""
    channels, rows, columns, batch = y.shape
    for task in prange(channels * rows):
        c, u = task // rows, task % rows
        for v in range(columns):
            best, where = y[c, u, v], argmax[c, u, v]
            best[:] = x[c, u * stride, v * stride]
            where[:] = 0
            for tap in range(1, kernel * kernel):
                row = x[c, u * stride + tap // kernel, v * stride + tap % kernel]
                for n in range(batch):
                    value, top = row[n], best[n]
                    better = (not value <= top) and top == top  # a NaN beats every number, and nothing beats it
                    best[n] = value if better else top
                    where[n] = np.uint8(tap) if better else where[n]


def maxpool2d(x: Array, kernel: int, stride: int) -> tuple[Array, Array]:
    """See reference.maxpool2d."""
    rows, columns = expect_pool("maxpool2d", x.shape, None, kernel, stride)
    (x,) = floats(x)
    y = empty((x.shape[0], rows, columns, x.shape[3]), x.dtype)
    argmax = empty(y.shape, np.uint8)
    with threads_for(x.size):
        _maxpool2d(x, kernel, stride, y, argmax)
    return y, argmax


@compiled()
def _add_own(row, gradient, where, mine):  # type: ignore[no-untyped-def]
    """Add the gradients whose maximum was tap `mine`; each is read, wanted or not, so that vectors can be used."""
    zero = row.dtype.type(0)
    for n in range(row.size):
        value = gradient[n]
        row[n] += value if where[n] == mine else zero


@compiled(parallel=True)
def _maxpool2d_backward(gy, argmax, extent, kernel, stride, gx):  # type: ignore[no-untyped-def]
    """One channel a task, since windows may overlap; every tap of a window takes the gradients that are its own."""
    channels, rows, columns, width, batch = extent
    zero, plane = gy.dtype.type(0), gx.size // channels
    for c in prange(channels):
        for at in range(c * plane, (c + 1) * plane):
            gx[at] = zero
        for u in range(rows):
            for v in range(columns):
                source = ((c * rows + u) * columns + v) * batch
                gradient, where = gy[source : source + batch], argmax[source : source + batch]
                for tap in range(kernel * kernel):
                    i, j, mine = u * stride + tap // kernel, v * stride + tap % kernel, np.uint8(tap)
                    target = c * plane + (i * width + j) * batch
                    _add_own(gx[target : target + batch], gradient, where, mine)


def maxpool2d_backward(gy: Array, argmax: Array, x_shape: Shape, kernel: int, stride: int) -> Array:
    """See reference.maxpool2d_backward."""
    expect_pool("maxpool2d_backward", x_shape, gy, kernel, stride)
    expect("maxpool2d_backward", gy.shape == argmax.shape, "gy and argmax of one shape", gy, argmax)
    (gy,) = floats(gy)
    gx: Array = empty(x_shape, gy.dtype)
    where = np.ascontiguousarray(argmax, dtype=np.uint8).reshape(-1)
    if gx.size:
        with threads_for(gx.size):
            _maxpool2d_backward(gy.reshape(-1), where, (*gy.shape[:3], *x_shape[2:]), kernel, stride, gx.reshape(-1))
    return gx


@compiled(parallel=True)
def _avgpool2d(x, kernel, stride, factor, y):  # type: ignore[no-untyped-def]
    """One output row a task."""
    channels, rows, columns, batch = y.shape
    for task in prange(channels * rows):
        c, u = task // rows, task % rows
        for v in range(columns):
            sums = y[c, u, v]
            for n in range(batch):
                sums[n] = x[c, u * stride, v * stride, n]
            for tap in range(1, kernel * kernel):
                row = x[c, u * stride + tap // kernel, v * stride + tap % kernel]
                for n in range(batch):
                    sums[n] += row[n]
            for n in range(batch):
                sums[n] *= factor


def avgpool2d(x: Array, kernel: int, stride: int) -> Array:
    """See reference.avgpool2d."""
    rows, columns = expect_pool("avgpool2d", x.shape, None, kernel, stride)
    (x,) = floats(x)
    y: Array = empty((x.shape[0], rows, columns, x.shape[3]), x.dtype)
    with threads_for(x.size):
        _avgpool2d(x, kernel, stride, x.dtype.type(1.0 / kernel**2), y)
    return y


@compiled(parallel=True)
def _avgpool2d_backward(gy, kernel, stride, factor, gx):  # type: ignore[no-untyped-def]
    """One channel a task, since windows may overlap."""
    for c in prange(gy.shape[0]):
        for u in range(gy.shape[1]):
            for v in range(gy.shape[2]):
                for tap in range(kernel * kernel):
                    row = gx[c, u * stride + tap // kernel, v * stride + tap % kernel]
                    for n in range(gy.shape[3]):
                        row[n] += gy[c, u, v, n] * factor


def avgpool2d_backward(gy: Array, x_shape: Shape, kernel: int, stride: int) -> Array:
    """See reference.avgpool2d_backward."""
    expect_pool("avgpool2d_backward", x_shape, gy, kernel, stride)
    (gy,) = floats(gy)
    gx: Array = zeros(x_shape, gy.dtype)
    with threads_for(gx.size):
        _avgpool2d_backward(gy, kernel, stride, gy.dtype.type(1.0 / kernel**2), gx)
    return gx


@compiled(parallel=True)
def _maxpool2d_take(x, argmax, kernel, stride, y):  # type: ignore[no-untyped-def]
    """One output row a task; every tap is read, wanted or not, so that vectors can be used."""
    channels, rows, columns, batch = y.shape
    for task in prange(channels * rows):
        c, u = task // rows, task % rows
        for v in range(columns):
            taken, where = y[c, u, v], argmax[c, u, v]
            for tap in range(kernel * kernel):
                row, mine = x[c, u * stride + tap // kernel, v * stride + tap % kernel], np.uint8(tap)
                for n in range(batch):
                    value, other = row[n], taken[n]
                    taken[n] = value if where[n] == mine else other


def maxpool2d_take(x: Array, argmax: Array, kernel: int, stride: int) -> Array:
    """See reference.maxpool2d_take."""
    expect_pool("maxpool2d_take", x.shape, argmax, kernel, stride)
    (x,) = floats(x)
    y = zeros(argmax.shape, x.dtype)
    with threads_for(x.size):
        _maxpool2d_take(x, np.ascontiguousarray(argmax, dtype=np.uint8), kernel, stride, y)
    return y
