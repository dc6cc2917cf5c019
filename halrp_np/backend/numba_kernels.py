"""The CPU column of the table of hot loops: the same functions as reference.py, compiled by Numba on first use.

Each wrapper checks shapes (the kernels check no bounds), settles one floating type, allocates the output and calls a
kernel. float32 convolutions and matrix products run on the register blocks of direct_conv.py; float64 and tiny batches
run on im2col and BLAS in gemm_conv.py. No result depends on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from ..errors import ShapeError
from ..typing import Array, Shape
from . import direct_conv, gemm_conv
from .checks import expect, expect_conv, expect_gather, expect_pool, expect_rows
from .jit import compiled, threads_for

_LANES = 16  # multiply-adds in the time of one element of an elementwise op, roughly
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_REASSOCIATE = {"reassoc", "contract", "nsz"}  # lets sums use vectors; NaN and infinity keep their meaning


def _floats(*arrays: Array) -> list[Array]:
    """The arrays, contiguous and of their common floating type."""
    kind = np.result_type(*arrays)
    kind = kind if kind in _FLOATS else np.dtype(np.float64)
    return [np.ascontiguousarray(array, dtype=kind).reshape(array.shape) for array in arrays]


def _expect_indices(where: str, name: str, indices: Array, size: int) -> None:
    """Raise ShapeError unless every index lies in 0 .. size-1."""
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        raise ShapeError(
            where,
            expected=f"{name} in 0..{size - 1}",
            received=f"{indices.min()}..{indices.max()}",
            next_step=f"Check {name} against the array that they index.",
        )


def matmul(a: Array, b: Array) -> Array:
    """See reference.matmul."""
    expect("matmul", a.ndim == 2 and b.ndim == 2 and a.shape[1] == b.shape[0], "(M, K) and (K, N)", a, b)
    if 0 in (*a.shape, b.shape[1]):
        return np.zeros((a.shape[0], b.shape[1]), dtype=np.result_type(a, b))
    direct = a.dtype == b.dtype == np.float32 and b.shape[1] >= direct_conv.MIN_COLUMNS
    with threads_for(a.size * b.shape[1] // _LANES):
        return (direct_conv if direct else gemm_conv).product(a, b)


def _direct(images: Array) -> bool:
    """Whether the register blocks serve: float32, and lanes that are not mostly empty."""
    return bool(images.dtype == np.float32 and images.shape[-1] >= direct_conv.MIN_BATCH)


def conv2d(x: Array, w: Array, stride: int, padding: int) -> Array:
    """See reference.conv2d."""
    rows, columns = expect_conv("conv2d", x.shape, w.shape, None, stride, padding)
    x, w = _floats(x, w)
    with threads_for(w.size * rows * columns * x.shape[3] // _LANES):
        return (direct_conv if _direct(x) else gemm_conv).correlate(x, w, stride, padding)


def conv2d_grad_input(gy: Array, w: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_input."""
    expect_conv("conv2d_grad_input", x_shape, w.shape, gy, stride, padding)
    gy, w = _floats(gy, w)
    with threads_for(gy.size * w.size // max(1, len(w)) // _LANES):
        return (direct_conv if _direct(gy) else gemm_conv).correlate_adjoint(gy, w, x_shape, stride, padding)


def conv2d_grad_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_weight."""
    expect_conv("conv2d_grad_weight", x.shape, w_shape, gy, stride, padding)
    gy, x = _floats(gy, x)
    with threads_for(gy.size * int(np.prod(w_shape[1:])) // _LANES):
        return (direct_conv if _direct(gy) else gemm_conv).correlate_weight(gy, x, w_shape, stride, padding)


@compiled(fastmath=_REASSOCIATE)
def _sum(row):  # type: ignore[no-untyped-def]
    """Σ row in float64."""
    total = 0.0
    for i in range(row.size):
        total += np.float64(row[i])
    return total


@compiled(fastmath=_REASSOCIATE)
def _sum_of_products(row, other, mean):  # type: ignore[no-untyped-def]
    """Σ (row - mean) other in float64."""
    total = 0.0
    for i in range(row.size):
        total += (np.float64(row[i]) - mean) * np.float64(other[i])
    return total


@compiled(fastmath=_REASSOCIATE)
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
    x, gamma, beta = _floats(x, gamma, beta)
    y, mean, var = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
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
    x, scale, shift = _floats(x, scale, shift)
    y: Array = np.empty_like(x)
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
    gy, x, gamma, mean, var = _floats(gy, x, gamma, mean, var)
    gx, ggamma, gbeta = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
    with threads_for(x.size):
        _batchnorm_backward(gy, x, gamma, mean, var, float(eps), gx, ggamma, gbeta)
    return gx, ggamma, gbeta


@compiled(parallel=True)
def _relu(x, y):  # type: ignore[no-untyped-def]
    """Not `x > 0`: that would turn a NaN into 0."""
    zero = x.dtype.type(0)
    for i in prange(x.size):
        y[i] = zero if x[i] <= zero else x[i]


def relu(x: Array) -> Array:
    """See reference.relu."""
    (x,) = _floats(x)
    y: Array = np.empty_like(x)
    with threads_for(x.size):
        _relu(x.reshape(-1), y.reshape(-1))
    return y


@compiled(parallel=True)
def _relu_backward(y, gy, gx):  # type: ignore[no-untyped-def]
    """A product, so that a NaN gradient shows even where y (M, N) is 0; K rows of gy (M, K, N) share one of y."""
    zero, one = gy.dtype.type(0), gy.dtype.type(1)
    for row in prange(gy.shape[0]):
        for k in range(gy.shape[1]):
            for n in range(gy.shape[2]):
                gx[row, k, n] = gy[row, k, n] * (one if y[row, n] > zero else zero)


def relu_backward(y: Array, gy: Array) -> Array:
    """See reference.relu_backward."""
    fits = y.shape == gy.shape or y.shape == (*gy.shape[:-2], *gy.shape[-1:])
    expect("relu_backward", fits, "y (..., N) and gy (..., N) or (..., K, N)", y, gy)
    y, gy = _floats(y, gy)
    gx: Array = np.empty_like(gy)
    tangents, batch = (1 if gy.ndim == y.ndim else gy.shape[-2]), gy.shape[-1]
    rows = y.size // max(1, batch)
    with threads_for(gy.size):
        _relu_backward(y.reshape(rows, batch), *(part.reshape(rows, tangents, batch) for part in (gy, gx)))
    return gx


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
    (x,) = _floats(x)
    y = np.empty((x.shape[0], rows, columns, x.shape[3]), dtype=x.dtype)
    argmax = np.empty(y.shape, dtype=np.uint8)
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
    (gy,) = _floats(gy)
    gx: Array = np.empty(x_shape, dtype=gy.dtype)
    where = np.ascontiguousarray(argmax, dtype=np.uint8).reshape(-1)
    if gx.size:
        with threads_for(gx.size):
            _maxpool2d_backward(gy.reshape(-1), where, (*gy.shape[:3], *x_shape[2:]), kernel, stride, gx.reshape(-1))
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
    (x,) = _floats(x)
    y = np.zeros(argmax.shape, dtype=x.dtype)
    with threads_for(x.size):
        _maxpool2d_take(x, np.ascontiguousarray(argmax, dtype=np.uint8), kernel, stride, y)
    return y


@compiled(parallel=True)
def _softmax_cross_entropy(logits, labels, loss, probabilities):  # type: ignore[no-untyped-def]
    """One sample a task; a NaN logit passes the maximum unseen and reaches everything through exp."""
    classes = logits.shape[0]
    for n in prange(logits.shape[1]):
        top = logits[0, n]
        for k in range(1, classes):
            top = max(top, logits[k, n])
        total = logits.dtype.type(0)
        for k in range(classes):
            total += np.exp(logits[k, n] - top)
        log_sum = np.log(total)
        for k in range(classes):
            probabilities[k, n] = np.exp(logits[k, n] - top - log_sum)
        loss[n] = log_sum - (logits[labels[n], n] - top)


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """See reference.softmax_cross_entropy."""
    fits = logits.ndim == 2 and labels.shape == logits.shape[1:] and logits.shape[0] > 0
    expect("softmax_cross_entropy", fits, "logits (K, N) with K > 0 and labels (N,)", logits, labels)
    _expect_indices("softmax_cross_entropy", "labels", labels, logits.shape[0])
    (logits,) = _floats(logits)
    loss, probabilities = np.empty(logits.shape[1], dtype=logits.dtype), np.empty_like(logits)
    with threads_for(logits.size):
        _softmax_cross_entropy(logits, np.ascontiguousarray(labels, dtype=np.int64), loss, probabilities)
    return loss, probabilities


@compiled(parallel=True)
def _adam_step(theta, grad, m, v, factors):  # type: ignore[no-untyped-def]
    """One pass over four arrays; `factors` are in the type of theta."""
    beta1, other1, beta2, other2, rate, root, eps, l1, l2, centre, scale = factors
    zero = theta.dtype.type(0)
    for i in prange(theta.size):
        value = theta[i]
        g = grad[i] + l2 * (value - centre)
        g += l1 if value > zero else (-l1 if value < zero else zero)
        g *= scale
        m[i] = beta1 * m[i] + other1 * g
        v[i] = beta2 * v[i] + other2 * g * g
        theta[i] = value - rate * m[i] / (np.sqrt(v[i]) * root + eps)


def adam_step(
    theta: Array, grad: Array, m: Array, v: Array, *, lr: float, beta1: float, beta2: float, eps: float, step: int,
    l1: float, l2: float, centre: float, scale: float,
) -> None:  # fmt: skip
    """See reference.adam_step: theta, m and v change in place."""
    state = (theta, m, v)
    expect("adam_step", all(array.shape == theta.shape for array in (grad, m, v)), "one shape", theta, grad, m, v)
    kind = theta.dtype.type
    values = (beta1, 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1**step), (1 - beta2**step) ** -0.5, eps)
    factors = tuple(kind(value) for value in (*values, l1, l2, centre, scale))
    flat = [np.ascontiguousarray(array, dtype=theta.dtype).reshape(-1) for array in (theta, grad, m, v)]
    with threads_for(theta.size):
        _adam_step(*flat, factors)
    for array, done in zip(state, (flat[0], flat[2], flat[3]), strict=True):
        if not np.shares_memory(array, done):  # it was not contiguous, or of another type
            array[...] = done.reshape(array.shape)


@compiled(parallel=True)
def _gather_images(images, rows, source, table, table_row, out):  # type: ignore[no-untyped-def]
    """A few images a task: their pixels stay in the cache while the output is written in short runs of the batch."""
    group = 16
    for task in prange((rows.size + group - 1) // group):
        first, last = task * group, min(rows.size, (task + 1) * group)
        for d in range(source.size):
            pixel, line = source[d], table[table_row[d]]
            for n in range(first, last):
                out[d, n] = line[images[rows[n], pixel]]


def gather_images(images: Array, rows: Array, source: Array, table: Array, table_row: Array) -> Array:
    """See reference.gather_images; indices count from 0, negative ones are refused."""
    expect_gather("gather_images", images, rows, source, table, table_row)
    for name, indices, size in (("rows", rows, len(images)), ("source", source, images.shape[1]),
                                ("table_row", table_row, len(table))):  # fmt: skip
        _expect_indices("gather_images", name, indices, size)
    order, at, kind = (np.ascontiguousarray(indices, dtype=np.int64) for indices in (rows, source, table_row))
    out: Array = np.empty((source.size, rows.size), dtype=table.dtype)
    with threads_for(out.size):
        _gather_images(np.ascontiguousarray(images), order, at, np.ascontiguousarray(table), kind, out)
    return out
