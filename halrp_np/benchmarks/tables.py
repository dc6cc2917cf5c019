"""The tables of a run folder, each made whole from what the run knows."""

from __future__ import annotations

from typing import Any

from ..backend import Device
from ..methods import Method
from ..runs.record import RunFolder
from ..training import metrics

CAPACITY_HEADER = (
    "after_task",
    "task",
    "scalings",
    "factors",
    "factors_nonzero",
    "batchnorm",
    "head",
    "biases",
    "running_statistics",
    "released_count",
    "honest_count",
    "bytes",
    "growth_released",
    "growth_honest",
    "growth_bytes",
)
RANK_HEADER = (
    "task",
    "layer",
    "rank",
    "size",
    "kept",
    "clamp",
    "importance",
    "score_sum",
    "last_score",
    "cumulative_share",
    "kept_fraction",
)


def capacity_rows(after: int, method: Method) -> list[list[Any]]:
    """What each later task costs after task `after`, and the growth up to and including it."""
    base, stored = method.base_parameters(), method.stored_bytes()
    rows: list[list[Any]] = []
    released = honest = added = 0
    for task, size in enumerate(method.sizes(), start=1):
        released, honest, added = released + size.released, honest + size.honest, added + stored[task]
        counts = [size.scalings, size.factors_dense, size.factors_sparse, size.batchnorm, size.head, size.bias]
        growth = [released / base, honest / base, added / stored[0]]
        rows.append([after, task, *counts, size.running_stats, size.released, size.honest, stored[task], *growth])
    return rows


def write_capacity(folder: RunFolder, rows: list[list[Any]]) -> None:
    """capacity.csv: a row for each task after each task."""
    folder.write_csv("capacity.csv", CAPACITY_HEADER, rows)


def write_accuracy(
    folder: RunFolder, accuracy: list[list[float]], validation: list[float], identities: list[int]
) -> None:
    """accuracy.csv: test accuracy of every seen task after each task, validation accuracy of the newest."""
    rows: list[list[Any]] = []
    for after, row in enumerate(accuracy):
        rows += [[after, task, identities[task], "test", value] for task, value in enumerate(row)]
        rows.append([after, after, identities[after], "validation", validation[after]])
    folder.write_csv("accuracy.csv", ("after_task", "task", "identity", "split", "accuracy"), rows)


def write_ranks(folder: RunFolder, decisions: list[dict[str, Any]]) -> None:
    """ranks.csv: every rank with the reason for it."""
    folder.write_csv("ranks.csv", RANK_HEADER, [[row[key] for key in RANK_HEADER] for row in decisions])


def write_timing(folder: RunFolder, timing: list[dict[str, float]]) -> None:
    """timing.json: seconds of each task (of its last, uninterrupted piece after a resume)."""
    tasks: Any = timing
    folder.write_json("timing.json", {"tasks": tasks})


def read_timing(folder: RunFolder) -> list[dict[str, float]]:
    """The seconds of the tasks already learned."""
    if not (folder.path / "timing.json").is_file():
        return []
    timing: Any = folder.read_json("timing.json")["tasks"]
    return list(timing)


def write_summary(
    folder: RunFolder,
    config: Any,
    protocol: dict[str, Any],
    accuracy: list[list[float]],
    growth: dict[str, float],
    timing: list[dict[str, float]],
    device: Device,
) -> None:
    """summary.json: what was run, on which data, and every measure by name."""
    if not accuracy:
        return
    values: Any = {name: value for name, value in metrics.summary(accuracy).items() if value is not None}
    undefined: Any = [name for name, value in metrics.summary(accuracy).items() if value is None]
    grown: Any = {**growth, "released_rounded": round(growth["released"], 3)}
    seconds: Any = {
        "learn_seconds": sum(row["learn_seconds"] for row in timing),
        "evaluate_seconds": sum(row["evaluate_seconds"] for row in timing),
    }
    folder.write_json(
        "summary.json",
        {
            "benchmark": config.benchmark,
            "method": config.method,
            "preset": config.preset,
            "model": config.model,
            "seed": config.seed,
            "device": device.name,
            "data": protocol["data"],
            "tasks_learned": len(accuracy),
            "tasks": protocol["tasks"],
            "metrics": values,
            "undefined_with_one_task": undefined,
            "growth": grown,
            "time": seconds,
        },
    )
