"""Whole processes: what they are asked to do, and what is said of their times."""

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks.tiny import write_data
from halrp_np.timing import whole, whole_run
from halrp_np.timing.processes import Ended
from timing.small import settings


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few images in place of the sample."""
    monkeypatch.setattr(whole, "write_digits", lambda folder: write_data(folder))
    return write_data(tmp_path / "tiny")


def test_a_run_prints_its_steps_and_accuracies(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = whole.task_config(settings(batch=16), digits, epochs=3, tasks=2)
    (tmp_path / "order.json").write_text(json.dumps({"config": config, "out": str(tmp_path / "run")}))
    whole_run.main(str(tmp_path / "order.json"))
    found = json.loads(capsys.readouterr().out)
    assert len(found["accuracy"]) == 2
    assert len(found["step_ms"]["1"]) == 2 * 3 - 1  # of two epochs of three steps, the times between them
    ranks = (tmp_path / "run" / "ranks.csv").read_text().splitlines()
    column = ranks[0].split(",").index("rank")
    assert [int(row.split(",")[column]) for row in ranks[1:]] == [2, 2, 3, 3]  # the largest asked for, or full


def test_a_task_is_told_cold_warm_and_beside_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = json.dumps({"accuracy": [50.0, 60.0]}).encode()
    seconds = iter([50.0, 10.0, 60.0, 12.0])
    ours = lambda order, chosen, place, cache: Ended(next(seconds), 10**9, output)  # noqa: E731
    monkeypatch.setattr(whole, "write_digits", lambda folder: folder)
    monkeypatch.setattr(whole, "_run_ours", ours)
    monkeypatch.setattr(whole, "_run_torch", lambda chosen, data, place: Ended(33.0, 2 * 10**9, output))
    found = whole.time_task(settings(rounds=2), tmp_path, against_torch=True)
    assert (found["cold_s"], found["ours_s"], found["torch_s"], found["ratio"]) == (55.0, 11.0, 33.0, 3.0)
    assert (found["ours_peak_bytes"], found["torch_peak_bytes"]) == (10**9, 2 * 10**9)
    assert found["ours_accuracy"] == [50.0, 60.0]


def test_a_late_task_is_told_beside_an_early_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = json.dumps({"step_ms": {"1": [10.0, 10.0], "9": [11.0, 11.0]}}).encode()
    monkeypatch.setattr(whole, "write_digits", lambda folder: folder)
    monkeypatch.setattr(whole, "_run_ours", lambda *given: Ended(1.0, 1, output))
    found = whole.time_late_task(settings(), tmp_path, against_torch=False)
    assert (found["second_ms"], found["tenth_ms"], found["ratio"]) == (10.0, 11.0, 1.1)


def test_a_start_is_cold_once_and_then_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = []

    def first(name: str, command: list[str], variables: dict[str, str]) -> float:
        caches.append(variables["NUMBA_CACHE_DIR"])
        return 40.0 if caches.count(caches[-1]) == 1 else 2.0

    monkeypatch.setattr(whole, "_seconds_to_first", first)
    found = whole.time_start(settings(rounds=2), tmp_path, against_torch=False)
    assert (found["cold_s"], found["ours_s"]) == (40.0, 2.0)
    assert len(set(caches)) == 2


def test_patterns_stand_in_for_an_absent_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(source: str) -> None:
        raise whole.DataError("the sample", expected="it", received="none", next_step="")

    monkeypatch.setattr(whole, "load_mnist", absent)
    monkeypatch.setattr(whole, "PATTERN_IMAGES", (20, 10))
    folder = whole.write_digits(tmp_path / "digits")
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sizes["train-images-idx3-ubyte"] == 16 + 20 * 784
    assert sizes["t10k-labels-idx1-ubyte"] == 8 + 10


@pytest.mark.slow
def test_a_task_of_both(digits: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    found = whole.time_task(settings(epochs=2, batch=16), tmp_path / "digits", against_torch=True)
    assert len(found["ours_accuracy"]) == len(found["torch_accuracy"]) == 2
    assert found["ratio"] > 0
