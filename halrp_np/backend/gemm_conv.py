"""Convolution and matrix product through im2col and BLAS, in any floating type: what direct_conv.py leaves over."""

from __future__ import annotations

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  Numba calls this BLAS: it must be loaded before its threads are limited
from numba import prange

from ..typing import Array, Shape
from .jit import compiled
from .reference import output_size

_BATCH = 64  # images of one task
_PARTS = 8  # partial sums of a weight gradient, added in fixed order
_ROWS = 16  # most row panels of a matrix product


@compiled()
def _columns(x, begin, left, kernel, stride, first, out):  # type: ignore[no-untyped-def]
    """Fill out (C kh kw, columns, N) with one output row's windows of the images from `first` on, zeros outside x."""
    _, height, width, _ = x.shape
    kh, kw = kernel
    for tap in range(out.shape[0]):
        c, i, j = tap // (kh * kw), begin + tap // kw % kh, tap % kw - left
        for v in range(out.shape[1]):
            inside = 0 <= i < height and 0 <= v * stride + j < width
            for n in range(out.shape[2]):
                out[tap, v, n] = x[c, i, v * stride + j, first + n] if inside else 0


@compiled()
def _row(y, u, first, out):  # type: ignore[no-untyped-def]
    """Fill out (O, columns, N) with output row u of the images from `first` on."""
    for o in range(out.shape[0]):
        for v in range(out.shape[1]):
            for n in range(out.shape[2]):
                out[o, v, n] = y[o, u, v, first + n]


@compiled()
def _add_back(windows, begin, left, kernel, stride, first, gx):  # type: ignore[no-untyped-def]
    """Add windows (C kh kw, columns, N) of one output row to the pixels of gx that its taps saw."""
    _, height, width, _ = gx.shape
    kh, kw = kernel
    for tap in range(windows.shape[0]):
        c, i, j = tap // (kh * kw), begin + tap // kw % kh, tap % kw - left
        for v in range(windows.shape[1]):
            if 0 <= i < height and 0 <= v * stride + j < width:
                for n in range(windows.shape[2]):
                    gx[c, i, v * stride + j, first + n] += windows[tap, v, n]


@compiled(parallel=True)
def _correlate(x, w, kernel, stride, padding, y):  # type: ignore[no-untyped-def]
    """One output row of some images a task."""
    outputs, rows, columns, batch = y.shape
    groups = (batch + _BATCH - 1) // _BATCH
    for task in prange(rows * groups):
        u, first = task // groups, task % groups * _BATCH
        last = min(batch, first + _BATCH)
        windows = np.empty((w.shape[1], columns, last - first), dtype=x.dtype)
        _columns(x, u * stride - padding, padding, kernel, stride, first, windows)
        product = np.dot(w, windows.reshape(w.shape[1], -1)).reshape(outputs, columns, last - first)
        for o in range(outputs):
            for v in range(columns):
                for n in range(last - first):
                    y[o, u, v, first + n] = product[o, v, n]


def correlate(x: Array, w: Array, stride: int, padding: int) -> Array:
    """The convolution of x (C, H, W, N) with w (O, C, kh, kw)."""
    kernel = w.shape[2:]
    rows, columns = (output_size(size, k, stride, padding) for size, k in zip(x.shape[1:3], kernel, strict=True))
    y = np.zeros((w.shape[0], rows, columns, x.shape[3]), dtype=x.dtype)
    if w.size:
        _correlate(x, w.reshape(w.shape[0], -1), kernel, stride, padding, y)
    return y


@compiled(parallel=True)
def _correlate_adjoint(gy, w, kernel, stride, padding, gx):  # type: ignore[no-untyped-def]
    """Some images a task, since windows overlap: w gy, every product added back to the pixel that its tap saw."""
    outputs, rows, columns, batch = gy.shape
    group = 16
    for task in prange((batch + group - 1) // group):
        first = task * group
        gradient = np.empty((outputs, columns, min(batch - first, group)), dtype=gy.dtype)
        for u in range(rows):
            _row(gy, u, first, gradient)
            windows = np.dot(w, gradient.reshape(outputs, -1)).reshape(w.shape[0], columns, gradient.shape[2])
            _add_back(windows, u * stride - padding, padding, kernel, stride, first, gx)


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
            _columns(x, u * stride - padding, padding, kernel, stride, first, windows)
            gradient = np.empty((outputs, columns, last - first), dtype=gy.dtype)
            _row(gy, u, first, gradient)
            product = np.dot(gradient.reshape(outputs, -1), windows.reshape(parts.shape[2], -1).T)
            for o in range(outputs):
                for t in range(parts.shape[2]):
                    parts[g, o, t] += product[o, t]


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
        product = np.dot(a[first:last], b)
        for m in range(last - first):
            for n in range(b.shape[1]):
                out[first + m, n] = product[m, n]


def product(a: Array, b: Array) -> Array:
    """a b for (M, K) and (K, N)."""
    kind = np.result_type(a, b)
    a, b = np.ascontiguousarray(a, dtype=kind), np.asarray(b, dtype=kind)
    b = b if b.flags.c_contiguous or b.flags.f_contiguous else np.ascontiguousarray(b)
    out: Array = np.empty((a.shape[0], b.shape[1]), dtype=kind)
    _product(a, b, out)
    return out
