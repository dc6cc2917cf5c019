"""HALRP: Hessian-aware low-rank perturbation for order-robust continual learning (arXiv 2311.15161).

Task 0 trains a base network and freezes it. Every later task fine-tunes a free copy for a moment, fits row and
column scalings of the frozen base, measures how much each layer matters, shares ranks out over the residuals of all
layers at once, trains only the scalings, the low-rank factors and its own biases, normalisation and head, and prunes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import lowrank
from ..backend import to_host
from ..errors import ConfigError
from ..layers import Sequential, perturb
from ..lowrank import Decomposition, RankDecision
from ..training import Hooks, Penalty
from ..typing import Params
from .base import HEAD, MethodTask, kind_of
from .importance import Importance, importances
from .networks import PerturbedNetworks, RankChoice
from .settings import HalrpSettings


class Halrp(PerturbedNetworks):
    """Scalings and low-rank factors over a frozen base, ranks shared out by importance: the paper, step by step.

    Raises: ConfigError when the warm-up is longer than all epochs of a task.
    """

    settings_class = HalrpSettings

    def __init__(self, build: Callable[[int], Sequential], settings: HalrpSettings, **where: Any) -> None:
        """`where` as for Learned: device, dtype, streams."""
        super().__init__(build, settings, **where)
        self.settings = settings
        if settings.warmup_epochs > settings.epochs:
            raise ConfigError(
                "warmup_epochs",
                expected=f"at most epochs = {settings.epochs}",
                received=str(settings.warmup_epochs),
                next_step="Raise --epochs or lower --set warmup_epochs.",
            )

    def learn(self, task: MethodTask, hooks: Hooks) -> None:
        """Learn the next task of the stream, step by step as the paper states them.

        Raises: ConfigError when it is not the next one.
        """
        self.expect_next(task)
        if task.position == 0:
            self.base = self.train_base(task, hooks)
            return
        free = self.warm_up(task, hooks)
        scalings, residuals = self.fit_scalings(free)
        importance = self.importance(free, residuals, task)
        choice = self.choose_ranks(residuals, importance)
        start = self.perturbation(free, scalings, self.best_first(residuals, importance), choice.decisions)
        self.tasks.append(self.train_perturbation(start, task, hooks))
        self.choices.append(choice)
        self.prune(hooks)

    def warm_up(self, task: MethodTask, hooks: Hooks) -> Params:
        """Fine-tune a free copy of task 0's network, with a fresh head and without penalty: its weights are F."""
        model = self.build(task.classes)
        start = {**self.base, **self.fresh_head(model, task.position)}
        return self.trainer.phase("warm-up", model, start, task, hooks, epochs=self.settings.warmup_epochs)

    def fit_scalings(self, free: Params) -> tuple[Params, dict[str, Decomposition]]:
        """R and S of every layer by least squares, and the singular value decomposition of what they leave."""
        scalings = self.unit_scalings()
        residuals: dict[str, Decomposition] = {}
        for name in self.layers():
            W, F = self.base[f"{name}.weight"], free[f"{name}.weight"]
            R, S = scalings[f"{name}.R"], scalings[f"{name}.S"]
            if self.settings.scalings:
                R = lowrank.fit_row_scale(W, F)
                S = lowrank.fit_col_scale(W, F, R, self.settings.s_fit)
                scalings[f"{name}.R"], scalings[f"{name}.S"] = R, S
            residuals[name] = lowrank.decompose(lowrank.window_mean(lowrank.residual(W, F, R, S)))
        return scalings, residuals

    def importance(self, free: Params, residuals: dict[str, Decomposition], task: MethodTask) -> dict[str, Importance]:
        """How much the loss minds a change of each layer at F, on the validation images; others to compare with."""
        return importances(
            self.settings,
            self.build(task.classes),
            free,
            residuals,
            {name: self.window(name) for name in residuals},
            task.validation,
            self.streams.generator("probe", task.position),
        )

    def choose_ranks(self, residuals: dict[str, Decomposition], importance: dict[str, Importance]) -> RankChoice:
        """The ranks by the chosen importance, and those that each other one would have chosen."""
        decisions = {name: self.allocate_ranks(found) for name, found in importance.items()}
        chosen = self.settings.importance
        return RankChoice(
            decisions[chosen],
            importance[chosen].layers,
            {name: to_host(parts.s) for name, parts in residuals.items()},
            {name: {decision.layer: decision.rank for decision in found} for name, found in decisions.items()},
        )

    def allocate_ranks(self, importance: Importance) -> list[RankDecision]:
        """Share the ranks out over all layers by the cost of dropping each component, the cheapest dropped."""
        return lowrank.allocate_ranks(
            {name: np.sort(scores)[::-1] for name, scores in importance.scores.items()},
            share=self.settings.rank_share,
            cap=self.settings.rank_cap,
            rule=self.settings.rank_rule,
            at_full_share=self.settings.full_share,
        )

    def best_first(
        self, residuals: dict[str, Decomposition], importance: dict[str, Importance]
    ) -> dict[str, Decomposition]:
        """The components of each layer by falling score, so that the first ones are those to keep."""
        scores = importance[self.settings.importance].scores
        return {name: lowrank.best_first(parts, scores[name]) for name, parts in residuals.items()}

    def perturbation(
        self, free: Params, scalings: Params, residuals: dict[str, Decomposition], decisions: list[RankDecision]
    ) -> Params:
        """Where the perturbed network starts: fitted scalings, truncated residuals, all else as the warm-up left it."""
        start = {name: value for name, value in free.items() if name not in self.base_weights()}
        start.update(scalings)
        for decision in decisions:
            name = decision.layer
            start[f"{name}.A"], start[f"{name}.B"] = lowrank.initial_factors(residuals[name], decision.rank)
        return start

    def train_perturbation(self, start: Params, task: MethodTask, hooks: Hooks) -> Params:
        """Train R, S, A, B, biases, normalisation and head; the base weights stay frozen."""
        model = perturb(self.build(task.classes), HEAD)
        epochs = self.settings.epochs - self.settings.warmup_epochs
        still = set() if self.settings.scalings else {name for name in start if kind_of(name) == "scalings"}
        trained = self.trainer.phase(
            "perturbation",
            model,
            {**self.base_weights(), **start},
            task,
            hooks,
            epochs=epochs,
            penalties=self.penalties(),
            wanted=tuple(name for name in model.trainable if name not in still),
        )
        return {name: trained[name] for name in start if name not in still}

    def penalties(self) -> dict[str, Penalty]:
        """½λ‖· - centre‖² on the scalings, ½λ‖·‖² + λ₁|·|₁ on the factors; none on biases, normalisation and head."""
        scaling = Penalty(l2=self.settings.weight_decay, centre=self.settings.scaling_centre)
        factor = Penalty(l1=self.settings.l1, l2=self.settings.weight_decay)
        kinds = {"R": scaling, "S": scaling} if self.settings.scalings else {}
        kinds |= {"A": factor, "B": factor}
        return {f"{name}.{entry}": penalty for name in self.layers() for entry, penalty in kinds.items()}

    def prune(self, hooks: Hooks) -> None:
        """Set the smallest factor entries to zero, of every task learned (or of the newest), to bound growth."""
        settings = self.settings
        if settings.prune_rule == "none":
            return
        sizes, base = self.sizes(), self.base_parameters()
        first = len(self.tasks) - 1 if settings.prune_current_only else 0
        earlier = lowrank.released_count(base, sizes[:first]) - base  # what is left of tasks that stay as they are
        candidates = sizes[first:]
        plan = lowrank.pruning_plan(
            settings.prune_rule,
            settings.prune_values,
            bounded=settings.prune_bounded,
            growth=earlier / base + lowrank.growth_dense(base, candidates),
            factor_growth=lowrank.growth_factors(base, candidates),
            solve=settings.prune_solve,
            floor_before_bound=settings.prune_floor_first,
        )
        if plan is None:
            return
        if not plan.reachable:
            hooks.warn("the growth budget cannot be met: scalings, normalisation and heads alone exceed it")
        pruned = lowrank.prune([self.factors(own) for own in self.tasks[first:]], plan)
        for own, factors in zip(self.tasks[first:], pruned, strict=True):
            for name, (A, B) in factors.items():
                own[f"{name}.A"], own[f"{name}.B"] = A, B
