"""Members of a .tar.gz archive, read in place: nothing is unpacked to the disk."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from ..errors import DataError
from .sources import wrong_file

MOST_BYTES = 1 << 28  # of one member; the largest of any data set here has 155 MB
_CHUNK_BYTES = 1 << 20


def tar_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in the archive whose name is wanted, in the archive's order.

    Links, devices and folders are passed over. The archive is read to its end, where gzip keeps a checksum.

    Raises: DataError for an archive that is cut off or damaged, for a name that leads out of it or comes twice, and
    for a member far too large.
    """
    seen: set[str] = set()
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                _check_name(path, name)
                if not member.isreg() or not wanted(name):
                    continue
                if name in seen:
                    raise wrong_file(f"{path}: {name}", "one file of this name", "two")
                if member.size > MOST_BYTES:
                    raise wrong_file(f"{path}: {name}", f"at most {MOST_BYTES:,} bytes", f"{member.size:,}")
                seen.add(name)
                file = archive.extractfile(member)
                yield name, file.read() if file else b""
            while stream.read(_CHUNK_BYTES):
                pass
    except EOFError as error:
        raise wrong_file(path, "a whole .tar.gz archive", "one that ends early (a cut download or copy)") from error
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise wrong_file(path, "an undamaged .tar.gz archive", f"one that does not unpack ({reason})") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            str(path), expected="a readable file", received=f"'{reason}'", next_step="Check the path and its rights."
        ) from error


def _check_name(path: Path, name: str) -> None:
    """Refuse an archive with a name that leads out of it: no data set's has one."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name:
        raise wrong_file(path, "names of members that lead nowhere else", repr(name[:100]))
