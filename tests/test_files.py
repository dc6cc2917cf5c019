"""files.py: whole or untouched, whatever happens while writing; one holder per lock."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from halrp_np.errors import StorageError
from halrp_np.files import (
    digest,
    exclusive_lock,
    is_leftover,
    remove_leftovers,
    storage_error,
    whole_file,
    write_whole,
)

ROOT = Path(__file__).resolve().parents[1]


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, so that limits and kills stay there."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 1000, bytearray(b"abc"), memoryview(b"xyz"), "ünï\n"])
def test_write_whole_writes_these_bytes_and_nothing_else(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old and longer than the new" * 10)
    write_whole(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else bytes(content))
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    write_whole(str(tmp_path / "ours"), b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EROFS, "may write to"),
        (errno.EACCES, "may write to"),
        (errno.EIO, "Check the disk"),
    ],
)
def test_a_failure_keeps_the_old_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int, advice: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(StorageError, match=advice) as caught:
        write_whole(path, b"new")
    assert str(path) in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


def test_an_interrupt_while_writing_keeps_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX file size limits")
def test_a_real_write_that_stops_half_way_keeps_the_old_file(tmp_path: Path) -> None:
    """A file size limit stands for a full disk: the first bytes are written, the rest refused."""
    (tmp_path / "file").write_bytes(b"old")
    code = """
        import resource, sys
        from halrp_np.errors import StorageError
        from halrp_np.files import write_whole
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_whole(sys.argv[1], b"x" * 5000)
        except StorageError as error:
            print(error)
    """
    done = run_python(code, tmp_path / "file")
    assert "Free some space" in done.stdout, done.stderr
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("file/inside", "A file stands"),
        ("absent/file", "Create the folder"),
        ("folder", "A folder stands"),
        ("x" * 300, "shorter"),
    ],
)
def test_impossible_places_are_named(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=advice):
        write_whole(tmp_path / name, b"new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_that_cannot_be_flushed_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EACCES, "denied")))
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        from halrp_np.files import write_whole
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
        write_whole(sys.argv[1], b"new")
    """
    for name in ("file", ".halrp-notes", "other.tmp"):
        (tmp_path / name).write_bytes(b"old")
    assert run_python(code, tmp_path / "file").returncode != 0
    left = [entry for entry in tmp_path.iterdir() if is_leftover(entry)]
    assert len(left) == 1
    remove_leftovers(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".halrp-notes", "file", "other.tmp"]
    remove_leftovers(tmp_path / "absent")


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_digests_of_a_file(tmp_path: Path, algorithm: str) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert digest(tmp_path / "file", algorithm) == f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
    with pytest.raises(StorageError, match="to read it"):
        digest(tmp_path / "absent", algorithm)


def test_a_file_in_pieces_is_there_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with whole_file(path) as write:
        write(b"new and ")
        write(memoryview(b"whole"))
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new and whole"
    with pytest.raises(TypeError, match="contiguous"), whole_file(path) as write:
        write(memoryview(np.zeros((4, 4))[:, 1]))  # not contiguous: an error of the block's own
    assert path.read_bytes() == b"new and whole"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_without_a_number_is_still_an_answer() -> None:
    assert "OSError" in str(storage_error("somewhere", OSError()))


def test_a_held_lock_names_its_holder_and_is_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive_lock(path, wait_seconds=0, holder="the first"):
        with (
            pytest.raises(StorageError, match=f"process {os.getpid()}: the first"),
            exclusive_lock(path, wait_seconds=0.1, holder="the second"),
        ):
            pytest.fail("two holders")
        assert b"the first" in path.read_bytes()
    assert path.read_bytes() == b""
    with exclusive_lock(path, wait_seconds=0, holder="the third"):
        pass


def test_a_lock_is_freed_by_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive_lock(tmp_path / "lock", wait_seconds=0, holder="a"):
        raise ZeroDivisionError
    with exclusive_lock(tmp_path / "lock", wait_seconds=0, holder="b"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_waiter_gets_the_lock_of_a_killed_holder(tmp_path: Path) -> None:
    code = """
        import sys, time
        from halrp_np.files import exclusive_lock
        with exclusive_lock(sys.argv[1], wait_seconds=0, holder="the victim"):
            print("held", flush=True)
            time.sleep(60)
    """
    path = tmp_path / "lock"
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(StorageError, match=f"process {process.pid}: the victim"),
            exclusive_lock(path, wait_seconds=0, holder="us"),
        ):
            pytest.fail("two holders")
        process.send_signal(signal.SIGKILL)
        with exclusive_lock(path, wait_seconds=10, holder="us"):
            assert b": us" in path.read_bytes()


def test_a_lock_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="to open this lock file"),
        exclusive_lock(tmp_path / "absent" / "lock", wait_seconds=0, holder="a"),
    ):
        pytest.fail("no lock")


@pytest.mark.skipif(sys.platform == "win32", reason="flock is POSIX")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(StorageError, match=r"to lock it, .* cannot lock files: choose a folder on a local disk"),
        exclusive_lock(tmp_path / "lock", wait_seconds=5, holder="a"),
    ):
        pytest.fail("no lock")
