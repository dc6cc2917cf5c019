"""Matrix products on the CPU: float32 on the register blocks of gemm.py, the rest through BLAS in gemm_conv.py."""

from __future__ import annotations

import numpy as np

from ..typing import Array
from . import gemm, gemm_conv
from .buffers import zeros
from .checks import expect
from .jit import PER_ELEMENT, threads_for


def matmul(a: Array, b: Array) -> Array:
    """See reference.matmul."""
    expect("matmul", a.ndim == 2 and b.ndim == 2 and a.shape[1] == b.shape[0], "(M, K) and (K, N)", a, b)
    return _product(a, b)


def linear(x: Array, W: Array, bias: Array | None = None, scale: Array | None = None) -> Array:
    """See reference.linear."""
    fits = (bias is None or bias.shape == W.shape[:1]) and (scale is None or scale.shape == x.shape[:1])
    _expect("linear", fits, x, W, bias, scale)
    return _product(W, x, start=bias, scale=scale)


def linear_add(y: Array, scale: Array, x: Array, W: Array, bias: Array | None = None) -> Array:
    """See reference.linear_add."""
    fits = y.shape == (*W.shape[:1], *x.shape[1:]) and scale.shape == W.shape[:1]
    fits = fits and (bias is None or bias.shape == W.shape[:1])
    _expect("linear_add", fits, x, W, bias, scale, y)
    return _product(W, x, start=bias, base=y, base_scale=scale)


def _expect(where: str, fits: bool, x: Array, W: Array, *others: Array | None) -> None:
    """Raise ShapeError unless W x exists and the others fit it."""
    fits = fits and x.ndim == 2 and W.ndim == 2 and W.shape[1] == x.shape[0]
    expected = "x (I, N), W (J, I), one entry a row in bias and scale, y as W x"
    expect(where, fits, expected, x, W, *(array for array in others if array is not None))


def _product(a: Array, b: Array, **terms: Array | None) -> Array:
    """a b with the terms of gemm.product, by the loops that serve these arrays."""
    arrays = [a, b, *(term for term in terms.values() if term is not None)]
    blocked = all(array.dtype == np.float32 for array in arrays)
    blocked = blocked and b.shape[1] >= gemm.MIN_COLUMNS and 0 not in a.shape
    with threads_for(a.size * b.shape[1] // PER_ELEMENT):
        if blocked:
            return gemm.product(a, b, **terms)
        start, scale, base, base_scale = (terms.get(name) for name in ("start", "scale", "base", "base_scale"))
        b = b if scale is None else scale[:, None] * b
        if 0 in (*a.shape, b.shape[1]):
            out = zeros((a.shape[0], b.shape[1]), np.result_type(*arrays))
        else:
            out = gemm_conv.product(a, b)
        if base is not None and base_scale is not None:
            out = out + base_scale[:, None] * base
        return out if start is None else out + start[:, None]
