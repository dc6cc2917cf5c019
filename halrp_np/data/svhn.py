"""SVHN, house numbers in the cropped format: one MATLAB file each for training and test."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .. import files
from ..errors import DataError
from .cache import RemoteFile
from .dataset import DataSet, FileRow
from .sources import Published, Say, Source, damaged_row, data_note, load_published, nothing_there, wrong_file

SIDE, CLASSES = 32, 10
_BEST_COMPRESSION = 1100  # deflate shrinks at most 1032 to 1: a header that promises more is a damaged one
_INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
_MIRRORS = ("http://ufldl.stanford.edu/housenumbers/", "https://ufldl.stanford.edu/housenumbers/")
REMOTE_FILES = (
    RemoteFile(
        "train_32x32.mat",
        182_040_794,
        "sha256:435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        _MIRRORS,
    ),
    RemoteFile(
        "test_32x32.mat",
        64_275_384,
        "sha256:cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        _MIRRORS,
    ),
)
PUBLISHED = Published(
    "svhn",
    "SVHN",
    "73,257 + 26,032 images",
    "svhn",
    REMOTE_FILES,
    "Put train_32x32.mat and test_32x32.mat into FOLDER/SVHN and name it: --data-dir FOLDER",
)


def load_svhn(source: Source = "auto", data_dir: Path | str | None = None, say: Say | None = None) -> DataSet:
    """Load SVHN, 3x32x32: from `data_dir` if given, else from the cache, else from a mirror.

    `data_dir` holds train_32x32.mat and test_32x32.mat, itself or in SVHN. The files' label 10 is the digit 0. `full`
    refuses other content; `sample` is the synthetic stand-in. `say` is told a line before a download.

    Raises: ConfigError for another source; DataError if what was asked for is absent or damaged.
    """
    return load_published(PUBLISHED, read, source, data_dir, say)


def find_folder(data_dir: Path) -> Path:
    """The folder of the two files: `data_dir`/SVHN or `data_dir`.

    Raises: DataError if there is none of them.
    """
    for folder in (data_dir / "SVHN", data_dir):
        if any(os.path.isfile(folder / file.name) for file in PUBLISHED.remote_files):
            return folder
    raise nothing_there(PUBLISHED, data_dir, "train_32x32.mat and test_32x32.mat in it or in SVHN")


def read(data_dir: Path) -> DataSet:
    """Read the two files below a data folder.

    Shapes: images (M, 3, 32, 32).
    Raises: DataError if one is absent or damaged.
    """
    folder = find_folder(data_dir)
    (train_images, train_labels), (test_images, test_labels) = (
        read_mat(folder / file.name) for file in PUBLISHED.remote_files
    )
    known = all(files.digest(folder / file.name, "sha256") == file.digest for file in PUBLISHED.remote_files)
    provenance = PUBLISHED.provenance if known else PUBLISHED.other
    return DataSet(
        PUBLISHED.name,
        train_images,
        train_labels,
        test_images,
        test_labels,
        tuple("0123456789"),
        provenance,
        str(folder),
        [data_note(PUBLISHED, provenance, len(train_labels), len(test_labels), folder)],
    )


def read_mat(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images X and labels y of a MATLAB file (versions 4 to 7.2), label 10 as the digit 0.

    The file's own list of variables is checked before any of them is read, and no other is read.

    Shapes: X (32, 32, 3, M), y (M, 1) -> (M, 3, 32, 32), (M,)
    Raises: DataError if it is absent, damaged or anything else.
    """
    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("error")  # a second variable of the same name is only warned of
            content = _variables(stream, path)
    except FileNotFoundError as error:
        raise DataError(
            str(path.parent), expected=f"{path.name} in it", received="no such file", next_step=f"{PUBLISHED.place}."
        ) from error
    except OSError as error:
        raise wrong_file(path, "a readable MATLAB file", f"'{error.strerror or error}'") from error
    images, labels = content["X"], content["y"].reshape(-1).astype(np.int64)
    wrong = np.flatnonzero((labels < 1) | (labels > CLASSES))
    if len(wrong):
        received = f"the label {labels[wrong[0]]} at position {wrong[0]}"
        raise wrong_file(path, "labels from 1 to 10, where 10 is the digit 0", received)
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels % CLASSES


def _variables(stream: IO[bytes], path: Path) -> dict[str, Any]:
    """X and y, once the file's list says that they have the shapes and types of SVHN."""
    from scipy.io import loadmat, whosmat  # here and not above: `--help` must not wait for it

    try:
        listed = [(name, shape, kind) for name, shape, kind in whosmat(stream) if name in ("X", "y")]
        _check_list(listed, path)
        stream.seek(0)
        content: dict[str, Any] = loadmat(stream, variable_names=["X", "y"])
        found = [(name, content[name].shape, content[name].dtype.name) for name, _, _ in listed]
    except (DataError, MemoryError):
        raise
    except NotImplementedError as error:
        raise wrong_file(path, "a MATLAB file of version 7.2 at most", "one of version 7.3 (HDF5)") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise wrong_file(path, "a whole MATLAB file", f"one that is damaged or cut off ({error})") from error
    except Exception as error:  # the parser stumbles over damaged bytes in its own ways
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise wrong_file(path, "a whole MATLAB file", f"one that is damaged or cut off ({reason})") from error
    if found != listed:
        raise wrong_file(path, f"the variables that its list promises, {listed}", f"{found}")
    return content


def _check_list(listed: list[tuple[str, tuple[int, ...], str]], path: Path) -> None:
    """Refuse a file whose list of variables is not that of SVHN, or promises more than its bytes can hold."""
    if sorted(name for name, _, _ in listed) != ["X", "y"]:
        raise wrong_file(path, "the variables X and y, once each", f"{[name for name, _, _ in listed]}")
    (shape, kind), (y_shape, y_kind) = ((shape, kind) for _, shape, kind in sorted(listed))
    if len(shape) != 4 or shape[:3] != (SIDE, SIDE, 3) or shape[3] < 1 or kind != "uint8":
        raise wrong_file(path, "in X images, uint8 of the shape (32, 32, 3, M)", f"{kind} {shape}")
    if y_shape not in ((shape[3], 1), (1, shape[3])) or y_kind not in _INTEGERS:
        expected = f"in y a label for each of the {shape[3]:,} images, integers"
        raise wrong_file(path, expected, f"{y_kind} {y_shape}")
    if math.prod(shape) > path.stat().st_size * _BEST_COMPRESSION:
        raise wrong_file(path, f"the {shape[3]:,} images that its list promises", "a file too short for them")


def verify(data_dir: Path) -> list[FileRow]:
    """Read the two files with every check; one row a file.

    Raises: DataError if none of them is there.
    """
    folder = find_folder(data_dir)
    return [_row(folder / file.name, file) for file in PUBLISHED.remote_files]


def _row(path: Path, file: RemoteFile) -> FileRow:
    """What is said of one file."""
    if not os.path.isfile(path):
        return FileRow(str(path), False, "missing")
    try:
        count = len(read_mat(path)[1])
    except DataError as error:
        return damaged_row(path, error)
    digest = files.digest(path, "sha256")
    if digest != file.digest:
        return FileRow(str(path), False, f"{count:,} images, well formed, but not SVHN's content ({digest})")
    return FileRow(str(path), True, f"{count:,} images, SHA-256 agrees")
