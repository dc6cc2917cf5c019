"""A run folder as bytes that travel from one machine to another, checked when they arrive."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..errors import StorageError
from ..files import is_leftover, storage_error
from ..runs.record import CONFIG


@dataclass(frozen=True)
class Parcel:
    """The files of a run folder as a ZIP archive, and its SHA-256."""

    content: bytes
    sha256: str


def pack(folder: Path) -> Parcel | None:
    """The files of a run folder; None where no run has begun.

    Raises: StorageError when one cannot be read.
    """
    if not (folder / CONFIG).is_file():
        return None
    archive = io.BytesIO()
    try:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:  # weights hardly shrink
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not is_leftover(path):
                    file.write(path, path.relative_to(folder).as_posix())
    except OSError as error:
        raise storage_error(folder, error, expected="to read this run folder") from error
    content = archive.getvalue()
    return Parcel(content, hashlib.sha256(content).hexdigest())


def unpack(parcel: Parcel, folder: Path) -> None:
    """Put the files in place of `folder`, all at once.

    Until they are whole, what was there stays; if putting them there fails, it comes back.

    Raises: StorageError when they are not what was packed, or cannot be written.
    """
    if hashlib.sha256(parcel.content).hexdigest() != parcel.sha256:
        raise _damaged(folder, f"bytes with the SHA-256 {parcel.sha256}", "others")
    mark = uuid.uuid4().hex
    fresh, old = (folder.with_name(f".{folder.name}.{mark}.{part}") for part in ("new", "old"))
    try:
        with _gone_afterwards(fresh, old):
            fresh.mkdir(parents=True)
            with zipfile.ZipFile(io.BytesIO(parcel.content)) as archive:
                for name in archive.namelist():
                    _check_name(name, folder)
                archive.extractall(fresh)
            if folder.exists():
                folder.rename(old)
            try:
                fresh.rename(folder)
            except BaseException:  # Ctrl-C too
                if old.exists() and not folder.exists():
                    old.rename(folder)
                raise
    except zipfile.BadZipFile as error:
        raise _damaged(folder, "a ZIP archive", str(error)) from error
    except OSError as error:
        raise storage_error(folder, error) from error


@contextlib.contextmanager
def _gone_afterwards(*paths: Path) -> Iterator[None]:
    """Delete these folders at the end, whatever happens."""
    try:
        yield
    finally:
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)


def _check_name(name: str, folder: Path) -> None:
    """Refuse a name that would leave the folder, as any system reads it."""
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.is_absolute() or path.drive or ".." in path.parts:
            raise _damaged(folder, "names of files inside the folder", repr(name))


def _damaged(folder: Path, expected: str, received: str) -> StorageError:
    advice = "Run the sweep again; if it comes again, look at the cluster's network."
    return StorageError(f"what came for {folder}", expected=expected, received=received, next_step=advice)
