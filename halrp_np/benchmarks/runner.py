"""Run a benchmark from its configuration to results on disk, or go on where a run stopped."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Device, Streams
from ..backend.ops import fast_math, kernels_in_use
from ..data import Stream, Task
from ..methods import MethodTask
from ..runs import checkpoint
from ..runs import config as resolver
from ..runs.environment import environment
from ..runs.record import RunFolder
from ..training import metrics
from . import checks, tables, verify
from .attribution import Answer, answers_of, change_rows
from .boundary import cost_note, curvature_rows
from .catalog import builder_of, new_method, open_stream
from .config import RunConfig, fingerprint, read_config, settled
from .evaluation import SPLITS, Evaluation
from .feed import Feeds
from .session import STATE, Reporter, Session


def run(
    config: RunConfig, out: str | os.PathLike[str], reporter: Reporter | None = None, *, verify_device: bool = False
) -> Path:
    """Run `config` in the new folder `out`; returns the folder. `verify_device` compares some first steps before.

    Raises: DeviceError, DataError, ConfigError, StorageError before anything is trained; DivergenceError when the loss
    is not finite; RunInterruptedError after a Ctrl-C, everything saved.
    """
    reporter = reporter or Reporter()
    device = Device(config.device)
    config = settled(config, device.name)
    RunFolder.check_new(out)  # before a long download
    checks.check_settings(config, device)
    stream, notes = open_stream(config, reporter.note)
    checks.check_stream(config, stream, device)
    config = replace(config, tasks=len(stream.tasks))  # 0 until now where only the data knows
    if verify_device:
        with fast_math(config.fast_math):
            reporter.note(f"verified: {verify.agreement(config, stream, device)}")
    folder = RunFolder.create(out)
    with folder.lock(), fast_math(config.fast_math):
        protocol = checks.protocol_of(stream)
        recorded = {"config": resolver.as_record(config), "protocol": protocol}
        folder.write_json("config.json", recorded)  # first: a folder with it can be resumed
        folder.write_json(checks.ENVIRONMENT, environment(device.name, kernels_in_use()))
        for note in (*notes, device.note):
            if note:
                reporter.note(note)
        session = Session(folder, device, reporter, config.checkpoint_seconds, fingerprint(folder))
        Run(config, session, stream).execute()
    return folder.path


def resume(path: str | os.PathLike[str], reporter: Reporter | None = None) -> Path:
    """Go on with the run in the folder `path`; it ends with the same bytes as if it had never stopped.

    Raises: as `run`, and ResumeError, before anything is touched, when the folder holds no run or is damaged, or when
    configuration, data or kernels are no longer the same.
    """
    reporter = reporter or Reporter()
    folder = RunFolder.open(path)
    config, protocol = read_config(folder)
    kernels_in_use()  # refuses a wrong name before anything is touched
    with folder.lock("halrp-np resume"), fast_math(config.fast_math):
        checks.state_not_lost(folder)
        saved = [name for name in checkpoint.names(folder.checkpoints) if checkpoint.exists(folder.checkpoints, name)]
        checks.same_config(folder, saved)
        device = checks.same_device(config, folder.path)
        stream = checks.same_stream(config, protocol, folder.path, reporter)
        checks.same_environment(folder, device, reporter)
        session = Session(folder, device, reporter, config.checkpoint_seconds, fingerprint(folder))
        Run(config, session, stream).execute()
    return folder.path


class Run:
    """One run folder being filled: the stream's tasks in order, each learned, evaluated and saved."""

    def __init__(self, config: RunConfig, session: Session, stream: Stream) -> None:
        self.config, self.session, self.stream = config, session, stream
        self.folder, self.device, self.reporter = session.folder, session.device, session.reporter
        self.method = new_method(config, stream.tasks[0].train.shape, self.device)
        self.feeds = Feeds(self.device, np.dtype(config.dtype))
        self.tasks = tuple(self.method_task(task) for task in stream.tasks[: config.tasks_to_learn])
        self.evaluation = Evaluation(self.method, self.feeds, config.images_asked)
        self.accuracy: dict[str, metrics.Matrix] = {split: [] for split in SPLITS}
        self.capacity: list[list[Any]] = []
        self.changes: list[list[Any]] = []
        self.curvature: list[list[Any]] = []
        self.answers: list[Answer] = []  # of each learned task, at the last boundary
        self.timing: list[tables.Cost | None] = []

    @property
    def learned(self) -> int:
        """How many tasks are learned and evaluated."""
        return len(self.accuracy["test"])

    def method_task(self, task: Task) -> MethodTask:
        """A task of the stream as the method meets it."""
        return MethodTask(
            task.position,
            task.classes,
            len(self.stream.tasks),
            self.config.validation_share,
            self.feeds.open(task.train),
            self.feeds.open(task.validation),
            self.config.train_size,
        )

    def execute(self) -> None:
        """Learn what is left of the stream, or of its first `stop_after` tasks."""
        self.reporter.stream(self.stream.protocol)
        self.restore()
        if self.config.curvature_products and self.learned < self.config.tasks_to_learn:
            shape, classes = self.stream.tasks[0].train.shape, self.stream.tasks[0].classes
            model = builder_of(self.config, shape)(classes)
            self.reporter.note(cost_note(model, self.config.curvature_products))
        with self.session.interruptible():
            for task in self.stream.tasks[self.learned : self.config.tasks_to_learn]:
                self.learn(task)
        self.session.forget_phases()  # left by a kill right after the last task was saved
        tables.write_timing(self.folder, self.timing)
        self.write_tables()

    def restore(self) -> None:
        """Take up what earlier tasks left, if any; metrics written since are dropped and come again."""
        metrics_bytes = 0
        if checkpoint.exists(self.folder.checkpoints, STATE):
            arrays, meta = checkpoint.load(self.folder.checkpoints, STATE)
            saved: Any = meta
            self.method.load(arrays, saved["method"])
            self.accuracy = {split: saved["accuracy"][split] for split in SPLITS}
            self.capacity, metrics_bytes = saved["capacity"], saved["metrics_bytes"]
            self.changes, self.curvature = (
                saved.get("changes", []),
                saved.get("curvature", []),
            )  # not of earlier versions
            self.answers = answers_of(self.method, self.learned)
        self.folder.rewind_metrics(metrics_bytes)
        self.timing = tables.read_timing(self.folder, self.learned)

    def learn(self, task: Task) -> None:
        """One task: learn, evaluate every task seen, save."""
        self.session.start_clock()
        self.method.learn(replace(self.tasks[task.position], stream=self.tasks), self.session)
        phases, learn_seconds, trained = self.session.phase_seconds(), self.session.elapsed(), time.monotonic()
        seen = self.stream.tasks[: task.position + 1]
        self.evaluate_seen(seen)
        evaluated, peak = time.monotonic(), self.device.memory()
        self.look_back(seen)
        self.capacity += tables.capacity_rows(task.position, self.method)
        cost: tables.Cost = {"learn_seconds": learn_seconds, "evaluate_seconds": evaluated - trained}
        cost["look_back_seconds"] = time.monotonic() - evaluated  # no part of the method's time
        known = {} if phases is None else {"phases": phases}
        self.timing.append({**cost, "peak_memory_bytes": peak, **known})
        self.save(task)
        self.reporter.task(task.position, self.accuracy["test"][-1], self.growth()["released"], self.ranks())

    def evaluate_seen(self, seen: tuple[Task, ...]) -> None:
        """Top-1 accuracy in percent on each task, on both splits."""
        found = [self.evaluation.of(task) for task in seen]
        for split in SPLITS:
            self.accuracy[split].append([accuracies[split] for accuracies in found])

    def look_back(self, seen: tuple[Task, ...]) -> None:
        """What learning the newest task did to the earlier ones, and the curvature of all, if it is asked for."""
        before, self.answers = self.answers, answers_of(self.method, len(seen))
        newest = seen[-1].position
        for task, then, now in zip(seen, before, self.answers, strict=False):  # the newest has no past
            accuracies = [self.accuracy["test"][after][task.position] for after in (newest - 1, newest)]
            ask = partial(self.evaluation.with_tensors, task)
            rows = change_rows(then, now, (accuracies[0], accuracies[1]), ask)
            self.changes += [[newest, task.position, task.identity, *row] for row in rows]
        if self.config.curvature_products:
            for task, now in zip(seen, self.answers, strict=True):
                same = task.position < newest and before[task.position].checksum == now.checksum
                self.curvature += self.curvature_of(task, newest, same)

    def curvature_of(self, task: Task, newest: int, same: bool) -> list[list[Any]]:
        """The curvature of a task's layers after the newest task; that of the last boundary if they are the same."""
        place = [newest, task.position, task.identity]
        if same:
            return [place + row[3:] for row in self.curvature if row[:2] == [newest - 1, task.position]]
        rows = curvature_rows(
            *self.method.network(task.position),
            self.feeds.open(task.validation),
            images=self.config.curvature_images,
            batch=self.config.images_asked,
            products=self.config.curvature_products,
            generator=Streams(self.config.seed).generator("curvature", newest, task.position),
            warn=self.reporter.note,
        )
        return [place + row for row in rows]

    def save(self, task: Task) -> None:
        """Everything learned so far, in one step; then the tables, which can be made again from it."""
        newest: dict[str, Any] = {split: matrix[-1] for split, matrix in self.accuracy.items()}
        self.folder.append_metric(
            {"event": "task", "task": task.position, "accuracy": newest["test"], "validation": newest["validation"]}
        )
        tables.write_timing(self.folder, self.timing)  # before the state: it can do without, and only this is not in it
        arrays, meta = self.method.state()
        checkpoint.save(
            self.folder.checkpoints,
            STATE,
            arrays,
            {
                "method": meta,
                "accuracy": self.accuracy,
                "capacity": self.capacity,
                "changes": self.changes,
                "curvature": self.curvature,
                "metrics_bytes": self.folder.metrics_bytes(),
                "config_sha256": self.session.fingerprint,
            },
        )
        self.session.forget_phases()
        self.write_tables()

    def write_tables(self) -> None:
        """The tables and summary.json of the tasks learned so far."""
        identities = [task.identity for task in self.stream.tasks]
        tables.write_accuracy(self.folder, self.accuracy, identities)
        tables.write_ranks(self.folder, self.method.rank_rows())
        tables.write_capacity(self.folder, self.capacity)
        tables.write_changes(self.folder, self.changes)
        if self.config.curvature_products:
            tables.write_curvature(self.folder, self.curvature)
        tables.write_summary(
            self.folder,
            self.config,
            self.stream.protocol,
            self.accuracy["test"],
            self.growth(),
            [answer.checksum for answer in self.answers],
            self.timing,
        )

    def growth(self) -> dict[str, float]:
        """The model's increase over task 0 by convention: released count, honest count, bytes on disk."""
        return tables.growth(self.method.base_parameters(), self.method.sizes(), self.method.stored_bytes())

    def ranks(self) -> list[int]:
        """The newest task's ranks, in network order."""
        rows = self.method.rank_rows()
        return [row["rank"] for row in rows if row["task"] == rows[-1]["task"]]
