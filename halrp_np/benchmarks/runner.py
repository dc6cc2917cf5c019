"""Run a benchmark from its configuration to results on disk, or go on where a run stopped."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Device, Streams
from ..backend.ops import kernels_in_use
from ..data import Stream, Task
from ..errors import ResumeError
from ..lowrank import growth_honest, growth_released, pruning_plan
from ..methods import Method, MethodTask, make_method
from ..models import build
from ..runs import checkpoint
from ..runs import config as resolver
from ..runs.environment import environment
from ..runs.record import RunFolder
from ..training import PhasePlan, evaluate
from . import tables
from .catalog import open_stream
from .config import RunConfig, read_config
from .feed import Feeds
from .session import STATE, Reporter, Session


def run(config: RunConfig, out: str | os.PathLike[str], reporter: Reporter | None = None) -> Path:
    """Run `config` in the new folder `out`; returns the folder.

    Raises: DeviceError, DataError, ConfigError, StorageError before anything is trained; DivergenceError when the loss
    is not finite; RunInterruptedError after a Ctrl-C, everything saved.
    """
    reporter = reporter or Reporter()
    device = Device(config.device)
    RunFolder.check_new(out)  # before a long download
    stream, mnist = open_stream(config)
    check(config, stream, device)
    folder = RunFolder.create(out)
    with folder.lock():
        recorded = {"config": resolver.as_record(config), "protocol": protocol_of(stream)}
        folder.write_json("config.json", recorded)  # first: a folder with it can be resumed
        folder.write_json("environment.json", environment(device.name))
        for note in (*mnist.notes, device.note):
            if note:
                reporter.note(note)
        Run(config, folder, device, stream, reporter).execute()
    return folder.path


def resume(path: str | os.PathLike[str], reporter: Reporter | None = None) -> Path:
    """Go on with the run in the folder `path`; it ends with the same bytes as if it had never stopped.

    Raises: as `run`, and ResumeError when the folder holds no run, is damaged, or the data is no longer the same.
    """
    reporter = reporter or Reporter()
    folder = RunFolder.open(path)
    config, protocol = read_config(folder)
    kernels_in_use()  # refuses a wrong name before anything is touched
    with folder.lock("halrp-np resume"):
        device = Device(config.device)
        if device.note:
            reporter.note(device.note)
        if not (folder.path / "environment.json").exists():  # killed before it was written
            folder.write_json("environment.json", environment(device.name))
        stream = same_stream(config, protocol, folder.path)
        Run(config, folder, device, stream, reporter).execute()
    return folder.path


def check(config: RunConfig, stream: Stream, device: Device) -> None:
    """Refuse what would fail later, before anything is on disk.

    Raises: ConfigError for kernels of an unknown name, a network that cannot be built, a method whose settings
    contradict each other, or a batch that no training set fills.
    """
    kernels_in_use()
    new_method(config, stream, device)
    if config.prune_rule != "none":
        pruning_plan(config.prune_rule, config.prune_values, bounded=config.prune_bounded)
    for task in stream.tasks:
        build(config.model, task.train.shape, config.widths)(task.classes)
        plan = PhasePlan(
            task.position, "check", 1, config.batch_size, config.learning_rate, 1.0, drop_last=config.drop_last
        )
        plan.steps_per_epoch(len(task.train))


def new_method(config: RunConfig, stream: Stream, device: Device) -> Method:
    """The configured method, ready for task 0."""
    builder = build(config.model, stream.tasks[0].train.shape, config.widths)
    streams, dtype = Streams(config.seed), np.dtype(config.dtype)
    return make_method(config.method, builder, config, device=device, dtype=dtype, streams=streams)


def protocol_of(stream: Stream) -> dict[str, Any]:
    """The stream's protocol with a digest of its pixels and labels, so that a resume knows its data again."""
    images = stream.tasks[0].train
    return {**stream.protocol, "pixels_sha256": digest(images.images), "labels_sha256": digest(images.labels)}


