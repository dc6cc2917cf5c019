"""The loops on the CPU that take one element, sample or image at a time."""

from __future__ import annotations

import numpy as np
from numba import prange

from ..typing import Array, Shape
from .arguments import expect_indices, floats
from .buffers import empty, empty_like
from .checks import expect, expect_augmented, expect_flat, expect_gather, expect_mask, expect_pull
from .jit import compiled, threads_for
from .reference import dropout_limit

_ENTRIES = 2**13  # of flat parameters, a task of Adam or of a pull


@compiled(parallel=True)
def _relu(x, y):  # type: ignore[no-untyped-def]
    """Not `x > 0`: that would turn a NaN into 0."""
    zero = x.dtype.type(0)
    for i in prange(x.size):
        y[i] = zero if x[i] <= zero else x[i]


def relu(x: Array) -> Array:
    """See reference.relu."""
    (x,) = floats(x)
    y: Array = empty_like(x)
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
    tangents = expect_mask("relu_backward", gy, y)
    y, gy = floats(y, gy)
    gx: Array = empty_like(gy)
    batch = gy.shape[-1]
    rows = y.size // max(1, batch)
    with threads_for(gy.size):
        _relu_backward(y.reshape(rows, batch), *(part.reshape(rows, tangents, batch) for part in (gy, gx)))
    return gx


@compiled(parallel=True)
def _add(a, b, rectify, y):  # type: ignore[no-untyped-def]
    """Not `sum > 0`: that would turn a NaN into 0."""
    zero = a.dtype.type(0)
    for i in prange(a.size):
        sum_ = a[i] + b[i]
        y[i] = zero if rectify and sum_ <= zero else sum_


def add(a: Array, b: Array, rectify: bool = False) -> Array:
    """See reference.add."""
    expect("add", a.shape == b.shape, "two arrays of one shape", a, b)
    a, b = floats(a, b)
    y: Array = empty_like(a)
    with threads_for(a.size):
        _add(a.reshape(-1), b.reshape(-1), rectify, y.reshape(-1))
    return y


@compiled()
def _mixed_bits(h):  # type: ignore[no-untyped-def]
    """See reference.mixed_bits; products are cut to 32 bits by hand, since Numba widens them."""
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(h ^ (h >> np.uint32(16)))


@compiled(parallel=True)
def _dropout(x, first, second, limit, factor, y, kept):  # type: ignore[no-untyped-def]
    """A product, so that a NaN shows even where it is dropped."""
    zero = x.dtype.type(0)
    for i in prange(x.size):
        stays = _mixed_bits(np.uint32(_mixed_bits(np.uint32(np.uint32(i) ^ first)) ^ second)) >= limit
        kept[i] = stays
        y[i] = x[i] * (factor if stays else zero)


def dropout(x: Array, seed: tuple[int, int], rate: float) -> tuple[Array, Array]:
    """See reference.dropout."""
    (x,) = floats(x)
    y, kept = empty_like(x), empty(x.shape, np.uint8)
    numbers = (np.uint32(seed[0]), np.uint32(seed[1]), np.uint32(dropout_limit(rate)), x.dtype.type(1.0 / (1.0 - rate)))
    with threads_for(x.size):
        _dropout(x.reshape(-1), *numbers, y.reshape(-1), kept.reshape(-1))
    return y, kept


@compiled(parallel=True)
def _dropout_again(r, kept, factor, out):  # type: ignore[no-untyped-def]
    """K rows of r (M, K, N) share one of kept (M, N)."""
    zero = r.dtype.type(0)
    for row in prange(r.shape[0]):
        for k in range(r.shape[1]):
            for n in range(r.shape[2]):
                out[row, k, n] = r[row, k, n] * (factor if kept[row, n] else zero)


