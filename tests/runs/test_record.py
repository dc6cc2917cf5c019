"""record.py: what a run folder accepts, how it is written, and that readers get back what was written."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halrp_np.errors import ResumeError, StorageError
from halrp_np.runs import checkpoint
from halrp_np.runs.record import RunFolder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A new run folder with a configuration."""
    made = RunFolder.create(tmp_path / "run")
    made.write_json("config.json", {"seed": 0})
    return made


def test_a_new_folder_is_made_with_its_parents_and_opened_again(tmp_path: Path) -> None:
    made = RunFolder.create(tmp_path / "a" / "b")
    made.write_json("config.json", {"seed": 3, "preset": "paper"})
    assert RunFolder.open(str(tmp_path / "a" / "b")).config() == {"seed": 3, "preset": "paper"}
    assert made.read_json("config.json")["format_version"] == 1
    assert made.checkpoints.parent == made.path


def test_create_refuses_a_run_and_advises_to_resume_it(folder: RunFolder) -> None:
    with pytest.raises(StorageError, match=r"holds a run. Continue it with `halrp-np resume .*run`, or choose another"):
        RunFolder.create(folder.path)
    assert [entry.name for entry in folder.path.iterdir()] == ["config.json"]


def test_create_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StorageError, match=r"holds thesis\.tex\. Choose another folder with --out"):
        RunFolder.create(tmp_path)
    with pytest.raises(StorageError, match="A file stands where a folder is needed"):
        RunFolder.create(tmp_path / "thesis.tex")
    with pytest.raises(StorageError, match="A file stands where a folder is needed"):
        RunFolder.create(tmp_path / "thesis.tex" / "run")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_create_names_a_read_only_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StorageError, match=f"{os.strerror(number)}.*may write to"):
        RunFolder.create(tmp_path / "run")


def test_create_takes_over_what_a_kill_left_before_the_configuration(tmp_path: Path) -> None:
    made = RunFolder.create(tmp_path)
    with made.lock():
        (tmp_path / ".halrp-0.tmp").write_bytes(b"half a config")
        again = RunFolder.create(tmp_path)
    with again.lock():
        assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"a run folder \(one with a config\.json\), received a folder without it"),
        (b"", "expected JSON"),
        (b"[]", "a JSON object, received a list"),
        (b"{}", "another kind of JSON file"),
        (b'{"format": "halrp-np run", "format_version": 2}', "version 1, received version 2.*another version of"),
        (b'{"format": "halrp-np run"}', "received version None"),
        (b'{"seed": \xff}', "UTF-8"),
        (b'{"seed": Infinity}', "Infinity is not"),
    ],
)
def test_open_refuses_what_it_cannot_read(tmp_path: Path, content: bytes | None, match: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ResumeError, match=match) as caught:
        RunFolder.open(tmp_path)
    assert str(tmp_path) in caught.value.where


def test_open_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match=r"received no such folder. Check the path"):
        RunFolder.open(tmp_path / "absent")


def test_one_process_at_a_time(folder: RunFolder) -> None:
    with (
        folder.lock("halrp-np run"),
        pytest.raises(StorageError, match=rf"process {os.getpid()}: halrp-np run\. Wait"),
        folder.lock("halrp-np resume"),
    ):
        pytest.fail("two holders")


def test_the_lock_clears_what_a_killed_writer_left(folder: RunFolder) -> None:
    checkpoint.save(folder.checkpoints, "task-0", {"x": np.arange(3)}, {})
    kept = sorted(path.name for path in folder.checkpoints.iterdir())
    for path in (folder.path / ".halrp-1.tmp", folder.checkpoints / ".halrp-2.tmp"):
        path.write_bytes(b"half")
    (folder.checkpoints / "task-0-0123456789ab.safetensors").write_bytes(b"old")
    with folder.lock():
        pass
    assert sorted(path.name for path in folder.path.iterdir()) == [".lock", "checkpoints", "config.json"]
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == kept


def test_json_is_sorted_exact_and_pleasant_to_read(folder: RunFolder) -> None:
    value = {"b": [[1, 2.5], [0.1, 1e-300]], "a": {"z": (), "y": {}, "x": None}, "f": np.float32(0.1), "n": np.int64(3)}
    folder.write_json("summary.json", value)
    text = (folder.path / "summary.json").read_text()
    assert text == textwrap.dedent(
        """\
        {
          "a": {
            "x": null,
            "y": {},
            "z": []
          },
          "b": [
            [1, 2.5],
            [0.1, 1e-300]
          ],
          "f": 0.10000000149011612,
          "n": 3
        }
        """
    )
    assert folder.read_json("summary.json") == json.loads(text)


