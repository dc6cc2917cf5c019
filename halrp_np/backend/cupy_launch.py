"""How a kernel of cuda_source.py is compiled, by NVRTC on first use, and queued."""

from __future__ import annotations

from functools import cache
from typing import Any

import cupy
import numpy as np

from ..typing import Array
from .cuda_source import BLOCK, source

MOST_BLOCKS = 65535
"""Of the second and third axis of a grid."""
NOTHING = np.uintp(0)
"""The pointer to no array."""

_C_TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


@cache
def _module(kind: np.dtype[Any]) -> Any:
    """All kernels for one floating type."""
    return cupy.RawModule(code=source(_C_TYPES[kind]))


@cache
def _kernel(name: str, kind: np.dtype[Any]) -> Any:
    """One kernel for one floating type."""
    return _module(kind).get_function(name)


def launch(name: str, kind: np.dtype[Any], grid: tuple[int, ...], threads: int, *arguments: Any) -> None:
    """Queue a kernel; whole numbers go as C int, so 64-bit sizes must come as np.int64, and floats as NumPy's."""
    values = tuple(np.int32(value) if type(value) is int else value for value in arguments)
    if min(grid) > 0 and threads > 0:
        block = min(BLOCK, (threads + 31) // 32 * 32)
        _kernel(name, kind)((grid[0], *(min(side, MOST_BLOCKS) for side in grid[1:])), (block,), values)


def spans(count: int, share: int, most: int) -> int:
    """How many blocks share a run of `count` elements, each taking about `share`."""
    return min(most, (count + share - 1) // share)


def each(count: int) -> tuple[int, int]:
    """The grid of a kernel with one thread an entry."""
    return spans(count, BLOCK, 2**20), 1


def adders(count: int) -> int:
    """How many threads add up `count` entries: a power of two."""
    return min(BLOCK, max(32, 1 << (count - 1).bit_length())) if count else 32


def floats(*arrays: Array) -> list[Array]:
    """The arrays, contiguous and of their common floating type."""
    kind = np.result_type(*(array.dtype for array in arrays))
    kind = kind if kind in _C_TYPES else np.dtype(np.float64)
    return [contiguous(array, kind) for array in arrays]


def contiguous(array: Array, kind: Any) -> Array:
    """The array in C order and of this type; itself if it is."""
    return cupy.ascontiguousarray(array, dtype=kind).reshape(array.shape)


def floating(kind: np.dtype[Any]) -> np.dtype[Any]:
    """The type that kernels compute in for arrays of type `kind`."""
    return kind if kind in _C_TYPES else np.dtype(np.float64)
