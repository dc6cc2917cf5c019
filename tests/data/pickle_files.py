"""Pickles as Python writes them, friendly and hostile, for the reader that must take the one and refuse the other."""

import pickle
from typing import Any

import numpy as np


def pickled(value: Any, protocol: int = 2) -> bytes:
    """A value as Python stores it."""
    return pickle.dumps(value, protocol)


def unpickled(content: bytes) -> Any:
    """What Python itself reads from a pickle of this test's own."""
    return pickle.loads(content, encoding="bytes")


class Calling:
    """An object whose pickle calls a function when Python reads it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class Plain:
    """An instance with a state."""

    def __init__(self) -> None:
        self.state = 1


def by_persistent_id(value: Any, protocol: int) -> bytes:
    """A pickle that leaves a value to the reader, under an id."""
    import io

    stream = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, one: Any) -> Any:
            return "7" if one is value else None

    Pickler(stream, protocol).dump([value])
    return stream.getvalue()


def python2_batch(images: np.ndarray, labels: list[int], label_key: str) -> bytes:
    """A batch of CIFAR as Python 2 and its NumPy have stored the official ones: protocol 2, all strings bytes."""

    def short(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    content = images.tobytes()
    dtype = (
        b"cnumpy\ndtype\n" + short(b"u1") + b"K\0K\1\x87R" + b"(K\3" + short(b"|") + b"NNN" + 2 * number(-1) + b"K\0tb"
    )
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + short(b"b") + b"\x87R"
    shape = number(images.shape[0]) + number(images.shape[1]) + b"\x86"
    array = start + b"(K\1" + shape + dtype + b"\x89T" + len(content).to_bytes(4, "little") + content + b"tb"
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + short(b"data") + array + short(label_key.encode()) + listed + b"u."
