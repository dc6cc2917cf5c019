"""What the methods share that go on training one network: a trunk that moves, and a head for every task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..backend import to_host
from ..layers import Sequential
from ..lowrank import TaskSize
from ..training import Hooks, Pull
from ..typing import Params
from .base import HostArrays, MethodTask, head_entries, kind_of, layer_names
from .learned import Learned
from .settings import TrainingSettings


class SharedTrunk(Learned):
    """`trunk` is every tensor but the heads, as the newest task left it; `heads[t]` answers for task t on top of it.

    A task starts from the trunk of the one before, normalisation and its running statistics included, under a fresh
    head; older heads stay as they are. Subclasses say what holds the trunk in place.
    """

    def __init__(self, build: Callable[[int], Sequential], settings: TrainingSettings, **where: Any) -> None:
        """`where` as for Learned: device, dtype, streams."""
        super().__init__(build, settings, **where)
        self.trunk: Params = {}
        self.heads: list[Params] = []

    @property
    def learned(self) -> int:
        """How many tasks have been learned."""
        return len(self.heads)

    def learn(self, task: MethodTask, hooks: Hooks) -> None:
        """Learn the next task of the stream: train the trunk on, with a fresh head.

        Raises: ConfigError when it is not the next one.
        """
        self.expect_next(task)
        model = self.build(task.classes)
        start = self.fresh_params(model, 0)
        if task.position > 0:
            start = {**self.trunk, **self.fresh_head(model, task.position)}
        trained = self.trainer.phase(
            "task", model, start, task, hooks, penalties=self.trainer.decay(layer_names(model)), pulls=self.pulls()
        )
        self.remember(model, trained, task)
        self.trunk = {name: value for name, value in trained.items() if kind_of(name) != "head"}
        self.heads.append({name: value for name, value in trained.items() if kind_of(name) == "head"})

    def pulls(self) -> Mapping[str, Pull]:
        """What holds the trunk in place while the next task is learned."""
        return {}

    def remember(self, model: Sequential, params: Params, task: MethodTask) -> None:
        """Keep what the tasks to come need of this one."""

    def kept(self) -> Params:
        """The arrays that `remember` keeps, by name."""
        return {}

    def take_up(self, kept: Params) -> None:
        """Take up what `kept` returned."""

    def shared(self) -> list[str]:
        """The trainable tensors of the trunk, in network order."""
        return [name for name in self.build(self.classes[0]).trainable if kind_of(name) != "head"]

    def tensors(self, position: int) -> Params:
        """The trunk, and the task's own head.

        Raises: ConfigError when that task has not been learned.
        """
        self.model(position)
        return {**self.trunk, **self.heads[position]}

    def sizes(self) -> list[TaskSize]:
        """What each later task adds: a head, and the newest what is kept for the tasks to come."""
        last = len(self.heads) - 1
        return [
            TaskSize(
                head=head_entries(head),
                training_state=sum(int(value.size) for value in self.kept().values()) if t == last else 0,
            )
            for t, head in enumerate(self.heads)
        ][1:]

    def stored_bytes(self) -> list[int]:
        """Bytes on disk: the trunk with the first head, then each head, the newest with what is kept besides."""
        first, *later = (_bytes(head) for head in self.heads)
        if later:
            later[-1] += _bytes(self.kept())
        return [_bytes(self.trunk) + first, *later]

    def state(self) -> tuple[HostArrays, dict[str, Any]]:
        """Everything learned so far: `trunk/name`, `heads/task/name`, `kept/name`, and JSON values."""
        named = {f"trunk/{name}": value for name, value in self.trunk.items()}
        named |= {f"heads/{t}/{name}": value for t, head in enumerate(self.heads) for name, value in head.items()}
        named |= {f"kept/{name}": value for name, value in self.kept().items()}
        arrays = {name: to_host(value) for name, value in named.items()}
        return arrays, {"classes": self.classes, "tasks": len(self.heads)}

    def load(self, arrays: HostArrays, meta: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.classes = list(meta["classes"])
        self.trunk = self.placed(arrays, "trunk/")
        self.heads = [self.placed(arrays, f"heads/{t}/") for t in range(meta["tasks"])]
        self.take_up(self.placed(arrays, "kept/"))


def _bytes(params: Params) -> int:
    """How many bytes some arrays take."""
    return sum(int(value.nbytes) for value in params.values())