def test_a_number_that_is_not_finite_becomes_null_with_its_reason(folder: RunFolder) -> None:
    value = {"loss": float("nan"), "best": np.float32("inf"), "inner": {"x": -np.inf}, "y": np.nan, "y_reason": "mine"}
    folder.write_json("summary.json", value)
    assert folder.read_json("summary.json") == {
        "loss": None,
        "loss_reason": "not a finite number: nan",
        "best": None,
        "best_reason": "not a finite number: inf",
        "inner": {"x": None, "x_reason": "not a finite number: -inf"},
        "y": None,
        "y_reason": "mine",
    }


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"a": [1.0, float("nan")]}, r"value.a\[1\]: .*received nan. Store null and a reason"),
        ({"a": {1: 2}}, "the key 1 of type int. Write the key as a string"),
        ({"a": np.zeros(3)}, r"a ndarray. Call .tolist\(\)"),
        ({"a": Path("x")}, "a .*Path. Convert it"),
        ({"a": np.complex64(1j)}, "a complex"),
        ({"a": b"x"}, "a bytes"),
    ],
)
def test_json_refuses_what_would_not_come_back(folder: RunFolder, value: dict[str, Any], match: str) -> None:
    with pytest.raises(StorageError, match=match):
        folder.write_json("summary.json", value)
    with pytest.raises(StorageError, match=match):
        folder.append_metric(value)
    assert [entry.name for entry in folder.path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", ["", "../x.json", "a/b.json", "/x.json", ".."])
def test_files_stay_in_the_folder(folder: RunFolder, name: str) -> None:
    for call in (lambda: folder.write_json(name, {}), lambda: folder.read_csv(name), lambda: folder.read_json(name)):
        with pytest.raises(StorageError, match="a file name"):
            call()


def test_tables_come_back_typed(folder: RunFolder) -> None:
    header = ["task", "accuracy", "layer", "clamped", "empty", "id"]
    rows = [
        [0, 0.1 + 0.2, "conv1", True, None, "007"],
        [np.int64(1), np.float32(0.5), 'a,"b"', np.False_, None, "1"],
        [-2, None, "", None, None, None],
        [3, 1e-7, "1.5", False, None, "1e3"],
    ]
    folder.write_csv("ranks.csv", header, rows)
    text = (folder.path / "ranks.csv").read_text()
    assert text.splitlines()[1] == "0,0.30000000000000004,conv1,true,,007"
    got_header, got = folder.read_csv("ranks.csv")
    assert got_header == header
    assert [row["accuracy"] for row in got] == [0.1 + 0.2, 0.5, None, 1e-7]
    assert [row["task"] for row in got] == [0, 1, -2, 3]
    assert [row["layer"] for row in got] == ["conv1", 'a,"b"', None, "1.5"]
    assert [row["clamped"] for row in got] == [True, False, None, False]
    assert [row["empty"] for row in got] == [None] * 4
    assert [row["id"] for row in got] == ["007", "1", None, "1e3"]  # a text column stays one
    assert [type(row["task"]) for row in got] == [int] * 4


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False),
            st.none() | st.integers(-(10**30), 10**30),
            st.text(st.characters(exclude_categories=["C", "Z"]), max_size=4).map(lambda text: "x" + text),
        ),
        max_size=5,
    )
)
def test_any_table_comes_back(tmp_path: Path, rows: list[tuple[object, ...]]) -> None:
    run = RunFolder(tmp_path)
    run.write_csv("t.csv", ["a", "b", "c"], rows)
    _, got = run.read_csv("t.csv")
    assert [tuple(map(repr, row.values())) for row in got] == [tuple(map(repr, row)) for row in rows]


def test_a_table_with_one_column_keeps_its_empty_cells(folder: RunFolder) -> None:
    folder.write_csv("t.csv", ["a"], [[None], [1.0], [None]])
    assert folder.read_csv("t.csv")[1] == [{"a": None}, {"a": 1.0}, {"a": None}]
    folder.write_csv("t.csv", ["a", "b"], [])
    assert folder.read_csv("t.csv") == (["a", "b"], [])


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([[1, 2], [1]], r"row 2: expected 2 cells \(a, b\), received 1 cells"),
        ([[1, float("nan")]], "row 1, b: .*received nan. Write None"),
        ([[np.float32("inf"), 1]], "row 1, a: .*received inf"),
        ([["two\nlines", 1]], "text on one line.*two"),
        ([[[1], 1]], "received a list"),
    ],
)
def test_a_table_refuses_what_would_not_come_back(folder: RunFolder, rows: list[list[object]], match: str) -> None:
    with pytest.raises(StorageError, match=match):
        folder.write_csv("t.csv", ["a", "b"], rows)
    assert not (folder.path / "t.csv").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "No such file"),
        (b"", "no header line"),
        (b"\n1,2\n", "no header line"),
        (b"a,b\n1,2\n3\n", "line 3: .*received 1 cells"),
        (b'a,b\n1,"2', "unexpected end of data"),
        (b"a,b\n\xff,2\n", "UTF-8"),
    ],
)
def test_a_damaged_table_is_named(folder: RunFolder, content: bytes | None, match: str) -> None:
    if content is not None:
        (folder.path / "t.csv").write_bytes(content)
    with pytest.raises(ResumeError, match=match) as caught:
        folder.read_csv("t.csv")
    assert "t.csv" in caught.value.where