def dropout_again(r: Array, kept: Array, rate: float) -> Array:
    """See reference.dropout_again."""
    tangents = expect_mask("dropout_again", r, kept)
    (r,) = floats(r)
    out: Array = empty_like(r)
    batch = r.shape[-1]
    wide = (r.size // max(1, tangents * batch), tangents, batch)
    mask = np.ascontiguousarray(kept, dtype=np.uint8).reshape(wide[0], batch)
    with threads_for(r.size):
        _dropout_again(r.reshape(wide), mask, r.dtype.type(1.0 / (1.0 - rate)), out.reshape(wide))
    return out


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
    expect_indices("softmax_cross_entropy", "labels", labels, logits.shape[0])
    (logits,) = floats(logits)
    loss, probabilities = empty(logits.shape[1], logits.dtype), empty_like(logits)
    with threads_for(logits.size):
        _softmax_cross_entropy(logits, np.ascontiguousarray(labels, dtype=np.int64), loss, probabilities)
    return loss, probabilities


@compiled()
def _adam_range(theta, grad, m, v, factors, penalty):  # type: ignore[no-untyped-def]
    """One pass over entries that share their penalty."""
    beta1, other1, beta2, other2, rate, root, eps, scale = factors
    l1, l2, centre = penalty
    zero = theta.dtype.type(0)
    for i in range(theta.size):
        value = theta[i]
        g = grad[i] + l2 * (value - centre)
        g += l1 if value > zero else (-l1 if value < zero else zero)
        g *= scale
        m[i] = beta1 * m[i] + other1 * g
        v[i] = beta2 * v[i] + other2 * g * g
        theta[i] = value - rate * m[i] / (np.sqrt(v[i]) * root + eps)


@compiled(parallel=True)
def _adam_flat(theta, grad, m, v, factors, ends, l1, l2, centre):  # type: ignore[no-untyped-def]
    """Some entries a task, whatever segments they lie in; a task walks along its segments."""
    for task in prange((theta.size + _ENTRIES - 1) // _ENTRIES):
        first, last = task * _ENTRIES, min(theta.size, (task + 1) * _ENTRIES)
        segment = np.searchsorted(ends, first, side="right")
        while first < last:
            end = min(ends[segment], last)
            penalty = (l1[segment], l2[segment], centre[segment])
            _adam_range(theta[first:end], grad[first:end], m[first:end], v[first:end], factors, penalty)
            first = end
            segment += 1


def adam_flat(
    theta: Array, grad: Array, m: Array, v: Array, factors: Array, ends: Array, l1: Array, l2: Array, centre: Array
) -> None:
    """See reference.adam_flat: theta, m and v change in place."""
    expect_flat("adam_flat", (theta, grad, m, v), factors, ends, (l1, l2, centre))
    (values,) = floats(theta)
    kind = values.dtype
    grads, firsts, seconds, own, *penalties = (
        np.ascontiguousarray(array, dtype=kind) for array in (grad, m, v, factors, l1, l2, centre)
    )
    with threads_for(theta.size):
        _adam_flat(values, grads, firsts, seconds, tuple(own), np.ascontiguousarray(ends, dtype=np.int64), *penalties)
    for array, done in zip((theta, m, v), (values, firsts, seconds), strict=True):
        if not np.shares_memory(array, done):  # it was not contiguous, or of another type
            array[...] = done


@compiled(parallel=True)
def _pull(grad, theta, strength, centre):  # type: ignore[no-untyped-def]
    """Some entries a task, as Adam takes them."""
    for task in prange((grad.size + _ENTRIES - 1) // _ENTRIES):
        for i in range(task * _ENTRIES, min(grad.size, (task + 1) * _ENTRIES)):
            grad[i] += strength[i] * (theta[i] - centre[i])


def pull(grad: Array, theta: Array, strength: Array, centre: Array) -> None:
    """See reference.pull: grad changes in place."""
    expect_pull(grad, theta, strength, centre)
    (own,) = floats(grad)
    others = (np.ascontiguousarray(array, dtype=own.dtype) for array in (theta, strength, centre))
    with threads_for(grad.size):
        _pull(own, *others)
    if not np.shares_memory(grad, own):  # it was not contiguous, or of another type
        grad[...] = own


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
    order, at, kind = _indices("gather_images", images, rows, source, table, table_row)
    out: Array = empty((source.size, rows.size), table.dtype)
    with threads_for(out.size):
        _gather_images(np.ascontiguousarray(images), order, at, np.ascontiguousarray(table), kind, out)
    return out


def _indices(where: str, images: Array, rows: Array, source: Array, table: Array, table_row: Array) -> list[Array]:
    """rows, source and table_row as the kernels read them, once each is known to stay inside."""
    for name, indices, size in (("rows", rows, len(images)), ("source", source, images.shape[1]),
                                ("table_row", table_row, len(table))):  # fmt: skip
        expect_indices(where, name, indices, size)
    return [np.ascontiguousarray(indices, dtype=np.int64) for indices in (rows, source, table_row)]


@compiled(parallel=True)
def _gather_augmented(images, rows, source, table, table_row, moves, height, width, out):  # type: ignore[no-untyped-def]
    """As _gather_images; where a shift leaves the image, the pixel is 0."""
    group = 16
    for task in prange((rows.size + group - 1) // group):
        first, last = task * group, min(rows.size, (task + 1) * group)
        for d in range(source.size):
            line, y, x = table[table_row[d]], d // width % height, d % width
            start = d - y * width - x  # of the channel
            for n in range(first, last):
                i = y + moves[n, 0]
                j = (width - 1 - x if moves[n, 2] else x) + moves[n, 1]
                if 0 <= i < height and 0 <= j < width:
                    out[d, n] = line[images[rows[n], source[start + i * width + j]]]
                else:
                    out[d, n] = line[0]


def gather_augmented(
    images: Array, rows: Array, source: Array, table: Array, table_row: Array, moves: Array, shape: Shape
) -> Array:
    """See reference.gather_augmented; indices count from 0, negative ones are refused."""
    expect_augmented("gather_augmented", images, rows, source, table, table_row, moves, shape)
    order, at, kind = _indices("gather_augmented", images, rows, source, table, table_row)
    moved, pixels = np.ascontiguousarray(moves, dtype=np.int64), np.ascontiguousarray(images)
    out: Array = empty((source.size, rows.size), table.dtype)
    with threads_for(out.size):
        _gather_augmented(pixels, order, at, np.ascontiguousarray(table), kind, moved, shape[1], shape[2], out)
    return out
