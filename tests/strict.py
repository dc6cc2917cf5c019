"""A device that exists only in the tests: its arrays refuse everything a GPU array refuses, so no crossing goes unseen.

A StrictArray holds a NumPy array that nothing but `.get()` gives back, and counts those calls. It refuses NumPy
functions, NumPy arrays and NumPy numbers as partners (Python numbers may mix), and every silent way to the host:
float(), int(), bool(), len(), iteration, use as an index. `xp` offers only functions that NumPy and CuPy share.

While `tape` is a list, work is recorded as for a CUDA graph: what changes an array waits for the replay, every result
is formed again there in the same place, and what CuPy cannot record (cuBLAS, any crossing) is refused.
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
    "abs", "arange", "ascontiguousarray", "broadcast_to", "concatenate", "einsum", "empty", "exp", "full", "isfinite",
    "log", "maximum", "mean", "moveaxis", "ones", "pad", "partition", "searchsorted", "sign", "sqrt", "stack", "sum",
    "where", "zeros", "zeros_like",
)  # fmt: skip
"""Functions of the namespace; each takes and returns strict arrays."""

METHODS = (
    "all", "any", "argmax", "astype", "copy", "max", "mean", "min", "reshape", "sum", "swapaxes", "transpose",
)  # fmt: skip
"""Methods of the arrays that are NumPy's."""


tape: list[Callable[[], Any]] | None = None
"""While a graph is recorded, how to do each of its parts again."""


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


def _done(function: Callable[..., Any], *values: Any, **options: Any) -> Any:
    """What the function makes of opened values; while a graph is recorded, it is also told how to make it again."""
    if tape is None:
        return function(*values, **options)
    with np.errstate(all="ignore"):  # nothing has a value yet
        result = function(*values, **options)
    parts = [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]

    def again() -> None:
        found = function(*values, **options)
        for part, new in zip(parts, found if isinstance(found, tuple) else (found,), strict=True):
            if part.flags.writeable:  # else it is a view of what is up to date
                part[...] = new

    tape.append(again)
    return tuple(parts) if isinstance(result, tuple) else parts[0]


def _changed(function: Callable[..., Any], *values: Any) -> None:
    """Do what changes an array; while a graph is recorded, leave it to the replay."""
    if tape is None:
        function(*values)
    else:
        tape.append(lambda: function(*values))


def _refuse_to_record(what: str) -> None:
    """Raise NotImplementedError while a graph is recorded."""
    if tape is not None:
        raise NotImplementedError(f"{what} while a graph is recorded")


def _lifted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function on strict arrays."""

    def run(*values: Any, **options: Any) -> Any:
        if function is np.einsum:
            _refuse_to_record("a call of cuBLAS")
        return _closed(_done(function, *_open(values), **{name: _open(value) for name, value in options.items()}))

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
        _refuse_to_record("a crossing to the host")
        StrictArray.gets += 1
        return self._data.copy()

    def __array_namespace__(self) -> Any:
        return xp

    def __getattr__(self, name: str) -> Any:
        if name in ("dtype", "shape", "strides", "ndim", "size", "nbytes", "itemsize"):
            return getattr(self._data, name)
        if name in ("T", "base"):
            return StrictArray(getattr(self._data, name))
        if name in METHODS:
            return _lifted(getattr(self._data, name))
        raise AttributeError(f"a strict array has no {name}")

    def __getitem__(self, index: Any) -> StrictArray:
        return _closed(_done(operator.getitem, self._data, _open(index)))

    def __setitem__(self, index: Any, value: Any) -> None:
        _changed(operator.setitem, self._data, _open(index), _open(value))

    def __repr__(self) -> str:
        return f"StrictArray(shape={self._data.shape}, dtype={self._data.dtype})"


def _operator(name: str) -> None:
    """Give StrictArray a unary or binary operator, its reflection and its form in place."""
    function = getattr(operator, name)

    def run(*values: Any) -> Any:
        if name == "matmul":
            _refuse_to_record("a call of cuBLAS")
        return _closed(_done(function, *_open(values)))

    setattr(StrictArray, f"__{name}__", run)
    in_place = getattr(operator, f"i{name}", None)
    if in_place is None:
        return
    setattr(StrictArray, f"__r{name}__", lambda self, other: _closed(_done(function, _open(other), self._data)))

    def change(self: StrictArray, other: Any) -> StrictArray:
        _changed(in_place, self._data, _open(other))
        return self

    setattr(StrictArray, f"__i{name}__", change)


OPERATORS = (
    "abs",
    "neg",
    "add",
    "sub",
    "mul",
    "truediv",
    "pow",
    "matmul",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "xor",
    "rshift",
)
for _name in OPERATORS:
    _operator(_name)
for _name in ("array", "array_function", "float", "int", "bool", "complex", "index", "len", "iter", "contains"):
    setattr(StrictArray, f"__{_name}__", _refused(_name))


def _from_host(value: Any, dtype: Any = None) -> StrictArray:
    """As CuPy's asarray: the way up, which may take host arrays."""
    if isinstance(value, StrictArray):
        return value if dtype is None else value.astype(dtype)
    _refuse_to_record("a copy from the host")
    return StrictArray(np.array(value._data if isinstance(value, StrictArray) else value, dtype=dtype))


xp = SimpleNamespace(
    __name__="strict",
    asarray=_from_host,
    float32=np.float32,
    float64=np.float64,
    linalg=SimpleNamespace(
        eigh=_lifted(lambda values: tuple(np.linalg.eigh(values))),
        svd=_lifted(lambda *values, **options: tuple(np.linalg.svd(*values, **options))),
    ),
    lib=SimpleNamespace(
        stride_tricks=SimpleNamespace(sliding_window_view=_lifted(np.lib.stride_tricks.sliding_window_view))
    ),
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
