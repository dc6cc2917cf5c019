"""Memory for large host arrays that is used again: fresh pages from the system cost more than the arithmetic in them.

A buffer belongs to whoever refers to an array in it. `empty` hands out one to which nobody refers any more, as
CPython's reference count tells, or a new one; so nobody gives a buffer back by hand, and nothing is overwritten while
somebody still holds it. A training step asks for the same sizes each time and allocates nothing after its second run.
"""

from __future__ import annotations

import sys
from threading import Lock
from typing import Any

import numpy as np

from ..typing import Array, Shape

SMALL = 2**16
"""Bytes up to which the system's allocator is as good."""
KEPT = 2**29
"""Bytes of free buffers that are kept for later; beyond, those that were free the longest go back to the system."""
LINE = 64
"""Bytes of a cache line, at which every large buffer starts: no vector straddles two."""

_UNREFERRED = 3  # the pool's own list, the loop variable and the argument of getrefcount


class Pool:
    """Buffers by their size in bytes; `taken` counts what was handed out, `created` what came from the system."""

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self.taken = self.created = 0
        self._buffers: dict[int, list[list[Any]]] = {}  # size: [buffer, when it was last handed out]
        self._lock = Lock()

    def take(self, size: int) -> Array:
        """`size` bytes that nobody else refers to, uint8, on a cache line."""
        with self._lock:
            self.taken += 1
            for entry in self._buffers.get(size, ()):
                buffer = entry[0]
                if sys.getrefcount(buffer) <= _UNREFERRED:
                    entry[1] = self.taken
                    return _on_a_line(buffer, size)
            self.created += 1
            self._trim(size)
            buffer = np.empty(size + LINE, dtype=np.uint8)
            self._buffers.setdefault(size, []).append([buffer, self.taken])
            return _on_a_line(buffer, size)

    def _trim(self, coming: int) -> None:
        """Give free buffers back to the system, the longest unused first, until what stays free is within `kept`."""
        free = []
        for size, entries in self._buffers.items():
            for entry in entries:
                buffer = entry[0]
                if sys.getrefcount(buffer) <= _UNREFERRED:
                    free.append((entry[1], size, entry))
        excess = sum(size for _, size, _ in free) + coming - self.kept
        for _, size, entry in sorted(free, key=lambda item: item[0]):
            if excess <= 0:
                break
            self._buffers[size].remove(entry)
            excess -= size

    def held(self) -> int:
        """Bytes of all buffers, in use or free."""
        return sum(size * len(entries) for size, entries in self._buffers.items())


def _on_a_line(buffer: Array, size: int) -> Array:
    """The part of a buffer that starts on a cache line."""
    start = -buffer.ctypes.data % LINE
    return buffer[start : start + size]


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
