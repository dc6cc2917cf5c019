"""Memory for large host arrays that is used again: fresh pages from the system cost more than the arithmetic in them.

A buffer belongs to whoever refers to an array in it. `empty` hands out one to which nobody refers any more, as
CPython's reference count tells, or a new one; so nobody gives a buffer back by hand, and nothing is overwritten while
somebody still holds it. A training step asks for the same sizes each time and allocates nothing after its second run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from ..typing import Array, Shape

SMALL = 2**16
"""Bytes up to which the system's allocator is as good."""
KEPT = 2**28
"""Bytes of free buffers that are kept for later; beyond, those that were free the longest go back to the system."""
LINE = 64
"""Bytes of a cache line, at which every large buffer starts: no vector straddles two."""


@dataclass(eq=False)  # told apart by identity
class Buffer:
    """Some memory, and the number of the call that handed it out last."""

    memory: Array
    taken: int

    @property
    def references(self) -> int:
        """How many refer to the memory, this object and the call included."""
        return sys.getrefcount(self.memory)


_UNREFERRED = Buffer(np.empty(1, dtype=np.uint8), 0).references  # as this interpreter counts


class Pool:
    """Buffers by their size in bytes; `taken` counts what was handed out, `created` what came from the system."""

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self.taken = self.created = 0
        self._buffers: dict[int, list[Buffer]] = {}  # by size
        self._lock = Lock()

    def take(self, size: int) -> Array:
        """`size` bytes that nobody else refers to, uint8, on a cache line."""
        with self._lock:
            self.taken += 1
            for buffer in self._buffers.get(size, ()):
                if buffer.references <= _UNREFERRED:
                    buffer.taken = self.taken
                    return _on_a_line(buffer.memory, size)
            self.created += 1
            self._trim(size)
            buffer = Buffer(np.empty(size + LINE, dtype=np.uint8), self.taken)
            self._buffers.setdefault(size, []).append(buffer)
            return _on_a_line(buffer.memory, size)

    def _trim(self, coming: int) -> None:
        """Give free buffers back to the system, the longest unused first, until what stays free is within `kept`."""
        every = [(size, buffer) for size, buffers in self._buffers.items() for buffer in buffers]
        free = [(size, buffer) for size, buffer in every if buffer.references <= _UNREFERRED]
        excess = sum(size for size, _ in free) + coming - self.kept
        for size, buffer in sorted(free, key=lambda item: item[1].taken):
            if excess <= 0:
                break
            self._buffers[size].remove(buffer)
            excess -= size

    def held(self) -> int:
        """Bytes of all buffers, in use or free."""
        return sum(size * len(buffers) for size, buffers in self._buffers.items())


def _on_a_line(memory: Array, size: int) -> Array:
    """The part of some memory that starts on a cache line."""
    start = -memory.ctypes.data % LINE
    return memory[start : start + size]


POOL = Pool()


def empty(shape: int | Shape, dtype: Any) -> Array:
    """An uninitialised, contiguous host array; the memory of a large one is used again once nobody refers to it."""
    kind = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    count = 1
    for side in shape:
        count *= int(side)
    size = count * kind.itemsize
    if size <= SMALL:
        return np.empty(shape, kind)
    return POOL.take(size).view(kind).reshape(shape)


def empty_like(array: Array) -> Array:
    """`empty` of an array's shape and type."""
    return empty(array.shape, array.dtype)


def zeros(shape: int | Shape, dtype: Any) -> Array:
    """`empty`, filled with zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array
