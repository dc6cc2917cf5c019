"""Pickles as data: read by a small machine of our own that calls nothing and imports nothing.

A pickle is a program for a stack machine; Python's own machine may call any function that the file names. This one
knows the instructions that build plain values, and carries out itself the few calls by which NumPy and Python 2 store
arrays and bytes. Whatever else a file names is refused where it stands.
"""

from __future__ import annotations

import ast
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ..errors import DataError

_PLAIN_NUMBERS = re.compile(r"[biufc](1|2|4|8|16)|\\?")  # neither objects nor records
_HIGHEST_PROTOCOL = 5
_MOST_DIMENSIONS = 32


class _Name(NamedTuple):
    """A function or class that a pickle names, one of the few known here; it is never looked up."""

    module: str
    name: str


class _Mark:
    """Where a list of values begins on the stack."""


@dataclass
class _Elements:
    """The type of an array's elements: NumPy's code, and the order of bytes."""

    code: str
    order: str = "="


class _RefusedError(Exception):
    """Something that no data set needs."""


_MARK = _Mark()
_KNOWN = {
    _Name("numpy.core.multiarray", "_reconstruct"),
    _Name("numpy._core.multiarray", "_reconstruct"),
    _Name("numpy.core.numeric", "_frombuffer"),
    _Name("numpy._core.numeric", "_frombuffer"),
    _Name("numpy", "ndarray"),
    _Name("numpy", "dtype"),
    _Name("_codecs", "encode"),
    _Name("__builtin__", "bytes"),
}


def read_pickle(content: bytes, where: str) -> Any:
    """The value in a pickle: arrays of numbers, lists, tuples, dicts, bytes, strings, numbers, booleans and None.

    Strings of Python 2 are bytes. Keys of dicts are strings, bytes or numbers. Nothing that the pickle names is
    imported or called.

    Raises: DataError naming `where` for a pickle that needs anything else, or that is damaged or cut off.
    """
    try:
        return _Machine(content).run()
    except _RefusedError as refused:
        raise DataError(
            where,
            expected="a pickle of arrays, lists, dicts, bytes, strings and numbers, nothing else",
            received=f"{refused}; nothing of it was run",
            next_step="Do not trust this file: delete it and get the data set from its authors.",
        ) from None
    except (LookupError, TypeError, ValueError, ArithmeticError, SyntaxError, struct.error, MemoryError) as error:
        short = isinstance(error, IndexError)
        raise DataError(
            where,
            expected="a whole pickle",
            received="one that ends early or is damaged"
            if short
            else f"a damaged one ({' '.join(str(error).split())})",
            next_step="Delete this file and copy or download it again.",
        ) from error


class _Machine:
    """The stack, the memo and the place in the file."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Carry out the instructions up to the one that stops."""
        while True:
            code = self.take(1)
            if code == b".":
                break
            step = _STEPS.get(code)
            if step is None:
                if code in _REFUSED:
                    _refuse(_REFUSED[code])
                raise ValueError(f"no instruction {code.hex()}")
            step(self)
        value = self.pop()
        if self.stack or isinstance(value, (_Name, _Elements)):
            raise ValueError("it leaves no single value")
        return value

    def take(self, count: int) -> bytes:
        """The next bytes, all of them."""
        if count < 0 or self.at + count > len(self.content):
            raise IndexError("the file ends early")
        self.at += count
        return self.content[self.at - count : self.at]

    def number(self, form: str) -> Any:
        """The next number, stored as `struct` calls it."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        """What is left of the line."""
        end = self.content.find(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1]  # without an end that asks for a negative number of bytes

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the last value off the stack."""
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a value is missing")
        return value

    def new_dict(self) -> None:
        """Make a dict of keys and values, taking turns."""
        values = self.pop_to_mark()
        self.push({})
        self.set_items(values)

    def pop_to_mark(self) -> list[Any]:
        """Take the values off the stack that came after the last mark."""
        start = len(self.stack) - 1
        while start >= 0 and self.stack[start] is not _MARK:
            start -= 1
        if start < 0:
            raise ValueError("a list has no beginning")
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def top(self, kind: type) -> Any:
        """The last value, which must be a list or a dict."""
        value = self.stack[-1]
        if type(value) is not kind:
            raise ValueError(f"it adds to something that is no {kind.__name__}")
        return value

    def tuple_of(self, count: int) -> None:
        """Make a tuple of the last values."""
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def set_items(self, values: list[Any]) -> None:
        """Add keys and values, taking turns, to the dict on the stack."""
        target = self.top(dict)
        if len(values) % 2:
            raise ValueError("a dict has a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_key(key)] = value

    def extend(self, values: list[Any]) -> None:
        """Add values to the list on the stack."""
        self.top(list).extend(values)

    def pair(self) -> list[Any]:
        """Take a key and its value off the stack."""
        value, key = self.pop(), self.pop()
        return [key, value]

    def put(self, index: int) -> None:
        """Remember the last value by a number."""
        self.memo[index] = self.stack[-1]

    def name(self, module: str, name: str) -> None:
        """Put a known name on the stack; refuse all others, here, where they are only named."""
        found = _Name(module, name)
        if found not in _KNOWN:
            _refuse(f"the global {module}.{name}"[:200])
        self.push(found)

    def stack_name(self) -> None:
        """The name that the last two strings make."""
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            _refuse("a global that is named by no strings")
        self.name(module, name)

    def call(self) -> None:
        """Carry out one of the known calls."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            _refuse("a call of something that is no function by name")
        self.push(_called(function, arguments))

    def build(self) -> None:
        """Give an array or a type the state that NumPy has stored for it."""
        state, target = self.pop(), self.stack[-1]
        if type(target) is np.ndarray:
            _fill_array(target, state)
        elif type(target) is _Elements:
            _fill_elements(target, state)
        else:
            _refuse("the state of an object")


def _refuse(what: str) -> NoReturn:
    """Stop for something that is more than data."""
    raise _RefusedError(what)


def _key(key: Any) -> Any:
    """A key of a dict, of a kind that can be compared without running anything deep."""
    if type(key) not in (bytes, str, int, float, bool, type(None)):
        raise ValueError(f"a key of a dict is a {type(key).__name__}")
    return key


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
            text = _text(code)
            if not _PLAIN_NUMBERS.fullmatch(text):
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
            sane = len(shape) <= _MOST_DIMENSIONS and all(type(n) is int and n >= 0 for n in shape)
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


_Step = Callable[[_Machine], object]


def _sized(form: str, convert: Callable[[bytes], Any]) -> _Step:
    """An instruction that pushes as many bytes as a number before them says."""
    return lambda machine: machine.push(convert(machine.take(machine.number(form))))


def _long(content: bytes) -> int:
    """An integer in two's complement."""
    return int.from_bytes(content, "little", signed=True)


def _utf8(content: bytes) -> str:
    """A string, with the lone surrogates that Python allows."""
    return content.decode("utf-8", "surrogatepass")


def _integer(line: bytes) -> int | bool:
    """An integer in decimal, or one of the two ways to write a boolean."""
    return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line.removesuffix(b"L"))


