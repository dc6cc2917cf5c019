"""A user's own labelled images: a folder of images for each class, or arrays in an .npz file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .file_tree import FileTree
from .image_files import SUFFIXES, decode_image, is_image_name

_UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,  # a damaged header may promise any size
)


class Labelled(NamedTuple):
    """Images with the place of their class in `classes`. Shapes: images (M, C, H, W) uint8, labels (M,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def class_folders(root: Path) -> list[str]:
    """The classes of a folder: the names of the folders in it, sorted.

    Raises: DataError if there is none.
    """
    with FileTree(root) as tree:
        classes = [name for name in tree.folders if "/" not in name]
    if not classes:
        raise _bad(str(root), "a folder of images for each class in it", "none", "Make one folder a class.")
    return classes


def read_class_folders(root: Path, classes: Sequence[str], channels: int, size: tuple[int, int]) -> Labelled:
    """The images of these classes in the folder, class by class and sorted by name; other folders are not looked at.

    Every image is decoded as `decode_image` says, and stretched to `size` = (height, width).

    Raises: DataError for a class without a folder or images, a file that is no image, or a damaged one.
    """
    by_class: dict[str, list[str]] = {name: [] for name in classes}
    with FileTree(root) as tree:
        for name in tree.names:
            found, _, file = name.partition("/")
            if found not in by_class:
                continue
            if "/" in file or not is_image_name(file):
                expected = f"only images in the folder of a class ({' '.join(SUFFIXES)})"
                raise _bad(tree.place(name), expected, "another file", "Move it away.")
            by_class[found].append(name)
        for name, files in by_class.items():
            if not files:
                received = "an empty folder" if name in tree.folders else "no such folder"
                raise _bad(
                    str(root / name), "images of this class", received, "Put some there, or leave the class out."
                )
        count = sum(map(len, by_class.values()))
        images = np.empty((count, channels, *size), np.uint8)
        for row, name in enumerate(name for files in by_class.values() for name in files):
            images[row] = decode_image(tree.read(name), tree.place(name), channels, size)
    labels = np.repeat(np.arange(len(by_class)), [len(files) for files in by_class.values()])
    return Labelled(images, labels, tuple(classes))


def read_arrays(path: Path) -> tuple[Labelled, Labelled | None]:
    """The arrays `images` and `labels` of an .npz file, and `test_images` and `test_labels` if they are there.

    Images are (M, H, W) or (M, C, H, W) of unsigned bytes, C = 1 or 3; a class's name is its label's number.

    Raises: DataError for anything else; no pickled object is ever loaded.
    """
    arrays = _load(path)
    names = {"images", "labels", *(["test_images", "test_labels"] if "test_images" in arrays else [])}
    if arrays.keys() != names:
        expected = "the arrays images and labels, and perhaps test_images and test_labels"
        raise _bad(str(path), expected, ", ".join(sorted(arrays)) or "none", "Save it with these names: np.savez.")
    numbers = np.unique(_labels(path, arrays, ""))
    parts = []
    for part in ("", "test_") if "test_images" in arrays else ("",):
        images, labels = _images(path, arrays, part), _labels(path, arrays, part)
        if len(images) != len(labels):
            received = f"{len(images):,} and {len(labels):,}"
            raise _bad(str(path), f"as many {part}images as {part}labels", received, "Save both of the same images.")
        odd = np.setxor1d(labels, numbers)
        if len(odd):
            received = f"the label {odd[0]} in one of them only"
            raise _bad(f"{path}, {part}labels", "the same classes as in labels", received, "Leave the class out.")
        parts.append(Labelled(images, np.searchsorted(numbers, labels), tuple(str(n) for n in numbers)))
    if len(parts) == 1:
        return parts[0], None
    if parts[0].images.shape[1:] != parts[1].images.shape[1:]:
        shapes = " and ".join("x".join(map(str, part.images.shape[1:])) for part in parts)
        raise _bad(str(path), "training and test images of one shape", shapes, "Save both in the same shape.")
    return parts[0], parts[1]


def _load(path: Path) -> dict[str, NDArray[np.generic]]:
    """All arrays of the file."""
    expected, next_step = "arrays saved by np.savez", "Save it again: np.savez(file, images=..., labels=...)."
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise _bad(str(path), expected, "a single array", next_step)
            return {name: archive[name] for name in archive.files}
    except _UNREADABLE as error:
        pickled = "pickle" in str(error)  # NumPy takes whatever it does not know for a pickle
        received = "pickled objects, or no arrays at all" if pickled else f"'{' '.join(str(error).split())}'"
        raise _bad(str(path), expected, received, next_step) from error


def _images(path: Path, arrays: dict[str, NDArray[np.generic]], part: str) -> NDArray[np.uint8]:
    """The images of a part as (M, C, H, W)."""
    where, images = f"{path}, {part}images", arrays[f"{part}images"]
    received = f"{images.dtype} of shape {'x'.join(map(str, images.shape))}"
    expected = "unsigned bytes (uint8) of shape (M, H, W) or (M, C, H, W), C = 1 or 3"
    next_step = "Convert them: images.astype(np.uint8), after scaling to 0..255."
    if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        next_step = "Channels come before height and width: images.transpose(0, 3, 1, 2)."
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise _bad(where, expected, received, next_step)
    shaped = images.reshape(len(images), -1, *images.shape[-2:])
    if shaped.shape[1] not in (1, 3):
        raise _bad(where, expected, received, next_step)
    return np.ascontiguousarray(shaped, dtype=np.uint8)


def _labels(path: Path, arrays: dict[str, NDArray[np.generic]], part: str) -> NDArray[np.int64]:
    """The labels of a part as numbers."""
    where, labels = f"{path}, {part}labels", arrays.get(f"{part}labels", np.empty(0))
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        received = f"{labels.dtype} of shape {labels.shape}"
        raise _bad(where, "integers of shape (M,)", received, "Number the classes: labels.astype(np.int64).")
    return labels.astype(np.int64)


def _bad(where: str, expected: str, received: str, next_step: str) -> DataError:
    """The error of a file or folder that cannot be used."""
    return DataError(where, expected=expected, received=received, next_step=next_step)
