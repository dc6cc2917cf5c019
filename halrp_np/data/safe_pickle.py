"""Pickles as data: read by Python's own machine with every instruction taken out that could run anything.

A pickle is a program for a stack machine, and that machine may call any function that the file names. Here it keeps the
instructions that build plain values; a name stays a name, and the few calls by which NumPy and Python 2 store arrays
and bytes are carried out by this module. The machine is `pickle._Unpickler`, the one written in Python: the one in C
has no place to check the key of a dict before it is hashed, which for a deep tuple takes for ever or ends the process.
"""

from __future__ import annotations

import io
import math
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from ..errors import DataError

_Step = Callable[[Any], None]

_PYTHONS: dict[int, _Step] = pickle._Unpickler.dispatch
_KEYS = (bytes, str, int, float, bool, type(None))  # compared and hashed without running anything deep
_NUMBERS = {"?", "b1", "c8", "c16"} | {f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8, 16)}
_MOST_DIMENSIONS = 32
_HARMLESS = b".(012FGIJKLMNSTUVX\x8a\x8b\x8c\x8d]ael}tr)\x85\x86\x87pqrghj\x94BC\x8eci\x93\x80\x88\x89\x95"
_REFUSED = {
    b"PQ": "a persistent id",
    b"o\x81\x92": "an instance of a class",
    b"\x82\x83\x84": "an extension code",
    b"\x8f\x90": "a set",
    b"\x91": "a frozenset",
    b"\x97\x98": "a buffer outside the file",
}


class _Name(NamedTuple):
    """A function or class that a pickle names, one of the few known here; it is never looked up."""

    module: str
    name: str


@dataclass
class _Elements:
    """The type of an array's elements: NumPy's code, and the order of bytes."""

    code: str
    order: str = "="


class _RefusedError(Exception):
    """Something that no data set needs."""


_KNOWN = {_Name("numpy", "ndarray"), _Name("numpy", "dtype"), _Name("_codecs", "encode"), _Name("__builtin__", "bytes")}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN |= {_Name(f"{_core}.multiarray", "_reconstruct"), _Name(f"{_core}.numeric", "_frombuffer")}


def read_pickle(content: bytes, where: str) -> Any:
    """The value in a pickle: arrays of numbers, lists, tuples, dicts, bytes, strings, numbers, booleans and None.

    Strings of Python 2 are bytes. Keys of dicts are strings, bytes or numbers. Nothing that the pickle names is
    imported or called.

    Raises: DataError naming `where` for a pickle that needs anything else, or that is damaged or cut off.
    """
    try:
        return _Machine(io.BytesIO(content), encoding="bytes").load()
    except _RefusedError as refused:
        raise DataError(
            where,
            expected="a pickle of arrays, lists, dicts, bytes, strings and numbers, nothing else",
            received=f"{refused}; nothing of it was run",
            next_step="Do not trust this file: delete it and get the data set from its authors.",
        ) from None
    except Exception as error:  # the machine promises no more about what damaged files raise
        short = isinstance(error, EOFError | IndexError)
        reason = "one that ends early or is damaged" if short else f"a damaged one ({' '.join(str(error).split())})"
        raise DataError(
            where,
            expected="a whole pickle",
            received=reason,
            next_step="Delete this file and copy or download it again.",
        ) from error


def _refuse(what: str) -> NoReturn:
    """Stop for something that is more than data."""
    raise _RefusedError(what)


def _refusal(what: str) -> _Step:
    """An instruction that is refused."""
    return lambda _machine: _refuse(what)


