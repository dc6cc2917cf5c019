"""The contract of a continual-learning method: it receives tasks one by one and answers for every task it has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from ..layers import Sequential, decomposed_layers
from ..lowrank import TaskSize
from ..training import Hooks
from ..typing import Examples, Params
from .settings import TrainingSettings

HostArrays = dict[str, np.ndarray[Any, Any]]

HEAD = "head"

KINDS = ("weights", "scalings", "factors", "batchnorm", "biases", "head")
"""The kinds of tensors of which a network is made."""

_KIND_OF_ENTRY = {
    "weight": "weights",
    **dict.fromkeys(("R", "S"), "scalings"),
    **dict.fromkeys(("A", "B"), "factors"),
    **dict.fromkeys(("gamma", "beta", "running_mean", "running_var"), "batchnorm"),
    "bias": "biases",
}


@dataclass(frozen=True)
class MethodTask:
    """One task as a method meets it: its place in the stream, its classes and its examples on the device.

    The shares are of the training images: held out for validation, and used at all. `stream` holds all tasks that will
    be learned, this one too, for a method that may see them at once.
    """

    position: int
    classes: int
    tasks: int
    validation_share: float
    train: Examples
    validation: Examples
    train_share: float = 1.0
    stream: tuple[MethodTask, ...] = ()


class Method(Protocol):
    """A continual-learning algorithm; task t = 0, 1, ... is learned once, in order.

    No array that was handed out is ever changed in place: who keeps what `tensors` returned has a snapshot.
    """

    settings_class: ClassVar[type[TrainingSettings]]
    """The settings that it reads."""

    def learn(self, task: MethodTask, hooks: Hooks) -> None:
        """Learn the next task; training phases inside are resumable through the hooks."""
        ...

    def tensors(self, position: int) -> Params:
        """Every named tensor that answers for the task at that position, shared ones and its own."""
        ...

    def network(self, position: int, tensors: Params | None = None) -> tuple[Sequential, Params]:
        """The plain network, with dense weights, that these tensors make; by default those of the task."""
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


def layer_names(model: Sequential) -> list[str]:
    """The linear and convolutional layers of a network, the head not among them, in network order."""
    return list(decomposed_layers(model, HEAD))


def kind_of(name: str) -> str:
    """The kind of a tensor, one of KINDS, by its name."""
    return "head" if name.startswith(f"{HEAD}.") else _KIND_OF_ENTRY[name.rpartition(".")[2]]


def below(arrays: HostArrays, prefix: str) -> HostArrays:
    """The entries under a prefix, by what follows it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def entries(own: Params, *kinds: str) -> int:
    """How many numbers the tensors of these names hold, those of the head not among them."""
    return sum(
        int(value.size)
        for name, value in own.items()
        if name.rpartition(".")[2] in kinds and not name.startswith(f"{HEAD}.")
    )


def head_entries(own: Params) -> int:
    """How many numbers the head holds."""
    return sum(int(value.size) for name, value in own.items() if name.startswith(f"{HEAD}."))
