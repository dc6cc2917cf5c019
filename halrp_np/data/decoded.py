"""Image files decoded once into one array on disk, which later runs open in a moment and share."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import files
from ..errors import StorageError
from ..typing import Shape
from .cache import one_process
from .sources import Say

_FORMAT = 1


class Decoded(NamedTuple):
    """Images as a read-only memory map, and what the manifest beside them says of them.

    Shapes: images (M, C, H, W) uint8
    """

    images: NDArray[np.uint8]
    manifest: dict[str, Any]


class Making(NamedTuple):
    """What a decoded array is made of: its shape, what the manifest is to say, and the images one after the other."""

    shape: Shape
    manifest: dict[str, Any]
    images: Iterable[NDArray[np.uint8]]


def open_decoded(path: Path, fingerprint: str, make: Callable[[], Making], say: Say | None) -> Decoded:
    """The images in `path` (.npy), made first unless they are there, whole, and from a source of this `fingerprint`.

    The manifest beside it (.json) holds the fingerprint and the array file's SHA-256, which every opening checks.
    Images are written as they come, so memory holds one of them. Both files are written whole, the manifest last: after
    a kill, a full disk or a damaged image the next call makes them again. Of several processes one does it.

    Raises: StorageError if they cannot be written, and whatever `make` raises.
    """
    found = _find(path, fingerprint, say)
    if found is not None:
        return found
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.storage_error(folder, error) from error
    with one_process(folder / "lock", f"decoding images into {path.name}", say):
        found = _find(path, fingerprint, None)  # another process may have made them meanwhile
        if found is not None:
            return found
        files.remove_leftovers(folder)
        making = make()
        manifest = {**making.manifest, "format": _FORMAT, "fingerprint": fingerprint, "digest": _write(path, making)}
        files.write_whole(path.with_suffix(".json"), json.dumps(manifest, indent=1) + "\n")
    return Decoded(np.load(path, mmap_mode="r"), manifest)


def _write(path: Path, making: Making) -> str:
    """Write the array file image by image; its digest."""
    header, digest = io.BytesIO(), hashlib.sha256()
    layout = {"descr": "|u1", "fortran_order": False, "shape": tuple(making.shape)}
    np.lib.format.write_array_header_1_0(header, layout)
    with files.whole_file(path) as write:
        for piece in itertools.chain([header.getbuffer()], (image.data for image in making.images)):
            write(piece)
            digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def _find(path: Path, fingerprint: str, say: Say | None) -> Decoded | None:
    """What was decoded before, or None if nothing can be used; `say` is told why, if there is something."""
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
            raise ValueError("another format")
        if manifest.get("fingerprint") != fingerprint:
            raise ValueError("the files that they were decoded from have changed")
        if manifest.get("digest") != files.digest(path, "sha256"):
            raise ValueError("their SHA-256 is not the one of the manifest")
        return Decoded(np.load(path, mmap_mode="r"), manifest)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, StorageError) as error:
        if say:
            say(f"the decoded images in {path} cannot be used ({error}): they are made again")
        return None
