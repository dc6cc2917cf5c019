"""Run folders written by hand, as runs write them, with any accuracies: what reads them is tested in no time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from halrp_np import resolve_config
from halrp_np.benchmarks import run_name
from halrp_np.runs import RunFolder
from halrp_np.runs import config as resolver
from halrp_np.runs.plain_json import plain
from halrp_np.training import metrics

ORDERS = {"A": (0, 1, 2), "B": (2, 0, 1), "C": (1, 2, 0), "random:0": (0, 1, 2)}
"""Orders of three tasks; random:0 is A by another name."""

GROWTH = {"released": 0.1, "released_rounded": 0.1, "honest": 0.125, "bytes": 0.2}
ENVIRONMENT: dict[str, Any] = {
    "device": "cpu",
    "kernels": "fast",
    "python": {"version": "3.12.1"},
    "packages": {"numpy": "2"},
}


def _nothing(descriptor: int) -> None:
    """In place of flushing to the disk: no loss of power is played here."""


@mock.patch.object(os, "fsync", _nothing)
def write_run(
    folder: Path,
    final: Mapping[int, float],
    *,
    learned: Mapping[int, float] | None = None,
    order: str = "A",
    growth: Mapping[str, float] = GROWTH,
    seconds: float = 60.0,
    protocol: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] = ENVIRONMENT,
    finished: bool = True,
    **settings: Any,
) -> Path:
    """Write the run of these settings below `folder`: `final[task]` at the end, `learned[task]` until then."""
    order_of = ORDERS[order]
    config = resolve_config(("test", {"benchmark": "pmnist", "data": "sample", "tasks": 3, "order": order, **settings}))
    run = RunFolder.create(folder / run_name(config))
    run.write_json("config.json", {"config": resolver.as_record(config), "protocol": protocol_of(order_of, protocol)})
    run.write_json("environment.json", dict(environment))
    before = {**final, **(learned or {})}
    matrix = [[before[task] for task in order_of[: after + 1]] for after in range(3)]
    matrix[-1] = [final[task] for task in order_of]
    matrix = matrix if finished else matrix[:-1]
    header = ("after_task", "task", "identity", "split", "accuracy")
    rows = [
        (after, task, order_of[task], split, value)
        for after, line in enumerate(matrix)
        for split in ("test", "validation")
        for task, value in enumerate(line)
    ]
    run.write_csv("accuracy.csv", header, rows)
    cost = {"learn_seconds": seconds - 1, "evaluate_seconds": 1.0, "peak_memory_bytes": 1000}
    named = {key: getattr(config, key) for key in ("benchmark", "method", "preset", "model", "seed", "device")}
    found = {"metrics": metrics.summary(matrix), "undefined": metrics.undefined(matrix), "growth": dict(growth)}
    summary = {**named, **found, "data": "mnist-5k", "tasks_learned": len(matrix), "tasks": 3, "cost": cost}
    run.write_json("summary.json", plain(summary, "summary"))
    share = {**cost, "learn_seconds": (seconds - 1) / 3, "evaluate_seconds": 1 / 3}
    run.write_json("timing.json", {"tasks": plain([share] * len(matrix), "timing")})
    return run.path


def protocol_of(order: Sequence[int], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The protocol of a stream of three tasks in this order."""
    sizes = [
        {"identity": k, "name": f"task {k}", "classes": 10, "train": 80, "validation": 20, "test": 50} for k in order
    ]
    return {
        "benchmark": "pmnist",
        "data": "mnist-5k",
        "tasks": 3,
        "image_shape": [1, 8, 8],
        "order": list(order),
        "sizes": sizes,
        "split": "the last fifth",
        "normalisation": {"mean": 0.1},
        "augmentation": "none",
        "pixels_sha256": "p",
        "labels_sha256": "l",
        **(changes or {}),
    }
