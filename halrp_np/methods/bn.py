"""BN: normalisation, biases and head of each task's own, on the weights of the first task.

Objective of task t ≥ 1: min over γ, β, b and the head of L_t, with W frozen after task 0; running statistics follow the
batches. HALRP with R = S = 1 and rank 0 comes to the same.

Reference: a baseline of HALRP (arXiv 2311.15161), whose released code keeps all of these for each task; as a method of
its own the patches of scales and shifts of Mudrakarta et al., arXiv 1810.10703.
"""

from __future__ import annotations

from ..layers import perturb
from ..training import Hooks
from .base import HEAD, MethodTask, kind_of
from .networks import FrozenBase

PERTURBATION = ("scalings", "factors")
"""What stays at R = S = 1 and rank 0, and is not kept."""


class TaskBatchNorm(FrozenBase):
    """The first task's weights, under normalisation, biases and a head for each task."""

    def learn(self, task: MethodTask, hooks: Hooks) -> None:
        """Learn the next task of the stream: the first in whole, a later one without its weights.

        Raises: ConfigError when it is not the next one.
        """
        self.expect_next(task)
        if task.position == 0:
            self.base = self.train_base(task, hooks)
            return
        # HALRP's phase and layers, so that both draw the same batches and round alike
        model = perturb(self.build(task.classes), HEAD)
        start = {**self.base, **self.unit_scalings(), **self.no_factors(), **self.fresh_head(model, task.position)}
        moving = tuple(name for name in model.trainable if kind_of(name) not in PERTURBATION)
        trained = self.trainer.phase("perturbation", model, start, task, hooks, wanted=moving)
        self.tasks.append({name: v for name, v in trained.items() if kind_of(name) not in ("weights", *PERTURBATION)})
