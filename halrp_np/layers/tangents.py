"""K tangents as one array: folding them into the batch, or into the channels, so that one product serves them all.

A tangent of x (..., N) is rx (..., K, N), one of a parameter of shape s is (K, *s). A bilinear map f(x, W) has the two
tangents f(rx, W), where K joins the batch, and f(x, rW), where K joins the outputs or the inputs of W.
"""

from __future__ import annotations

from ..backend import array_module
from ..typing import Array, Shape


def fold(rx: Array) -> Array:
    """(..., K, N) as (..., K N): K tangents as K times the batch."""
    return rx.reshape(*rx.shape[:-2], rx.shape[-2] * rx.shape[-1])


def unfold(columns: Array, count: int) -> Array:
    """(..., K N) as (..., K, N)."""
    return columns.reshape(*columns.shape[:-1], count, columns.shape[-1] // count)


def to_channels(rx: Array) -> Array:
    """(C, ..., K, N) as (K C, ..., N): K tangents as K times the channels."""
    xp = array_module(rx)
    return xp.moveaxis(rx, -2, 0).reshape(rx.shape[-2] * rx.shape[0], *rx.shape[1:-2], rx.shape[-1])


def from_channels(stacked: Array, count: int) -> Array:
    """(K C, ..., N) as (C, ..., K, N)."""
    xp = array_module(stacked)
    parts = stacked.reshape(count, stacked.shape[0] // count, *stacked.shape[1:])
    return xp.ascontiguousarray(xp.moveaxis(parts, 0, -2))


def to_outputs(rW: Array) -> Array:
    """(K, J, I, ...) as (K J, I, ...): weights with K times the outputs."""
    return rW.reshape(rW.shape[0] * rW.shape[1], *rW.shape[2:])


def to_inputs(rW: Array) -> Array:
    """(K, J, I, ...) as (J, K I, ...): weights with K times the inputs."""
    xp = array_module(rW)
    return xp.moveaxis(rW, 0, 1).reshape(rW.shape[1], rW.shape[0] * rW.shape[2], *rW.shape[3:])


def from_outputs(stacked: Array, count: int) -> Array:
    """(K J, I, ...) as (K, J, I, ...)."""
    return stacked.reshape(count, stacked.shape[0] // count, *stacked.shape[1:])


def from_inputs(stacked: Array, count: int) -> Array:
    """(J, K I, ...) as (K, J, I, ...)."""
    xp = array_module(stacked)
    parts = stacked.reshape(stacked.shape[0], count, stacked.shape[1] // count, *stacked.shape[2:])
    return xp.moveaxis(parts, 1, 0)


def total(*terms: Array | None) -> Array | None:
    """The sum of the terms that are there; None, for zero, when none is."""
    present = [term for term in terms if term is not None]
    if not present:
        return None
    result = present[0]
    for term in present[1:]:
        result = result + term
    return result


def with_bias(ry: Array | None, rb: Array | None, y_shape: Shape) -> Array | None:
    """ry with the tangent rb (K, J) of the bias added at every position of y (J, ..., N)."""
    if rb is None:
        return ry
    J, *positions, N = y_shape
    shift = rb.T.reshape(J, *(1 for _ in positions), -1, 1)
    if ry is not None:
        return ry + shift
    xp = array_module(rb)
    return xp.ascontiguousarray(xp.broadcast_to(shift, (J, *positions, rb.shape[0], N)))
