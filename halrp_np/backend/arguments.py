"""What every wrapper of the CPU column does with its arguments before a kernel, which checks no bounds, sees them."""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError
from ..typing import Array

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def floats(*arrays: Array) -> list[Array]:
    """The arrays, contiguous and of their common floating type."""
    kind = np.result_type(*arrays)
    kind = kind if kind in FLOATS else np.dtype(np.float64)
    return [np.ascontiguousarray(array, dtype=kind).reshape(array.shape) for array in arrays]


def expect_indices(where: str, name: str, indices: Array, size: int) -> None:
    """Raise ShapeError unless every index lies in 0 .. size-1."""
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        raise ShapeError(
            where,
            expected=f"{name} in 0..{size - 1}",
            received=f"{indices.min()}..{indices.max()}",
            next_step=f"Check {name} against the array that they index.",
        )
