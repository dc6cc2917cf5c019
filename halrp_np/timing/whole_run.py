"""A run in a process of its own, from its start to its end; prints accuracies and the times of its low-rank steps.

python -m halrp_np.timing.whole_run ORDER.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from ..benchmarks import Reporter, resolve_config, run


class Clock(Reporter):
    """Milliseconds between the steps of each task's perturbation phase, and the last accuracies."""

    def __init__(self) -> None:
        self.step_ms: dict[int, list[float]] = {}
        self.accuracy: list[float] = []
        self.before: tuple[int, str, float] | None = None

    def step(self, plan: Any, step: int, steps: int) -> None:
        now = time.perf_counter()
        if plan.name == "perturbation" and self.before is not None and self.before[:2] == (plan.task, plan.name):
            self.step_ms.setdefault(plan.task, []).append(1e3 * (now - self.before[2]))
        self.before = (plan.task, plan.name, now)

    def task(self, position: int, accuracies: list[float], growth: float, ranks: list[int]) -> None:
        self.accuracy = accuracies


def main(path: str) -> None:
    """Do what the order says."""
    order = json.loads(Path(path).read_text(encoding="utf-8"))
    clock = Clock()
    run(resolve_config(("time", order["config"])), order["out"], clock)
    print(json.dumps({"accuracy": clock.accuracy, "step_ms": clock.step_ms}))


if __name__ == "__main__":
    main(sys.argv[1])
