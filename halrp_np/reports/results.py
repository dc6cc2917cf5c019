"""The results of run folders, read from their tables: what every comparison, figure and page starts from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..benchmarks import changes
from ..benchmarks.evaluation import SPLITS
from ..errors import HalrpError, ResumeError
from ..runs.record import CONFIG, RunFolder
from ..training.metrics import Matrix

DEPTH = 3
"""How far below a folder runs are looked for."""


@dataclass(frozen=True, eq=False)
class RunResult:
    """What one run found, as far as it went.

    `accuracy[split][t][j]` is the accuracy in percent on the task at position j after that at position t, for the
    splits `test` and `validation`; `identities[j]` and `names[j]` say which task of the benchmark was learned there;
    `changed` are the settings that are not the usual ones of benchmark, method, preset and network.
    """

    path: Path
    config: dict[str, Any]
    protocol: dict[str, Any]
    changed: dict[str, Any]
    accuracy: dict[str, Matrix]
    identities: list[int]
    names: list[str]
    summary: dict[str, Any]
    timing: list[Any]
    finished: bool

    @property
    def learned(self) -> int:
        """How many tasks were learned."""
        return len(self.identities)

    def final(self) -> dict[int, float]:
        """The test accuracy at the end, in percent, of each learned task by its identity: wherever it stood."""
        return dict(zip(self.identities, self.accuracy["test"][-1], strict=True)) if self.learned else {}


def read_result(path: str | os.PathLike[str]) -> RunResult:
    """Read the tables of a run, finished or not.

    Raises: ResumeError for no run folder, or a damaged file, which is named.
    """
    folder = RunFolder.open(path)
    recorded = folder.config()
    try:
        config, protocol = dict(recorded["config"]), dict(recorded["protocol"])
        changed = changes(config)
        accuracy = _matrices(folder)
        learned = len(accuracy["test"])
        sizes = protocol["sizes"][:learned]
        asked = min(config["stop_after"] or protocol["tasks"], protocol["tasks"])
        summary = folder.read_json("summary.json") if (folder.path / "summary.json").exists() else {}
        told = summary["tasks_learned"] if (folder.path / "summary.json").exists() else 0  # it is written last
        return RunResult(
            folder.path,
            config,
            protocol,
            changed,
            accuracy,
            [int(size["identity"]) for size in sizes],
            [str(size["name"]) for size in sizes],
            summary,
            _timing(folder, learned),
            0 < asked == learned == told,
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ResumeError(
            str(folder.path),
            expected="the tables that every run writes",
            received=f"others ({type(error).__name__}: {error})",
            next_step="A file is damaged: restore the folder from a copy, or run again in a new folder.",
        ) from error


def read_finished(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[RunResult], list[str]]:
    """Every finished run at these paths, and a line for each run that is left out because it is not finished.

    Raises: ResumeError for a path without a run, a damaged folder, or when none is finished.
    """
    folders = find_runs(paths)
    results = [read_result(path) for path in folders]
    unfinished = [
        f"{found.path} is left out: {found.learned} tasks are learned, and more are to come"
        for found in results
        if not found.finished
    ]
    if len(unfinished) == len(results):
        raise ResumeError(
            ", ".join(str(path) for path in folders) or "paths",
            expected="at least one finished run",
            received="none",
            next_step=f"Continue with `halrp-np resume {folders[0]}`." if folders else "Name a folder with one.",
        )
    return [found for found in results if found.finished], unfinished


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The run folders at or below each path, in order, each once.

    Raises: ResumeError for a path at and below which there is none.
    """
    found: dict[Path, Path] = {}
    for given in paths:
        path = Path(given)
        here = [path] if (path / CONFIG).is_file() else _below(path, DEPTH)
        if not here:
            raise ResumeError(
                str(path),
                expected=f"a run folder (one with a {CONFIG}), or a folder that holds some",
                received="none" if path.is_dir() else "no such folder",
                next_step="Check the path, or start a run with `halrp-np run --out`.",
            )
        for folder in here:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _below(path: Path, depth: int) -> list[Path]:
    """Run folders inside a folder, sorted; those inside a run folder are not looked for."""
    if depth == 0 or not path.is_dir():
        return []
    inner: list[Path] = []
    try:
        entries = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ResumeError(
            str(path), expected="to look into this folder", received=f"'{reason}'", next_step="Check its permissions."
        ) from error
    for entry in entries:
        inner += [entry] if (entry / CONFIG).is_file() else _below(entry, depth - 1)
    return inner


def _matrices(folder: RunFolder) -> dict[str, Matrix]:
    """accuracy.csv as one matrix a split; empty ones when no task is learned yet."""
    found: dict[str, Matrix] = {split: [] for split in SPLITS}
    if not (folder.path / "accuracy.csv").exists():
        return found
    header, rows = folder.read_csv("accuracy.csv")
    if lacking := {"after_task", "task", "split", "accuracy"} - set(header):
        raise ValueError(f"accuracy.csv: no column {min(lacking)}")
    for row in rows:
        matrix = found[str(row["split"])]
        after, task, value = row["after_task"], row["task"], row["accuracy"]
        if after == len(matrix) and task == 0:
            matrix.append([])
        if after != len(matrix) - 1 or task != len(matrix[-1]) or not isinstance(value, int | float):
            raise ValueError(f"accuracy.csv: the row of task {task} after task {after} is not where it belongs")
        matrix[-1].append(float(value))
    if any([len(row) for row in matrix] != list(range(1, len(found["test"]) + 1)) for matrix in found.values()):
        raise ValueError("accuracy.csv: a row is missing")
    return found


def _timing(folder: RunFolder, tasks: int) -> list[Any]:
    """timing.json's row of each task, None where nothing is known of it."""
    try:
        rows = folder.read_json("timing.json").get("tasks")
    except HalrpError:
        rows = None
    known = rows[:tasks] if isinstance(rows, list) else []
    return [row if isinstance(row, dict) else None for row in known] + [None] * (tasks - len(known))
