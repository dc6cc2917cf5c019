"""`halrp-np sweep`: its lists, its plan, its runs and its end."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import halrp_np
from benchmarks import tiny as small

Invoke = Callable[..., Result]

MINE = """
title = "Mine"
methods = ["halrp", "stl"]
models = ["mlp"]
[settings]
data_dir = "{data}"
widths = [8, 6]
batch_size = 16
tasks = 3
epochs = 1
warmup_epochs = 1
stop_after = 1
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A sweep of two small runs."""
    data = small.write_data(tmp_path / "data")
    (tmp_path / "mine.toml").write_text(MINE.format(data=data.as_posix()))
    return tmp_path / "mine.toml"


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A list for state and reason of each run, filled by the test, in place of running them."""
    ends: list[tuple[str, str]] = []

    def execute(jobs: Sequence[Any], out: Path, **_: Any) -> list[Any]:
        made = halrp_np.sweeps.Outcome
        return [
            made(job, out / job.name, state, reason, out / "x.log")  # type: ignore[arg-type]
            for job, (state, reason) in zip(jobs, ends, strict=True)
        ]

    monkeypatch.setattr(halrp_np.sweeps, "execute", execute)
    return ends


def test_without_a_word_it_lists_what_is_shipped(invoke: Invoke) -> None:
    result = invoke("sweep")
    assert result.exit_code == 0, result.output
    for name in halrp_np.sweeps.shipped():
        assert name in result.output


def test_a_plan_runs_nothing(mine: Path, invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("sweep", mine, "--out", tmp_path / "out", "--plan", "--set", "seed_of_nothing=1")
    assert result.exit_code == 2
    result = invoke("sweep", mine, "--out", tmp_path / "out", "--plan")
    assert result.exit_code == 0, result.output
    assert "Mine: 2 runs" in result.output
    assert result.output.count("to run") == 2
    assert "expected in all" in result.output
    assert not (tmp_path / "out").exists()


def test_runs_are_made_then_found(mine: Path, invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("sweep", mine, "--out", tmp_path / "out", "--jobs", "2")
    assert result.exit_code == 0, result.output
    assert "2 finished now" in result.output
    folders = [path for path in (tmp_path / "out").iterdir() if path.name != "logs"]
    assert sorted(path.name.split("-")[1] for path in folders) == ["halrp", "stl"]
    result = invoke("sweep", mine, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "2 finished before" in result.output
    assert invoke("show", folders[0]).exit_code == 0


def test_a_failure_is_listed_with_its_log(
    mine: Path, invoke: Invoke, outcomes: list[tuple[str, str]], tmp_path: Path
) -> None:
    outcomes += [("failed", "error: the loss is not finite"), ("done", "")]
    result = invoke("sweep", mine, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "1 finished now, 1 failed" in result.output
    assert f"error: the loss is not finite (log: {tmp_path / 'out' / 'x.log'})" in result.output


def test_what_was_stopped_answers_130(mine: Path, invoke: Invoke, outcomes: list[tuple[str, str]]) -> None:
    outcomes += [("done", ""), ("stopped", "everything up to the last step is saved")]
    result = invoke("sweep", mine)
    assert result.exit_code == 130
    assert "the same command goes on" in result.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["exampel"], "Did you mean 'example'?"),
        (["nowhere.toml"], "nowhere.toml: expected a readable TOML file"),
        (["example", "--jobs", "0"], "--jobs"),
        (["example", "--set", "seed=3"], "--set: seed: expected no value: the list seeds decides it"),
    ],
)
def test_what_is_refused(invoke: Invoke, words: list[str], told: str) -> None:
    result = invoke("sweep", *words)
    assert result.exit_code == 2
    assert told in result.output
