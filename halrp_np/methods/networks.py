"""What a method of frozen base weights has learned: task 0's network and what each later task owns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import lowrank
from ..backend import Device, to_host
from ..errors import ConfigError
from ..layers import Conv2d, Sequential, decomposed_layers, merged_params, perturb
from ..lowrank import Factors, RankDecision, TaskSize
from ..typing import Params
from .base import HostArrays, MethodTask
from .importance import IMPORTANCES

HEAD = "head"
FACTORS = ("A", "B")


@dataclass(frozen=True)
class RankChoice:
    """The ranks of one task, with what they were chosen from."""

    decisions: list[RankDecision]
    importance: dict[str, float]
    spectra: dict[str, np.ndarray[Any, Any]]
    alternatives: dict[str, dict[str, int]]
    """The ranks by every importance that was measured, the chosen one's among them: name, then layer."""


class PerturbedNetworks:
    """`base` is task 0's network; `tasks[t-1]` is what task t owns: scalings, factors, biases, normalisation, head."""

    def __init__(self, build: Callable[[int], Sequential], device: Device) -> None:
        self.build, self.device = build, device
        self.classes: list[int] = []
        self.base: Params = {}
        self.tasks: list[Params] = []
        self.choices: list[RankChoice] = []

    def expect_next(self, task: MethodTask) -> None:
        """Count the task in.

        Raises: ConfigError when tasks are skipped, repeated, or offered again after a failure.
        """
        learned = len(self.tasks) + bool(self.base)
        if task.position != learned:
            raise ConfigError(
                "learn",
                expected=f"task {learned}, the next of the stream",
                received=f"task {task.position}",
                next_step="Learn tasks once and in order, with a new method or one loaded from a saved state.",
            )
        self.classes = [*self.classes[:learned], task.classes]

    def layers(self) -> list[str]:
        """The decomposed layers in network order."""
        return list(decomposed_layers(self.build(self.classes[0]), HEAD))

    def base_weights(self) -> Params:
        """The frozen weights that every later task shares, by reference."""
        return {f"{name}.weight": self.base[f"{name}.weight"] for name in self.layers()}

    def window(self, layer: str) -> int:
        """Kernel positions over which the layer's low-rank part repeats: kh kw, or 1 for a linear layer."""
        found = decomposed_layers(self.build(self.classes[0]), HEAD)[layer]
        return found.kernel**2 if isinstance(found, Conv2d) else 1

    def factors(self, own: Params) -> Factors:
        """A and B of each layer of one task."""
        return {name: (own[f"{name}.A"], own[f"{name}.B"]) for name in self.layers()}

    def network(self, position: int) -> tuple[Sequential, Params]:
        """The plain network of the task at that position, its effective weights formed.

        Raises: ConfigError when that task has not been learned.
        """
        if not 0 <= position < len(self.classes) or not self.base:
            raise ConfigError(
                "task",
                expected=f"a learned task, 0 to {len(self.classes) - 1}",
                received=str(position),
                next_step="Choose one of these, or let the run learn more tasks.",
            )
        model = self.build(self.classes[position])
        if position == 0:
            return model, self.base
        own = {**self.base_weights(), **self.tasks[position - 1]}
        return model, merged_params(perturb(model, HEAD), own)

    def base_parameters(self) -> int:
        """Parameters of task 0's network, head included; running statistics are no parameters."""
        return sum(int(self.base[name].size) for name in self.build(self.classes[0]).trainable)

    def sizes(self) -> list[TaskSize]:
        """What each later task adds, in order."""
        return [
            lowrank.task_size(
                self.factors(own),
                batchnorm=_entries(own, "gamma", "beta"),
                head=sum(int(value.size) for name, value in own.items() if name.startswith(f"{HEAD}.")),
                bias=sum(int(own[f"{name}.bias"].size) for name in self.layers()),
                running_stats=_entries(own, "running_mean", "running_var"),
            )
            for own in self.tasks
        ]

    def stored_bytes(self) -> list[int]:
        """Bytes that each task's own numbers take on disk, task 0 first, sparse factors stored sparsely."""
        tasks = [sum(array.nbytes for array in _packed("", own).values()) for own in self.tasks]
        return [sum(int(value.nbytes) for value in self.base.values()), *tasks]

    def rank_rows(self) -> list[dict[str, Any]]:
        """One row a task and layer: rank, importance, the reason for the decision, and the rank by each importance."""
        return [
            {
                "task": position,
                **dataclasses.asdict(decision),
                "importance": choice.importance[decision.layer],
                **{rank_column(name): choice.alternatives.get(name, {}).get(decision.layer) for name in IMPORTANCES},
            }
            for position, choice in enumerate(self.choices, start=1)
            for decision in choice.decisions
        ]

    def state(self) -> tuple[HostArrays, dict[str, Any]]:
        """Everything learned so far: host arrays by `task/name`, and JSON values."""
        arrays = {f"0/{name}": to_host(value) for name, value in self.base.items()}
        for position, own in enumerate(self.tasks, start=1):
            arrays.update(_packed(f"{position}/", own))
        for position, choice in enumerate(self.choices, start=1):
            arrays.update({f"spectrum/{position}/{name}": values for name, values in choice.spectra.items()})
        choices = [
            {
                "decisions": [dataclasses.asdict(d) for d in choice.decisions],
                "importance": choice.importance,
                "alternatives": choice.alternatives,
            }
            for choice in self.choices
        ]
        return arrays, {"classes": self.classes, "tasks": len(self.tasks), "choices": choices}

    def load(self, arrays: HostArrays, meta: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.classes = list(meta["classes"])
        self.base = self._unpacked(arrays, "0/")
        self.tasks = [self._unpacked(arrays, f"{position}/") for position in range(1, meta["tasks"] + 1)]
        self.choices = [
            RankChoice(
                [RankDecision(**decision) for decision in choice["decisions"]],
                dict(choice["importance"]),
                _below(arrays, f"spectrum/{position}/"),
                dict(choice["alternatives"]),
            )
            for position, choice in enumerate(meta["choices"], start=1)
        ]

    def _unpacked(self, arrays: HostArrays, prefix: str) -> Params:
        """One task's numbers on the device, sparse factors made dense again."""
        found = _below(arrays, prefix)
        own = {name: value for name, value in found.items() if "#" not in name}
        for name in {name.partition("#")[0] for name in found if "#" in name}:
            own[name] = lowrank.unpack_sparse(_below(found, f"{name}#"))
        return {name: self.device.to_device(value) for name, value in own.items()}


def rank_column(importance: str) -> str:
    """The column of ranks.csv with the ranks that this importance would choose."""
    return f"rank_{importance.replace('-', '_')}"


def _packed(prefix: str, own: Params) -> HostArrays:
    """One task's numbers on the host; a factor becomes `name#part` for each part of its sparse form."""
    arrays: HostArrays = {}
    for name, value in own.items():
        host = to_host(value)
        if name.rpartition(".")[2] in FACTORS:
            arrays.update({f"{prefix}{name}#{part}": data for part, data in lowrank.pack_sparse(host).items()})
        else:
            arrays[f"{prefix}{name}"] = host
    return arrays


def _below(arrays: HostArrays, prefix: str) -> HostArrays:
    """The entries under a prefix, by what follows it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _entries(own: Params, *kinds: str) -> int:
    """How many numbers the parameters of these kinds hold."""
    return sum(int(value.size) for name, value in own.items() if name.rpartition(".")[2] in kinds)
