"""Downloads into a cache folder: from several mirrors, resumed after a cut, checked, and by one process at a time."""

import contextlib
import errno
import logging
import os
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..errors import DataError, StorageError

# Together below 5 seconds: without a network nobody waits longer for the answer.
ADDRESS_SECONDS = 1.5  # to connect to one address of a mirror
PROBE_SECONDS = 3.5  # for all mirrors at once, names included (a resolver has no timeout of its own)
READ_SECONDS = 10.0  # without a byte, once connected
LOCK_SECONDS = 600.0  # another process may be downloading the same file over a slow line
_CHUNK_BYTES = 1 << 16
_NAMES = {"sha256": "SHA-256", "md5": "MD5"}
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ENOTDIR}


@dataclass(frozen=True)
class RemoteFile:
    """A file with a known size and digest that any of several mirrors serves under `mirror + name`.

    `digest` names its algorithm: `sha256:...`, or `md5:...` where the authors have published nothing better.
    """

    name: str
    size: int
    digest: str
    mirrors: tuple[str, ...]

    @property
    def algorithm(self) -> str:
        """`sha256` or `md5`."""
        return self.digest.partition(":")[0]


def cache_dir() -> Path:
    """The folder of downloaded data: HALRP_NP_CACHE, or `halrp_np` in the system's cache folder (XDG)."""
    chosen = os.environ.get("HALRP_NP_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import pooch  # here and not above: `--help` must not wait for it

    return Path(pooch.os_cache("halrp_np"))


def fetch(file: RemoteFile, folder: Path, say: Callable[[str], None] | None = None) -> Path:
    """Return the file's path in `folder`, downloading it first unless it is there and whole.

    Mirrors are tried in order. What a cut download left is kept as `<name>.part` and continued; the file takes its
    name only after its digest agreed. Of several processes one downloads and the others wait for it; `say` is told
    before a wait.

    Raises: DataError if no mirror delivers (within seconds when there is no network); StorageError if the folder
    cannot be written or another process holds the lock for too long.
    """
    target = folder / file.name
    if is_whole(target, file):
        return target
    failures = unreachable(file.mirrors)
    if len(failures) == len(file.mirrors):
        raise _no_mirror(file, failures)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.storage_error(folder, error) from error
    with one_process(folder / f"{file.name}.lock", f"fetching {file.name}", say):
        for mirror in file.mirrors:
            if mirror in failures:
                continue
            try:
                _retrieve(mirror + file.name, file, folder)
                return target
            except (OSError, ValueError) as error:  # requests' errors are OSErrors, pooch's wrong hash a ValueError
                if isinstance(error, OSError) and error.errno in _DISK:
                    raise files.storage_error(folder, error) from error
                failures[mirror] = _reason(error, file)
    raise _no_mirror(file, failures)


@contextlib.contextmanager
def one_process(lock: Path, holder: str, say: Callable[[str], None] | None) -> Iterator[None]:
    """Hold a lock; when it is not free at once, say whom we wait for."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(files.exclusive_lock(lock, wait_seconds=0, holder=holder))
        except StorageError as error:
            if error.where == str(lock):  # it cannot be opened: waiting would not help
                raise
            if say:
                say(f"waiting up to {LOCK_SECONDS / 60:.0f} minutes for {error.received}")
            held.enter_context(files.exclusive_lock(lock, wait_seconds=LOCK_SECONDS, holder=holder))
        yield


def unreachable(mirrors: tuple[str, ...]) -> dict[str, str]:
    """The mirrors that accept no connection, each with the reason, found for all at once in a few seconds."""
    answers: dict[str, str | None] = {}

    def probe(mirror: str) -> None:
        try:
            socket.create_connection(_endpoint(mirror), timeout=ADDRESS_SECONDS).close()
            answers[mirror] = None
        except (OSError, ValueError) as error:
            answers[mirror] = _reason(error)

    # Daemon threads: a name lookup that hangs must hold neither us nor the interpreter's end.
    threads = [threading.Thread(target=probe, args=(mirror,), daemon=True) for mirror in mirrors]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PROBE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    reasons = {mirror: answers.get(mirror, f"no answer in {PROBE_SECONDS:g} seconds") for mirror in mirrors}
    return {mirror: reason for mirror, reason in reasons.items() if reason is not None}


def _endpoint(url: str) -> tuple[str, int]:
    """Host and port that a request for `url` would connect to: the proxy's where the environment names one."""
    parts = urllib.parse.urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(parts.netloc):
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    default = {"https": 443, "http": 80}.get(parts.scheme, 1080)
    return parts.hostname or "", parts.port or default


def _retrieve(url: str, file: RemoteFile, folder: Path) -> None:
    """Download with pooch, unless the process we waited for has done it; continue what a cut has left.

    Pooch checks the digest and only then moves the file to its name.
    """
    import pooch

    part = folder / f"{file.name}.part"
    continued = part.exists() and part.stat().st_size > 0
    with _quiet_pooch():
        for last_try in [False, True] if continued else [True]:
            try:
                pooch.retrieve(url, file.digest, file.name, folder, downloader=_Resume(part, file.size))
                return
            except ValueError:
                # The kept beginning may be another mirror's error page; it is gone now, so once more from nothing.
                if last_try:
                    raise


class _Resume:
    """A pooch downloader that continues `part` with an HTTP range request and hands it over when it is complete."""

    def __init__(self, part: Path, size: int) -> None:
        self.part, self.size = part, size

    def __call__(self, url: str, output_file: str, pooch: object, check_only: bool = False) -> None:
        """Fetch `url` into `output_file`; on any failure what has arrived stays in `part`."""
        with self.part.open("ab") as stream:
            if stream.tell() < self.size:
                self._download(url, stream)
        received = self.part.stat().st_size
        if received < self.size:
            raise ConnectionError(f"the connection ended after {received:,} of {self.size:,} bytes")
        os.replace(self.part, output_file)  # too long or wrong, pooch's hash check finds it and deletes it

    def _download(self, url: str, stream: Any) -> None:
        """Append what is missing, or start again where the server knows no ranges."""
        from pooch import HTTPDownloader

        done = stream.tell()

        def check(response: Any, *args: object, **kwargs: object) -> None:
            whole = response.headers.get("Content-Length") if response.status_code == 200 else None
            if response.status_code == 206:
                span, _, whole = response.headers.get("Content-Range", "").partition("/")
                if not span.startswith(f"bytes {done}-"):
                    raise ConnectionError(f"the server sent the range '{span}', not the one from byte {done}")
            elif response.status_code == 200:
                stream.truncate(0)
            if whole not in (None, "", "*", str(self.size)):
                raise ConnectionError(f"the server has a file of {whole} bytes there, not of {self.size}")

        headers = {"Accept-Encoding": "identity"}  # the bytes as stored: they are compressed already
        if done:
            headers["Range"] = f"bytes={done}-"
        timeout = (PROBE_SECONDS, READ_SECONDS)  # the first includes the TLS handshake
        HTTPDownloader(chunk_size=_CHUNK_BYTES, timeout=timeout, headers=headers, hooks={"response": check})(
            url, stream, None
        )


@contextlib.contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Keep pooch's own log line off the terminal; what is said to the user is the caller's business."""
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def is_whole(path: Path, file: RemoteFile) -> bool:
    """Say whether a file is there and has the right content."""
    if not os.path.isfile(path) or path.stat().st_size != file.size:
        return False
    return files.digest(path, file.algorithm) == file.digest


def _reason(error: Exception, file: RemoteFile | None = None) -> str:
    """One line of an error's text, without the object addresses that network libraries add."""
    if file and isinstance(error, ValueError) and "hash" in str(error):
        return f"the file it sent has a wrong {_NAMES[file.algorithm]}"
    if isinstance(error, socket.gaierror):
        return f"its name does not resolve ({error.strerror})"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _no_mirror(file: RemoteFile, failures: dict[str, str]) -> DataError:
    """The error of a download that failed everywhere."""
    return DataError(
        f"download of {file.name}",
        expected=f"one of {len(file.mirrors)} mirrors to deliver it",
        received="; ".join(f"{urllib.parse.urlsplit(url).netloc}: {why}" for url, why in failures.items()),
        next_step="Check the network (and HTTPS_PROXY), then try again: a cut download continues where it stopped.",
    )
