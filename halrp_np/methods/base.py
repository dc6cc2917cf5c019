"""The contract of a continual-learning method: it receives tasks one by one and answers for every task it has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..layers import Sequential
from ..lowrank import TaskSize
from ..training import Hooks
from ..typing import Examples, Params

HostArrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class MethodTask:
    """One task as a method meets it: its place in the stream, its classes and its examples on the device.

    The shares are of the training images: held out for validation, and used at all.
    """

    position: int
    classes: int
    tasks: int
    validation_share: float
    train: Examples
    validation: Examples
    train_share: float = 1.0


class Method(Protocol):
    """A continual-learning algorithm; task t = 0, 1, ... is learned once, in order."""

    def learn(self, task: MethodTask, hooks: Hooks) -> None:
        """Learn the next task; training phases inside are resumable through the hooks."""
        ...

    def network(self, position: int) -> tuple[Sequential, Params]:
        """The plain network, with dense weights, that answers for the task at that position."""
        ...

    def base_parameters(self) -> int:
        """Parameters of task 0's network, head included: what growth is measured against."""
        ...

    def sizes(self) -> list[TaskSize]:
        """What each later task adds, in order."""
        ...

    def stored_bytes(self) -> list[int]:
        """Bytes that each task's own numbers take on disk, task 0 first, sparse factors stored sparsely."""
        ...

    def rank_rows(self) -> list[dict[str, Any]]:
        """One row a task and decomposed layer: the rank and the reason for it; empty for a method without ranks."""
        ...

    def state(self) -> tuple[HostArrays, dict[str, Any]]:
        """Everything learned so far, as host arrays and JSON values."""
        ...

    def load(self, arrays: HostArrays, meta: dict[str, Any]) -> None:
        """Take up a saved state."""
        ...
