"""A stopped run goes on to the same bytes: Ctrl-C at every step, full disks, changed data, repeated resumes."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tiny
from halrp_np import HalrpError, layers, resume, run
from halrp_np import files as whole_files
from halrp_np.benchmarks import Reporter, RunInterruptedError
from halrp_np.errors import DivergenceError, ResumeError, StorageError
from halrp_np.methods import METHODS
from halrp_np.models import MODELS, mlp
from halrp_np.runs import checkpoint
from halrp_np.runs.record import RunFolder


def stopped(data_dir: Path, out: Path, *steps: int, **changes: object) -> tiny.StopAt:
    """A run stopped by Ctrl-C after that step; its reporter."""
    reporter = tiny.StopAt(*steps)
    with pytest.raises(RunInterruptedError):
        run(tiny.config(data_dir, **changes), out, reporter)
    assert reporter.count == steps[0]
    return reporter


# ---- the same bytes -------------------------------------------------------------------------------------------------


def test_two_runs_of_one_seed_leave_the_same_bytes_and_another_seed_does_not(
    data_dir: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    tiny.assert_same_bytes(run(tiny.config(data_dir), tmp_path / "again"), expected)
    other = tiny.contents(run(tiny.config(data_dir, seed=1), tmp_path / "other"))
    for name in ("config.json", "metrics.jsonl", "ranks.csv", "summary.json"):
        assert other[name] != expected[name]
    assert other["environment.json"] == expected["environment.json"]


@pytest.mark.parametrize("step", range(1, tiny.STEPS + 1))
def test_ctrl_c_after_every_step_and_resume(
    step: int, data_dir: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    reporter = stopped(data_dir, tmp_path / "run", step)
    assert reporter.notes[-1] == "stopping after this step (Ctrl-C again to stop at once)"
    rest = tiny.StopAt()
    tiny.assert_same_bytes(resume(tmp_path / "run", rest), expected)
    assert rest.count == tiny.STEPS - step  # nothing is done twice


def test_stopped_after_every_single_step_of_its_way(data_dir: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    stopped(data_dir, tmp_path / "run", 1)
    for _ in range(tiny.STEPS - 1):
        with pytest.raises(RunInterruptedError):
            resume(tmp_path / "run", tiny.StopAt(1))
    tiny.assert_same_bytes(resume(tmp_path / "run"), expected)


def test_a_second_ctrl_c_stops_at_once_and_the_last_checkpoint_holds(
    data_dir: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    class Twice(tiny.StopAt):
        def note(self, text: str) -> None:
            if "stopping" in text:
                tiny.signal.raise_signal(tiny.signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tiny.config(data_dir), tmp_path / "run", Twice(8))
    tiny.assert_same_bytes(resume(tmp_path / "run"), expected)


OTHERS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "sgd": ({"preset": "official", "optimizer": "sgd", "momentum": 0.9, "dtype": "float64"}, [2, 8, 11]),
    "lenet": ({"model": "lenet", "widths": (2, 2, 4, 4), "tasks": 2, "train_images": 20, "batch_size": 8}, [7]),
    "curvature": ({"curvature_products": 40, "curvature_images": 5, "tasks": 2}, [3, 8]),
    "curvature from products": (
        {"curvature_products": 60, "curvature_images": 12, "norm": "batch", "batch_size": 6, "epochs": 1, "tasks": 2}
        | {"warmup_epochs": 0, "importance": "official", "compare_importances": False},
        [2, 9],
    ),
    "partial batches in stored order": ({"drop_last": False, "shuffle": False, "batch_size": 20}, [3, 8]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_configurations_resume_too(name: str, data_dir: Path, tmp_path: Path) -> None:
    changes, steps = OTHERS[name]
    expected = tiny.contents(run(tiny.config(data_dir, **changes), tmp_path / "whole"))
    for step in steps:
        stopped(data_dir, tmp_path / f"{step}", step, **changes)
        tiny.assert_same_bytes(resume(tmp_path / f"{step}"), expected)


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"halrp"}))
def test_every_method_resumes(method: str, data_dir: Path, tmp_path: Path) -> None:
    """With everything that a run can record."""
    changes: dict[str, Any] = {"method": method, "curvature_products": 40, "curvature_images": 5}
    expected = tiny.contents(run(tiny.config(data_dir, **changes), tmp_path / "whole"))
    for step in (2, 8, 15):
        stopped(data_dir, tmp_path / f"{step}", step, **changes)
        tiny.assert_same_bytes(resume(tmp_path / f"{step}"), expected)


def test_the_dropout_stream_goes_on_too(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that drops units takes the place of the MLP."""

    def dropping(shape: tuple[int, ...], classes: int, widths: tuple[int, ...], norm: str) -> layers.Sequential:
        plain = mlp(shape, classes, widths).layers
        return layers.Sequential({"flatten": plain.pop("flatten"), "dropout": layers.Dropout(0.3), **plain})

    monkeypatch.setitem(MODELS, "mlp", dropping)
    expected = tiny.contents(run(tiny.config(data_dir), tmp_path / "whole"))
    for step in (2, 8):
        stopped(data_dir, tmp_path / f"{step}", step)
        tiny.assert_same_bytes(resume(tmp_path / f"{step}"), expected)


