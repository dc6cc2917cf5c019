"""The paper's figures from fabricated runs: the drawn numbers against those put in, what is refused, what is told."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halrp_np import BENCHMARKS, resolve_config
from halrp_np.benchmarks import changes, run_name
from halrp_np.errors import ConfigError, ResumeError, StorageError
from halrp_np.reports import draw_figure
from halrp_np.reports.figures import FIGURES
from halrp_np.reports.results import RunResult
from halrp_np.runs import config as resolver
from halrp_np.runs.tables import table_text
from halrp_np.sweeps import load, shipped

TASKS = 5
GROWTH = {"halrp": (0.08, 0.09), "stl": (1.0, 1.0), "bn": (0.002, 0.003), "be": (0.004, 0.005), "ewc": (0.0, 2.0)}


def fabricated(
    folder: Path, method: str, *, forgetting: float = 0.0, seconds: float = 10.0, **settings: Any
) -> RunResult:
    """A finished run of five tasks, of which only capacity.csv is on disk."""
    resolved = resolve_config(("test", {"method": method, **settings}))
    config = resolver.as_record(resolved)
    path = folder / run_name(resolved)
    path.mkdir(parents=True)
    released, honest = GROWTH.get(method, (0.01, 0.02))
    rows = [(after, task, released * task, honest * task) for after in range(1, TASKS) for task in range(1, after + 1)]
    header = ("after_task", "task", "growth_released", "growth_honest")
    (path / "capacity.csv").write_text(table_text(header, rows, "capacity.csv"))
    order = list(np.random.default_rng(sum(map(ord, str(config["order"])))).permutation(TASKS).tolist())
    images = resolved.train_images or round(2500 * resolved.train_size)
    sizes = [{"train": images - images // 5, "validation": images // 5}] * TASKS
    summary = {
        "metrics": {"acc": 90.0 - forgetting, "forgetting_chaudhry": forgetting},
        "undefined": {},
        "growth": {"released": released * (TASKS - 1), "honest": honest * (TASKS - 1)},
    }
    return RunResult(
        path=path,
        config=config,
        protocol={"order": order, "data": "mnist-5k", "sizes": sizes},
        changed=changes(config),
        accuracy={"test": [], "validation": []},
        identities=order,
        names=[f"task {task}" for task in order],
        summary=summary,
        timing=[{"learn_seconds": seconds * (1 + (task > 0))} for task in range(TASKS)],
        finished=True,
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def is_picture(path: Path) -> bool:
    """Whether this is a PNG file of more than a blank sheet."""
    return path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 5000


def test_forgetting_has_a_row_a_method_with_its_error(tmp_path: Path) -> None:
    runs = [fabricated(tmp_path, "halrp", seed=seed, forgetting=0.1 * seed) for seed in range(3)]
    runs += [fabricated(tmp_path, "finetune", seed=seed, forgetting=20.0 + seed) for seed in range(3)]
    runs += [fabricated(tmp_path, "halrp", benchmark="cifar100-split", seed=0, forgetting=0.5)]
    drawn = draw_figure("forgetting", runs, tmp_path)
    assert is_picture(drawn.picture)
    rows = {(row["benchmark"], row["group"]): row for row in rows_of(drawn.table)}
    assert float(rows["pmnist", "finetune"]["mean"]) == 21.0
    assert float(rows["pmnist", "finetune"]["standard_error"]) == pytest.approx(1 / 3**0.5)
    assert rows["pmnist", "halrp"]["runs"] == "3"
    assert rows["pmnist", "halrp"]["data"] == "mnist-5k"
    assert rows["cifar100-split", "halrp"]["standard_error"] == ""
    assert "mean ± standard error over 1 to 3 runs; none over 1" in drawn.notes


def test_one_seed_has_no_error_bars_and_says_so(tmp_path: Path) -> None:
    drawn = draw_figure("forgetting", [fabricated(tmp_path, "halrp"), fabricated(tmp_path, "bn")], tmp_path)
    assert drawn.notes == ["one run each: no error bars"]
    assert {row["standard_error"] for row in rows_of(drawn.table)} == {""}


def test_growth_after_each_task_in_both_counts(tmp_path: Path) -> None:
    drawn = draw_figure("growth", [fabricated(tmp_path, method) for method in GROWTH], tmp_path)
    assert is_picture(drawn.picture)
    rows = {(row["measure"], row["group"], row["at"]): float(row["mean"]) for row in rows_of(drawn.table)}
    assert rows["released count", "halrp", "1"] == 0.0
    assert rows["released count", "halrp", "3"] == pytest.approx(16.0)
    assert rows["every number kept", "ewc", "5"] == pytest.approx(800.0)


def test_time_is_over_the_mean_of_single_task_networks(tmp_path: Path) -> None:
    runs = [fabricated(tmp_path, "stl", seconds=10.0), fabricated(tmp_path, "halrp", seconds=9.0)]
    drawn = draw_figure("time", runs, tmp_path)
    rows = {(row["group"], row["at"]): float(row["mean"]) for row in rows_of(drawn.table)}
    assert rows["halrp", "0"] == pytest.approx(0.5)  # the mean of 10, 20, 20, 20, 20
    assert rows["halrp", "4"] == pytest.approx(1.0)
    assert "pmnist: times are over the mean of STL's 5 tasks, 18 s" in drawn.notes


def test_time_without_single_task_networks_is_over_task_0(tmp_path: Path) -> None:
    known = fabricated(tmp_path, "halrp", seconds=9.0)
    unknown = replace(fabricated(tmp_path, "bn"), timing=[None] * TASKS)
    drawn = draw_figure("time", [known, unknown], tmp_path)
    assert {row["group"]: float(row["mean"]) for row in rows_of(drawn.table)} == {"halrp": 2.0}
    assert "pmnist: times are over the run's own task 0: no run of STL" in drawn.notes
    assert "pmnist: bn is left out: its times are not known" in drawn.notes


def grid(folder: Path) -> list[RunResult]:
    """Runs of two values of one penalty and three of the other, two seeds each."""
    return [
        fabricated(folder, "halrp", weight_decay=decay, l1=l1, seed=seed, forgetting=1000 * decay + seed)
        for decay in (1e-4, 1e-3)
        for l1 in (1e-5, 0.0, 1e-6)
        for seed in (0, 1)
    ]


def test_regularisation_has_a_line_a_weight_decay_in_ascending_order(tmp_path: Path) -> None:
    drawn = draw_figure("regularisation", grid(tmp_path), tmp_path)
    assert is_picture(drawn.picture)
    rows = rows_of(drawn.table)
    assert [row["at"] for row in rows[:3]] == ["0.0", "1e-06", "1e-05"]
    assert list(dict.fromkeys(row["group"] for row in rows)) == ["weight_decay=0.0001", "weight_decay=0.001"]
    found = {(row["measure"], row["group"], row["at"]): row for row in rows}
    assert float(found["forgetting", "weight_decay=0.001", "1e-05"]["mean"]) == pytest.approx(1.5)
    assert {row["runs"] for row in rows} == {"2"}


def test_a_hole_in_the_grid_is_named(tmp_path: Path) -> None:
    runs = [run for run in grid(tmp_path) if (run.config["weight_decay"], run.config["l1"]) != (1e-3, 0.0)]
    with pytest.raises(ConfigError, match=r"none of pmnist halrp weight_decay=0.001 l1=0.0"):
        draw_figure("regularisation", runs, tmp_path)
    with pytest.raises(ConfigError, match=r"pmnist with weight_decay=0.001 and l1=1e-06 alone"):
        draw_figure("regularisation", [fabricated(tmp_path / "one", "halrp")], tmp_path)


def test_orders_and_data_has_a_panel_an_amount(tmp_path: Path) -> None:
    runs = [
        fabricated(tmp_path, method, benchmark="cifar100-superclass", train_size=share, order=order, seed=seed)
        for method in ("halrp", "ewc")
        for share in (0.05, 0.25, 1.0)
        for order in ("A", "B", "random:3")
        for seed in (0, 1)
    ]
    drawn = draw_figure("orders-and-data", runs, tmp_path)
    assert is_picture(drawn.picture)
    rows = rows_of(drawn.table)
    assert list(dict.fromkeys(row["measure"] for row in rows)) == [
        "125 images a task",
        "625 images a task",
        "2,500 images a task",
    ]
    assert list(dict.fromkeys(row["at"] for row in rows)) == ["A", "B", "random:3"]
    assert list(dict.fromkeys(row["group"] for row in rows)) == ["halrp", "ewc"]
    with pytest.raises(ConfigError, match=r"cifar100-superclass ewc images a task=2500 order=random:3"):
        draw_figure("orders-and-data", runs[:-2], tmp_path)


@pytest.mark.parametrize("name", FIGURES)
def test_what_no_figure_is_made_of_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="received none"):
        draw_figure(name, [], tmp_path)
    stopped = replace(fabricated(tmp_path, "halrp"), finished=False)
    with pytest.raises(ConfigError, match="not finished"):
        draw_figure(name, [stopped], tmp_path)
    assert list(tmp_path.glob("*.png")) == []


def test_unfinished_runs_are_left_out_and_told(tmp_path: Path) -> None:
    stopped = replace(fabricated(tmp_path, "bn"), finished=False)
    drawn = draw_figure("forgetting", [fabricated(tmp_path, "halrp"), stopped], tmp_path)
    assert [row["group"] for row in rows_of(drawn.table)] == ["halrp"]
    assert drawn.notes[-1] == f"{stopped.path} is left out: it is not finished"


def test_wrong_names_folders_and_files(tmp_path: Path) -> None:
    run = fabricated(tmp_path, "halrp")
    with pytest.raises(ConfigError, match="Did you mean 'forgetting'"):
        draw_figure("forgeting", [run], tmp_path)
    with pytest.raises(StorageError):
        draw_figure("forgetting", [run], tmp_path / "absent")
    (run.path / "capacity.csv").write_text("after_task,task\n1,1\n")
    with pytest.raises(ResumeError, match=r"capacity\.csv"):
        draw_figure("growth", [run], tmp_path)
    with pytest.raises(ResumeError, match=r"summary\.json"):
        draw_figure("forgetting", [replace(run, summary={})], tmp_path)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_sweep_of_its_name_with_the_runs_it_needs(name: str, tmp_path: Path) -> None:
    assert "of the paper" in shipped()[name]
    assert load(name).figure == name
    sweep = load(name, quick=True)
    assert len(sweep.jobs) <= 24
    drawn = draw_figure(name, [fabricated(tmp_path, **settings_of_job(job)) for job in sweep.jobs], tmp_path)
    assert {int(row["runs"]) for row in rows_of(drawn.table)} == {len({job.config.seed for job in sweep.jobs})}


def settings_of_job(job: Any) -> dict[str, Any]:
    """What tells the jobs of the shipped sweeps apart."""
    keys = ("benchmark", "method", "seed", "order", "train_size", "train_images", "weight_decay", "l1")
    found = {key: getattr(job.config, key) for key in keys}
    unused = {key for key in ("train_size", "train_images") if key not in BENCHMARKS[job.config.benchmark].uses}
    unused |= set() if job.config.method == "halrp" else {"l1"}
    return {key: value for key, value in found.items() if key not in unused}
