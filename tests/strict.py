"""A device that exists only in the tests: its arrays refuse everything a GPU array refuses, so no crossing goes unseen.

A StrictArray holds a NumPy array that nothing but `.get()` gives back, and counts those calls. It refuses NumPy
functions, NumPy arrays and NumPy numbers as partners (Python numbers may mix), and every silent way to the host:
float(), int(), bool(), len(), iteration, use as an index. `xp` offers only functions that NumPy and CuPy share.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np

from halrp_np.backend import Device

PLAIN = (bool, int, float, str, type, np.dtype, slice, type(None), type(Ellipsis))
"""What may stand beside strict arrays: Python's own values, dtypes and indices."""

OFFERED = (
    "abs", "arange", "ascontiguousarray", "broadcast_to", "concatenate", "exp", "full", "isfinite", "log", "maximum",
    "mean", "moveaxis", "pad", "partition", "sign", "sqrt", "stack", "sum", "where", "zeros", "zeros_like",
)  # fmt: skip
"""Functions of the namespace; each takes and returns strict arrays."""

METHODS = (
    "all", "any", "argmax", "astype", "copy", "max", "mean", "min", "reshape", "sum", "swapaxes", "transpose",
)  # fmt: skip
"""Methods of the arrays that are NumPy's."""


class Crossing(TypeError):  # noqa: N818 - it names what happened, not what went wrong
    """Something reached for the host, or mixed two devices, without saying so."""


def _open(value: Any) -> Any:
    """The NumPy array inside, also inside tuples and lists; anything from the host but a plain value is refused."""
    if isinstance(value, StrictArray):
        return value._data
    if isinstance(value, tuple | list):
        return type(value)(_open(part) for part in value)
    if type(value) in PLAIN or (isinstance(value, type | np.dtype)):
        return value
    raise Crossing(f"a strict array met {type(value).__module__}.{type(value).__name__}")


def _closed(value: Any) -> Any:
    """Results as strict arrays, NumPy numbers as 0-d ones."""
    if isinstance(value, tuple):
        return tuple(_closed(part) for part in value)
    return StrictArray(np.asarray(value))


def _lifted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function on strict arrays."""

    def run(*values: Any, **options: Any) -> Any:
        return _closed(function(*_open(values), **{name: _open(value) for name, value in options.items()}))

    return run


def _refused(name: str) -> Callable[..., NoReturn]:
    """A method that says which silent way to the host was tried."""

    def refuse(self: Any, *values: Any, **options: Any) -> NoReturn:
        raise Crossing(f"{name} of a strict array: use Device.to_host")

    return refuse


class StrictArray:
    """See the module; `gets` counts the crossings of all arrays."""

    gets = 0
    __array_ufunc__ = None  # NumPy's operators then leave the answer to ours, which refuses
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, data: np.ndarray) -> None:
        self._data = data

    def get(self) -> np.ndarray:
        """A copy on the host: the only crossing."""
        StrictArray.gets += 1
        return self._data.copy()

    def __array_namespace__(self) -> Any:
        return xp

    def __getattr__(self, name: str) -> Any:
        if name in ("dtype", "shape", "ndim", "size", "nbytes", "itemsize"):
            return getattr(self._data, name)
        if name == "T":
            return StrictArray(self._data.T)
        if name in METHODS:
            return _lifted(getattr(self._data, name))
        raise AttributeError(f"a strict array has no {name}")

    def __getitem__(self, index: Any) -> StrictArray:
        return StrictArray(np.asarray(self._data[_open(index)]))

    def __setitem__(self, index: Any, value: Any) -> None:
        self._data[_open(index)] = _open(value)

    def __repr__(self) -> str:
        return f"StrictArray(shape={self._data.shape}, dtype={self._data.dtype})"


def _operator(name: str) -> None:
    """Give StrictArray a unary or binary operator, its reflection and its form in place."""
    function = getattr(operator, name)
    setattr(StrictArray, f"__{name}__", lambda *values: _closed(function(*_open(values))))
    in_place = getattr(operator, f"i{name}", None)
    if in_place is None:
        return
    setattr(StrictArray, f"__r{name}__", lambda self, other: _closed(function(_open(other), self._data)))

    def change(self: StrictArray, other: Any) -> StrictArray:
        self._data = in_place(self._data, _open(other))
        return self

    setattr(StrictArray, f"__i{name}__", change)


for _name in ("abs", "neg", "add", "sub", "mul", "truediv", "pow", "matmul", "eq", "ne", "lt", "le", "gt", "ge"):
    _operator(_name)
for _name in ("array", "array_function", "float", "int", "bool", "complex", "index", "len", "iter", "contains"):
    setattr(StrictArray, f"__{_name}__", _refused(_name))


def _from_host(value: Any, dtype: Any = None) -> StrictArray:
    """As CuPy's asarray: the way up, which may take host arrays."""
    return StrictArray(np.array(value._data if isinstance(value, StrictArray) else value, dtype=dtype))


xp = SimpleNamespace(
    __name__="strict",
    asarray=_from_host,
    float32=np.float32,
    float64=np.float64,
    linalg=SimpleNamespace(svd=_lifted(lambda *values, **options: tuple(np.linalg.svd(*values, **options)))),
    **{name: _lifted(getattr(np, name)) for name in OFFERED},
)


class StrictDevice(Device):
    """The device of strict arrays."""

    def __init__(self) -> None:
        self.name, self.note, self.xp = "strict", "", xp

    def to_device(self, array: Any) -> Any:
        return array if isinstance(array, StrictArray) else _from_host(array)

    def synchronize(self) -> None:
        """Nothing is queued."""
