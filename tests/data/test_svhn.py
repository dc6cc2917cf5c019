"""SVHN's MATLAB files: what is read, that label 10 is the digit 0, and that other files are told apart."""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from halrp_np.data import fetch, load_svhn, svhn, verify
from halrp_np.data.cache import RemoteFile
from halrp_np.data.svhn import read_mat
from halrp_np.errors import DataError

Variables = dict[str, Any]


@pytest.fixture
def small(rng: np.random.Generator) -> dict[str, Variables]:
    """Seven training and four test images with every kind of label, by file name."""
    parts = {"train_32x32.mat": [1, 2, 9, 10, 5, 10, 3], "test_32x32.mat": [10, 1, 4, 8]}
    return {
        name: {
            "X": rng.integers(0, 256, (32, 32, 3, len(labels)), dtype=np.uint8),
            "y": np.array(labels, np.uint8)[:, None],
        }
        for name, labels in parts.items()
    }


def write(folder: Path, files: dict[str, Variables], compressed: bool = True) -> Path:
    """MATLAB files of these variables in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, variables in files.items():
        savemat(folder / name, variables, do_compression=compressed)
    return folder


@pytest.mark.parametrize("layout", ["SVHN", "."])
@pytest.mark.parametrize("compressed", [True, False])
def test_images_and_labels(small: dict[str, Variables], tmp_path: Path, layout: str, compressed: bool) -> None:
    write(tmp_path / layout, small, compressed)
    data = load_svhn("auto", tmp_path)
    np.testing.assert_array_equal(data.train_images[2, 1, 5], small["train_32x32.mat"]["X"][5, :, 1, 2])
    np.testing.assert_array_equal(data.test_images, np.moveaxis(small["test_32x32.mat"]["X"], (3, 2), (0, 1)))
    assert data.train_labels.tolist() == [1, 2, 9, 0, 5, 0, 3]
    assert data.test_labels.tolist() == [0, 1, 4, 8]
    assert (data.train_images.dtype, data.train_labels.dtype) == (np.uint8, np.int64)
    assert data.train_images.flags.c_contiguous
    assert data.class_names == tuple("0123456789")
    assert data.provenance == "svhn-other"
    assert "NOT those of SVHN" in data.notes[0]
    with pytest.raises(DataError, match=r"73,257 \+ 26,032 images of SVHN.*received other content, 7 \+ 4 images"):
        load_svhn("full", tmp_path)
    assert ["well formed, but not SVHN's content" in row.detail for row in verify("svhn", tmp_path)] == [True, True]


def test_labels_of_other_integers_and_in_a_row(small: dict[str, Variables], tmp_path: Path) -> None:
    small["test_32x32.mat"]["y"] = np.array([[10, 1, 4, 8]], np.int32)
    assert load_svhn("auto", write(tmp_path, small)).test_labels.tolist() == [0, 1, 4, 8]


IMAGES = np.zeros((32, 32, 3, 2), np.uint8)
LABELS = np.array([[1], [2]], np.uint8)
WRONG = {
    "label 0": ({"X": IMAGES, "y": LABELS - 1}, "from 1 to 10.*received the label 0 at position 0"),
    "label 11": ({"X": IMAGES, "y": LABELS + 9}, "from 1 to 10.*received the label 11 at position 1"),
    "a negative label": ({"X": IMAGES, "y": LABELS.astype(np.int8) - 2}, "received the label -1"),
    "no labels": ({"X": IMAGES}, r"the variables X and y, once each, received \['X'\]"),
    "no variable": ({"Z": IMAGES}, r"received \[\]"),
    "a label too few": ({"X": IMAGES, "y": LABELS[:1]}, r"each of the 2 images, integers, received uint8 \(1, 1\)"),
    "labels that are fractions": ({"X": IMAGES, "y": LABELS / 2}, "integers, received double"),
    "labels that are text": ({"X": IMAGES, "y": ["a", "b"]}, "integers, received char"),
    "labels in cells": ({"X": IMAGES, "y": np.array([[1], ["b"]], object)}, "integers, received cell"),
    "a struct": ({"X": {"a": 1}, "y": LABELS}, "received struct"),
    "floating images": ({"X": IMAGES / 2, "y": LABELS}, r"received double \(32, 32, 3, 2\)"),
    "images first": ({"X": IMAGES.transpose(3, 0, 1, 2), "y": LABELS}, r"received uint8 \(2, 32, 32, 3\)"),
    "grey images": ({"X": IMAGES[:, :, 0], "y": LABELS}, r"received uint8 \(32, 32, 2\)"),
    "no images": ({"X": IMAGES[..., :0], "y": LABELS[:0]}, r"received uint8 \(32, 32, 3, 0\)"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_content_is_named(kind: str, small: dict[str, Variables], tmp_path: Path) -> None:
    variables, message = WRONG[kind]
    write(tmp_path, {**small, "test_32x32.mat": variables})
    with pytest.raises(DataError, match=rf"test_32x32\.mat: .*{message}"):
        load_svhn("auto", tmp_path)
    assert ["damaged" in row.detail for row in verify("svhn", tmp_path)] == [False, True]


def test_absent_files(small: dict[str, Variables], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train_32x32\.mat and test_32x32\.mat.*none of them there.*FOLDER/SVHN"):
        load_svhn("auto", tmp_path)
    del small["test_32x32.mat"]
    write(tmp_path, small)
    with pytest.raises(DataError, match=r"test_32x32\.mat in it, received no such file"):
        load_svhn("auto", tmp_path)
    assert [row.detail for row in verify("svhn", tmp_path)][1] == "missing"


@settings(max_examples=60)
@given(share=st.floats(0, 0.999), compressed=st.booleans(), place=st.integers(0, 2**16), change=st.binary(max_size=4))
def test_damaged_files_give_a_clear_error_or_images(
    share: float, compressed: bool, place: int, change: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("cut"), {"x.mat": {"X": IMAGES, "y": LABELS}}, compressed) / "x.mat"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"x\.mat"):
        read_mat(path)
    changed = bytearray(content)
    start = place % len(content)
    changed[start : start + len(change)] = change
    path.write_bytes(bytes(changed))
    with contextlib.suppress(DataError):
        images, labels = read_mat(path)
        assert (images.shape, labels.shape) == ((2, 3, 32, 32), (2,))


def test_files_of_another_kind(tmp_path: Path) -> None:
    for content in (b"", b"<html>moved</html>" * 30, b"\x89HDF\r\n\x1a\n" + bytes(1000)):
        (tmp_path / "x.mat").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.mat: expected a "):
            read_mat(tmp_path / "x.mat")
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + bytes(1000)
    (tmp_path / "x.mat").write_bytes(head)
    with pytest.raises(DataError, match=r"x\.mat: expected a MATLAB file of version 7.2 at most, received.*HDF5"):
        read_mat(tmp_path / "x.mat")


def test_download_then_cache(
    small: dict[str, Variables],
    cache: Path,
    tmp_path: Path,
    start_mirror: Callable,
    dead_mirror: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write(tmp_path / "made", small)
    content = {name: (folder / name).read_bytes() for name in small}
    mirror = start_mirror(content)

    def served(url: str) -> tuple[RemoteFile, ...]:
        return tuple(
            RemoteFile(name, len(c), f"sha256:{hashlib.sha256(c).hexdigest()}", (url,)) for name, c in content.items()
        )

    monkeypatch.setattr(svhn, "PUBLISHED", replace(svhn.PUBLISHED, remote_files=served(dead_mirror)))
    with pytest.raises(DataError, match=r"refused.*Put train_32x32\.mat and test_32x32\.mat into FOLDER/SVHN"):
        load_svhn()
    monkeypatch.setattr(svhn, "PUBLISHED", replace(svhn.PUBLISHED, remote_files=served(mirror.url)))
    assert all(row.ok for row in fetch("svhn"))
    assert load_svhn("full").provenance == load_svhn("full", folder).provenance == "svhn"
    assert len(mirror.requests) == 2
