"""A matrix known by its products, as the sparse solvers of the arrays' own library take it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..typing import Array


def linear_operator(size: int, dtype: Any, product: Callable[[Array], Array], xp: Any) -> Any:
    """A symmetric matrix as `scipy.sparse.linalg.LinearOperator`, or cupyx's for CuPy arrays.

    Shapes: `product` maps (P,) to (P,) and (P, K) to (P, K), with P = size.
    """
    home = "scipy" if xp is np else "cupyx.scipy"
    module = importlib.import_module(f"{home}.sparse.linalg")

    def one(v: Array) -> Array:
        return product(v.reshape(size).astype(dtype, copy=False))

    def many(V: Array) -> Array:
        return product(V.astype(dtype, copy=False))

    return module.LinearOperator((size, size), matvec=one, rmatvec=one, matmat=many, rmatmat=many, dtype=dtype)
