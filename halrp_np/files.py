"""Files written whole or not at all, checksums, and a lock between processes."""

import contextlib
import errno
import hashlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from .errors import StorageError

_TEMP_PREFIX, _TEMP_SUFFIX = ".halrp-", ".tmp"
_LOCK_POLL_SECONDS = 0.05
_BUSY = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}

_NO_SPACE = "Free some space or raise the quota, or choose a folder on another disk, then run the same command again."
_NOT_WRITABLE = "Choose a folder that this user may write to."
_NO_LOCKS = "This file system cannot lock files: choose a folder on a local disk, with --out or HALRP_NP_CACHE."
_NEXT_STEP = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EFBIG: _NO_SPACE,
    errno.EROFS: _NOT_WRITABLE,
    errno.EACCES: _NOT_WRITABLE,
    errno.EPERM: _NOT_WRITABLE,
    errno.ENOTDIR: "A file stands where a folder is needed: move it away or choose another folder.",
    errno.EEXIST: "A file stands where a folder is needed: move it away or choose another folder.",
    errno.EISDIR: "A folder stands where a file is needed: move it away or choose another folder.",
    errno.ENOENT: "Create the folder first, or check its spelling.",
    errno.ENAMETOOLONG: "Choose a shorter path.",
    errno.ENOSYS: _NO_LOCKS,
    errno.ENOLCK: _NO_LOCKS,
    errno.EOPNOTSUPP: _NO_LOCKS,
}


def storage_error(path: str | os.PathLike[str], error: OSError, *, expected: str = "to write it") -> StorageError:
    """Translate an operating system's refusal into a StorageError that names the path, the reason and a next step."""
    reason = error.strerror or type(error).__name__
    next_step = _NEXT_STEP.get(error.errno or 0, "Check the disk and the path, then run the same command again.")
    return StorageError(str(path), expected=expected, received=f"'{reason}' from the system", next_step=next_step)


def write_whole(path: str | os.PathLike[str], content: bytes | bytearray | memoryview | str) -> None:
    """Write a file so that a reader, at any moment, finds the old content or the new and nothing between.

    Text is written as UTF-8.

    Raises: StorageError (disk full, read-only, no such folder); the old file is then untouched.
    """
    with whole_file(path) as write:
        write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Callable[[bytes | bytearray | memoryview], None]]:
    """Give a function that writes a file piece by piece; it is there once the `with` block has ended, not before.

    The pieces go to a temporary file in the same folder, which is flushed to the disk and takes the name in one step.
    Whatever the block raises, the old file stays; only a killed process leaves a temporary file, and
    `remove_leftovers` finds it.

    Raises: StorageError (disk full, read-only, no such folder).
    """
    target = Path(path)
    temporary = target.with_name(f"{_TEMP_PREFIX}{uuid.uuid4().hex}{_TEMP_SUFFIX}")
    try:
        try:
            with open(temporary, "xb", buffering=0) as file:  # unbuffered: closing must not retry a write that failed

                def write(piece: bytes | bytearray | memoryview) -> None:
                    remaining = memoryview(piece).cast("B")
                    while remaining:
                        remaining = remaining[file.write(remaining) :]

                yield write
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:  # an interrupt too must not leave the temporary file
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise storage_error(target, error) from error
    _flush_folder(target.parent)


def _flush_folder(folder: Path) -> None:
    """Make a rename durable where the system can (Windows cannot open a folder, some file systems refuse fsync)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Delete the temporary files that killed writers left in a folder; call it only while holding its lock."""
    for path in Path(folder).glob(f"{_TEMP_PREFIX}*{_TEMP_SUFFIX}"):
        with contextlib.suppress(OSError):
            path.unlink()


def is_leftover(path: str | os.PathLike[str]) -> bool:
    """Say whether a file is the temporary file of a killed writer, by its name."""
    name = Path(path).name
    return name.startswith(_TEMP_PREFIX) and name.endswith(_TEMP_SUFFIX)


def digest(path: str | os.PathLike[str], algorithm: str) -> str:
    """Return the digest of a file's content as `algorithm:hexadecimal digits`, the algorithm `sha256` or `md5`.

    Raises: StorageError if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
    except OSError as error:
        raise storage_error(path, error, expected="to read it") from error


@contextlib.contextmanager
def exclusive_lock(path: str | os.PathLike[str], *, wait_seconds: float, holder: str) -> Iterator[None]:
    """Hold a lock file alone for the length of a `with` block; the system frees it even when the process is killed.

    `holder` says who we are; another process that waits in vain reads it in its error. The file stays, empty.

    Raises: StorageError when another holds it for longer than `wait_seconds`, or the file cannot be opened.
    """
    with _open_lock(path) as file:
        _wait_for_lock(file, Path(path), wait_seconds)
        try:
            with contextlib.suppress(OSError):  # the text only helps: a full disk must not refuse the lock
                file.truncate(0)
                file.write(f"process {os.getpid()}: {holder}".encode())
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)
            _release(file)


def _open_lock(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a lock file, or say why it cannot be."""
    try:
        return open(path, "a+b", buffering=0)  # "a": opening must not erase the text of who holds it
    except OSError as error:
        raise storage_error(path, error, expected="to open this lock file") from error


def _wait_for_lock(file: IO[bytes], path: Path, wait_seconds: float) -> None:
    """Try until the lock is ours or the time is up."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            _acquire(file)
            return
        except OSError as error:
            if error.errno not in _BUSY:
                raise storage_error(path, error, expected="to lock it") from error
            if time.monotonic() >= deadline:
                raise StorageError(
                    f"lock {path}",
                    expected=f"to hold it alone within {wait_seconds:g} seconds",
                    received=f"a lock held by {_holder_text(file)}",
                    next_step="Wait until that process has finished, or end it, then try again.",
                ) from error
        time.sleep(_LOCK_POLL_SECONDS)


def _holder_text(file: IO[bytes]) -> str:
    """Read who holds a lock, on one line."""
    with contextlib.suppress(OSError):
        file.seek(0)
        text = " ".join(file.read(300).decode(errors="replace").split())
        if text:
            return text
    return "another process"


if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # Windows locks forbid reading: lock one byte far beyond the text

    def _acquire(file: IO[bytes]) -> None:
        """Take the lock or raise OSError at once."""
        file.seek(_FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _release(file: IO[bytes]) -> None:
        """Give the lock back."""
        file.seek(_FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _acquire(file: IO[bytes]) -> None:
        """Take the lock or raise OSError at once."""
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _release(file: IO[bytes]) -> None:
        """Give the lock back."""
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
