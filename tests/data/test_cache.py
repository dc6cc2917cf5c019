"""Downloads from mirrors on this machine: cut, wrong, dead, without ranges, at once, and without a network."""

import contextlib
import errno
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halrp_np import files
from halrp_np.data import cache
from halrp_np.data.cache import RemoteFile, cache_dir, fetch
from halrp_np.errors import DataError, StorageError

CONTENT = np.random.default_rng(3).bytes(300_000)
NAME = "file.gz"


def remote(*mirrors: str, algorithm: str = "sha256") -> RemoteFile:
    digest = hashlib.new(algorithm, CONTENT).hexdigest()
    return RemoteFile(NAME, len(CONTENT), f"{algorithm}:{digest}", mirrors)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {f"{NAME}.lock"}


def test_downloads_once(start_mirror: Callable, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mirror = start_mirror({NAME: CONTENT})
    for _ in range(2):
        assert fetch(remote(mirror.url), tmp_path / "new").read_bytes() == CONTENT
    assert mirror.requests == [(NAME, None)]
    assert names(tmp_path / "new") == {NAME}
    assert capfd.readouterr() == ("", "")


def test_continues_after_a_cut(start_mirror: Callable, tmp_path: Path) -> None:
    mirror = start_mirror({NAME: CONTENT})
    mirror.cut_after = 200_000
    with pytest.raises(DataError, match="continues where it stopped"):
        fetch(remote(mirror.url), tmp_path)
    assert names(tmp_path) == {f"{NAME}.part"}, "what has arrived is kept, and not under the file's name"
    kept = (tmp_path / f"{NAME}.part").stat().st_size
    assert 0 < kept <= 200_000

    assert fetch(remote(mirror.url), tmp_path).read_bytes() == CONTENT
    assert mirror.requests[1:] == [(NAME, f"bytes={kept}-")]
    assert names(tmp_path) == {NAME}


def test_the_next_mirror_continues(start_mirror: Callable, tmp_path: Path) -> None:
    first, second = start_mirror({NAME: CONTENT}), start_mirror({NAME: CONTENT})
    first.cut_after = 100_000
    assert fetch(remote(first.url, second.url), tmp_path).read_bytes() == CONTENT
    assert second.requests[0][1] is not None


def test_server_without_ranges_starts_again(start_mirror: Callable, tmp_path: Path) -> None:
    mirror = start_mirror({NAME: CONTENT})
    mirror.ranges = False
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    assert fetch(remote(mirror.url), tmp_path).read_bytes() == CONTENT
    assert mirror.requests == [(NAME, "bytes=1000-")]


def test_a_cut_without_a_stated_length_is_noticed(start_mirror: Callable, tmp_path: Path) -> None:
    mirror = start_mirror({NAME: CONTENT})
    mirror.cut_after, mirror.says_length = 70_000, False
    with pytest.raises(DataError, match="ended after 70,000 of 300,000 bytes"):
        fetch(remote(mirror.url), tmp_path)
    assert fetch(remote(mirror.url), tmp_path).read_bytes() == CONTENT
    assert mirror.requests[1:] == [(NAME, "bytes=70000-")]


def test_another_range_than_asked_for_is_not_appended(start_mirror: Callable, tmp_path: Path) -> None:
    mirror = start_mirror({NAME: CONTENT})
    mirror.wrong_range = True
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match="sent the range 'bytes 0-299999', not the one from byte 1000"):
        fetch(remote(mirror.url), tmp_path)
    assert (tmp_path / f"{NAME}.part").read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("rest", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)], ids=len)
