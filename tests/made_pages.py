"""Run folders with every table that a page shows, written by hand with numbers that are easy to find again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from halrp_np import resolve_config
from halrp_np.benchmarks import attribution, boundary, tables
from halrp_np.runs import RunFolder, checkpoint
from halrp_np.runs import config as resolver
from halrp_np.runs.plain_json import plain
from halrp_np.training import metrics
from made_runs import ENVIRONMENT, GROWTH, protocol_of

LAYERS = {"conv1": 3, "fc1": 40, "head.odd": 12}
"""Layers and the components of each; no run ranks a head, but a page must not mind any name."""


def write_full_run(
    folder: Path, *, tasks: int = 3, learned: int | None = None, names: Sequence[str] = (), **settings: Any
) -> Path:
    """Write a run of so many tasks, of which some are learned, with ranks, spectra, ledgers, changes and curvature."""
    learned = tasks if learned is None else learned
    config = resolve_config(("test", {"benchmark": "pmnist", "data": "sample", "tasks": tasks, **settings}))
    run = RunFolder.create(folder)
    protocol = protocol_of(range(tasks), {"tasks": tasks})
    for size, name in zip(protocol["sizes"], names, strict=False):
        size["name"] = name
    run.write_json("config.json", {"config": resolver.as_record(config), "protocol": protocol})
    run.write_json("environment.json", ENVIRONMENT)
    run.append_metric({"event": "epoch", "task": learned, "phase": "warm-up", "epoch": 1})
    a = [[90.0 - task - (after - task) / 2 for task in range(after + 1)] for after in range(learned)]
    tables.write_accuracy(run, {"test": a, "validation": a}, list(range(learned)))
    cost: Any = {"learn_seconds": 60.0, "evaluate_seconds": 1.0, "peak_memory_bytes": 5_000_000}
    timing = [{**cost, "phases": {"base": 50.0, "between": 10.0}} for _ in range(learned)]
    tables.write_timing(run, timing)
    if learned:
        found = {"metrics": metrics.summary(a), "undefined": metrics.undefined(a), "growth": GROWTH}
        total = tables.total_cost(timing)
        summary = {**found, "cost": total, "data": "mnist-5k", "tasks_learned": learned, "tasks": tasks}
        run.write_json("summary.json", plain(summary, "summary"))
    if config.method == "halrp":
        write_ranks(run, learned)
    write_ledgers(run, learned)
    return run.path


def write_ranks(run: RunFolder, learned: int) -> None:
    """ranks.csv and the checkpoint with the spectra: one layer raised, one capped, one by the threshold."""
    rows, arrays = [], {}
    for task in range(1, learned):
        for layer, size in LAYERS.items():
            rank, kept, clamp = {3: (1, 0, "raised"), 40: (10, 25, "capped")}.get(size, (4, 4, "none"))
            cells = dict.fromkeys(tables.RANK_HEADER, 1)
            cells |= {"task": task, "size": size, "rank": rank, "kept": kept, "importance": 2.5, "last_score": 0.5}
            rows.append({**cells, "layer": layer, "clamp": clamp, "cumulative_share": 0.75, "kept_fraction": 0.625})
            arrays[f"spectrum/{task}/{layer}"] = (1.0 / np.arange(1, size + 1)).astype(np.float32)
    tables.write_ranks(run, rows)
    checkpoint.save(run.checkpoints, "state", arrays, {"tasks": learned})


def write_ledgers(run: RunFolder, learned: int) -> None:
    """capacity.csv, changes.csv (factors lose half a point each time, weights never change) and curvature.csv."""
    capacity, changes, curvature = [], [], []
    for after in range(1, learned):
        for task in range(1, after + 1):
            cells = dict.fromkeys(tables.CAPACITY_HEADER, 10) | {"after_task": after, "task": task, "bytes": 4000}
            cells |= {f"growth_{kind}": 0.01 * task for kind in ("released", "honest", "bytes")}
            capacity.append([cells[name] for name in tables.CAPACITY_HEADER])
        for task in range(after):
            changes.append([after, task, task, "factors", 800, 80, -0.5])
            changes.append([after, task, task, "weights", 1000, 0, 0.0])
    for after in range(learned):
        for task in range(after + 1):
            curvature.append([after, task, task, "fc1", 12.5, 0.5, None if task else 3.25, None if task else 0.0, 30])
    tables.write_capacity(run, capacity)
    run.write_csv("changes.csv", attribution.HEADER, changes)
    run.write_csv("curvature.csv", boundary.HEADER, curvature)
