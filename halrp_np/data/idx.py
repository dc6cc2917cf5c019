"""The IDX format of MNIST and its relatives, with or without gzip, read with every check it allows."""

import gzip
import hashlib
import io
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

_GZIP = b"\x1f\x8b"
_UNSIGNED_BYTES = 0x08  # the type code of an IDX file of uint8
_BEST_COMPRESSION = 1100  # deflate shrinks at most 1032 to 1: a header that promises more is a damaged one
_HINTS = [
    (b"PK\x03\x04", "a zip archive"),
    (b"%PDF", "a PDF file"),
    (b"\x89PNG", "a PNG image"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for"),
]
NEXT_STEP = "Delete this file and copy or download it again."


class IdxFile(NamedTuple):
    """An IDX file's array and the SHA-256 of its content without gzip."""

    array: NDArray[np.uint8]
    digest: str


def read_idx(path: Path, dimensions: int) -> IdxFile:
    """Read an IDX file of unsigned bytes; the content, not the name, says whether it is compressed.

    Shapes: `dimensions` = 3 for images (M, H, W), 1 for labels (M,).
    Raises: DataError if it is absent, unreadable, truncated, too long, something else than IDX, or of another shape.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
        if head[:2] != _GZIP and head[:2] != b"\0\0":
            raise _damaged(path, f"an IDX file of {dimensions} dimension(s), with or without gzip", _describe(head))
        limit = path.stat().st_size * (_BEST_COMPRESSION if head[:2] == _GZIP else 1)
        with gzip.open(path) if head[:2] == _GZIP else path.open("rb") as stream:
            return _parse(stream, path, dimensions, limit)
    except EOFError:
        raise _damaged(path, "a whole gzip file", "one that ends early (a cut download or copy)") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, "an undamaged gzip file", f"one that does not unpack ({error})") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            str(path), expected="a readable file", received=f"'{reason}'", next_step="Check the path and its rights."
        ) from error


def _parse(stream: io.BufferedIOBase, path: Path, dimensions: int, limit: int) -> IdxFile:
    """Read header and payload, and make sure that nothing is missing and nothing follows."""
    header = stream.read(4 + 4 * dimensions)
    magic = bytes([0, 0, _UNSIGNED_BYTES, dimensions])
    if header[:4] != magic:
        expected = f"the magic number {magic.hex()} (unsigned bytes, {dimensions} dimension(s))"
        raise _damaged(path, expected, _describe(header))
    if len(header) < 4 + 4 * dimensions:
        raise _damaged(path, f"a header of {4 + 4 * dimensions} bytes", f"only {len(header)} bytes")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    size = math.prod(shape)
    if size == 0:
        raise _damaged(path, "at least one item", f"the shape {shape}")
    if size > limit:
        raise _damaged(path, f"the {size:,} bytes that its header promises, shape {shape}", "a file too short for them")
    payload = np.empty(size, np.uint8)
    count = _fill(stream, payload)
    if count < size:
        raise _damaged(path, f"the {size:,} bytes that its header promises, shape {shape}", f"only {count:,}")
    if stream.read(1):  # at the end of a gzip file this also checks its CRC
        raise _damaged(path, f"{size:,} bytes after the header, shape {shape}", "more than that")
    digest = hashlib.sha256(header)
    digest.update(payload.data)
    return IdxFile(payload.reshape(shape), digest.hexdigest())


def _fill(stream: io.BufferedIOBase, buffer: NDArray[np.uint8]) -> int:
    """Read into `buffer` until it is full or the stream ends; the number of bytes read."""
    view, count = buffer.data, 0
    while count < len(view):
        read = stream.readinto(view[count:])
        if not read:
            break
        count += read
    return count


def _describe(head: bytes) -> str:
    """Say what a file that is no such IDX file seems to be."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "an empty file"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page (HTML): the download went to a page that is not the file"
    for start, name in _HINTS:
        if head.startswith(start):
            return name
    if len(head) >= 4 and head[:2] == b"\0\0":
        return f"the magic number {head[:4].hex()} (type code {head[2]:#04x}, {head[3]} dimension(s))"
    return f"the first bytes {head[:8].hex(' ')}"


def _damaged(path: Path, expected: str, received: str) -> DataError:
    """The error of a file that is not what its name says."""
    return DataError(str(path), expected=expected, received=received, next_step=NEXT_STEP)
