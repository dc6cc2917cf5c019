"""Seconds and memory: kept over resumes and kills, unknown where they are lost, and nothing else depends on them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tiny
from halrp_np import Device, resume, run
from halrp_np.benchmarks import Reporter, RunInterruptedError, session, tables
from halrp_np.benchmarks.session import Session
from halrp_np.methods.halrp import Halrp
from halrp_np.runs import RunFolder, checkpoint

KINDS = {"learn_seconds", "evaluate_seconds", "look_back_seconds", "peak_memory_bytes", "phases"}
LATER = {"warm-up": 3.0, "perturbation": 3.0, "between": 0.0}
PHASES = [{"base": 6.0, "between": 0.0}, LATER, LATER]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class SlowSteps(tiny.StopAt):
    """Every step takes a second on the clock."""

    def __init__(self, clock: Clock, *steps: int) -> None:
        super().__init__(*steps)
        self.clock = clock

    def step(self, plan: Any, step: int, steps: int) -> None:
        self.clock.now += 1.0
        super().step(plan, step, steps)


def learn_seconds(folder: Path) -> list[float]:
    return [task["learn_seconds"] for task in json.loads((folder / "timing.json").read_text())["tasks"]]


def phases(folder: Path) -> list[dict[str, float]]:
    return [task["phases"] for task in json.loads((folder / "timing.json").read_text())["tasks"]]


@pytest.mark.parametrize("step", range(1, tiny.STEPS + 1))
def test_seconds_add_up_over_a_resume(
    step: int, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(session, "time", clock)
    with pytest.raises(RunInterruptedError):
        run(tiny.config(data_dir), tmp_path / "run", SlowSteps(clock, step))
    clock.now += 5000.0  # another day
    resume(tmp_path / "run", SlowSteps(clock))
    assert learn_seconds(tmp_path / "run") == [6.0, 6.0, 6.0]
    assert phases(tmp_path / "run") == PHASES
    cost = json.loads((tmp_path / "run" / "summary.json").read_text())["cost"]
    assert cost["learn_seconds"] == 18.0
    assert cost["phases"] == {"base": 6.0, "warm-up": 6.0, "perturbation": 6.0, "between": 0.0}


def test_seconds_add_up_over_a_resume_after_every_step(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(session, "time", clock)
    with pytest.raises(RunInterruptedError):
        run(tiny.config(data_dir), tmp_path / "run", SlowSteps(clock, 1))
    for _ in range(tiny.STEPS - 1):
        clock.now += 5000.0
        with pytest.raises(RunInterruptedError):
            resume(tmp_path / "run", SlowSteps(clock, 1))
    resume(tmp_path / "run", SlowSteps(clock))
    assert learn_seconds(tmp_path / "run") == [6.0, 6.0, 6.0]
    assert phases(tmp_path / "run") == PHASES


def test_what_lies_between_two_phases_is_told_apart(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, original = Clock(), Halrp.fit_scalings

    def slow(*arguments: Any) -> Any:
        clock.now += 10.0
        return original(*arguments)

    monkeypatch.setattr(session, "time", clock)
    monkeypatch.setattr(Halrp, "fit_scalings", slow)
    run(tiny.config(data_dir), tmp_path / "run", SlowSteps(clock))
    assert phases(tmp_path / "run") == [PHASES[0], *2 * [{**LATER, "between": 10.0}]]
    assert learn_seconds(tmp_path / "run") == [6.0, 16.0, 16.0]


def test_phases_are_part_of_the_time_of_their_task(whole: Path) -> None:
    names = [{"base", "between"}, *2 * [{"warm-up", "perturbation", "between"}]]
    assert [set(found) for found in phases(whole)] == names
    for found, seconds in zip(phases(whole), learn_seconds(whole), strict=True):
        assert min(found.values()) >= 0.0
        assert 0.0 < sum(found.values()) <= seconds * (1 + 1e-12)


@pytest.mark.parametrize("where", ["in the task", "before it"])
def test_phases_that_an_earlier_version_did_not_time_are_unknown(where: str, data_dir: Path, tmp_path: Path) -> None:
    """Its checkpoints and its timing.json have none; what they have stays."""
    with pytest.raises(RunInterruptedError):
        run(tiny.config(data_dir), tmp_path / "run", tiny.StopAt(8))
    checkpoints, timing = tmp_path / "run" / "checkpoints", tmp_path / "run" / "timing.json"
    if where == "in the task":
        arrays, meta = checkpoint.load(checkpoints, "warm-up")
        checkpoint.save(checkpoints, "warm-up", arrays, {key: meta[key] for key in meta if key != "phases"})
    else:
        (first,) = json.loads(timing.read_text())["tasks"]
        timing.write_text(json.dumps({"tasks": [{key: first[key] for key in first if key != "phases"}]}))
    resume(tmp_path / "run")
    tasks = json.loads(timing.read_text())["tasks"]
    assert [set(task) - {"phases"} for task in tasks] == 3 * [KINDS - {"phases"}]
    assert ["phases" in task for task in tasks] == [where == "in the task", where != "in the task", True]
    assert "phases" not in json.loads((tmp_path / "run" / "summary.json").read_text())["cost"]


def test_a_phase_of_another_task_brings_no_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(session, "time", clock)
    hooks = Session(RunFolder(tmp_path), Device("cpu"), Reporter(), 30.0)
    clock.now += 3.0
    assert hooks.elapsed() == 3.0
    hooks.start_clock()
    assert hooks.elapsed() == 0.0


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"[]", b"{}", b'{"tasks": 3}', b'{"tasks": [{}, 1, "x"]}'])
def test_a_damaged_file_of_times_means_unknown(
    content: bytes | None, whole: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    (folder / "timing.json").unlink()
    if content is not None:
        (folder / "timing.json").write_bytes(content)
    tiny.assert_same_bytes(resume(folder), expected)
    assert json.loads((folder / "timing.json").read_text()) == {"tasks": [None, None, None]}
    cost = json.loads((folder / "summary.json").read_text())["cost"]
    unknown = {"learn_seconds": 0, "evaluate_seconds": 0, "peak_memory_bytes": None, "tasks_of_unknown_cost": 3}
    assert cost == unknown


def test_what_is_known_is_added_and_what_is_not_is_counted(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    tasks = json.loads((whole / "timing.json").read_text())["tasks"]
    assert all(set(task) == KINDS for task in tasks)
    odd = {**tasks[1], "learn_seconds": "long"}, {**tasks[2], "phases": {"base": None}}
    (folder / "timing.json").write_text(json.dumps({"tasks": [tasks[0], *odd]}))
    resume(folder)
    assert json.loads((folder / "timing.json").read_text()) == {"tasks": [tasks[0], None, None]}
    cost = json.loads((folder / "summary.json").read_text())["cost"]
    known = {key: value for key, value in tasks[0].items() if key != "look_back_seconds"}
    assert cost == {**known, "tasks_of_unknown_cost": 2}


def test_times_of_tasks_that_are_not_learned_are_dropped(whole: Path) -> None:
    """A kill between timing.json and the state leaves one more."""
    assert len(tables.read_timing(RunFolder(whole), 2)) == 2
