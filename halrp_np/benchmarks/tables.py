"""The tables of a run folder, each made whole from what the run knows."""

from __future__ import annotations

from typing import Any

from ..errors import ResumeError
from ..lowrank import TaskSize, growth_honest, growth_released, released_increase
from ..methods import IMPORTANCES, Method, rank_column
from ..runs.record import RunFolder
from ..training import metrics

Cost = dict[str, float]
"""What one task took: see COSTS."""

COSTS = ("learn_seconds", "evaluate_seconds", "peak_memory_bytes")

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
    *(rank_column(name) for name in IMPORTANCES),
)


def capacity_rows(after: int, method: Method) -> list[list[Any]]:
    """What each later task costs after task `after`, and the growth up to and including it."""
    base, sizes, stored = method.base_parameters(), method.sizes(), method.stored_bytes()
    rows: list[list[Any]] = []
    for task, size in enumerate(sizes, start=1):
        counts = [size.scalings, size.factors_dense, size.factors_sparse, size.batchnorm, size.head, size.bias]
        counts += [size.running_stats, size.released, size.honest, stored[task]]
        grown = growth(base, sizes[:task], stored[: task + 1])
        rows.append([after, task, *counts, *(grown[kind] for kind in ("released", "honest", "bytes"))])
    return rows


def growth(base: int, sizes: list[TaskSize], stored: list[int]) -> dict[str, float]:
    """The model's increase over task 0 by convention: released count (also rounded), honest count, bytes on disk."""
    return {
        "released": growth_released(base, sizes),
        "released_rounded": released_increase(base, sizes),
        "honest": growth_honest(base, sizes),
        "bytes": sum(stored[1:]) / stored[0],
    }


def write_capacity(folder: RunFolder, rows: list[list[Any]]) -> None:
    """capacity.csv: a row for each task after each task."""
    folder.write_csv("capacity.csv", CAPACITY_HEADER, rows)


def write_accuracy(folder: RunFolder, matrices: dict[str, metrics.Matrix], identities: list[int]) -> None:
    """accuracy.csv: test and validation accuracy of every seen task after each task."""
    rows: list[list[Any]] = [
        [after, task, identities[task], split, value]
        for after in range(len(matrices["test"]))
        for split, matrix in matrices.items()
        for task, value in enumerate(matrix[after])
    ]
    folder.write_csv("accuracy.csv", ("after_task", "task", "identity", "split", "accuracy"), rows)


def write_ranks(folder: RunFolder, decisions: list[dict[str, Any]]) -> None:
    """ranks.csv: every rank with the reason for it."""
    folder.write_csv("ranks.csv", RANK_HEADER, [[row[key] for key in RANK_HEADER] for row in decisions])


def write_timing(folder: RunFolder, timing: list[Cost | None]) -> None:
    """timing.json: what each task took, over all its resumes; null where that is not known any more."""
    tasks: Any = timing
    folder.write_json("timing.json", {"tasks": tasks})


def read_timing(folder: RunFolder, tasks: int) -> list[Cost | None]:
    """What each of the learned tasks took; nothing depends on it, so a file that is absent or damaged means unknown."""
    try:
        found: Any = folder.read_json("timing.json").get("tasks")
    except ResumeError:
        found = None
    rows = found[:tasks] if isinstance(found, list) else []
    known = [row if _is_cost(row) else None for row in rows]
    return known + [None] * (tasks - len(known))


def _is_cost(row: Any) -> bool:
    """Whether this is what `write_timing` writes of a task."""
    return isinstance(row, dict) and set(row) == set(COSTS) and all(type(row[key]) in (int, float) for key in row)


def total_cost(timing: list[Cost | None]) -> dict[str, float | None]:
    """Seconds of all tasks whose costs are known, the largest memory, and how many tasks are not known, if any."""
    known = [row for row in timing if row is not None]
    return {
        "learn_seconds": sum(row["learn_seconds"] for row in known),
        "evaluate_seconds": sum(row["evaluate_seconds"] for row in known),
        "peak_memory_bytes": max((row["peak_memory_bytes"] for row in known), default=None),
        **({"tasks_of_unknown_cost": len(timing) - len(known)} if len(known) < len(timing) else {}),
    }


def write_summary(
    folder: RunFolder,
    config: Any,
    protocol: dict[str, Any],
    accuracy: metrics.Matrix,
    grown: dict[str, float],
    timing: list[Cost | None],
) -> None:
    """summary.json: what was run, on which data, and every measure by name; only `cost` varies between equal runs."""
    if not accuracy:
        return
    folder.write_json(
        "summary.json",
        {
            "benchmark": config.benchmark,
            "method": config.method,
            "preset": config.preset,
            "model": config.model,
            "seed": config.seed,
            "device": config.device,
            "data": protocol["data"],
            "tasks_learned": len(accuracy),
            "tasks": protocol["tasks"],
            "metrics": metrics.summary(accuracy),
            "undefined": metrics.undefined(accuracy),
            "growth": grown,
            "cost": total_cost(timing),
        },
    )
