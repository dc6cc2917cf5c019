"""Every allocation that NumPy makes, listened to: a test can say that a step makes no large one.

NumPy (NEP 49) lets the allocator be exchanged; here each call is counted and handed on to C's own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_SET_HANDLER = 304  # place of PyDataMem_SetHandler in NumPy's table of C functions
_SIZE, _POINTER = ctypes.c_size_t, ctypes.c_void_p
_MALLOC = ctypes.CFUNCTYPE(_POINTER, _POINTER, _SIZE)
_CALLOC = ctypes.CFUNCTYPE(_POINTER, _POINTER, _SIZE, _SIZE)
_REALLOC = ctypes.CFUNCTYPE(_POINTER, _POINTER, _POINTER, _SIZE)
_FREE = ctypes.CFUNCTYPE(None, _POINTER, _POINTER, _SIZE)


class _Handler(ctypes.Structure):
    """PyDataMem_Handler of NumPy's C interface."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", _POINTER),
        ("malloc", _MALLOC),
        ("calloc", _CALLOC),
        ("realloc", _REALLOC),
        ("free", _FREE),
    )


_libc = ctypes.CDLL(None)
for _name, _arguments in (("malloc", [_SIZE]), ("calloc", [_SIZE, _SIZE]), ("realloc", [_POINTER, _SIZE])):
    getattr(_libc, _name).argtypes, getattr(_libc, _name).restype = _arguments, _POINTER
_libc.free.argtypes = [_POINTER]
_sizes: list[int] | None = None


def _heard(size: int) -> int:
    if _sizes is not None:
        _sizes.append(size)
    return size


_handler = _Handler(
    b"heard",
    1,
    None,
    _MALLOC(lambda context, size: _libc.malloc(_heard(size))),
    _CALLOC(lambda context, count, size: _libc.calloc(1, _heard(count * size))),
    _REALLOC(lambda context, pointer, size: _libc.realloc(pointer, _heard(size))),
    _FREE(lambda context, pointer, size: _libc.free(pointer)),
)


def _exchange(handler: object) -> object:
    """Make NumPy use a handler (a capsule); returns the one before."""
    capsule = ctypes.pythonapi.PyCapsule_GetPointer
    capsule.argtypes, capsule.restype = [ctypes.py_object, ctypes.c_char_p], _POINTER
    table = ctypes.cast(capsule(np._core._multiarray_umath._ARRAY_API, None), ctypes.POINTER(_POINTER))
    function = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[_SET_HANDLER])
    return function(handler)


@contextmanager
def listened() -> Iterator[list[int]]:
    """The bytes of each allocation made within, small ones that NumPy serves from its own cache left out."""
    global _sizes
    new = ctypes.pythonapi.PyCapsule_New
    new.argtypes, new.restype = [_POINTER, ctypes.c_char_p, _POINTER], ctypes.py_object
    before = _exchange(new(ctypes.addressof(_handler), b"mem_handler", None))
    _sizes = sizes = []
    try:
        yield sizes
    finally:
        _sizes = None
        _exchange(before)
