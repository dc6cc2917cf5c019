"""EWC, elastic weight consolidation: one network, held in place where earlier tasks mind.

Objective of task t ≥ 1: min over θ and the task's head of L_t(θ) + ½ λ Σ_{k<t} Σ_i F_i^k (θ_i - θ_i^k)² (and
½ λ_W Σ_l ‖W_l‖²), with θ^k where task k ended and F^k = (1/N) Σ_n g_n² there, g_n the gradient of sample n alone, in
evaluation mode; θ all shared parameters, heads not among them. Running statistics are no parameters: nothing holds
them, and an old task is answered with the newest ones.

The sum over k is one quadratic: with F = Σ_k F^k and θ̄ = Σ_k F^k θ^k / F it is Σ_i F_i (θ_i - θ̄_i)² but for a constant,
so two arrays are kept however many tasks there are. Online: F ← γ F + F^t, and θ̄ is where the newest task ended.

Reference: Kirkpatrick et al., arXiv 1612.00796, equation 3; one quadratic: Huszár, arXiv 1712.03847; online: Schwarz et
al., arXiv 1805.06370, section 3.2; the Fisher information by sample: van de Ven, arXiv 2502.11756.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..backend import array_module
from ..curvature import fisher_diagonal
from ..layers import Sequential
from ..training import Pull
from ..typing import Array, Params
from .base import MethodTask, below
from .settings import EwcSettings
from .trunk import SharedTrunk


class Ewc(SharedTrunk):
    """One network, pulled to earlier tasks' parameters by their Fisher information.

    `fisher` and `centre` are F and θ̄, by name; the labels of the gradients are the data's, the network's first, or
    drawn from its softmax, as `fisher_labels` says.
    """

    settings_class = EwcSettings

    def __init__(self, build: Callable[[int], Sequential], settings: EwcSettings, **where: Any) -> None:
        """`where` as for Learned: device, dtype, streams."""
        super().__init__(build, settings, **where)
        self.settings = settings
        self.fisher: Params = {}
        self.centre: Params = {}

    def pulls(self) -> Mapping[str, Pull]:
        """λ F, towards θ̄."""
        return {
            name: Pull(self.settings.ewc_strength * fisher, self.centre[name]) for name, fisher in self.fisher.items()
        }

    def remember(self, model: Sequential, params: Params, task: MethodTask) -> None:
        """Add the task's Fisher information at its end to what is kept."""
        task.train.begin_epoch(self.streams.generator("augment fisher", task.position))  # the same after a resume
        found = fisher_diagonal(
            model,
            params,
            task.train,
            names=self.shared(),
            labels=self.settings.fisher_labels,
            batch=self.settings.batch_size,
            samples=self.settings.fisher_images,
            generator=self.streams.generator("fisher", task.position),
        )
        for name, newest in found.items():
            if self.settings.ewc_online:
                before = self.fisher.get(name, 0.0)
                self.fisher[name], self.centre[name] = self.settings.ewc_decay * before + newest, params[name]
            elif name not in self.fisher:
                self.fisher[name], self.centre[name] = newest, params[name]
            else:
                total = self.fisher[name] + newest
                self.centre[name] = _weighted(self.fisher[name], self.centre[name], newest, params[name])
                self.fisher[name] = total

    def kept(self) -> Params:
        """F and θ̄."""
        named = {"fisher": self.fisher, "centre": self.centre}
        return {f"{part}/{name}": value for part, values in named.items() for name, value in values.items()}

    def take_up(self, kept: Params) -> None:
        """Take up F and θ̄."""
        self.fisher, self.centre = below(kept, "fisher/"), below(kept, "centre/")


def _weighted(a: Array, x: Array, b: Array, y: Array) -> Array:
    """(a x + b y) / (a + b) as x + b/(a + b) (y - x), and x where neither has a weight."""
    xp = array_module(a)
    total = a + b
    return x + xp.where(total > 0, b / xp.maximum(total, float(np.finfo(total.dtype).tiny)), 0) * (y - x)
