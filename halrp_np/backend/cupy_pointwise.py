"""GPU twins: what looks at one entry, one sample or one row at a time; cuda_pointwise.py says how."""

from __future__ import annotations

import cupy
import numpy as np

from ..typing import Array, Shape
from .checks import expect, expect_augmented, expect_flat, expect_gather, expect_mask, expect_pull
from .cuda_source import BLOCK
from .cupy_launch import adders, contiguous, each, floating, floats, launch
from .reference import dropout_limit


def relu(x: Array) -> Array:
    """See reference.relu."""
    (x,) = floats(x)
    y = cupy.empty_like(x)
    launch("relu", x.dtype, each(x.size), BLOCK, x, y, np.int64(x.size))
    return y


def relu_backward(y: Array, gy: Array) -> Array:
    """See reference.relu_backward."""
    expect_mask("relu_backward", gy, y)
    y, gy = floats(y if y.ndim == gy.ndim else cupy.broadcast_to(y[..., None, :], gy.shape), gy)
    gx = cupy.empty_like(gy)
    launch("relu_backward", gy.dtype, each(gy.size), BLOCK, y, gy, gx, np.int64(gy.size))
    return gx


def add(a: Array, b: Array, rectify: bool = False) -> Array:
    """See reference.add."""
    expect("add", a.shape == b.shape, "two arrays of one shape", a, b)
    a, b = floats(a, b)
    y = cupy.empty_like(a)
    launch("add", a.dtype, each(a.size), BLOCK, a, b, y, int(rectify), np.int64(a.size))
    return y


def dropout(x: Array, seed: tuple[int, int], rate: float) -> tuple[Array, Array]:
    """See reference.dropout."""
    (x,) = floats(x)
    y, kept = cupy.empty_like(x), cupy.empty(x.shape, dtype=np.uint8)
    numbers = (np.uint32(seed[0]), np.uint32(seed[1]), np.uint32(dropout_limit(rate)), x.dtype.type(1.0 / (1.0 - rate)))
    launch("dropout", x.dtype, each(x.size), BLOCK, x, y, kept, *numbers, np.int64(x.size))
    return y, kept


def dropout_again(r: Array, kept: Array, rate: float) -> Array:
    """See reference.dropout_again."""
    tangents = expect_mask("dropout_again", r, kept)
    (r,) = floats(r)
    out, mask = cupy.empty_like(r), contiguous(kept, np.uint8)
    sizes = (tangents, np.int64(r.shape[-1]), np.int64(r.size))
    launch("dropout_again", r.dtype, each(r.size), BLOCK, r, mask, out, r.dtype.type(1.0 / (1.0 - rate)), *sizes)
    return out


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """See reference.softmax_cross_entropy; a label out of range, negative ones included, gives NaN in its place."""
    fits = logits.ndim == 2 and labels.shape == logits.shape[1:] and logits.shape[0] > 0
    expect("softmax_cross_entropy", fits, "logits (K, N) and labels (N,)", logits, labels)
    (logits,) = floats(logits)
    classes, batch = logits.shape
    loss, chances = cupy.empty((batch,), dtype=logits.dtype), cupy.empty_like(logits)
    arrays = (logits, contiguous(labels, np.int64), loss, chances)
    launch("softmax_cross_entropy", logits.dtype, each(batch), BLOCK, *arrays, classes, np.int64(batch))
    return loss, chances


def row_dots(a: Array, b: Array) -> Array:
    """See reference.row_dots; the sums are kept in float64."""
    expect("row_dots", a.ndim == 2 and a.shape == b.shape, "a and b (I, N)", a, b)
    a, b = floats(a, b)
    channels, count = a.shape
    sums = cupy.empty((channels,), dtype=a.dtype)
    launch("row_dots", a.dtype, (1, channels), adders(count), a, b, sums, channels, np.int64(count))
    return sums


def adam_flat(
    theta: Array, grad: Array, m: Array, v: Array, factors: Array, ends: Array, l1: Array, l2: Array, centre: Array
) -> None:
    """See reference.adam_flat: theta, m and v change in place."""
    expect_flat("adam_flat", (theta, grad, m, v), factors, ends, (l1, l2, centre))
    kind = floating(theta.dtype)
    flat = [contiguous(array, kind) for array in (theta, grad, m, v)]
    numbers = [contiguous(array, kind) for array in (l1, l2, centre)]
    settings = (contiguous(factors, kind), contiguous(ends, np.int64), *numbers)
    size = np.int64(theta.size)
    launch("adam_flat", kind, each(theta.size), BLOCK, *flat, *settings, ends.shape[0], size)
    for array, done in zip((theta, m, v), (flat[0], flat[2], flat[3]), strict=True):
        if done is not array:  # it was not contiguous, or of another type
            array[...] = done


def pull(grad: Array, theta: Array, strength: Array, centre: Array) -> None:
    """See reference.pull: grad changes in place."""
    expect_pull(grad, theta, strength, centre)
    kind = floating(grad.dtype)
    own, *others = (contiguous(array, kind) for array in (grad, theta, strength, centre))
    launch("pull", kind, each(grad.size), BLOCK, own, *others, np.int64(grad.size))
    if own is not grad:  # it was not contiguous, or of another type
        grad[...] = own


def gather_images(images: Array, rows: Array, source: Array, table: Array, table_row: Array) -> Array:
    """See reference.gather_images; an index out of range, negative ones included, gives NaN in its place."""
    expect_gather("gather_images", images, rows, source, table, table_row)
    (table,) = floats(table)
    indices = (contiguous(array, np.int64) for array in (rows, source))
    arrays = (contiguous(images, np.uint8), *indices, table, contiguous(table_row, np.int64))
    out = cupy.empty((source.size, rows.size), dtype=table.dtype)
    limits = (np.int64(images.shape[0]), np.int64(images.shape[1]), np.int64(table.shape[0]))
    launch("gather_images", table.dtype, (source.size, 1), rows.size, *arrays, out, rows.size, *limits)
    return out


def gather_augmented(
    images: Array, rows: Array, source: Array, table: Array, table_row: Array, moves: Array, shape: Shape
) -> Array:
    """See reference.gather_augmented; an index out of range, negative ones included, gives NaN in its place."""
    expect_augmented("gather_augmented", images, rows, source, table, table_row, moves, shape)
    (table,) = floats(table)
    indices = (contiguous(array, np.int64) for array in (rows, source))
    arrays = (contiguous(images, np.uint8), *indices, table, contiguous(table_row, np.int64))
    out, moved = cupy.empty((source.size, rows.size), dtype=table.dtype), contiguous(moves, np.int64)
    limits = (np.int64(images.shape[0]), np.int64(images.shape[1]), np.int64(table.shape[0]))
    sizes = (rows.size, int(shape[1]), int(shape[2]))
    launch("gather_augmented", table.dtype, (source.size, 1), rows.size, *arrays, moved, out, *sizes, *limits)
    return out
