"""checkpoint.py: bit-exact, checksummed, and loadable whenever the writer was killed."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halrp_np.errors import ResumeError, ShapeError, StorageError
from halrp_np.runs import checkpoint

ROOT = Path(__file__).resolve().parents[2]
DTYPES = ["bool", "float16", "float32", "float64", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))]
META = {"step": 3, "rng": {"state": 2**127 + 1, "name": "init"}, "note": "é\n", "list": [1, 0.1, None, True, [], {}]}


def assert_same(loaded: dict[str, np.ndarray], saved: dict[str, np.ndarray]) -> None:
    """Same names, dtypes, shapes and bits; and arrays that a training step may write into."""
    assert loaded.keys() == saved.keys()
    for name, array in saved.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape), name
        assert loaded[name].tobytes() == array.tobytes(), name
        assert loaded[name].flags.writeable, name
        assert loaded[name].flags.c_contiguous, name


def files(folder: Path) -> list[str]:
    """The kinds of files in a folder."""
    return sorted(path.suffix for path in folder.iterdir())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (4, 5), (2, 3, 2, 3)])
def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 256, size, dtype=np.uint8)
    arrays = {"a.b/c": raw.view(dtype).reshape(shape)}  # random bits: NaN payloads and subnormals among the floats
    checkpoint.save(tmp_path / "new" / "folder", "state", arrays, META)
    loaded, meta = checkpoint.load(tmp_path / "new" / "folder", "state")
    assert_same(loaded, arrays)
    assert meta == META


def test_memory_layout_does_not_matter(tmp_path: Path) -> None:
    base = np.random.default_rng(1).normal(size=(6, 4, 5))
    arrays = {
        "fortran": np.asfortranarray(base),
        "transposed": base.T,
        "strided": base[::2, 1:, ::-1],
        "broadcast": np.broadcast_to(base[0, 0], (3, 5)),
        "read_only": np.frombuffer(base.tobytes()),
        "0-d view": base[0, 0, 0, ...],
    }
    copies = {name: array.copy() for name, array in arrays.items()}
    checkpoint.save(tmp_path, "state", arrays, {})
    assert_same(checkpoint.load(tmp_path, "state")[0], arrays)
    assert all(np.array_equal(copies[name], array) for name, array in arrays.items())
    assert base.flags.writeable


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    arrays=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5).filter(lambda name: name != "__metadata__"),
        st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0))),
        max_size=4,
    ),
    meta=st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=4,
    ),
)
def test_anything_saved_is_loaded(tmp_path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    checkpoint.save(tmp_path, "any", arrays, meta)
    loaded, loaded_meta = checkpoint.load(tmp_path, "any")
    assert_same(loaded, arrays)
    assert json.dumps(loaded_meta, sort_keys=True) == json.dumps(
        meta, sort_keys=True
    )  # tells 1 from 1.0, 0.0 from -0.0


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    arrays = {name: np.random.default_rng(2).normal(size=(3, 4)) for name in "dacb"}
    checkpoint.save(tmp_path / "1", "x", arrays, {"b": 1, "a": 2})
    checkpoint.save(tmp_path / "2", "x", dict(sorted(arrays.items())), {"a": 2, "b": 1})
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in "12")
    assert first == second


def test_a_save_replaces_its_own_name_and_no_other(tmp_path: Path) -> None:
    for name in ("task", "task-1", "task-0123456789ab"):
        checkpoint.save(tmp_path, name, {"x": np.arange(3)}, {"name": name})
    for step in range(3):
        checkpoint.save(tmp_path, "task", {"x": np.arange(step)}, {"name": "task", "step": step})
    assert files(tmp_path) == [".json"] * 3 + [".safetensors"] * 3
    for name in ("task", "task-1", "task-0123456789ab"):
        assert checkpoint.load(tmp_path, name)[1]["name"] == name
    checkpoint.save(tmp_path, "task", {"x": np.arange(2)}, {"same": "arrays, other meta"})
    checkpoint.remove(tmp_path, "task-1")
    assert [checkpoint.exists(tmp_path, name) for name in ("task", "task-1", "absent")] == [True, False, False]
    assert files(tmp_path) == [".json"] * 2 + [".safetensors"] * 2
    assert checkpoint.load(tmp_path, "task")[1] == {"same": "arrays, other meta"}
    checkpoint.remove(tmp_path, "task-1")


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.array(["text"]), "one of the dtypes .*float64"),
        (np.array([None]), "received |O"),
        (np.array([1j]), "received <c16"),
        (np.arange(3, dtype=">f8"), "received >f8"),
        (np.zeros(2, "M8[s]"), "one of the dtypes"),
        (np.float64(1), "a NumPy array, received a numpy.float64"),
        ([1, 2], "received a builtins.list. Call device.to_host"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path: Path, array: Any, match: str) -> None:
    with pytest.raises(ShapeError, match=match) as caught:
        checkpoint.save(tmp_path, "state", {"good": np.zeros(2), "bad": array}, {})
    assert "array 'bad'" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arrays", "meta", "match"),
    [
        ({3: np.zeros(1)}, {}, "array 3: expected a string"),
        ({"__metadata__": np.zeros(1)}, {}, "Rename the array"),
        ({}, {1: 2}, "the key 1 of type int"),
        ({}, {"a": {None: 2}}, "meta.a: .*the key None"),
        ({}, {"loss": float("nan")}, "meta.loss: .*received nan"),
        ({}, {"a": [1, {"b": float("inf")}]}, r"meta.a\[1\].b: .*received inf"),
        ({}, {"a": np.zeros(2)}, r"a ndarray. Call .tolist\(\)"),
        ({}, {"a": {1, 2}}, "a set"),
    ],
)
def test_what_json_cannot_hold_is_refused(tmp_path: Path, arrays: Any, meta: Any, match: str) -> None:
    with pytest.raises(StorageError, match=match):
        checkpoint.save(tmp_path, "state", arrays, meta)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a b", "a\n"])
def test_names_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    for call in (checkpoint.exists, checkpoint.load, checkpoint.remove):
        with pytest.raises(ResumeError, match="checkpoint name"):
            call(tmp_path, name)
    with pytest.raises(ResumeError, match="checkpoint name"):
        checkpoint.save(tmp_path, name, {}, {})


def edit(**changes: object) -> Callable[[Path, Path], None]:
    """Return a damage that changes keys of the manifest."""
    return lambda manifest, _: manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes})) and None


def flip(position: int) -> Callable[[Path, Path], None]:
    """Return a damage that flips one bit of the payload."""

    def damage(_: Path, payload: Path) -> None:
        content = bytearray(payload.read_bytes())
        content[position] ^= 1
        payload.write_bytes(content)

    return damage


def claim_other_payload(manifest: Path, payload: Path) -> None:
    """Replace the payload and its checksum, but not the list of arrays."""
    import hashlib

    from safetensors.numpy import save

    content = save({"x": np.arange(6, dtype=np.float32), "y": np.zeros(2)})
    payload.write_bytes(content)
    edit(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())(manifest, payload)


def claim_garbage(manifest: Path, payload: Path) -> None:
    """Replace the payload by something that is no safetensors file, with a correct checksum."""
    import hashlib

    payload.write_bytes(b"garbage!!")
    edit(bytes=9, sha256=hashlib.sha256(b"garbage!!").hexdigest())(manifest, payload)


DAMAGES: list[tuple[Callable[[Path, Path], object], str, str]] = [
    (lambda m, p: m.unlink(), "state.json", "'No such file or directory'.* resume from another"),
    (lambda m, p: m.write_bytes(b""), "state.json", "expected JSON"),
    (lambda m, p: m.write_bytes(m.read_bytes()[:-20]), "state.json", "expected JSON, .*line"),
    (lambda m, p: m.write_bytes(b"\xff\xfe"), "state.json", "expected JSON"),
    (lambda m, p: m.write_bytes(b"[" * 100_000), "state.json", "nested too deeply"),
    (lambda m, p: m.write_bytes(b'{"a": NaN}'), "state.json", "NaN is not"),
    (lambda m, p: m.write_bytes(b"[1]"), "state.json", "another kind of file"),
    (lambda m, p: m.write_bytes(b"{}"), "state.json", "another kind of file"),
    (edit(format_version=2), "state.json", "version 1, received version 2. .*another version of halrp-np"),
    (edit(format_version="1"), "state.json", "received version '1'"),
    (edit(payload="../state-0123456789ab.safetensors"), "state.json", "in the same folder, received '../state"),
    (edit(payload="/etc/passwd"), "state.json", "in the same folder, received '/etc/passwd'"),
    (edit(payload="other-0123456789ab.safetensors"), "state.json", "in the same folder"),
    (edit(payload=3), "state.json", "a str under 'payload', received 3"),
    (edit(meta=None), "state.json", "a dict under 'meta'"),
    (lambda m, p: p.unlink(), ".safetensors", "the arrays that state.json names"),
    (lambda m, p: p.write_bytes(p.read_bytes()[:-1]), ".safetensors", "bytes, received .* bytes. The file is damaged"),
    (lambda m, p: p.write_bytes(b""), ".safetensors", "received 0 bytes"),
    (lambda m, p: p.write_bytes(p.read_bytes() + b"x"), ".safetensors", "The file is damaged"),
    (flip(0), ".safetensors", "the file has changed"),
    (flip(40), ".safetensors", "the file has changed"),
    (flip(-1), ".safetensors", "the file has changed"),
    (edit(sha256="0" * 64), ".safetensors", "expected SHA-256 000"),
    (claim_garbage, ".safetensors", "a safetensors file"),
    (claim_other_payload, ".safetensors", "'x' as state.json lists it"),
]


@pytest.mark.parametrize(("damage", "file", "match"), DAMAGES)
def test_a_damaged_checkpoint_names_the_file_and_the_next_step(
    tmp_path: Path, damage: Callable[[Path, Path], object], file: str, match: str
) -> None:
    checkpoint.save(tmp_path, "state", {"x": np.arange(6.0), "y": np.zeros(2)}, META)
    (payload,) = tmp_path.glob("*.safetensors")
    damage(tmp_path / "state.json", payload)
    with pytest.raises(ResumeError, match=match) as caught:
        checkpoint.load(tmp_path, "state")
    assert caught.value.where.startswith(str(tmp_path))
    assert caught.value.where.endswith(file)
    checkpoint.save(tmp_path, "state", {"x": np.zeros(1)}, {})  # and a later save heals it
    assert checkpoint.load(tmp_path, "state")[1] == {}
    assert files(tmp_path) == [".json", ".safetensors"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """The disk is full at the payload (1) or at the manifest (2)."""
    checkpoint.save(tmp_path, "state", {"x": np.arange(3)}, {"age": "old"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls, replace = iter(range(1, 9)), os.replace

    def full(*arguments: Any) -> None:
        if next(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(*arguments)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=r"No space left on device.*Free some space"):
        checkpoint.save(tmp_path, "state", {"x": np.arange(4)}, {"age": "new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert checkpoint.load(tmp_path, "state")[1] == {"age": "old"}


def test_a_folder_that_cannot_be_made_or_emptied_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="to create this folder"):
        checkpoint.save(tmp_path / "file", "state", {}, {})
    with pytest.raises(StorageError, match="A file stands where"):
        checkpoint.save(tmp_path / "file" / "inside", "state", {}, {})
    (tmp_path / "state.json").mkdir()
    with pytest.raises(StorageError, match="to delete it"):
        checkpoint.remove(tmp_path, "state")
    with pytest.raises(StorageError, match="A folder stands where"):
        checkpoint.save(tmp_path, "state", {"x": np.zeros(3)}, {})


def test_clean_deletes_only_what_its_manifest_does_not_name(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "kept", {"x": np.arange(3)}, {})
    checkpoint.save(tmp_path, "broken", {"x": np.arange(4)}, {})
    (tmp_path / "broken.json").write_text("{")
    orphans = ["kept-0123456789ab.safetensors", ".halrp-1.tmp"]
    foreign = ["mine.safetensors", "notes.txt", " -0123456789ab.safetensors", "broken-0123456789ab.safetensors"]
    foreign += ["lost-0123456789ab.safetensors"]  # it may be all that is left of a run
    kept = {path.name for path in tmp_path.iterdir()} | set(foreign)
    for name in orphans + foreign:
        (tmp_path / name).write_bytes(b"?")
    checkpoint.clean(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
    checkpoint.clean(tmp_path / "absent")
    assert checkpoint.names(tmp_path) == ["broken", "kept", "lost"]
    assert checkpoint.names(tmp_path / "absent") == []
    checkpoint.remove(tmp_path, "lost")  # on purpose, it goes
    assert checkpoint.names(tmp_path) == ["broken", "kept"]


def test_the_meta_is_read_without_the_arrays(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "state", {"x": np.arange(3)}, {"step": 4})
    next(tmp_path.glob("*.safetensors")).unlink()
    assert checkpoint.load_meta(tmp_path, "state") == {"step": 4}
    manifest = tmp_path / "state.json"
    manifest.write_text(manifest.read_text().replace('"step": 4', '"step": 5'))
    with pytest.raises(ResumeError, match="expected a meta with SHA-256"):
        checkpoint.load_meta(tmp_path, "state")


KILLS = """
    import os, random, signal, sys, time
    from pathlib import Path
    import numpy as np
    from halrp_np.runs import checkpoint

    folder = Path(sys.argv[1])

    def save(step):
        checkpoint.save(folder, "state", {"x": np.full(20_000, step)}, {"step": step})

    def child(work):
        pid = os.fork()
        if pid == 0:
            work()
            os._exit(0)
        return pid

    def check(allowed):
        arrays, meta = checkpoint.load(folder, "state")
        assert meta["step"] in allowed and (arrays["x"] == meta["step"]).all(), (meta, allowed)
        checkpoint.clean(folder)
        assert len(list(folder.iterdir())) == 2, list(folder.iterdir())
        assert checkpoint.load(folder, "state")[1] == meta
        return meta["step"]

    def die_at(call):
        # die right before the given one of the calls that change the disk: a kill at each moment that matters
        count = 0
        def dying(function):
            def replacement(*arguments, **keywords):
                nonlocal count
                count += 1
                if count == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **keywords)
            return replacement
        os.fsync, os.replace, Path.unlink = map(dying, (os.fsync, os.replace, Path.unlink))
        save(last + 1)

    def save_for_ever():
        for step in range(last + 1, 10**9):
            save(step)

    save(1)
    last, seen = 1, set()
    for call in range(1, 20):
        pid = child(lambda: die_at(call))
        killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        now = check({last, last + 1})
        seen.add((killed, now - last))
        last = now
        if not killed:
            break
    assert call >= 8 and seen == {(True, 0), (True, 1), (False, 1)}, (call, seen)
    random.seed(0)
    for _ in range(30):
        pid = child(save_for_ever)
        time.sleep(random.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        last = check(range(last, 10**9))
    print("survived, last step", last)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_kill_at_any_moment_leaves_a_loadable_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLS), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("survived"), done.stderr


def test_a_digit_changed_in_the_meta_is_noticed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "state", {"x": np.zeros(2)}, {"step": 41})
    manifest = tmp_path / "state.json"
    manifest.write_text(manifest.read_text().replace("41", "42"))
    with pytest.raises(ResumeError, match="expected a meta with SHA-256"):
        checkpoint.load(tmp_path, "state")