def test_resuming_a_finished_run_changes_no_byte(whole: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    before = {path.name: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    steps = tiny.StopAt(1)
    for _ in range(2):
        assert resume(copy, steps) == copy
    assert steps.count == 0
    assert {path.name: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    tiny.assert_same_bytes(copy, expected)


def test_costs_are_the_only_thing_left_out(data_dir: Path, whole: Path, tmp_path: Path) -> None:
    """`contents` drops no file but timing.json, and no key but `cost`."""
    names = {path.name for path in whole.rglob("*") if path.is_file()}
    assert {Path(name).name for name in tiny.contents(whole)} == names - {"timing.json"}
    summary = json.loads((whole / "summary.json").read_text())
    assert set(summary) - set(json.loads(tiny.contents(whole)["summary.json"])) == {"cost"}


# ---- killed at the places between two files -------------------------------------------------------------------------


class Killed(BaseException):
    """As sudden as kill -9 can be inside one process: nothing of the package catches it."""


@pytest.mark.parametrize("task", [0, 1, 2])
@pytest.mark.parametrize("call", ["append_metric", "before state", "forget_phases", "write_csv", "write_json"])
def test_killed_around_the_save_of_a_task(
    call: str,
    task: int,
    data_dir: Path,
    expected_often: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[int] = []

    def die_at_the_end_of_the_task(original: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            if len(ends) == task + 1:
                raise Killed
            return original(*args, **options)

        return wrapped

    def count_task_lines(original: Any) -> Any:
        def wrapped(folder: Any, value: Any) -> Any:
            ends.extend([1] if value["event"] == "task" else [])
            if call == "append_metric" and len(ends) == task + 1:
                raise Killed
            return original(folder, value)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metric", count_task_lines(RunFolder.append_metric))
        if call == "before state":
            patch.setattr(checkpoint, "save", die_at_the_end_of_the_task(checkpoint.save))
        elif call == "forget_phases":
            patch.setattr(checkpoint, "remove", die_at_the_end_of_the_task(checkpoint.remove))
        elif call != "append_metric":
            patch.setattr(RunFolder, call, die_at_the_end_of_the_task(getattr(RunFolder, call)))
        with pytest.raises(Killed):
            run(tiny.config(data_dir, checkpoint_seconds=0.0), tmp_path / "run")
    tiny.assert_same_bytes(resume(tmp_path / "run"), expected_often)


# ---- a full disk ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails_at", [1, 2, 3, 6, 11, 20, 33])
def test_a_full_disk_is_named_and_nothing_is_lost(
    fails_at: int, data_dir: Path, expected_often: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbered whole-file write finds the disk full half-way; space is made, and the run goes on."""
    config = tiny.config(data_dir, checkpoint_seconds=0.0)
    original, count = whole_files.whole_file, 0

    @contextlib.contextmanager
    def full(path: Path) -> Iterator[Any]:
        nonlocal count
        count += 1
        with original(path) as write:

            def half(content: Any) -> None:
                write(bytes(content)[: len(bytes(content)) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            yield write if count < fails_at else half

    with monkeypatch.context() as patch:
        patch.setattr(whole_files, "whole_file", full)
        with pytest.raises(StorageError, match=r"expected to write it, received 'No space left on device'.*Free some"):
            run(config, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.tmp"))
    if (tmp_path / "run" / "config.json").exists():
        resume(tmp_path / "run")
    else:  # nothing had begun
        run(config, tmp_path / "run")
    tiny.assert_same_bytes(tmp_path / "run", expected_often)


def test_metrics_on_a_full_disk(
    data_dir: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halrp_np.runs import record

    lines = 0

    def full(descriptor: int, content: bytes) -> None:
        nonlocal lines
        lines += 1
        os.write(descriptor, content if lines < 4 else content[:7])
        if lines >= 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(record, "_write_all", full)
        with pytest.raises(StorageError, match=r"metrics\.jsonl: expected to append a line"):
            run(tiny.config(data_dir), tmp_path / "run")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    tiny.assert_same_bytes(resume(tmp_path / "run"), expected)


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_changed_data_is_refused(tmp_path: Path) -> None:
    data = tiny.write_data(tmp_path / "data")
    stopped(data, tmp_path / "run", 7)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for part, name in (("train-images-idx3", "pixels_sha256"), ("t10k-labels-idx1", "labels_sha256")):
        path = data / f"{part}-ubyte"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([(content[-1] + 1) % 10]))
        with pytest.raises(ResumeError, match=f"run: {name}: expected the data of the run"):
            resume(tmp_path / "run")
        path.write_bytes(content)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    shutil.rmtree(data)
    with pytest.raises(HalrpError, match=str(data)):
        resume(tmp_path / "run")
    tiny.write_data(data)  # the same again
    resume(tmp_path / "run")


def test_no_run_a_damaged_config_or_a_damaged_checkpoint_is_refused(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="no such folder"):
        resume(tmp_path / "absent")
    stopped(data_dir, tmp_path / "run", 8)
    payload = next((tmp_path / "run" / "checkpoints").glob("warm-up-*.safetensors"))
    content = payload.read_bytes()
    payload.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ResumeError, match=r"warm-up-.*expected SHA-256"):
        resume(tmp_path / "run")
    payload.write_bytes(content)
    path = tmp_path / "run" / "config.json"
    text = path.read_text()
    for damaged, message in (
        (text[:-30], "JSON"),
        (text.replace('"seed"', '"sead"'), "sead"),
        (text.replace('"tasks": 3', '"tasks": "three"', 1), "tasks"),
    ):
        path.write_text(damaged)
        with pytest.raises(HalrpError, match=message):
            resume(tmp_path / "run")
    path.write_text(text)
    resume(tmp_path / "run")


def test_a_run_that_diverges_says_where_and_keeps_its_checkpoint(data_dir: Path, tmp_path: Path) -> None:
    class Poison(Reporter):
        """Makes a parameter infinite, in the middle of task 1."""

        def step(self, plan: Any, step: int, steps: int) -> None:
            if plan.task == 1 and plan.name == "perturbation" and step == 1:
                state["params"]["head.bias"][0] = float("nan")

    from halrp_np.benchmarks.session import Session

    state: dict[str, Any] = {}
    original = Session.after_step

    def spy(self: Session, plan: Any, phase: Any, steps: int) -> None:
        state["params"] = phase.params
        original(self, plan, phase, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "after_step", spy)
        with pytest.raises(
            DivergenceError, match="task 1, phase perturbation, epoch 1, step 2: expected a finite loss"
        ):
            run(tiny.config(data_dir), tmp_path / "run", Poison())
    resume(tmp_path / "run")  # without the poison


def test_two_processes_cannot_write_one_run(data_dir: Path, tmp_path: Path) -> None:
    class Intruder(Reporter):
        def task(self, position: int, *rest: Any) -> None:
            with pytest.raises(StorageError, match="a lock held by"):
                resume(tmp_path / "run")

    run(tiny.config(data_dir, tasks=1), tmp_path / "run", Intruder())


def test_an_existing_run_is_not_overwritten(whole: Path, data_dir: Path) -> None:
    with pytest.raises(StorageError, match="Continue it with `halrp-np resume"):
        run(tiny.config(data_dir), whole)
