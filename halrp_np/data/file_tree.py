"""The files below a folder or inside a zip archive, read in place."""

from __future__ import annotations

import hashlib
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType

from .. import files
from ..errors import DataError

_DEEPEST = 5  # folders within folders: no data set has more, and links may go in circles
_MOST_BYTES = 1 << 28
_NOT_OURS = ("__MACOSX", "Thumbs.db", "desktop.ini")
_COPY_AGAIN = "Delete the archive and copy or download it again."
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,  # among them names that are no text
    struct.error,
    RuntimeError,  # a password; also NotImplementedError, an unknown compression
)


class FileTree:
    """The files of a folder or of a zip archive by their names within it, "/" between the parts of a name.

    Hidden files and those that desktops leave behind are not seen. An archive is never unpacked. Use it in a `with`
    block, which closes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_archive = os.path.isfile(path)  # False, and no error, where a folder above may not be read

    def __enter__(self) -> FileTree:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if "_archive" in self.__dict__:
            self._archive.close()

    @property
    def names(self) -> list[str]:
        """The names of all files, sorted.

        Raises: DataError for a damaged archive, or a folder that cannot be read.
        """
        return self._listing[0]

    @property
    def folders(self) -> list[str]:
        """The names of all folders, empty ones too, sorted; raises as `names`."""
        return self._listing[1]

    def place(self, name: str) -> str:
        """How an error names a file: its path, or the archive's path and the member."""
        return f"{self.path}: {name}" if self.is_archive else str(self.path / name)

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises: DataError if it is absent, damaged (an archive knows the checksum of each member) or far too large.
        """
        try:
            if not self.is_archive:
                return (self.path / name).read_bytes()
            member = self._archive.getinfo(name)
            if member.file_size > _MOST_BYTES:
                raise DataError(
                    self.place(name),
                    expected=f"a file of at most {_MOST_BYTES:,} bytes",
                    received=f"{member.file_size:,} bytes",
                    next_step="Take it out of the archive.",
                )
            return self._archive.read(member)
        except KeyError as error:
            raise self._bad(name, "a file", "no such file") from error
        except _UNREADABLE as error:
            raise self._bad(name, "a file that can be read", f"'{_reason(error)}'") from error

    def fingerprint(self) -> str:
        """What changes with the content: of an archive its SHA-256, as `sha256:digits`; of a folder that of all names,
        sizes and times of change, so that hundreds of thousands of files need not be read.

        Raises: StorageError or DataError if it cannot be read.
        """
        if self.is_archive:
            return files.digest(self.path, "sha256")
        digest = hashlib.sha256()
        for name in self.names:
            size, changed = self._stamps[name]
            digest.update(f"{name}\n{size} {changed}\n".encode(errors="surrogateescape"))
        return f"stamps:{digest.hexdigest()}"

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        """The archive, opened when first asked for."""
        try:
            return zipfile.ZipFile(self.path)
        except _UNREADABLE as error:
            raise DataError(
                str(self.path),
                expected="a whole zip archive",
                received=f"one that is cut off, damaged or no zip archive ('{_reason(error)}')",
                next_step=_COPY_AGAIN,
            ) from error

    @cached_property
    def _listing(self) -> tuple[list[str], list[str]]:
        """The names of files and of folders."""
        if not self.is_archive:
            found = set(self._stamps)
        else:
            found = {name for name in self._archive.namelist() if not _is_foreign(name)}
            found |= {f"{parent}/" for name in found for parent in _parents(name)}  # archives need not list them
        names = sorted(name for name in found if name[-1:] != "/")
        return names, sorted(name[:-1] for name in found if name[-1:] == "/")

    @cached_property
    def _stamps(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of every file below a folder by its name; folders end in "/" and have none."""
        found: dict[str, tuple[int, int]] = {}
        waiting = [(str(self.path), "", 0)]
        try:
            while waiting:
                folder, prefix, depth = waiting.pop()
                with os.scandir(folder) as entries:
                    for entry in entries:
                        name = prefix + entry.name
                        if _is_foreign(entry.name):
                            continue
                        if not entry.is_dir():
                            status = entry.stat()
                            found[name] = (status.st_size, status.st_mtime_ns)
                        elif depth < _DEEPEST:
                            found[f"{name}/"] = (0, 0)
                            waiting.append((entry.path, f"{name}/", depth + 1))
        except OSError as error:
            raise DataError(
                error.filename or str(self.path),
                expected="a folder that can be read",
                received=f"'{_reason(error)}'",
                next_step="Check the path and its rights.",
            ) from error
        return found

    def _bad(self, name: str, expected: str, received: str) -> DataError:
        """The error of one file."""
        next_step = _COPY_AGAIN if self.is_archive else "Check this file and its rights."
        return DataError(self.place(name), expected=expected, received=received, next_step=next_step)


def _is_foreign(name: str) -> bool:
    """Say whether a desktop or an editor left this file, not the data set's author."""
    return any(part.startswith(".") or part in _NOT_OURS for part in name.split("/"))


def _parents(name: str) -> Iterator[str]:
    """The folders that a name lies in."""
    at = name.find("/")
    while at > 0:
        yield name[:at]
        at = name.find("/", at + 1)


def _reason(error: Exception) -> str:
    """What went wrong, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
