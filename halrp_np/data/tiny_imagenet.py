"""TinyImageNet: 200 classes of 64x64 photographs, decoded once from the official archive or folder of JPEG files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .cache import RemoteFile, cache_dir
from .dataset import DataSet, FileRow
from .decoded import Making, open_decoded
from .file_tree import FileTree
from .image_files import decode_image, is_image_name
from .sources import Published, Say, Source, data_note, load_published, nothing_there

NAME, FOLDER = "tiny-imagenet", "tiny-imagenet-200"
CHANNELS, SIDE = 3, 64
REMOTE_FILES = (
    RemoteFile(
        f"{FOLDER}.zip",
        248_100_043,
        "sha256:6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
        ("https://cs231n.stanford.edu/", "http://cs231n.stanford.edu/"),  # the digest is checked either way
    ),
)
PUBLISHED = Published(
    NAME,
    "TinyImageNet",
    "100,000 + 10,000 images",
    NAME,
    REMOTE_FILES,
    f"Put {FOLDER}.zip from cs231n.stanford.edu into FOLDER and name it: --data-dir FOLDER",
)
_ANNOTATIONS = "val/val_annotations.txt"
_QUARTERS = 4  # how often `say` is told while images are decoded
_NEXT_STEP = f"Unpack {FOLDER}.zip again, or name the folder that holds the archive itself."

Progress = Callable[[int, int], None]
"""Told (done, total) from time to time."""


class _Index(NamedTuple):
    """The classes, and the image files of each class in both parts, sorted by name."""

    classes: list[str]
    train: list[list[str]]
    validation: list[list[str]]


def load_tiny_imagenet(
    source: Source = "auto",
    data_dir: Path | str | None = None,
    say: Say | None = None,
    progress: Progress | None = None,
) -> DataSet:
    """Load TinyImageNet: from `data_dir` if given, else from the cache, else from its mirror; `sample` is the stand-in.

    The test part is the official validation set. Classes are sorted by name (wnid), images by class, then by file name.
    The first time all images are decoded into the cache, which takes a while and 1.35 GB of disk; `say` and `progress`
    are told. The arrays are read-only memory maps. An archive is checked by its digest; an unpacked folder cannot be,
    so it is `tiny-imagenet-other` even when nothing is missing.

    Shapes: images (M, 3, 64, 64)
    Raises: ConfigError for another source; DataError if what was asked for is absent or damaged; StorageError if the
    cache cannot be written.
    """
    read = partial(_read, say=say, progress=progress)
    return load_published(PUBLISHED, lambda folder: read(find_source(folder)), source, data_dir, say)


def find_source(data_dir: Path) -> Path:
    """The archive, or else the unpacked folder, in `data_dir`, or that folder itself.

    Raises: DataError if there is none.
    """
    archive, folder = data_dir / REMOTE_FILES[0].name, data_dir / FOLDER
    for path in (archive, folder, data_dir):
        if path.is_file() if path == archive else (path / "train").is_dir():
            return path
    raise nothing_there(PUBLISHED, data_dir, f"{archive.name}, or the folder {FOLDER} with its folder train")


def verify(data_dir: Path) -> list[FileRow]:
    """Read all files and check the archive's digest; one row.

    Raises: DataError if there is no archive or folder; StorageError if the cache cannot be written.
    """
    path = find_source(data_dir)
    try:
        data = _read(path, None, None)
    except DataError as error:
        detail = f"damaged: {error.where}: expected {error.expected}, received {error.received}"
        return [FileRow(str(path), False, detail)]
    sizes = f"{len(data.class_names)} classes, {len(data.train_images):,} + {len(data.test_images):,} images, "
    ok = data.provenance == NAME
    return [FileRow(str(path), ok, sizes + ("SHA-256 agrees" if ok else "not the published archive"))]


def _read(path: Path, say: Say | None, progress: Progress | None) -> DataSet:
    """The data set of an archive or folder, by way of the decoded images."""
    with FileTree(path) as tree:
        fingerprint = tree.fingerprint()
        key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]  # a place of its own for each source
        target = cache_dir() / NAME / "decoded" / f"{key}.npy"
        images, manifest = open_decoded(target, fingerprint, lambda: _making(tree, target, say, progress), say)
    train, test = (np.repeat(np.arange(len(manifest["classes"])), manifest[part]) for part in ("train", "validation"))
    provenance = NAME if fingerprint == REMOTE_FILES[0].digest else PUBLISHED.other
    return DataSet(
        NAME,
        images[: len(train)],
        train,
        images[len(train) :],
        test,
        tuple(manifest["classes"]),
        provenance,
        str(path),
        [data_note(PUBLISHED, provenance, len(train), len(test), path)],
    )


def _making(tree: FileTree, target: Path, say: Say | None, progress: Progress | None) -> Making:
    """What is decoded: all training images class by class, then all validation images class by class."""
    index = _index(tree)
    names = [name for part in (index.train, index.validation) for of_class in part for name in of_class]
    shape = (len(names), CHANNELS, SIDE, SIDE)
    if say:
        size = len(names) * CHANNELS * SIDE * SIDE / 1e9
        say(f"decoding {len(names):,} images of {tree.path} once, into {target} ({size:.2f} GB)")
    manifest = {
        "source": str(tree.path),
        "classes": index.classes,
        "train": [len(of_class) for of_class in index.train],
        "validation": [len(of_class) for of_class in index.validation],
    }
    return Making(shape, manifest, _decoded(tree, names, say, progress))


def _decoded(
    tree: FileTree, names: list[str], say: Say | None, progress: Progress | None
) -> Iterator[NDArray[np.uint8]]:
    """The images one after the other, telling how far it is."""
    total = len(names)
    for done, name in enumerate(names):
        if progress and done % 250 == 0:
            progress(done, total)
        if say and done and done * _QUARTERS // total > (done - 1) * _QUARTERS // total:
            say(f"decoded {done:,} of {total:,} images")
        image = decode_image(tree.read(name), tree.place(name), CHANNELS)
        if image.shape[1:] != (SIDE, SIDE):
            height, width = image.shape[1:]
            raise _odd(tree, name, f"an image of {SIDE}x{SIDE}", f"one of {height}x{width}")
        yield image
    if progress:
        progress(total, total)


def _index(tree: FileTree) -> _Index:
    """Which image files there are of which class; everything must fit together."""
    root = f"{FOLDER}/" if f"{FOLDER}/train" in tree.folders else ""
    inner = [name.removeprefix(root).split("/") for name in tree.folders]
    classes = [parts[1] for parts in inner if parts[0] == "train" and len(parts) == 2]
    if not classes:
        raise _odd(tree, f"{root}train", "a folder for each class", "none")
    listed = _lines(tree, f"{root}wnids.txt") if f"{root}wnids.txt" in tree.names else classes
    if sorted(listed) != classes:
        odd = sorted({*listed} ^ {*classes})
        received = f"a difference in {', '.join(odd[:5])}" if odd else "a class twice"
        raise _odd(tree, f"{root}wnids.txt", "the same classes as there are folders in train", received)
    train: dict[str, list[str]] = {name: [] for name in classes}
    for name in tree.names:
        parts = name.removeprefix(root).split("/")
        if name.startswith(f"{root}train/"):
            if len(parts) == 4 and parts[2] == "images" and is_image_name(name):
                train[parts[1]].append(name)
            elif len(parts) != 3 or not name.endswith(".txt"):  # boxes lie beside the images
                raise _odd(tree, name, "train/CLASS/images/NAME.JPEG", "another file")
    for name, found in train.items():
        if not found:
            raise _odd(tree, f"{root}train/{name}/images", "images of this class", "none")
    validation = _validation(tree, root, classes)
    return _Index(classes, list(train.values()), [sorted(validation[name]) for name in classes])


def _validation(tree: FileTree, root: str, classes: list[str]) -> dict[str, list[str]]:
    """The validation images of each class, as the annotations say."""
    where, known = f"{root}{_ANNOTATIONS}", {*classes}
    there = {name for name in tree.names if name.startswith(f"{root}val/images/") and is_image_name(name)}
    found: dict[str, list[str]] = {name: [] for name in classes}
    if where not in tree.names:
        raise _odd(tree, where, "this list of the validation images' classes", "no such file")
    for number, line in enumerate(_lines(tree, where), start=1):
        file, _, rest = line.partition("\t")
        wnid, name = rest.split("\t")[0], f"{root}val/images/{file}"
        at = f"line {number}, {line[:60]!r}"
        if wnid not in known:
            raise _odd(tree, where, "IMAGE, a tab and a class that train has", at)
        if name not in there:
            raise _odd(tree, where, "images that lie in val/images, each once", at)
        there.remove(name)
        found[wnid].append(name)
    if there:
        raise _odd(tree, min(there), f"a line about it in {_ANNOTATIONS}", "none")
    for name in classes:
        if not found[name]:
            raise _odd(tree, where, f"validation images of {name}", "none")
    return found


def _lines(tree: FileTree, name: str) -> list[str]:
    """The lines of a text file, without empty ones."""
    try:
        return [line for line in tree.read(name).decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise _odd(tree, name, "a text file", "other bytes") from error


def _odd(tree: FileTree, name: str, expected: str, received: str) -> DataError:
    """The error of a file or folder that is not as it should be."""
    return DataError(tree.place(name), expected=expected, received=received, next_step=_NEXT_STEP)
