"""Convolution and matrix product through im2col and BLAS, in any floating type: what direct_conv.py leaves over."""

from __future__ import annotations

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  Numba calls this BLAS: it must be loaded before its threads are limited
from numba import prange

from ..typing import Array, Shape
from .jit import compiled

_BATCH = 64  # images of one task
_PARTS = 8  # partial sums of a weight gradient, added in fixed order
_ROWS = 16  # most row panels of a matrix product


@compiled()
def _columns(x, begin, left, kernel, stride, out):  # type: ignore[no-untyped-def]
    """Fill out (C kh kw, columns, N) with the windows of one output row; zeros beyond the borders of x."""
    _, height, width, batch = x.shape
    kh, kw = kernel
    for tap in range(out.shape[0]):
        c, i, j = tap // (kh * kw), begin + tap // kw % kh, tap % kw - left
        for v in range(out.shape[1]):
            inside = 0 <= i < height and 0 <= v * stride + j < width
            for n in range(batch):
                out[tap, v, n] = x[c, i, v * stride + j, n] if inside else 0


@compiled(parallel=True)
def _correlate(x, w, kernel, stride, padding, y):  # type: ignore[no-untyped-def]
    """One output row of some images a task."""
    outputs, rows, columns, batch = y.shape
    groups = (batch + _BATCH - 1) // _BATCH
    for task in prange(rows * groups):
        u, first = task // groups, task % groups * _BATCH
        last = min(batch, first + _BATCH)
        windows = np.empty((w.shape[1], columns, last - first), dtype=x.dtype)
        _columns(x[..., first:last], u * stride - padding, padding, kernel, stride, windows)
        product = np.dot(w, windows.reshape(w.shape[1], -1))
        y[:, u, :, first:last] = product.reshape(outputs, columns, last - first)


def correlate(x: Array, w: Array, stride: int, padding: int) -> Array:
    """The convolution of x (C, H, W, N) with w (O, C, kh, kw)."""
    kernel = w.shape[2:]
    rows, columns = ((size + 2 * padding - k) // stride + 1 for size, k in zip(x.shape[1:3], kernel, strict=True))
    y = np.zeros((w.shape[0], rows, columns, x.shape[3]), dtype=x.dtype)
    if w.size:
        _correlate(x, w.reshape(w.shape[0], -1), kernel, stride, padding, y)
    return y


@compiled(parallel=True)
def _correlate_adjoint(gy, w, kernel, stride, padding, gx):  # type: ignore[no-untyped-def]
    """Some images a task, since windows overlap: w gy, every product added back to the pixel that its tap saw."""
    _, height, width, batch = gx.shape
    outputs, rows, columns, _ = gy.shape
    kh, kw = kernel
    group = 16
    for task in prange((batch + group - 1) // group):
        first, last = task * group, min(batch, (task + 1) * group)
        for u in range(rows):
            gradient = gy[:, u, :, first:last].copy().reshape(outputs, -1)
            windows = np.dot(w, gradient).reshape(w.shape[0], columns, last - first)
            for tap in range(w.shape[0]):
                c, i, j = tap // (kh * kw), u * stride - padding + tap // kw % kh, tap % kw - padding
                for v in range(columns):
                    if 0 <= i < height and 0 <= v * stride + j < width:
                        gx[c, i, v * stride + j, first:last] += windows[tap, v]


def correlate_adjoint(gy: Array, w: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """The gradient of `correlate` in x."""
    gx = np.zeros(x_shape, dtype=gy.dtype)
    if w.size:
        transposed = np.ascontiguousarray(w.reshape(w.shape[0], -1).T)
        _correlate_adjoint(gy, transposed, w.shape[2:], stride, padding, gx)
    return gx


@compiled(parallel=True)
def _weight_parts(gy, x, kernel, stride, padding, parts):  # type: ignore[no-untyped-def]
    """parts[g] = Σ gy windowsᵀ over the g-th share of output rows and images."""
    outputs, rows, columns, batch = gy.shape
    shares, groups = parts.shape[0], (batch + _BATCH - 1) // _BATCH
    for g in prange(shares):
        for item in range(g * rows * groups // shares, (g + 1) * rows * groups // shares):
            u, first = item // groups, item % groups * _BATCH
            last = min(batch, first + _BATCH)
            windows = np.empty((parts.shape[2], columns, last - first), dtype=x.dtype)
            _columns(x[..., first:last], u * stride - padding, padding, kernel, stride, windows)
            gradient = gy[:, u, :, first:last].copy().reshape(outputs, -1)
            parts[g] += np.dot(gradient, windows.reshape(parts.shape[2], -1).T)


def correlate_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """The gradient of `correlate` in w."""
    parts = np.zeros((_PARTS, w_shape[0], int(np.prod(w_shape[1:]))), dtype=x.dtype)
    if parts.size and gy.size:
        _weight_parts(gy, x, w_shape[2:], stride, padding, parts)
    total: Array = parts.sum(axis=0).reshape(w_shape)
    return total


@compiled(parallel=True)
def _product(a, b, out):  # type: ignore[no-untyped-def]
    """out = a b, some rows of C-ordered a (and so of out) a task."""
    panels = min(_ROWS, a.shape[0])
    for p in prange(panels):
        first, last = p * a.shape[0] // panels, (p + 1) * a.shape[0] // panels
        out[first:last] = np.dot(a[first:last], b)


def product(a: Array, b: Array) -> Array:
    """a b for (M, K) and (K, N)."""
    kind = np.result_type(a, b)
    a, b = np.ascontiguousarray(a, dtype=kind), np.asarray(b, dtype=kind)
    b = b if b.flags.c_contiguous or b.flags.f_contiguous else np.ascontiguousarray(b)
    out: Array = np.empty((a.shape[0], b.shape[1]), dtype=kind)
    _product(a, b, out)
    return out
