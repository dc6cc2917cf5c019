"""`halrp-np compare` on run folders written by hand."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import made_runs

Invoke = Callable[..., Result]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two methods with three seeds each, and a run that is not finished."""
    for seed in range(3):
        made_runs.write_run(tmp_path / "runs", {0: 90.0 + seed, 1: 80.0, 2: 70.0}, seed=seed)
        made_runs.write_run(tmp_path / "runs", {0: 60.0 + 2 * seed, 1: 50.0, 2: 70.0}, seed=seed, method="finetune")
    made_runs.write_run(tmp_path / "runs", {0: 9.0, 1: 8.0, 2: 7.0}, seed=3, finished=False)
    return tmp_path / "runs"


def test_means_tests_and_files(two: Path, invoke: Invoke) -> None:
    result = invoke("compare", two, "--csv", "table.csv", "--latex", "table.tex")
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "80.33 ± 0.19" in words  # of (240, 241, 242) / 3
    assert "10.00" in words  # growth in percent
    assert "paired tests against halrp" in words
    assert "sign flips of 3 pairs give no p below 0.25: to reach 0.05 after Holm's correction takes 6 pairs" in words
    assert re.search("seed3-[^ ]* is left out: 2 tasks are learned", words)
    assert "SMALL SAMPLE of MNIST" in words
    assert "environments differ" not in words
    assert Path("table.csv").read_text().startswith("benchmark,group,method")
    assert "\\toprule" in Path("table.tex").read_text()


def test_one_seed_leaves_tests_undefined(two: Path, invoke: Invoke) -> None:
    folders = [path for path in sorted(two.iterdir()) if "seed0" in path.name]
    words = " ".join(invoke("compare", *folders).output.split())
    assert "undefined" in words
    assert "needs two common seeds" in words
    assert "±" not in words.replace("mean ± standard error", "")


def test_a_single_group_has_no_tests(two: Path, invoke: Invoke) -> None:
    folders = [path for path in sorted(two.iterdir()) if "halrp" in path.name and "seed3" not in path.name]
    result = invoke("compare", *folders)
    assert result.exit_code == 0
    assert "paired tests" not in result.output


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("nowhere",), 1, "no such folder"),
        (("runs", "--reference", "finetun"), 2, "Did you mean 'finetune'?"),
        (("runs", "--csv", "no/such/table.csv"), 1, "Create the folder first"),
        (("unfinished",), 1, "at least one finished run"),
        ((), 2, "received nothing"),
    ],
)
def test_mistakes_are_told(
    two: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, expected: str
) -> None:
    made_runs.write_run(two.parent / "unfinished", {0: 9.0, 1: 8.0, 2: 7.0}, finished=False)
    monkeypatch.chdir(two.parent)
    result = invoke("compare", *words)
    assert (result.exit_code, expected in result.output) == (code, True), result.output


def test_a_damaged_folder_is_named(two: Path, invoke: Invoke) -> None:
    damaged = sorted(two.iterdir())[0]
    (damaged / "accuracy.csv").write_text("after_task,task\n0,0\n")
    result = invoke("compare", two)
    assert result.exit_code == 1
    assert str(damaged) in result.output
    (damaged / "summary.json").write_text("{}")
    (damaged / "accuracy.csv").write_bytes((sorted(two.iterdir())[1] / "accuracy.csv").read_bytes())
    result = invoke("compare", two)
    assert result.exit_code == 1
    assert str(damaged) in result.output


def test_the_folder_of_a_real_run(finished: Path, invoke: Invoke) -> None:
    result = invoke("compare", finished)
    assert result.exit_code == 0, result.output
    assert "halrp" in result.output
    result = invoke("orders", finished)
    assert result.exit_code == 0, result.output
    assert "-: undefined, needs two orders" in result.output
