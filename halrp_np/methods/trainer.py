"""One phase of training, with what all methods share: optimizer, schedule, random streams, weight decay."""

from __future__ import annotations

from collections.abc import Mapping

from ..backend import Streams
from ..layers import Sequential
from ..layers.base import Names
from ..losses import CrossEntropy, Loss
from ..training import Hooks, Penalty, PhasePlan, Pull, exponential_gamma, make_optimizer, train_phase
from ..typing import Params
from .base import MethodTask
from .settings import TrainingSettings


class Trainer:
    """Trains networks as the settings say; what a phase draws follows from its name, its task and the seed."""

    def __init__(self, settings: TrainingSettings, streams: Streams) -> None:
        self.settings, self.streams = settings, streams

    def phase(
        self,
        name: str,
        model: Sequential,
        start: Params,
        task: MethodTask,
        hooks: Hooks,
        *,
        epochs: int | None = None,
        loss: Loss | None = None,
        penalties: dict[str, Penalty] | None = None,
        wanted: Names = None,
        pulls: Mapping[str, Pull] | None = None,
    ) -> Params:
        """One phase with its own optimizer and learning-rate schedule, of all epochs unless told otherwise.

        Raises: as train_phase.
        """
        s = self.settings
        length = s.epochs if epochs is None else epochs
        plan = PhasePlan(
            task.position, name, length, s.batch_size, s.learning_rate, self.gamma(task), s.shuffle, s.drop_last
        )
        return train_phase(
            plan,
            model,
            start,
            task.train,
            loss=loss or CrossEntropy(),
            optimizer=make_optimizer(s.optimizer, scale=s.gradient_scale, momentum=s.momentum),
            penalties=penalties or {},
            streams=self.streams,
            hooks=hooks,
            wanted=wanted,
            pulls=pulls or {},
        )

    def gamma(self, task: MethodTask) -> float:
        """The learning rate's factor a step."""
        if self.settings.gamma_rule == "fixed":
            return self.settings.gamma
        return exponential_gamma(
            self.settings.gamma_rule,
            batch=self.settings.batch_size,
            train_images=len(task.train),
            tasks=task.tasks,
            train_share=task.train_share,
            validation_share=task.validation_share,
        )

    def decay(self, layers: list[str]) -> dict[str, Penalty]:
        """½λ‖W‖² on the weights of these layers; none on biases, normalisation and head."""
        return {f"{name}.weight": Penalty(l2=self.settings.weight_decay) for name in layers}
