"""L2: one network, each task held near where the task before left it.

Objective of task t ≥ 1: min over θ and the task's head of L_t(θ) + ½ λ ‖θ - θ_{t-1}‖² (and ½ λ_W Σ_l ‖W_l‖²), θ all
shared parameters, heads not among them. θ_{t-1} is where task t starts, so nothing is kept between tasks. Running
statistics are no parameters: nothing holds them, and an old task is answered with the newest ones.

Reference: the baseline of Kirkpatrick et al., arXiv 1612.00796; Hsu et al., arXiv 1810.12488.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..backend import array_module
from ..layers import Sequential
from ..training import Pull
from .settings import L2Settings
from .trunk import SharedTrunk


class L2(SharedTrunk):
    """One network, pulled alike in all directions to where it was."""

    settings_class = L2Settings

    def __init__(self, build: Callable[[int], Sequential], settings: L2Settings, **where: Any) -> None:
        """`where` as for Learned: device, dtype, streams."""
        super().__init__(build, settings, **where)
        self.strength = settings.l2_strength

    def pulls(self) -> Mapping[str, Pull]:
        """λ in every direction, towards the trunk as it is."""
        if not self.trunk:
            return {}
        found = {name: self.trunk[name] for name in self.shared()}
        xp = array_module(next(iter(found.values())))
        return {n: Pull(xp.full(where.shape, self.strength, dtype=where.dtype), where) for n, where in found.items()}