def test_a_table_touched_by_an_editor_still_reads(folder: RunFolder) -> None:
    (folder.path / "t.csv").write_bytes(b"a,b\r\n0.50,x\r\n\r\n1e-3,y\r\n")
    assert folder.read_csv("t.csv")[1] == [{"a": 0.5, "b": "x"}, {"a": 0.001, "b": "y"}]


def test_metrics_are_lines_that_are_there_at_once(folder: RunFolder) -> None:
    assert folder.metrics_bytes() == 0
    assert folder.read_metrics() == []
    values = [{"step": step, "loss": 1 / (step + 3)} for step in range(3)]
    for count, value in enumerate(values, start=1):
        folder.append_metric(value)
        assert folder.read_metrics() == values[:count]
    content = (folder.path / "metrics.jsonl").read_bytes()
    assert content.splitlines()[0] == b'{"loss": 0.3333333333333333, "step": 0}'
    assert folder.metrics_bytes() == len(content)


def test_metrics_rewind_to_where_a_checkpoint_was_saved(folder: RunFolder) -> None:
    folder.rewind_metrics(0)
    folder.append_metric({"step": 0})
    noted = folder.metrics_bytes()
    folder.append_metric({"step": 1})
    with open(folder.path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 2, "lo')
    assert folder.read_metrics() == [{"step": 0}, {"step": 1}]  # a torn last line is left out
    folder.rewind_metrics(noted)
    folder.append_metric({"step": 1})
    assert (folder.path / "metrics.jsonl").read_bytes() == b'{"step": 0}\n{"step": 1}\n'
    folder.rewind_metrics(noted * 2)
    for wrong in (noted - 1, noted * 2 + 1):
        with pytest.raises(ResumeError, match=f"a line that ends at byte {wrong}"):
            folder.rewind_metrics(wrong)
    folder.rewind_metrics(0)
    assert folder.read_metrics() == []


@pytest.mark.parametrize(("line", "match"), [(b"{]\n", "JSON in line 2"), (b"3\n", "a JSON object in line 2")])
def test_a_damaged_line_of_metrics_is_named(folder: RunFolder, line: bytes, match: str) -> None:
    folder.append_metric({"step": 0})
    with open(folder.path / "metrics.jsonl", "ab") as file:
        file.write(line)
    with pytest.raises(ResumeError, match=match):
        folder.read_metrics()


def test_a_full_disk_does_not_tear_a_line(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.append_metric({"step": 0})
    write, calls = os.write, iter(range(9))

    def half(descriptor: int, content: bytes) -> int:
        if next(calls):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content[:5])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(StorageError, match=r"metrics.jsonl: expected to append a line.*Free some space"):
        folder.append_metric({"step": 1})
    assert (folder.path / "metrics.jsonl").read_bytes() == b'{"step": 0}\n'


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX file size limits")
def test_a_really_full_file_does_not_tear_a_line(folder: RunFolder) -> None:
    code = """
        import resource, sys
        from halrp_np.errors import StorageError
        from halrp_np.runs.record import RunFolder
        folder = RunFolder.open(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            for step in range(200):
                folder.append_metric({"step": step})
        except StorageError as error:
            print(step, error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert "Free some space" in done.stdout, done.stderr
    content = (folder.path / "metrics.jsonl").read_bytes()
    assert 980 < len(content) <= 1000
    assert content.endswith(b"}\n")
    assert len(folder.read_metrics()) == int(done.stdout.split()[0])


def test_a_metrics_file_that_cannot_be_one_is_named(folder: RunFolder) -> None:
    (folder.path / "metrics.jsonl").mkdir()
    for call in (lambda: folder.append_metric({}), folder.metrics_bytes, lambda: folder.rewind_metrics(0)):
        with pytest.raises(StorageError, match=r"metrics\.jsonl.*A folder stands where a file is needed"):
            call()
