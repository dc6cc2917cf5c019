"""Explicit columns of an operator: the whole matrix of a small one, some unit vectors at a time."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..errors import ConfigError, ShapeError
from ..typing import Array

BLOCK = 16
"""Columns asked for at once: enough for an operator to fold them into one pass, few enough to hold beside the rest."""

LARGEST = 5000
"""The most rows of an explicit matrix: 200 MB in float64, and a minute of eigenvalues."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called now and then with what is done and the total, in products (checks: parameters or layers)."""


class SymmetricOperator(Protocol):
    """A symmetric matrix (P, P) known by its products with (P,) and (P, K) arrays of `xp` (NumPy where it has none)."""

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        ...

    @property
    def dtype(self) -> Any:
        """The floating-point type of vectors and products."""
        ...

    def __matmul__(self, v: Array, /) -> Array: ...


def dense_matrix(op: SymmetricOperator, *, progress: Progress | None = None) -> Array:
    """Return the operator as a matrix, at the price of P products.

    Shapes: result (P, P), on the operator's device and in its dtype. Nothing makes it symmetric: that it comes out so
            is a check of the operator.
    Raises: ConfigError for more than 5000 rows; ShapeError when the operator is not square or not of floats.
    """
    size = order("dense_matrix", op)
    if size > LARGEST:
        raise ConfigError(
            "dense_matrix",
            expected=f"an operator of at most {LARGEST} rows",
            received=f"{size}, a matrix of {size * size * np.dtype(op.dtype).itemsize / 1e9:.1f} GB",
            next_step="Take a smaller block, or spectral_density and extreme_eigenvalues, which need products only.",
        )
    matrix = namespace(op).zeros((size, size), dtype=op.dtype)
    for columns, _, product in unit_products(op, progress):
        matrix[:, columns] = product
    return matrix


def unit_products(op: SymmetricOperator, progress: Progress | None = None) -> Iterator[tuple[slice, Array, Array]]:
    """Every block of unit vectors: the columns it stands for, the vectors (P, K), and their products (P, K)."""
    xp, size = namespace(op), op.shape[0]
    for columns in blocks(size):
        width = columns.stop - columns.start
        unit = xp.asarray(np.eye(size, width, k=-columns.start, dtype=op.dtype))
        yield columns, unit, op @ unit
        report(progress, columns.stop, size)


def blocks(count: int) -> Iterator[slice]:
    """The columns 0..count in blocks of at most BLOCK."""
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def namespace(op: SymmetricOperator) -> Any:
    """The array module that the operator computes with."""
    return getattr(op, "xp", np)


def order(where: str, op: SymmetricOperator) -> int:
    """P, after a look at whether this can be a symmetric operator of floats at all."""
    shape, dtype = tuple(op.shape), np.dtype(op.dtype)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1 or dtype.kind != "f":
        raise ShapeError(
            where,
            expected="a square operator of floats",
            received=f"shape {shape}, {dtype}",
            next_step="Pass a HessianOperator, a block of one, or a symmetric matrix.",
        )
    return int(shape[0])


def report(progress: Progress | None, done: int, total: int) -> None:
    """Tell whoever asked."""
    if progress is not None:
        progress(done, total)
