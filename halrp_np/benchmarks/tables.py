"""The tables of a run folder, each made whole from what the run knows."""

from __future__ import annotations

from typing import Any

from ..errors import ResumeError
from ..lowrank import TaskSize, growth_honest, growth_released, released_increase
from ..methods import IMPORTANCES, Method, rank_column
from ..runs.record import RunFolder
from ..training import metrics
from . import attribution, boundary

Cost = dict[str, Any]
"""What one task took: the numbers of COSTS and, where they are known, `phases`, seconds by the phase's name."""

COSTS = ("learn_seconds", "evaluate_seconds", "peak_memory_bytes")
LATER = ("phases", "look_back_seconds")
"""What older files do not say of a task."""

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
    "weights",
    "training_state",
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
    """What each later task costs after task `after`, and the growth up to and including it.

    The columns `weights` and `training_state` came later than the others, and stand behind them.
    """
    base, sizes, stored = method.base_parameters(), method.sizes(), method.stored_bytes()
    rows: list[list[Any]] = []
    for task, size in enumerate(sizes, start=1):
        counts = [size.scalings, size.factors_dense, size.factors_sparse, size.batchnorm, size.head, size.bias]
        counts += [size.running_stats, size.released, size.honest, stored[task]]
        grown = growth(base, sizes[:task], stored[: task + 1])
        increases = [grown[kind] for kind in ("released", "honest", "bytes")]
        rows.append([after, task, *counts, *increases, size.weights, size.training_state])
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


def write_changes(folder: RunFolder, rows: list[list[Any]]) -> None:
    """changes.csv: what became of each earlier task's tensors and accuracy while a task was learned."""
    folder.write_csv("changes.csv", attribution.HEADER, rows)


def write_curvature(folder: RunFolder, rows: list[list[Any]]) -> None:
    """curvature.csv: the curvature of every learned task's layers after each task."""
    folder.write_csv("curvature.csv", boundary.HEADER, rows)


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
    if not isinstance(row, dict):
        return False
    numbers = {key: value for key, value in row.items() if key not in LATER}
    phases = row.get("phases", {})
    return (
        set(numbers) == set(COSTS)
        and isinstance(phases, dict)
        and all(type(value) in (int, float) for value in (*numbers.values(), *phases.values()))
    )


def total_cost(timing: list[Cost | None]) -> dict[str, Any]:
    """Seconds of all tasks whose costs are known, the largest memory, and how many tasks are not known, if any.

    Those of the phases too, where every task of known cost has them.
    """
    known = [row for row in timing if row is not None]
    phases: dict[str, float] = {}
    for name, seconds in (entry for row in known for entry in row.get("phases", {}).items()):
        phases[name] = phases.get(name, 0.0) + seconds
    return {
        "learn_seconds": sum(row["learn_seconds"] for row in known),
        "evaluate_seconds": sum(row["evaluate_seconds"] for row in known),
        "peak_memory_bytes": max((row["peak_memory_bytes"] for row in known), default=None),
        **({"phases": phases} if phases and all("phases" in row for row in known) else {}),
        **({"tasks_of_unknown_cost": len(timing) - len(known)} if len(known) < len(timing) else {}),
    }


def write_summary(
    folder: RunFolder,
    config: Any,
    protocol: dict[str, Any],
    accuracy: metrics.Matrix,
    grown: dict[str, float],
    checksums: list[str],
    timing: list[Cost | None],
) -> None:
    """summary.json: what was run, on which data, and every measure by name; only `cost` varies between equal runs.

    `checksums` are of what answers for each task: equal ones, the same bits.
    """
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
            "answers_blake2b": checksums,
            "cost": total_cost(timing),
        },
    )
