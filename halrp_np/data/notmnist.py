"""notMNIST: the letters A to J in many fonts, as IDX files, folders of PNG files or the author's small archive."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import files
from ..errors import DataError
from .archives import tar_members
from .cache import RemoteFile
from .dataset import DataSet, FileRow
from .file_tree import FileTree
from .idx_sets import locate, read_pair
from .image_files import decode_image
from .orders import legacy_permutation
from .sources import Published, Say, Source, damaged_row, data_note, load_published, nothing_there, wrong_file

LETTERS = "ABCDEFGHIJ"
TRAIN_SHARE = 0.9  # of images that come in one part only
SMALL = "notMNIST_small"
REMOTE_FILES = (
    RemoteFile(
        f"{SMALL}.tar.gz",
        8_458_043,
        "md5:c9890a473a9769fda4bdf314aaf500dd",
        ("http://yaroslavvb.com/upload/notMNIST/", "https://commondatastorage.googleapis.com/books1000/"),
    ),
)
PUBLISHED = Published(
    "notmnist",
    "notMNIST",
    "18,724 images",
    "notmnist",
    REMOTE_FILES,
    f"Put {SMALL}.tar.gz (from yaroslavvb.com/upload/notMNIST or a copy of it) into FOLDER/notMNIST and name it: "
    "--data-dir FOLDER",
)
_SIZES = ((28, 28), (32, 32))
_PARTS = ("train", "t10k")


class _Images(NamedTuple):
    """Images and labels of one part, and how many files could not be read."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    unreadable: int = 0


class _Place(NamedTuple):
    """Where the images lie, and in which of the layouts: `idx`, `folders`, `small` or `archive`."""

    path: Path
    layout: str


def load_notmnist(source: Source = "auto", data_dir: Path | str | None = None, say: Say | None = None) -> DataSet:
    """Load notMNIST, grey, 28x28 or 32x32 as stored: from `data_dir` if given, else the cache, else a mirror.

    `data_dir` holds in notMNIST, or itself: raw with IDX files, Train and Test with folders A to J of PNG files, the
    folder notMNIST_small or its archive notMNIST_small.tar.gz, which is read in place. Where only one part is there,
    nine tenths of its images in a seeded random order are for training. PNG files that cannot be read (the author's set
    has two) are passed over and counted in the notes. `full` takes the author's archive only; `sample` is the synthetic
    stand-in.

    Raises: ConfigError for another source; DataError if what was asked for is absent or damaged.
    """
    return load_published(PUBLISHED, read, source, data_dir, say)


def find(data_dir: Path) -> _Place:
    """The first of the layouts in `data_dir`/notMNIST or `data_dir`.

    Raises: DataError if there is none of them.
    """
    for base in (data_dir / "notMNIST", data_dir):
        if any(locate(base / "raw", f"{part}-images-idx3-ubyte") for part in _PARTS):
            return _Place(base / "raw", "idx")
        if os.path.isdir(base / "Train" / "A") or os.path.isdir(base / "Test" / "A"):
            return _Place(base, "folders")
        if os.path.isdir(base / SMALL):
            return _Place(base / SMALL, "small")
        if os.path.isfile(base / f"{SMALL}.tar.gz"):
            return _Place(base / f"{SMALL}.tar.gz", "archive")
    expected = (
        f"in it or in notMNIST: raw with IDX files, Train and Test with folders A to J, {SMALL} or {SMALL}.tar.gz"
    )
    raise nothing_there(PUBLISHED, data_dir, expected)


def read(data_dir: Path) -> DataSet:
    """Read the images below a data folder.

    Shapes: images (M, 1, 28, 28) or (M, 1, 32, 32).
    Raises: DataError if they are absent or damaged.
    """
    place = find(data_dir)
    parts = list(_parts(place))
    known = place.layout == "archive" and files.digest(place.path, "md5") == REMOTE_FILES[0].digest
    provenance = PUBLISHED.provenance if known else PUBLISHED.other
    split = "" if len(parts) == 2 else "; they come in one part: nine tenths in a seeded random order are for training"
    train, test = parts if len(parts) == 2 else _split(parts[0])
    if train.images.shape[1:] != test.images.shape[1:]:
        sizes = " and ".join("x".join(map(str, part.images.shape[2:])) for part in (train, test))
        raise wrong_file(place.path, "images of one size", sizes)
    note = data_note(PUBLISHED, provenance, len(train.labels), len(test.labels), place.path) + split
    unreadable = sum(part.unreadable for part in parts)
    if unreadable:
        note += f"; {unreadable} PNG files could not be read and were passed over"
    return DataSet(
        PUBLISHED.name,
        train.images,
        train.labels,
        test.images,
        test.labels,
        tuple(LETTERS),
        provenance,
        str(place.path),
        [note],
    )


