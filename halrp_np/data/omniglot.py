"""Omniglot: handwritten characters of many alphabets, 20 drawings each, from the authors' archives of PNG files."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import files
from ..errors import DataError
from .cache import RemoteFile
from .dataset import DataSet, FileRow
from .file_tree import FileTree
from .image_files import decode_image
from .sources import Published, Say, Source, load_published, nothing_there

NAME = "omniglot"
DRAWERS, SIDE = 20, 32
_MIRRORS = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
    "https://github.com/brendenlake/omniglot/raw/master/python/",
)
REMOTE_FILES = (
    RemoteFile(
        "images_background.zip",
        9_464_212,
        "sha256:ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        _MIRRORS,
    ),
    RemoteFile(
        "images_evaluation.zip",
        6_462_886,
        "sha256:1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
        _MIRRORS,
    ),
)
"""All 1,623 characters: 964 of 30 alphabets and 659 of 20 others."""

SMALL_PARTS = {
    "images_background_small1": "sha256:f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
    "images_background_small2": "sha256:3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
}
"""Five alphabets of images_background each, two of them the same."""

_WHOLE = tuple(file.name.removesuffix(".zip") for file in REMOTE_FILES)
_DIGESTS = {**dict(zip(_WHOLE, (file.digest for file in REMOTE_FILES), strict=True)), **SMALL_PARTS}
_FILE_NAME = re.compile(r"\d+_(\d\d)\.png")
PUBLISHED = Published(
    NAME,
    "Omniglot",
    "1,623 characters, 20 drawings each,",
    NAME,
    REMOTE_FILES,
    f"Put {REMOTE_FILES[0].name} and {REMOTE_FILES[1].name} from github.com/brendenlake/omniglot, folder python, into "
    "FOLDER/omniglot-py and name it: --data-dir FOLDER",
)

_Drawings = dict[tuple[str, str], dict[int, tuple[FileTree, str]]]


def load_omniglot(source: Source = "auto", data_dir: Path | str | None = None, say: Say | None = None) -> DataSet:
    """Load Omniglot: from `data_dir` if given, else from the cache, else from a mirror; `sample` is the stand-in.

    Characters are sorted by alphabet, then by name, and the drawings of each by drawer: row 20·character + drawer. All
    are training images and `test_images` is empty, because who splits them needs all drawers of a character. Drawings
    are grey, stretched from 105x105 to 32x32 by Pillow's bicubic filter, background 255, ink 0.

    Shapes: train_images (20·K, 1, 32, 32), train_labels = character
    Raises: ConfigError for another source; DataError if what was asked for is absent or damaged.
    """
    return load_published(PUBLISHED, lambda folder: _read(find_parts(folder)), source, data_dir, say)


def find_parts(data_dir: Path) -> list[Path]:
    """The archives, or else the unpacked folders, in `data_dir`/omniglot-py or in `data_dir` itself.

    The small sets are parts of images_background, so they count only where that is not there.

    Raises: DataError if there is none of them.
    """
    for folder in (data_dir / "omniglot-py", data_dir):
        found = {}
        for part in _DIGESTS:
            path = next((path for path in (folder / f"{part}.zip", folder / part) if os.path.exists(path)), None)
            if path is not None:
                found[part] = path
        if _WHOLE[0] in found:
            found = {part: path for part, path in found.items() if part in _WHOLE}
        if found:
            return list(found.values())
    raise nothing_there(PUBLISHED, data_dir, f"{', '.join(_DIGESTS)}, packed or not, in it or in omniglot-py")


def verify(data_dir: Path) -> list[FileRow]:
    """Read every drawing and check every archive's digest; a row an archive or folder.

    Raises: DataError if there is none.
    """
    rows = []
    for path in find_parts(data_dir):
        try:
            data = _read([path])
        except DataError as error:
            detail = f"damaged: {error.where}: expected {error.expected}, received {error.received}"
            rows.append(FileRow(str(path), False, detail))
            continue
        ok = _is_official(path)
        found = f"{len(data.class_names):,} characters, "
        rows.append(FileRow(str(path), ok, found + ("SHA-256 agrees" if ok else "not the published archive")))
    return rows


def _read(paths: Sequence[Path]) -> DataSet:
    """All drawings in these archives or folders."""
    with contextlib.ExitStack() as opened:
        trees = [opened.enter_context(FileTree(path)) for path in paths]
        drawings = _sorted_drawings(trees)
        images = np.empty((DRAWERS * len(drawings), 1, SIDE, SIDE), np.uint8)
        places = (place for drawers in drawings.values() for _, place in sorted(drawers.items()))
        for row, (tree, name) in enumerate(places):
            images[row] = decode_image(tree.read(name), tree.place(name), 1, (SIDE, SIDE))
    checked = [path.stem for path in paths if _is_official(path)]
    provenance = NAME if checked == list(_WHOLE) else PUBLISHED.other
    note = f"data: {provenance}, {len(drawings):,} characters in {', '.join(str(path) for path in paths)}"
    if provenance != NAME:
        agree = f"; of the authors' archives, by SHA-256: {', '.join(checked) or 'none'}"
        note += f"{agree}; the whole of Omniglot has 1,623, so results do not compare with published ones"
    none: NDArray[np.int64] = np.empty(0, np.int64)
    return DataSet(
        NAME,
        images,
        np.repeat(np.arange(len(drawings)), DRAWERS),
        np.empty((0, 1, SIDE, SIDE), np.uint8),
        none,
        tuple("/".join(key) for key in drawings),
        provenance,
        str(paths[0].parent),
        [note],
    )


def _is_official(path: Path) -> bool:
    """Say whether a path is one of the authors' archives, by its digest."""
    return os.path.isfile(path) and files.digest(path, "sha256") == _DIGESTS.get(path.stem)


def _sorted_drawings(trees: Sequence[FileTree]) -> _Drawings:
    """Where each drawing of each character is: {(alphabet, character): {drawer: file}}, sorted and complete."""
    found: _Drawings = {}
    for tree in trees:
        for name in tree.names:
            parts = name.split("/")
            drawn = _FILE_NAME.fullmatch(parts[-1])
            if drawn is None or len(parts) not in (3, 4):
                raise _odd(tree, name, "ALPHABET/CHARACTER/NUMBER_DRAWER.png", "another file")
            first, where = found.setdefault((parts[-3], parts[-2]), {}).setdefault(int(drawn[1]), (tree, name))
            # The two small sets share alphabets: the same file in both is the same drawing.
            if where != name and (first is tree or where.split("/")[-1] != parts[-1]):
                raise _odd(tree, name, "one drawing by each drawer", f"a second one, beside {first.place(where)}")
    for (alphabet, character), drawers in found.items():
        if sorted(drawers) != list(range(1, DRAWERS + 1)):
            tree, name = next(iter(drawers.values()))
            missing = sorted({*range(1, DRAWERS + 1)} - {*drawers})
            received = f"none by {missing}" if missing else f"one by {max(drawers)}"
            raise _odd(tree, name, f"{alphabet}/{character} by the drawers 1 to {DRAWERS}", received)
    if not found:
        raise DataError(
            ", ".join(str(tree.path) for tree in trees),
            expected="drawings of characters",
            received="no file at all",
            next_step=f"{PUBLISHED.place}.",
        )
    return dict(sorted(found.items()))


def _odd(tree: FileTree, name: str, expected: str, received: str) -> DataError:
    """The error of a file that should not be there, or should."""
    next_step = "Copy or download the archive again, and leave it packed."
    return DataError(tree.place(name), expected=expected, received=received, next_step=next_step)
