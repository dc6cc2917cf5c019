"""GPU twins: what looks at one entry, one sample or one row at a time; cuda_pointwise.py says how."""

from __future__ import annotations

import cupy
import numpy as np

from ..typing import Array
from .checks import expect, expect_flat, expect_gather
from .cuda_source import BLOCK
from .cupy_launch import adders, contiguous, each, floating, floats, launch


def relu(x: Array) -> Array:
    """See reference.relu."""
    (x,) = floats(x)
    y = cupy.empty_like(x)
    launch("relu", x.dtype, each(x.size), BLOCK, x, y, np.int64(x.size))
    return y


def relu_backward(y: Array, gy: Array) -> Array:
    """See reference.relu_backward."""
    fits = y.shape == gy.shape or y.shape == (*gy.shape[:-2], *gy.shape[-1:])
    expect("relu_backward", fits, "y (..., N) and gy (..., N) or (..., K, N)", y, gy)
    y, gy = floats(y if y.ndim == gy.ndim else cupy.broadcast_to(y[..., None, :], gy.shape), gy)
    gx = cupy.empty_like(gy)
    launch("relu_backward", gy.dtype, each(gy.size), BLOCK, y, gy, gx, np.int64(gy.size))
    return gx


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