def _split(part: _Images) -> tuple[_Images, _Images]:
    """Training and test images of those that come in one part."""
    order = legacy_permutation(len(part.labels), 0)
    count = int(TRAIN_SHARE * len(order))
    if not 0 < count < len(order):
        raise wrong_file(PUBLISHED.title, "at least two images", f"{len(order)}")
    train, test = (_Images(part.images[rows], part.labels[rows]) for rows in (order[:count], order[count:]))
    return train, test


def _parts(place: _Place) -> Iterator[_Images]:
    """The training and the test part, or the only one."""
    path = place.path
    if place.layout == "idx":
        for part in _PARTS:
            if any(locate(path, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")):
                images, labels = read_pair(path, part, PUBLISHED.place)
                yield _Images(images.array[:, None], labels.array.astype(np.int64))
    elif place.layout == "archive":
        content = dict(tar_members(path, lambda name: _letter(name.removeprefix(f"{SMALL}/")) is not None))
        inside = {name.removeprefix(f"{SMALL}/"): name for name in content}
        yield _decoded(str(path), sorted(inside), lambda name: content[inside[name]])
    else:
        folders = [path / part for part in ("Train", "Test")] if place.layout == "folders" else [path]
        for folder in folders:
            if os.path.isdir(folder):
                with FileTree(folder) as tree:
                    yield _decoded(str(folder), [name for name in tree.names if _letter(name)], tree.read)


def _letter(name: str) -> str | None:
    """The letter of an image by its file's name, LETTER/NAME.png; None for any other file."""
    folder, _, file = name.partition("/")
    is_image = "/" not in file and file.lower().endswith(".png") and not file.startswith(".")
    return folder if len(folder) == 1 and folder in LETTERS and is_image else None


def _decoded(where: str, names: list[str], content: Callable[[str], bytes]) -> _Images:
    """The images of PNG files in the order of their names, all of one size, some of each letter."""
    images: list[NDArray[np.uint8]] = []
    labels = []
    for name in names:
        try:
            image = decode_image(content(name), f"{where}: {name}", 1)
        except DataError:  # the author's set has two files that nobody can read
            continue
        if image.shape[1:] not in _SIZES or image.shape != (images or [image])[0].shape:
            expected = "an image of 28x28 or 32x32, as large as the others"
            raise wrong_file(f"{where}: {name}", expected, "one of " + "x".join(map(str, image.shape[1:])))
        images.append(image)
        labels.append(LETTERS.index(name[0]))
    missing = [letter for label, letter in enumerate(LETTERS) if label not in set(labels)]
    if missing:
        raise wrong_file(where, "images of each letter A to J that can be read", f"none of {', '.join(missing)}")
    return _Images(np.stack(images), np.array(labels, np.int64), len(names) - len(images))


def verify(data_dir: Path) -> list[FileRow]:
    """Read all images with every check; one row for the archive, a folder of letters, or a pair of IDX files.

    Raises: DataError if none of them is there.
    """
    place = find(data_dir)
    where = str(place.path)
    try:
        parts = list(_parts(place))
    except DataError as error:
        return [damaged_row(error.where, error)]
    count = " + ".join(f"{len(part.labels):,}" for part in parts)
    detail = f"{count} images, {sum(part.unreadable for part in parts)} that cannot be read"
    if place.layout == "archive" and files.digest(place.path, "md5") == REMOTE_FILES[0].digest:
        return [FileRow(where, True, f"{detail}, MD5 agrees")]
    return [FileRow(where, False, f"{detail}, well formed, but not the author's archive")]
