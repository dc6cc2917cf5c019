"""STL, single-task learning: a network of its own for every task.

Objective of task t: min over θ_t of L_t(θ_t) + ½ λ Σ_l ‖W_l‖², from fresh parameters. Nothing is shared, so nothing is
forgotten and nothing is transferred: the upper reference for forgetting, at T times the size.

Reference: a baseline of HALRP (arXiv 2311.15161), experiments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import to_host
from ..layers import Sequential
from ..lowrank import TaskSize
from ..training import Hooks
from ..typing import Params
from .base import HostArrays, MethodTask, entries, head_entries, layer_names
from .learned import Learned
from .settings import TrainingSettings


class SingleTask(Learned):
    """One network a task; `tasks[t]` is the whole of it."""

    def __init__(self, build: Callable[[int], Sequential], settings: TrainingSettings, **where: Any) -> None:
        """`where` as for Learned: device, dtype, streams."""
        super().__init__(build, settings, **where)
        self.tasks: list[Params] = []

    @property
    def learned(self) -> int:
        """How many tasks have been learned."""
        return len(self.tasks)

    def learn(self, task: MethodTask, hooks: Hooks) -> None:
        """Learn the next task of the stream, from fresh parameters.

        Raises: ConfigError when it is not the next one.
        """
        self.expect_next(task)
        model = self.build(task.classes)
        start = self.fresh_params(model, task.position)
        penalties = self.trainer.decay(layer_names(model))
        self.tasks.append(self.trainer.phase("base", model, start, task, hooks, penalties=penalties))

    def tensors(self, position: int) -> Params:
        """Every named tensor of the task's network.

        Raises: ConfigError when that task has not been learned.
        """
        self.model(position)
        return dict(self.tasks[position])

    def sizes(self) -> list[TaskSize]:
        """What each later task adds: a whole network."""
        return [
            TaskSize(
                batchnorm=entries(own, "gamma", "beta"),
                head=head_entries(own),
                bias=entries(own, "bias"),
                running_stats=entries(own, "running_mean", "running_var"),
                weights=entries(own, "weight"),
            )
            for own in self.tasks[1:]
        ]

    def stored_bytes(self) -> list[int]:
        """Bytes that each task's network takes on disk."""
        return [sum(int(value.nbytes) for value in own.values()) for own in self.tasks]

    def state(self) -> tuple[HostArrays, dict[str, Any]]:
        """Everything learned so far: host arrays by `task/name`, and JSON values."""
        arrays = {f"{t}/{name}": to_host(value) for t, own in enumerate(self.tasks) for name, value in own.items()}
        return arrays, {"classes": self.classes, "tasks": len(self.tasks)}

    def load(self, arrays: HostArrays, meta: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.classes = list(meta["classes"])
        self.tasks = [self.placed(arrays, f"{t}/") for t in range(meta["tasks"])]