def digest(array: np.ndarray[Any, Any]) -> str:
    """SHA-256 of an array's values."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def same_stream(config: RunConfig, protocol: dict[str, Any], path: Path) -> Stream:
    """The stream of a stopped run, made of the same data.

    Raises: ResumeError when what is found now differs.
    """
    source: Any = {"mnist-5k": "sample", "mnist-60k": "full"}.get(protocol["data"], config.data)
    stream, _ = open_stream(replace(config, data=source))
    found = protocol_of(stream)
    for key in ("data", "pixels_sha256", "labels_sha256"):
        if found[key] != protocol[key]:
            raise ResumeError(
                f"{path}: {key}",
                expected=f"the data of the run, {protocol[key]}",
                received=found[key],
                next_step="Put the data set back where it was, or start a new run.",
            )
    return stream


class Run:
    """One run folder being filled: the stream's tasks in order, each learned, evaluated and saved."""

    def __init__(
        self, config: RunConfig, folder: RunFolder, device: Device, stream: Stream, reporter: Reporter
    ) -> None:
        self.config, self.folder, self.device, self.stream, self.reporter = config, folder, device, stream, reporter
        self.session = Session(folder, device, reporter, config.checkpoint_seconds)
        self.method = new_method(config, stream, device)
        self.feeds = Feeds(device, np.dtype(config.dtype))
        self.accuracy: list[list[float]] = []
        self.validation: list[float] = []
        self.capacity: list[list[Any]] = []
        self.timing: list[dict[str, float]] = []

    def execute(self) -> None:
        """Learn what is left of the stream."""
        self.reporter.stream(self.stream.protocol)
        self.restore()
        with self.session.interruptible():
            for task in self.stream.tasks[len(self.accuracy) :]:
                self.learn(task)
        self.session.forget_phases()  # left by a kill right after the last task was saved
        self.write_tables()

    def restore(self) -> None:
        """Take up what earlier tasks left, if any; metrics written since are dropped and come again."""
        metrics_bytes = 0
        if checkpoint.exists(self.folder.checkpoints, STATE):
            arrays, meta = checkpoint.load(self.folder.checkpoints, STATE)
            saved: Any = meta
            self.method.load(arrays, saved["method"])
            self.accuracy, self.validation = saved["accuracy"], saved["validation"]
            self.capacity, metrics_bytes = saved["capacity"], saved["metrics_bytes"]
        self.folder.rewind_metrics(metrics_bytes)
        self.timing = tables.read_timing(self.folder)[: len(self.accuracy)]

    def learn(self, task: Task) -> None:
        """One task: learn, evaluate every task seen, save."""
        began = time.monotonic()
        self.method.learn(
            MethodTask(
                task.position,
                task.classes,
                len(self.stream.tasks),
                self.config.validation_share,
                self.feeds.open(task.train),
                self.feeds.open(task.validation),
            ),
            self.session,
        )
        trained = time.monotonic()
        self.accuracy.append([self.accuracy_of(seen) for seen in self.stream.tasks[: task.position + 1]])
        self.validation.append(self.accuracy_of(task, "validation"))
        self.capacity += tables.capacity_rows(task.position, self.method)
        self.timing.append({"learn_seconds": trained - began, "evaluate_seconds": time.monotonic() - trained})
        self.save(task)
        self.reporter.task(task.position, self.accuracy[-1], self.growth()["released"], self.ranks())

    def accuracy_of(self, task: Task, split: str = "test") -> float:
        """Top-1 accuracy in percent on one task with that task's own network."""
        model, params = self.method.network(task.position)
        examples = self.feeds.open(task.validation if split == "validation" else task.test)
        return evaluate(model, params, examples, self.config.evaluation_batch)

    def save(self, task: Task) -> None:
        """Everything learned so far, in one step; then the tables, which can be made again from it."""
        accuracies: list[Any] = self.accuracy[-1]
        self.folder.append_metric({"event": "task", "task": task.position, "accuracy": accuracies})
        arrays, meta = self.method.state()
        checkpoint.save(
            self.folder.checkpoints,
            STATE,
            arrays,
            {
                "method": meta,
                "accuracy": self.accuracy,
                "validation": self.validation,
                "capacity": self.capacity,
                "metrics_bytes": self.folder.metrics_bytes(),
            },
        )
        self.session.forget_phases()
        self.write_tables()

    def write_tables(self) -> None:
        """accuracy.csv, ranks.csv, capacity.csv, timing.json and summary.json of the tasks learned so far."""
        identities = [task.identity for task in self.stream.tasks]
        tables.write_accuracy(self.folder, self.accuracy, self.validation, identities)
        tables.write_ranks(self.folder, self.method.rank_rows())
        tables.write_capacity(self.folder, self.capacity)
        tables.write_timing(self.folder, self.timing)
        tables.write_summary(
            self.folder, self.config, self.stream.protocol, self.accuracy, self.growth(), self.timing, self.device
        )

    def growth(self) -> dict[str, float]:
        """The model's increase over task 0 by convention: released count, honest count, bytes on disk."""
        base, sizes, stored = self.method.base_parameters(), self.method.sizes(), self.method.stored_bytes()
        return {
            "released": growth_released(base, sizes),
            "honest": growth_honest(base, sizes),
            "bytes": sum(stored[1:]) / stored[0],
        }

    def ranks(self) -> list[int]:
        """The newest task's ranks, in network order."""
        rows = self.method.rank_rows()
        return [row["rank"] for row in rows if row["task"] == rows[-1]["task"]]
