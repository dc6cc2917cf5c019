"""The folder of a job: whether it is finished, can be resumed or is yet to be made, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..benchmarks.config import read_config
from ..errors import ConfigError, HalrpError
from ..methods import METHOD_SETTINGS, settings_used
from ..runs import config as resolver
from ..runs.record import CONFIG, RunFolder
from .plan import Job

SUMMARY = "summary.json"

Standing = Literal["found", "resume", "new"]


@dataclass(frozen=True)
class Progress:
    """How far a run is: tasks learned, tasks to learn (0 when not known yet), and epochs since the last task."""

    learned: int = 0
    tasks: int = 0
    epochs: int = 0


def standing(job: Job, out: Path) -> Standing:
    """Whether the job's folder is finished, broke off, or is not there.

    Raises: ConfigError when it holds a run of other settings; ResumeError when it is damaged; StorageError when it
    holds something else.
    """
    path = out / job.name
    if not (path / CONFIG).is_file():
        RunFolder.check_new(path)
        return "new"
    folder = RunFolder.open(path)
    config, _ = read_config(folder)
    _same(job, resolver.as_record(config), path)
    return "found" if _written(folder) == config.tasks_to_learn > 0 else "resume"


def progress(path: Path) -> Progress:
    """How far the run in a folder is; one that cannot be read says nothing."""
    try:
        folder = RunFolder.open(path)
        config, _ = read_config(folder)
        learned = epochs = 0
        for line in folder.read_metrics():
            if line.get("event") == "task":
                learned, epochs = learned + 1, 0
            else:
                epochs += 1
    except HalrpError:
        return Progress()
    return Progress(learned, config.tasks_to_learn, epochs)


def _written(folder: RunFolder) -> object:
    """How many tasks summary.json tells of: it is written last, when all other files of a task are there."""
    return folder.read_json(SUMMARY).get("tasks_learned") if (folder.path / SUMMARY).exists() else 0


def _same(job: Job, recorded: Mapping[str, Any], path: Path) -> None:
    """Refuse a folder of other settings than the job's; what only data and machine decide may differ.

    So may what its method does not read: the usual value of another method's setting may be another one by now.
    """
    foreign = METHOD_SETTINGS - settings_used(job.config.method)
    asked = resolver.as_record(job.config)
    if not asked["tasks"]:
        asked["tasks"] = recorded["tasks"]
    if asked["device"] in ("auto", "gpu"):
        asked["device"] = recorded["device"]
    for key, value in asked.items():
        if key not in foreign and recorded.get(key) != value:
            raise ConfigError(
                f"{path}: {key}",
                expected=f"a run with {key} = {value}",
                received=f"one with {key} = {recorded.get(key)}",
                next_step="Choose another folder with --out, or move this one away.",
            )
