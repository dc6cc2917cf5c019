"""`halrp-np orders`: from run folders written by hand, and with the runs that are missing run by a stand-in."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from halrp_np_cli import orders
from halrp_np_cli.errors import RefusedError

import halrp_np
import made_runs
from training.test_robustness import TABLE

Invoke = Callable[..., Result]
ASKED = ("--benchmark", "pmnist", "--data", "sample", "--set", "tasks=3", "--orders", "A-C", "--seeds", "2")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The hand-written table of three orders, three tasks and two seeds, as run folders."""
    for order, runs in TABLE.items():
        for seed, final in runs.items():
            made_runs.write_run(tmp_path / "runs", final, order=order, seed=seed)
    return tmp_path / "runs"


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the jobs that were run: each writes the table's numbers, and seed 9 fails."""
    ran: list[str] = []

    def execute(jobs: list[Any], out: Path, **_: Any) -> list[Any]:
        outcomes = []
        for job in jobs:
            folder, state, reason = out / job.name, "found", ""
            if job.config.seed == 9:
                state, reason = "failed", "the loss is not finite"
            elif job.config.seed == 8:
                state = "stopped"
            elif not folder.exists():
                final = TABLE[job.config.order][job.config.seed]
                made = made_runs.write_run(out, final, order=job.config.order, seed=job.config.seed)
                assert made == folder
                ran.append(job.name)
                state = "done"
            outcomes.append(SimpleNamespace(job=job, folder=folder, state=state, reason=reason, log=None))
        return outcomes

    monkeypatch.setattr(halrp_np.sweeps, "execute", execute)
    return ran


def test_tables_of_finished_folders(written: Path, invoke: Invoke) -> None:
    result = invoke("orders", written, "--csv", "orders.csv")
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "halrp 3 2 AOPD 5.67" in words
    assert "halrp 3 2 MOPD 11.00" in words
    assert "orders A, B, C" in words
    assert "2 task 2 11.00" in words
    assert "SMALL SAMPLE of MNIST" in words
    assert Path("orders.csv").is_file()


def test_json_is_one_document_and_nothing_else(written: Path, invoke: Invoke) -> None:
    content = json.loads(invoke("orders", written, "--json").output)
    assert content["groups"][0]["aopd"]["value"] == pytest.approx(17 / 3)
    assert content["notes"] == []


def test_one_seed_shows_what_is_undefined(written: Path, invoke: Invoke) -> None:
    result = invoke("orders", *(path for path in sorted(written.iterdir()) if "seed0" in path.name))
    assert result.exit_code == 0
    assert "-: undefined, needs two seeds of each order" in result.output


def test_what_is_missing_is_run_and_what_is_there_is_found(written: Path, invoke: Invoke, executed: list[str]) -> None:
    gone = sorted(written.iterdir())[0]
    for path in sorted(gone.iterdir()):
        path.unlink()
    gone.rmdir()
    result = invoke("orders", *ASKED, "--out", written)
    assert result.exit_code == 0, result.output
    assert executed == [gone.name]
    assert "11.00" in result.output
    assert invoke("orders", *ASKED, "--out", written).output == result.output
    assert executed == [gone.name]


def test_a_run_that_fails_is_listed_and_the_rest_is_shown(written: Path, invoke: Invoke, executed: list[str]) -> None:
    result = invoke("orders", *ASKED[:-1], "0,1,9", "--out", written)
    assert result.exit_code == 1
    assert "11.00" in result.output
    assert result.output.count("the loss is not finite") == 3
    result = invoke("orders", *ASKED[:-1], "9,9", "--out", written)
    assert result.exit_code == 1
    assert "the loss is not finite" in result.output


def test_ctrl_c_says_how_to_go_on(written: Path, invoke: Invoke, executed: list[str]) -> None:
    result = invoke("orders", *ASKED[:-1], "0,8", "--out", written)
    assert result.exit_code == 130
    assert "stopped, everything is saved; the same command goes on" in result.output


def test_words_of_seeds() -> None:
    assert orders.numbers("3") == 3
    assert orders.numbers("0, 1,5") == [0, 1, 5]
    with pytest.raises(RefusedError, match="3 or 0,1,5"):
        orders.numbers("1,,2")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "expected folders with finished runs, or --benchmark, received neither"),
        (("runs", "--benchmark", "pmnist"), "expected no such option beside DIR"),
        (("runs", "--set", "l1=1"), "--set: expected no such option beside DIR"),
        (("nowhere",), "no such folder"),
        (("--benchmark", "pmnits"), "Did you mean"),
        (("--benchmark", "pmnist", "--orders", "F"), "expected letters A to E"),
        (("--benchmark", "pmnist", "--seeds", "none"), "expected a number of seeds"),
        (("--benchmark", "pmnist", "--jobs", "0"), "expected a whole number at least 1"),
        (("--benchmark", "pmnist", "--set", "seed=3"), "Use --seeds."),
        (("--benchmark", "pmnist", "--set", "l2=3"), "expected a known key"),
        (("--benchmark", "pmnist", "--epochs", "0"), "--epochs: key 'epochs'"),
        (("--benchmark", "pmnist", "--orders", "random:0"), "expected letters A to E"),
        (("--benchmark", "pmnist", "--seeds", "0"), "expected a number of seeds"),
        (("--benchmark", "pmnist", "--method", "ewc", "--preset", "hessian"), "for the method ewc"),
        (("--benchmark", "pmnist", "--method", "ewc", "--set", "rank_cap=3"), "rank_cap"),
        (("--benchmark", "pmnist", "--method", "halpr"), "Did you mean 'halrp'"),
        (("runs", "other"), "runs of one benchmark"),
    ],
)
def test_mistakes_are_told_before_anything_is_run(
    written: Path,
    invoke: Invoke,
    executed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    expected: str,
) -> None:
    made_runs.write_run(written.parent / "other", TABLE["A"][0], benchmark="five-datasets", tasks=5)
    monkeypatch.chdir(written.parent)
    result = invoke("orders", *words)
    assert result.exit_code in (1, 2)
    assert expected in " ".join(result.output.split())
    assert executed == []
