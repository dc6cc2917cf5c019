"""MTL, multi-task learning: one network for all tasks, trained on all of them at once.

Objective: min over θ and all heads of (1/N) Σ_t Σ_n L(head_t(θ(x_n))) + ½ λ Σ_l ‖W_l‖² over the N images of all tasks,
the loss of a sample over the classes of its own task. Batches are drawn from all images alike, so that normalisation
sees all tasks. It is no continual learner: it sees the whole stream while it learns task 0, learns nothing after, and
needs all data at once, which no size counts. The upper reference for sharing one network.

Reference: a baseline of HALRP (arXiv 2311.15161), experiments; Caruana (1997).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from ..backend import to_host
from ..errors import ConfigError
from ..layers import Sequential
from ..losses import GroupedCrossEntropy
from ..lowrank import TaskSize
from ..training import Hooks, Together
from ..typing import Params
from .base import HostArrays, MethodTask, kind_of, layer_names
from .learned import Learned
from .settings import TrainingSettings


class MultiTask(Learned):
    """`params` is one network whose head has a row for each class of all tasks; a task's own rows answer for it."""

    def __init__(self, build: Callable[[int], Sequential], settings: TrainingSettings, **where: Any) -> None:
        """`where` as for Learned: device, dtype, streams."""
        super().__init__(build, settings, **where)
        self.params: Params = {}
        self.ends: list[int] = []  # of each task's rows of the head
        self.answered = 0

    @property
    def learned(self) -> int:
        """How many tasks have been learned."""
        return self.answered

    def learn(self, task: MethodTask, hooks: Hooks) -> None:
        """Learn all tasks of the stream when the first one comes; a later one is known already.

        Raises: ConfigError when it is not the next one, or not one of those that came with task 0.
        """
        self.expect_next(task)
        if task.position == 0:
            self.learn_together(task, hooks)
        elif task.position >= len(self.ends):
            raise ConfigError(
                "learn",
                expected=f"one of the {len(self.ends)} tasks that came with task 0",
                received=f"task {task.position}",
                next_step="Start again with all tasks: they are learned at once.",
            )
        self.answered += 1

    def learn_together(self, first: MethodTask, hooks: Hooks) -> None:
        """One phase over the images of all tasks, with a rate decay that counts all of them."""
        tasks = first.stream or (first,)
        counts = [task.classes for task in tasks]
        self.ends = list(accumulate(counts))
        images = Together([task.train for task in tasks], [end - n for end, n in zip(self.ends, counts, strict=True)])
        together = replace(first, train=images, tasks=1, classes=self.ends[-1], stream=())
        model = self.build(together.classes)
        self.params = self.trainer.phase(
            "together",
            model,
            self.fresh_params(model, 0),
            together,
            hooks,
            loss=GroupedCrossEntropy(np.repeat(np.arange(len(counts)), counts)),
            penalties=self.trainer.decay(layer_names(model)),
        )

    def rows(self, position: int) -> slice:
        """The rows of the head that answer for a task."""
        return slice(self.ends[position - 1] if position else 0, self.ends[position])

    def tensors(self, position: int) -> Params:
        """The shared tensors, and the task's rows of the head.

        Raises: ConfigError when that task has not been learned.
        """
        self.model(position)
        rows = self.rows(position)
        return {name: value[rows] if kind_of(name) == "head" else value for name, value in self.params.items()}

    def sizes(self) -> list[TaskSize]:
        """What each later task adds: its rows of the head."""
        heads = [self.tensors(position) for position in range(1, self.learned)]
        return [
            TaskSize(
                head=sum(int(value.size) for name, value in own.items() if kind_of(name) == "head"),
            )
            for own in heads
        ]

    def stored_bytes(self) -> list[int]:
        """Bytes on disk: the shared tensors with the first rows of the head, then each task's rows."""
        return [
            sum(int(v.nbytes) for name, v in self.tensors(t).items() if t == 0 or kind_of(name) == "head")
            for t in range(self.learned)
        ]

    def state(self) -> tuple[HostArrays, dict[str, Any]]:
        """The network, and how many of the tasks have been asked for."""
        arrays = {name: to_host(value) for name, value in self.params.items()}
        return arrays, {"classes": self.classes, "ends": self.ends, "tasks": self.answered}

    def load(self, arrays: HostArrays, meta: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.classes, self.ends, self.answered = list(meta["classes"]), list(meta["ends"]), meta["tasks"]
        self.params = self.placed(arrays, "")
