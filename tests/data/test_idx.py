"""The IDX reader: what it accepts, and that each kind of damage is named with the file."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from halrp_np.data.idx import read_idx
from halrp_np.errors import DataError

IMAGES = np.random.default_rng(5).integers(0, 256, (3, 4, 5), dtype=np.uint8)
CONTENT = bytes([0, 0, 8, 3]) + struct.pack(">3I", 3, 4, 5) + IMAGES.tobytes()
PACKED = gzip.compress(CONTENT)
PAGE = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>"


def _broken_crc() -> bytes:
    return PACKED[:-8] + bytes([PACKED[-8] ^ 1]) + PACKED[-7:]


@pytest.mark.parametrize("name", ["file", "file.gz"])
@pytest.mark.parametrize("content", [CONTENT, PACKED], ids=["plain", "gzip"])
def test_content_decides_not_the_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    array, digest = read_idx(tmp_path / name, 3)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, IMAGES)
    assert digest == hashlib.sha256(CONTENT).hexdigest()


DAMAGE = {
    "gzip cut in its header": (PACKED[:5], "whole gzip file.*ends early"),
    "gzip cut in the middle": (PACKED[: len(PACKED) // 2], "whole gzip file.*ends early"),
    "gzip without its last byte": (PACKED[:-1], "whole gzip file.*ends early"),
    "gzip with a wrong CRC": (_broken_crc(), "undamaged gzip.*CRC"),
    "gzip with a damaged body": (PACKED[:12] + b"\xff" * 8 + PACKED[20:], "does not unpack|magic number"),
    "page as gzip": (PAGE, r"web page \(HTML\)"),
    "page in a gzip": (gzip.compress(PAGE), r"web page \(HTML\)"),
    "page after a byte order mark": (b"\xef\xbb\xbf \n" + PAGE.lower(), r"web page \(HTML\)"),
    "zip archive": (b"PK\x03\x04" + bytes(30), "zip archive"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "text": (b"label,pixel\n", "first bytes 6c 61"),
    "empty": (b"", "an empty file"),
    "empty in a gzip": (gzip.compress(b""), "an empty file"),
    "labels for images": (b"\0\0\x08\x01" + struct.pack(">I", 2) + b"ab", "00000803.*00000801"),
    "floats": (b"\0\0\x0d\x03" + CONTENT[4:], r"00000803.*0x0d"),
    "header cut": (CONTENT[:10], "header of 16 bytes.*only 10"),
    "no items": (b"\0\0\x08\x03" + struct.pack(">3I", 0, 28, 28), "at least one item"),
    "payload cut": (CONTENT[:-1], "60 bytes that its header promises"),
    "payload cut, in a gzip": (gzip.compress(CONTENT[:-1]), "60 bytes that its header promises.*only 59"),
    "bytes too many": (CONTENT + b"\0", "more than that"),
    "bytes too many, in a gzip": (gzip.compress(CONTENT + b"\0"), "more than that"),
    "a header of terabytes": (b"\0\0\x08\x03" + b"\x7f" * 12 + bytes(50), "too short for them"),
    "a header of terabytes, in a gzip": (gzip.compress(b"\0\0\x08\x03" + b"\x7f" * 12 + bytes(50)), "too short"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(tmp_path: Path, kind: str) -> None:
    content, message = DAMAGE[kind]
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"(?s)train-images.*{message}"):
        read_idx(path, 3)


def test_absent_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "nothing", 1)
    with pytest.raises(DataError, match="readable file"):
        read_idx(tmp_path, 1)
