"""The tables of one run folder beyond its accuracies, checked as they are read; a file that is not there has none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ResumeError
from ..runs import checkpoint
from ..runs.record import RunFolder
from .results import RunResult

Row = dict[str, Any]
Spectra = dict[tuple[int, str], np.ndarray[Any, Any]]

STATE = "state"
"""The checkpoint of everything learned."""

SIZES = ("scalings", "factors", "factors_nonzero", "batchnorm", "head", "biases", "running_statistics")
LATER_SIZES = ("weights", "training_state")
"""Columns of capacity.csv that older folders lack."""

GROWN = ("released_count", "honest_count", "bytes", "growth_released", "growth_honest", "growth_bytes")


@dataclass(frozen=True)
class TableFormat:
    """A table's columns: of text, of numbers, and of numbers that may be missing; `later` ones came with time."""

    words: Sequence[str]
    numbers: Sequence[str]
    gaps: Sequence[str] = ()
    later: Sequence[str] = ()


FORMATS = {
    "ranks.csv": TableFormat(
        ("layer", "clamp"),
        (
            *("task", "rank", "size", "kept", "importance", "score_sum", "last_score"),
            "cumulative_share",
            "kept_fraction",
        ),
    ),
    "capacity.csv": TableFormat((), ("after_task", "task", *SIZES, *GROWN), later=LATER_SIZES),
    "changes.csv": TableFormat(
        ("kind",), ("after_task", "task", "identity", "bytes", "bytes_changed", "accuracy_change")
    ),
    "curvature.csv": TableFormat(
        ("layer",), ("after_task", "task", "identity", "products"), ("trace", "trace_stderr", "top", "top_stderr")
    ),
}
"""What is read of each table."""


@dataclass(frozen=True, eq=False)
class RunDetails:
    """One run with all its tables; None for a table that its folder does not have.

    `spectra[task, layer]` are the singular values of the residual, those that are kept first.
    """

    result: RunResult
    ranks: list[Row] | None
    capacity: list[Row] | None
    changes: list[Row] | None
    curvature: list[Row] | None
    environment: dict[str, Any] | None
    spectra: Spectra


def read_details(result: RunResult) -> RunDetails:
    """Read the tables of a run.

    Raises: ResumeError naming a damaged file.
    """
    folder = RunFolder(result.path)
    tables = {name: _table(folder, name, result.learned) for name in FORMATS}
    known = (folder.path / "environment.json").is_file()
    ranks = tables["ranks.csv"]
    return RunDetails(
        result,
        ranks,
        tables["capacity.csv"],
        tables["changes.csv"],
        tables["curvature.csv"],
        folder.read_json("environment.json") if known else None,
        _spectra(folder, ranks) if ranks else {},
    )


def _table(folder: RunFolder, name: str, learned: int) -> list[Row] | None:
    """The rows of a table that belong to learned tasks, every cell of the type that it must have."""
    path, form = folder.path / name, FORMATS[name]
    if not path.is_file():
        return None
    header, rows = folder.read_csv(name)
    later = [column for column in form.later if column in header]
    for column in (*form.words, *form.numbers, *form.gaps):
        if column not in header:
            raise _damaged(path, f"a column '{column}'", "a table without it")
    found: list[Row] = []
    for number, row in enumerate(rows, start=2):
        for column in (*form.numbers, *later):
            if not _is_number(row[column]):
                raise _damaged(path, f"a number under '{column}' in line {number}", repr(row[column]))
        for column in form.gaps:
            if row[column] is not None and not _is_number(row[column]):
                raise _damaged(path, f"a number or nothing under '{column}' in line {number}", repr(row[column]))
        for column in ("after_task", "task"):
            if column in form.numbers and not isinstance(row[column], int):
                raise _damaged(path, f"a task's number under '{column}' in line {number}", repr(row[column]))
        found.append({**row, **{column: str(row[column]) for column in form.words}})
    return [row for row in found if max(row["task"], row.get("after_task", 0)) < learned]


def _is_number(cell: object) -> bool:
    """Whether a cell holds a finite number."""
    return isinstance(cell, int | float) and not isinstance(cell, bool) and math.isfinite(cell)


def _spectra(folder: RunFolder, ranks: Sequence[Row]) -> Spectra:
    """The singular values that the checkpoint keeps; none where it was left behind."""
    if not checkpoint.exists(folder.checkpoints, STATE):
        return {}
    arrays, _ = checkpoint.load(folder.checkpoints, STATE)
    found: Spectra = {}
    for row in ranks:
        values = arrays.get(f"spectrum/{row['task']}/{row['layer']}")
        if values is None:
            continue
        if values.shape != (row["size"],) or not np.isfinite(values).all():
            raise _damaged(
                folder.path / "ranks.csv",
                f"the {values.size} components that the checkpoint has of {row['layer']} in task {row['task']}, finite",
                f"{row['size']}",
            )
        found[row["task"], row["layer"]] = values.astype(float)
    return found


def _damaged(path: object, expected: str, received: str) -> ResumeError:
    """The error of a table that is not as every run writes it."""
    return ResumeError(
        str(path),
        expected=f"{expected}, as every run writes",
        received=received,
        next_step="The file is damaged: restore it from a copy, or run again in a new folder.",
    )
