"""What a method of frozen base weights has learned: task 0's network and what each later task owns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import lowrank
from ..backend import array_module, to_host
from ..layers import Conv2d, Sequential, decomposed_layers, merged_params, perturb
from ..lowrank import Factors, RankDecision, TaskSize
from ..training import Hooks
from ..typing import Params
from .base import HEAD, HostArrays, MethodTask, below, entries, head_entries, kind_of
from .importance import IMPORTANCES
from .learned import Learned
from .settings import TrainingSettings


@dataclass(frozen=True)
class RankChoice:
    """The ranks of one task, with what they were chosen from."""

    decisions: list[RankDecision]
    importance: dict[str, float]
    spectra: dict[str, np.ndarray[Any, Any]]
    alternatives: dict[str, dict[str, int]]
    """The ranks by every importance that was measured, the chosen one's among them: name, then layer."""


class FrozenBase(Learned):
    """`base` is task 0's network; `tasks[t-1]` is what task t owns, which replaces or perturbs what is in the base.

    A task that owns factors perturbs the frozen weights; scalings that it does not own are 1.
    """

    def __init__(self, build: Callable[[int], Sequential], settings: TrainingSettings, **where: Any) -> None:
        """`where` as for Learned: device, dtype, streams."""
        super().__init__(build, settings, **where)
        self.base: Params = {}
        self.tasks: list[Params] = []

    @property
    def learned(self) -> int:
        """How many tasks have been learned."""
        return len(self.tasks) + bool(self.base)

    def train_base(self, task: MethodTask, hooks: Hooks) -> Params:
        """Task 0: train every parameter, with ½λ‖W‖² on the weights that later tasks will reuse."""
        model = self.build(task.classes)
        start = self.fresh_params(model, task.position)
        return self.trainer.phase("base", model, start, task, hooks, penalties=self.trainer.decay(self.layers()))

    def base_weights(self) -> Params:
        """The frozen weights that every later task shares, by reference."""
        return {f"{name}.weight": self.base[f"{name}.weight"] for name in self.layers()}

    def tensors(self, position: int) -> Params:
        """Every named tensor that answers for the task: task 0's network, or the frozen weights and the task's own.

        Raises: ConfigError when that task has not been learned.
        """
        self.model(position)
        return {**self.base_weights(), **self.tasks[position - 1]} if position else dict(self.base)

    def network(self, position: int, tensors: Params | None = None) -> tuple[Sequential, Params]:
        """The plain network of the task at that position, its effective weights formed.

        Raises: ConfigError when that task has not been learned.
        """
        model, own = self.model(position), self.tensors(position) if tensors is None else tensors
        if not any(kind_of(name) == "factors" for name in own):
            return model, own
        return model, merged_params(perturb(model, HEAD), {**self.unit_scalings(), **own})

    def unit_scalings(self) -> Params:
        """R = S = 1 of every layer, on the device."""
        found: Params = {}
        for name, W in self.base_weights().items():
            layer, xp = name.removesuffix(".weight"), array_module(W)
            found[f"{layer}.R"] = xp.ones(W.shape[0], dtype=W.dtype)
            found[f"{layer}.S"] = xp.ones(W.shape[1], dtype=W.dtype)
        return found

    def no_factors(self) -> Params:
        """A and B of rank 0 for every layer: the perturbed layer with its scalings alone."""
        found: Params = {}
        for name, W in self.base_weights().items():
            layer, xp = name.removesuffix(".weight"), array_module(W)
            found[f"{layer}.A"] = xp.zeros((0, W.shape[1]), dtype=W.dtype)
            found[f"{layer}.B"] = xp.zeros((W.shape[0], 0), dtype=W.dtype)
        return found

    def factors(self, own: Params) -> Factors:
        """A and B of each layer of one task, none where it has none."""
        return {name: (own[f"{name}.A"], own[f"{name}.B"]) for name in self.layers() if f"{name}.A" in own}

    def sizes(self) -> list[TaskSize]:
        """What each later task adds, in order; scalings that stay 1 are nobody's."""
        return [
            dataclasses.replace(
                lowrank.task_size(
                    self.factors(own),
                    batchnorm=entries(own, "gamma", "beta"),
                    head=head_entries(own),
                    bias=entries(own, "bias"),
                    running_stats=entries(own, "running_mean", "running_var"),
                ),
                scalings=entries(own, "R", "S"),
            )
            for own in self.tasks
        ]

    def stored_bytes(self) -> list[int]:
        """Bytes that each task's own numbers take on disk, task 0 first, sparse factors stored sparsely."""
        tasks = [sum(array.nbytes for array in _packed("", own).values()) for own in self.tasks]
        return [sum(int(value.nbytes) for value in self.base.values()), *tasks]

    def state(self) -> tuple[HostArrays, dict[str, Any]]:
        """Everything learned so far: host arrays by `task/name`, and JSON values."""
        arrays = {f"0/{name}": to_host(value) for name, value in self.base.items()}
        for position, own in enumerate(self.tasks, start=1):
            arrays.update(_packed(f"{position}/", own))
        return arrays, {"classes": self.classes, "tasks": len(self.tasks)}

    def load(self, arrays: HostArrays, meta: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.classes = list(meta["classes"])
        self.base = self._unpacked(arrays, "0/")
        self.tasks = [self._unpacked(arrays, f"{position}/") for position in range(1, meta["tasks"] + 1)]

    def _unpacked(self, arrays: HostArrays, prefix: str) -> Params:
        """One task's numbers on the device, sparse factors made dense again."""
        found = below(arrays, prefix)
        own = {name: value for name, value in found.items() if "#" not in name}
        for name in {name.partition("#")[0] for name in found if "#" in name}:
            own[name] = lowrank.unpack_sparse(below(found, f"{name}#"))
        return {name: self.device.to_device(value) for name, value in own.items()}


class PerturbedNetworks(FrozenBase):
    """Networks whose ranks were chosen, with what they were chosen from."""

    def __init__(self, build: Callable[[int], Sequential], settings: TrainingSettings, **where: Any) -> None:
        """`where` as for Learned: device, dtype, streams."""
        super().__init__(build, settings, **where)
        self.choices: list[RankChoice] = []

    def window(self, layer: str) -> int:
        """Kernel positions over which the layer's low-rank part repeats: kh kw, or 1 for a linear layer."""
        found = decomposed_layers(self.build(self.classes[0]), HEAD)[layer]
        return found.kernel**2 if isinstance(found, Conv2d) else 1

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
        """Everything learned so far: host arrays by `task/name` and `spectrum/task/layer`, and JSON values."""
        arrays, meta = super().state()
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
        return arrays, {**meta, "choices": choices}

    def load(self, arrays: HostArrays, meta: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        super().load(arrays, meta)
        self.choices = [
            RankChoice(
                [RankDecision(**decision) for decision in choice["decisions"]],
                dict(choice["importance"]),
                below(arrays, f"spectrum/{position}/"),
                dict(choice["alternatives"]),
            )
            for position, choice in enumerate(meta["choices"], start=1)
        ]


def rank_column(importance: str) -> str:
    """The column of ranks.csv with the ranks that this importance would choose."""
    return f"rank_{importance.replace('-', '_')}"


def _packed(prefix: str, own: Params) -> HostArrays:
    """One task's numbers on the host; a factor becomes `name#part` for each part of its sparse form."""
    arrays: HostArrays = {}
    for name, value in own.items():
        host = to_host(value)
        if kind_of(name) == "factors":
            arrays.update({f"{prefix}{name}#{part}": data for part, data in lowrank.pack_sparse(host).items()})
        else:
            arrays[f"{prefix}{name}"] = host
    return arrays
