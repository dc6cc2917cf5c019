"""Data sets of the family of MNIST: four IDX files, 28x28 grey images of ten classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from .cache import RemoteFile
from .dataset import DataSet, FileRow
from .idx import NEXT_STEP, IdxFile, read_idx
from .sources import Published, damaged_row, data_note, nothing_there

SIDE, CLASSES = 28, 10


class OfficialFile(NamedTuple):
    """One of the four files: its IDX dimensions, the digest of its content, and its published gzip form."""

    name: str
    dimensions: int
    content_sha256: str
    gzip_size: int
    gzip_sha256: str

    def remote(self, mirrors: tuple[str, ...]) -> RemoteFile:
        """What to download, and from where."""
        return RemoteFile(f"{self.name}.gz", self.gzip_size, f"sha256:{self.gzip_sha256}", mirrors)


@dataclass(frozen=True)
class IdxSet:
    """A data set of four IDX files, images and labels of the training part, then of the test part.

    `layouts` are the places below a data folder where they may lie, "." for the folder itself.
    """

    name: str
    title: str
    provenance: str
    files: tuple[OfficialFile, ...]
    mirrors: tuple[str, ...]
    layouts: tuple[str, ...]
    class_names: tuple[str, ...]

    @property
    def published(self) -> Published:
        """What is said of the set, and where its files are."""
        names = ", ".join(f"{file.name}.gz" for file in self.files)
        return Published(
            self.name,
            self.title,
            "60,000 + 10,000 images",
            self.provenance,
            tuple(file.remote(self.mirrors) for file in self.files),
            f"Put {names} into FOLDER/{self.layouts[0]} and name it: --data-dir FOLDER",
        )


def find_folder(idx_set: IdxSet, data_dir: Path) -> Path:
    """The folder below `data_dir` that holds the IDX files, the first of the set's layouts.

    Raises: DataError if none of them holds any.
    """
    for layout in idx_set.layouts:
        if any(locate(data_dir / layout, file.name) for file in idx_set.files):
            return data_dir / layout
    expected = f"{idx_set.files[0].name} (or .gz) and its three companions in it, in raw or in {idx_set.layouts[0]}"
    raise nothing_there(idx_set.published, data_dir, expected)


def locate(folder: Path, name: str) -> Path | None:
    """The file `name` or `name.gz` in a folder, if either exists; the unpacked one is quicker to read."""
    return next(
        (path for path in (folder / name, folder / f"{name}.gz") if os.path.isfile(path)), None
    )  # False if unreadable


def read_part(folder: Path, name: str, dimensions: int, place: str) -> IdxFile:
    """Read one IDX file and check what the family's format promises: 28x28 images, labels 0 to 9.

    Raises: DataError if it is absent or anything else; `place` then says where to put it.
    """
    path = locate(folder, name)
    if path is None:
        raise DataError(str(folder), expected=f"{name} or {name}.gz", received="neither", next_step=f"{place}.")
    content = read_idx(path, dimensions)
    if dimensions == 3 and content.array.shape[1:] != (SIDE, SIDE):
        size = "x".join(str(n) for n in content.array.shape[1:])
        raise DataError(str(path), expected="images of 28x28", received=f"images of {size}", next_step=NEXT_STEP)
    if dimensions == 1 and content.array.max() >= CLASSES:
        where = int(np.argmax(content.array >= CLASSES))
        received = f"the label {content.array[where]} at position {where}"
        raise DataError(str(path), expected="labels from 0 to 9", received=received, next_step=NEXT_STEP)
    return content


def read_pair(folder: Path, part: str, place: str) -> tuple[IdxFile, IdxFile]:
    """Read images and labels of `train` or `t10k`; they must agree in number.

    Raises: DataError if one is absent or damaged, or the numbers differ.
    """
    images = read_part(folder, f"{part}-images-idx3-ubyte", 3, place)
    labels = read_part(folder, f"{part}-labels-idx1-ubyte", 1, place)
    if len(images.array) != len(labels.array):
        raise DataError(
            f"{folder}, files {part}-*",
            expected="as many labels as images",
            received=f"{len(images.array):,} images and {len(labels.array):,} labels",
            next_step="Copy or download both files again, from one place.",
        )
    return images, labels


def read_set(idx_set: IdxSet, data_dir: Path) -> DataSet:
    """Read the four files below a data folder.

    Shapes: images (M, 1, 28, 28).
    Raises: DataError if one is absent or damaged.
    """
    folder, published = find_folder(idx_set, data_dir), idx_set.published
    contents = [*read_pair(folder, "train", published.place), *read_pair(folder, "t10k", published.place)]
    digests = zip(contents, idx_set.files, strict=True)
    known = all(content.digest == file.content_sha256 for content, file in digests)
    provenance = published.provenance if known else published.other
    train_images, train_labels, test_images, test_labels = (content.array for content in contents)
    return DataSet(
        idx_set.name,
        train_images[:, None],
        train_labels.astype(np.int64),
        test_images[:, None],
        test_labels.astype(np.int64),
        idx_set.class_names,
        provenance,
        str(folder),
        [data_note(published, provenance, len(train_images), len(test_images), folder)],
    )


def verify_set(idx_set: IdxSet, data_dir: Path) -> list[FileRow]:
    """Read the four files with every check; one row a file.

    Raises: DataError if none of them is there.
    """
    folder = find_folder(idx_set, data_dir)
    return [_verify_file(idx_set, folder, file) for file in idx_set.files]


def _verify_file(idx_set: IdxSet, folder: Path, file: OfficialFile) -> FileRow:
    """Check the format and the digest of one of the files."""
    path = locate(folder, file.name)
    if path is None:
        return FileRow(str(folder / file.name), False, "missing, with and without .gz")
    try:
        content = read_part(folder, file.name, file.dimensions, idx_set.published.place)
    except DataError as error:
        return damaged_row(path, error)
    shape = "x".join(str(n) for n in content.array.shape)
    if content.digest != file.content_sha256:
        detail = f"{shape}, well formed, but not {idx_set.title}'s content (SHA-256 {content.digest})"
        return FileRow(str(path), False, detail)
    return FileRow(str(path), True, f"{shape}, SHA-256 of the content agrees")