def test_a_foreign_part_is_dropped(start_mirror: Callable, tmp_path: Path, rest: bytes) -> None:
    mirror = start_mirror({NAME: CONTENT})
    (tmp_path / f"{NAME}.part").write_bytes(rest)
    assert fetch(remote(mirror.url), tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == {NAME}


@pytest.mark.parametrize("old", [b"", CONTENT[:-1], b"x" * len(CONTENT)], ids=len)
def test_a_damaged_file_is_replaced(start_mirror: Callable, tmp_path: Path, old: bytes) -> None:
    (tmp_path / NAME).write_bytes(old)
    assert fetch(remote(start_mirror({NAME: CONTENT}).url), tmp_path).read_bytes() == CONTENT


WRONG = {
    "same length": (b"x" * len(CONTENT), "wrong SHA-256"),
    "an error page": (b"<html>log in</html>", "a file of 19 bytes there"),
    "nothing": (None, "404"),
}


def test_md5_where_nothing_better_is_published(start_mirror: Callable, tmp_path: Path) -> None:
    wrong, right = start_mirror({NAME: b"x" * len(CONTENT)}), start_mirror({NAME: CONTENT})
    with pytest.raises(DataError, match="wrong MD5"):
        fetch(remote(wrong.url, algorithm="md5"), tmp_path)
    file = remote(wrong.url, right.url, algorithm="md5")
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert len(right.requests) == 1


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_content_is_never_taken(start_mirror: Callable, tmp_path: Path, kind: str) -> None:
    content, message = WRONG[kind]
    wrong = start_mirror({} if content is None else {NAME: content})
    with pytest.raises(DataError, match=message):
        fetch(remote(wrong.url), tmp_path)
    assert NAME not in names(tmp_path)

    right = start_mirror({NAME: CONTENT})
    assert fetch(remote(wrong.url, right.url), tmp_path).read_bytes() == CONTENT
    assert len(right.requests) == 1


def test_dead_mirror_is_passed_over(start_mirror: Callable, dead_mirror: str, tmp_path: Path) -> None:
    assert fetch(remote(dead_mirror, start_mirror({NAME: CONTENT}).url), tmp_path).read_bytes() == CONTENT
    (tmp_path / NAME).unlink()
    with pytest.raises(DataError, match=r"one of 1 mirrors.*127\.0\.0\.1.*refused"):
        fetch(remote(dead_mirror), tmp_path)


def test_names_that_never_resolve_cost_seconds_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.PROBE_SECONDS + cache.ADDRESS_SECONDS <= 5
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: released.wait(60) and [])
    monkeypatch.setattr(cache, "PROBE_SECONDS", 0.3)
    started = time.monotonic()
    with pytest.raises(DataError, match=r"a\.invalid: no answer.*b\.invalid: no answer"):
        fetch(remote("https://a.invalid/", "https://b.invalid/"), tmp_path / "new")
    assert time.monotonic() - started < 2
    assert not (tmp_path / "new").exists()
    released.set()


def test_probe_asks_the_proxy_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert cache._endpoint("https://outside.example/x/") == ("proxy.example", 3128)
    assert cache._endpoint("https://inside.example/x/") == ("inside.example", 443)
    assert cache._endpoint("http://inside.example:81/x/") == ("inside.example", 81)


def test_two_processes_download_once(start_mirror: Callable, tmp_path: Path) -> None:
    mirror = start_mirror({NAME: CONTENT})
    mirror.delay = 0.4
    script = (
        "import sys; from pathlib import Path; from halrp_np.data.cache import RemoteFile, fetch\n"
        "name, size, digest, mirror, folder = sys.argv[1:]\n"
        "print(fetch(RemoteFile(name, int(size), digest, (mirror,)), Path(folder)))"
    )
    file = remote(mirror.url)
    command = [sys.executable, "-c", script, NAME, str(file.size), file.digest, mirror.url, str(tmp_path)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    for process in running:
        output, _ = process.communicate(timeout=30)
        assert (process.returncode, output.strip()) == (0, str(tmp_path / NAME))
    assert len(mirror.requests) == 1
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_lock_held_too_long(start_mirror: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.1)
    mirror = start_mirror({NAME: CONTENT})
    with (
        files.exclusive_lock(tmp_path / f"{NAME}.lock", wait_seconds=0, holder="the test"),
        pytest.raises(StorageError, match="the test"),
    ):
        fetch(remote(mirror.url), tmp_path)
    assert mirror.requests == []


def test_a_wait_is_said(start_mirror: Callable, tmp_path: Path) -> None:
    said = []
    with contextlib.ExitStack() as other:
        other.enter_context(files.exclusive_lock(tmp_path / f"{NAME}.lock", wait_seconds=0, holder="the test"))

        def say(text: str) -> None:
            said.append(text)
            other.close()

        assert fetch(remote(start_mirror({NAME: CONTENT}).url), tmp_path, say).read_bytes() == CONTENT
    assert said == [f"waiting up to 10 minutes for a lock held by process {os.getpid()}: the test"]


def test_a_lock_that_cannot_be_opened_is_not_waited_for(start_mirror: Callable, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.lock").mkdir()
    said: list[str] = []
    with pytest.raises(StorageError, match="Is a directory"):
        fetch(remote(start_mirror({NAME: CONTENT}).url), tmp_path, said.append)
    assert said == []


def test_folder_that_cannot_be_made(start_mirror: Callable, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="taken"):
        fetch(remote(start_mirror({NAME: CONTENT}).url), tmp_path / "taken" / "cache")


def test_full_disk(start_mirror: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.os, "replace", refuse)
    with pytest.raises(StorageError, match="No space left"):
        fetch(remote(start_mirror({NAME: CONTENT}).url), tmp_path)


def test_cache_dir_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALRP_NP_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("HALRP_NP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_dir() == tmp_path / "halrp_np"