class _Machine(pickle._Unpickler):
    """Python's machine; `stack` is what came after the last mark, `metastack` what came before it."""

    stack: list[Any]
    metastack: list[list[Any]]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def load(self) -> Any:
        """The one value that the instructions leave, once nothing but plain values and arrays is in it."""
        value = super().load()
        if self.stack or self.metastack:
            raise ValueError("it leaves no single value")
        waiting, seen = [value], set()
        while waiting:
            one = waiting.pop()
            if isinstance(one, (_Name, _Elements)):
                raise ValueError("it leaves a name that is no value")
            if isinstance(one, (list, tuple, dict)) and id(one) not in seen:
                seen.add(id(one))
                waiting.extend(one.values() if isinstance(one, dict) else one)
        return value

    def find_class(self, module: str, name: str) -> _Name:
        """A known name, as a name; refuse all others, here, where they are only named."""
        found = _Name(module, name)
        if found not in _KNOWN:
            _refuse(f"the global {module}.{name}"[:200])
        return found

    def call(self) -> None:
        """Carry out one of the known calls."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            _refuse("a call of something that is no function by name")
        self.append(_called(function, arguments))

    def build(self) -> None:
        """Give an array or a type the state that NumPy has stored for it."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, np.ndarray):
            _fill_array(target, state)
        elif isinstance(target, _Elements):
            _fill_elements(target, state)
        else:
            _refuse("the state of an object")

    def set_items(self, items: list[Any]) -> None:
        """Add keys and values, taking turns, to the dict on the stack."""
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("a key without a dict or without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in _KEYS:
                raise ValueError(f"a key of a dict is a {type(key).__name__}")
            target[key] = value

    def set_item(self) -> None:
        """Add one key with its value."""
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def new_dict(self) -> None:
        """Make a dict of the keys and values after the mark."""
        items = self.pop_mark()
        self.append({})
        self.set_items(items)

    def unknown(self) -> None:
        """Stop at a byte that is no instruction."""
        raise ValueError("an instruction that there is not")

    dispatch: ClassVar[dict[int, _Step]] = {
        **dict.fromkeys(range(256), unknown),
        **{code: _PYTHONS[code] for code in _HARMLESS},
        **{code: _refusal(what) for codes, what in _REFUSED.items() for code in codes},
        ord("R"): call,
        ord("b"): build,
        ord("s"): set_item,
        ord("u"): lambda self: self.set_items(self.pop_mark()),
        ord("d"): new_dict,
        0x96: _PYTHONS[0x8E],  # a bytearray is read as the bytes it is
    }


def _called(function: _Name, arguments: tuple[Any, ...]) -> Any:
    """What one of the known functions returns for these arguments, made here and not by it."""
    match function.name, arguments:
        case "_reconstruct", (_Name("numpy", "ndarray"), _, _):
            return np.empty(0, np.uint8)  # its state comes next
        case "_frombuffer", (bytes() as content, _Elements() as elements, tuple() as shape, "C" | "F" as order):
            array = np.empty(0, np.uint8)
            _fill_array(array, (1, shape, elements, order == "F", content))
            return array
        case "dtype", (str() | bytes() as code, *_):
            if (text := _text(code)) not in _NUMBERS:
                _refuse(f"an array of {text[:40]!r}, which is no plain number")
            return _Elements(text)
        case "encode", (str() as text, str() | bytes() as encoding) if _text(encoding) in ("latin1", "latin-1"):
            return text.encode("latin-1")
        case "bytes", ():
            return b""
    _refuse(f"a call of {function.module}.{function.name} that no array needs")


def _text(value: str | bytes) -> str:
    """A short string, which Python 2 has stored as bytes."""
    return value if isinstance(value, str) else value.decode("ascii")


def _fill_array(array: np.ndarray[Any, Any], state: Any) -> None:
    """Set an array from (version, shape, elements, column order, bytes), once these agree."""
    match state:
        case (_, tuple() as shape, _Elements() as elements, bool() | int() as columns, bytes() as content):
            dtype = np.dtype(elements.order + elements.code)
            sane = len(shape) <= _MOST_DIMENSIONS and all(type(n) is int and 0 <= n <= sys.maxsize for n in shape)
            if not sane or math.prod(shape) * dtype.itemsize != len(content):
                raise ValueError(f"an array of another shape than its {len(content):,} bytes have")
            array.__setstate__((1, shape, dtype, bool(columns), content))  # type: ignore[arg-type]
        case (_, _, _, _, list()):
            _refuse("an array of objects")
        case _:
            raise ValueError("an array without shape, type and content")


def _fill_elements(elements: _Elements, state: Any) -> None:
    """Set the byte order of plain numbers; all the rest of their type's state must be empty."""
    match state:
        case (int(), str() | bytes() as order, None, None, None, -1, -1, 0, *_) if _text(order) in ("|", "<", ">", "="):
            elements.order = _text(order)
        case _:
            _refuse("a type of array elements that is no plain number")
