"""The loops on the CPU that take one element, sample or image at a time."""

from __future__ import annotations

import numpy as np
from numba import prange

from ..typing import Array
from .arguments import expect_indices, floats
from .buffers import empty, empty_like
from .checks import expect, expect_flat, expect_gather
from .jit import compiled, threads_for

_ENTRIES = 2**13  # of flat parameters, a task of Adam


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
    fits = y.shape == gy.shape or y.shape == (*gy.shape[:-2], *gy.shape[-1:])
    expect("relu_backward", fits, "y (..., N) and gy (..., N) or (..., K, N)", y, gy)
    y, gy = floats(y, gy)
    gx: Array = empty_like(gy)
    tangents, batch = (1 if gy.ndim == y.ndim else gy.shape[-2]), gy.shape[-1]
    rows = y.size // max(1, batch)
    with threads_for(gy.size):
        _relu_backward(y.reshape(rows, batch), *(part.reshape(rows, tangents, batch) for part in (gy, gx)))
    return gx


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
        expect_indices("gather_images", name, indices, size)
    order, at, kind = (np.ascontiguousarray(indices, dtype=np.int64) for indices in (rows, source, table_row))
    out: Array = empty((source.size, rows.size), table.dtype)
    with threads_for(out.size):
        _gather_images(np.ascontiguousarray(images), order, at, np.ascontiguousarray(table), kind, out)
    return out