def _quoted(line: bytes) -> bytes:
    """A string of Python 2 as its source has it, in quotes."""
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
        raise ValueError("a string without quotes")
    value = ast.literal_eval("b" + line.decode("ascii"))
    if not isinstance(value, bytes):
        raise ValueError("a string that is more than one")
    return value


def _protocol(machine: _Machine) -> None:
    """Check the protocol's number."""
    if (number := machine.take(1)[0]) > _HIGHEST_PROTOCOL:
        raise ValueError(f"the protocol {number}")


_STEPS: dict[bytes, _Step] = {
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": lambda m: m.push(_integer(m.line())),
    b"L": lambda m: m.push(_integer(m.line())),
    b"F": lambda m: m.push(float(m.line())),
    b"G": lambda m: m.push(m.number(">d")),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": _sized("<B", _long),
    b"\x8b": _sized("<i", _long),
    b"S": lambda m: m.push(_quoted(m.line())),
    b"T": _sized("<i", bytes),
    b"U": _sized("<B", bytes),
    b"B": _sized("<I", bytes),
    b"C": _sized("<B", bytes),
    b"\x8e": _sized("<Q", bytes),
    b"\x96": _sized("<Q", bytes),  # a bytearray: as good as bytes here
    b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
    b"X": _sized("<I", _utf8),
    b"\x8c": _sized("<B", _utf8),
    b"\x8d": _sized("<Q", _utf8),
    b"(": lambda m: m.push(_MARK),
    b"0": lambda m: m.stack.pop(),
    b"1": lambda m: m.pop_to_mark(),
    b"2": lambda m: m.push(m.stack[-1]),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.pop_to_mark()),
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.pop_to_mark()),
    b"}": lambda m: m.push({}),
    b"d": lambda m: m.new_dict(),
    b"s": lambda m: m.set_items(m.pair()),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"p": lambda m: m.put(int(m.line())),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.push(m.memo[int(m.line())]),
    b"h": lambda m: m.push(m.memo[m.number("<B")]),
    b"j": lambda m: m.push(m.memo[m.number("<I")]),
    b"c": lambda m: m.name(_utf8(m.line()), _utf8(m.line())),
    b"\x93": lambda m: m.stack_name(),
    b"R": lambda m: m.call(),
    b"b": lambda m: m.build(),
    b"i": lambda m: _refuse(f"the global {_utf8(m.line())}.{_utf8(m.line())}"[:200]),
    b"\x80": _protocol,
    b"\x95": lambda m: m.take(8),  # the length of a frame: only of use to who reads piece by piece
}

_OBJECT = "an instance of a class"
_REFUSED = {
    b"P": "a persistent id",
    b"Q": "a persistent id",
    b"o": _OBJECT,
    b"\x81": _OBJECT,
    b"\x92": _OBJECT,
    b"\x82": "an extension code",
    b"\x83": "an extension code",
    b"\x84": "an extension code",
    b"\x8f": "a set",
    b"\x90": "a set",
    b"\x91": "a frozenset",
    b"\x97": "a buffer outside the file",
    b"\x98": "a buffer outside the file",
}
