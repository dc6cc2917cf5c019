"""BE, BatchEnsemble: each task scales the rows and columns of the first task's weights.

Objective of task t ≥ 1: min over R, S, b, normalisation and head of L_t + ½ λ Σ_l (‖R_l - c‖² + ‖S_l - c‖²), for the
weights W_t = diag(R) W diag(S) with W frozen after task 0, from R = S = 1; c = 1. HALRP with rank 0 comes to the same.

Reference: Wen, Tran and Ba, arXiv 2002.06715, section 3 and, for lifelong learning, 4.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..layers import Sequential, perturb
from ..training import Hooks, Penalty
from .base import HEAD, MethodTask
from .networks import FrozenBase
from .settings import BeSettings


class BatchEnsemble(FrozenBase):
    """The first task's weights under row and column scalings, biases, normalisation and a head for each task."""

    settings_class = BeSettings

    def __init__(self, build: Callable[[int], Sequential], settings: BeSettings, **where: Any) -> None:
        """`where` as for Learned: device, dtype, streams."""
        super().__init__(build, settings, **where)
        self.settings = settings

    def learn(self, task: MethodTask, hooks: Hooks) -> None:
        """Learn the next task of the stream: the first in whole, a later one by its scalings.

        Raises: ConfigError when it is not the next one.
        """
        self.expect_next(task)
        if task.position == 0:
            self.base = self.train_base(task, hooks)
            return
        model, shared = perturb(self.build(task.classes), HEAD), self.base_weights()
        start = {**self.base, **self.unit_scalings(), **self.no_factors()}
        start |= self.fresh_head(model, task.position)
        # HALRP's phase and layers, so that both draw the same batches and round alike
        trained = self.trainer.phase("perturbation", model, start, task, hooks, penalties=self.penalties())
        self.tasks.append({name: value for name, value in trained.items() if name not in shared})

    def penalties(self) -> dict[str, Penalty]:
        """½λ‖· - c‖² on the scalings; none on biases, normalisation and head."""
        scaling = Penalty(l2=self.settings.weight_decay, centre=self.settings.scaling_centre)
        return {f"{name}.{entry}": scaling for name in self.layers() for entry in ("R", "S")}
