"""The training loop: one phase is some epochs of one network on one task, resumable at any step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..backend import Streams, array_module, restore_generator, saved_generator, to_host
from ..errors import ConfigError, DivergenceError, nearest
from ..layers import EVALUATE, Dropout, Mode, Sequential, fuse
from ..layers.base import Names
from ..losses import Loss
from ..typing import Array, Examples, Params
from .flat import Flat
from .optimizer import Optimizer
from .penalty import Penalty, Pull
from .recorded import Recorded

LOSS_CHECK_STEPS = 25  # a finite loss is asserted this often and at every epoch's end: one host read each time


@dataclass(frozen=True)
class PhasePlan:
    """What a phase does: update n = 0, 1, ... uses the learning rate lr γⁿ."""

    task: int
    name: str
    epochs: int
    batch: int
    lr: float
    gamma: float
    shuffle: bool = True
    drop_last: bool = True

    def steps_per_epoch(self, samples: int) -> int:
        """Batches in an epoch.

        Raises: ConfigError when dropping the last partial batch leaves none.
        """
        steps = samples // self.batch if self.drop_last else math.ceil(samples / self.batch)
        if steps == 0:
            raise ConfigError(
                "batch_size",
                expected=f"at most the {samples} training images of task {self.task} (a partial batch is dropped)",
                received=str(self.batch),
                next_step="Choose a smaller batch or more images.",
            )
        return steps


@dataclass
class PhaseState:
    """Everything that a phase needs to go on: parameters, moments, random streams, cursor and its past."""

    params: Params
    moments: Params
    order: dict[str, Any]  # the batch order's stream at the start of the current epoch
    dropout: np.random.Generator
    step: int = 0
    losses: list[Any] = field(default_factory=list)  # of the current epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # a record for every finished epoch


class Hooks:
    """Where a run listens to the loop; the default does nothing."""

    def restore(self, plan: PhasePlan) -> PhaseState | None:
        """The state to continue from, or None to start afresh."""
        return None

    def before_update(self, plan: PhasePlan, state: PhaseState, loss: Array) -> None:
        """The loss of the step is known, the parameters have not moved."""

    def after_step(self, plan: PhasePlan, state: PhaseState, steps: int) -> None:
        """`state.step` of `steps` updates are done; the state is whole and may be saved."""

    def after_epoch(self, plan: PhasePlan, record: dict[str, Any]) -> None:
        """An epoch ended; after a restore the earlier epochs are told again, in order."""

    def warn(self, text: str) -> None:
        """Something the user should know."""

    def finished(self, plan: PhasePlan, state: PhaseState) -> None:
        """The phase is done."""


def train_phase(
    plan: PhasePlan,
    model: Sequential,
    params: Params,
    examples: Examples,
    *,
    loss: Loss,
    optimizer: Optimizer,
    penalties: dict[str, Penalty],
    streams: Streams,
    hooks: Hooks,
    wanted: Names = None,
    pulls: Mapping[str, Pull] = {},
) -> Params:
    """Train the `wanted` trainable parameters of `model` (None: all) from `params`; returns all, the trained ones new.

    `params` stay untouched, and what is not wanted is returned as it was given. `pulls` draw parameters that are
    trained towards a point, entry by entry.

    Raises: DivergenceError when the loss is not finite, naming task, phase, epoch and step; ConfigError when nothing is
    trained, or `wanted` or `pulls` name what cannot be.
    """
    state = hooks.restore(plan) or fresh_state(plan, model, params, streams)
    fixed = set(model.trainable) - set(moving(model, wanted))
    state.params.update({name: params[name] for name in fixed})  # restored or not, the very arrays that were given
    step = Step(
        plan,
        fuse(model),
        state,
        loss=loss,
        optimizer=optimizer,
        penalties=penalties,
        hooks=hooks,
        wanted=wanted,
        pulls=pulls,
    )
    take = Recorded(step, examples)
    for record in state.history:
        hooks.after_epoch(plan, record)
    steps = plan.steps_per_epoch(len(examples))
    while state.step < plan.epochs * steps:
        order = restore_generator(state.order)
        examples.begin_epoch(streams.generator(f"augment {plan.name}", plan.task, state.step // steps))
        rows = order.permutation(len(examples)) if plan.shuffle else np.arange(len(examples))
        take.epoch(rows)
        for number in range(state.step % steps, steps):
            take(number * plan.batch, (number + 1) * plan.batch)
            if number + 1 < steps:
                hooks.after_step(plan, state, plan.epochs * steps)
        close_epoch(plan, state, order, steps, hooks)
        hooks.after_step(plan, state, plan.epochs * steps)
    hooks.finished(plan, state)
    moved = {name: value.copy() for name, value in step.flat.params.items()}  # else one would keep all of them alive
    return {**state.params, **moved}


def fresh_state(plan: PhasePlan, model: Sequential, params: Params, streams: Streams) -> PhaseState:
    """A phase at its first step: nothing has moved, streams are at their start."""
    return PhaseState(
        params={name: params[name] for name in model.names()},
        moments={},
        order=saved_generator(streams.generator(f"order {plan.name}", plan.task)),
        dropout=streams.generator(f"dropout {plan.name}", plan.task),
    )


def moving(model: Sequential, wanted: Names) -> tuple[str, ...]:
    """The trainable parameters that are wanted, in the network's order.

    Raises: ConfigError for a name that is none of them.
    """
    if wanted is None:
        return model.trainable
    unknown = sorted(set(wanted) - set(model.trainable))
    if unknown:
        near = nearest(unknown[0], model.trainable)
        raise ConfigError(
            "wanted",
            expected="trainable parameters of the network",
            received=repr(unknown[0]),
            next_step=f"Did you mean {near!r}?" if near else f"Choose among {', '.join(model.trainable)}.",
        )
    return tuple(name for name in model.trainable if name in wanted)


class Step:
    """One update of a phase, to be called with each batch: gradients, then the optimizer.

    What is trained moves into flat arrays (copies) and `state` then holds views of them; buffers are replaced, never
    changed in place. No gradient is formed for what is not wanted. `gradients` and `update` touch the device alone.
    """

    def __init__(
        self,
        plan: PhasePlan,
        model: Sequential,
        state: PhaseState,
        *,
        loss: Loss,
        optimizer: Optimizer,
        penalties: dict[str, Penalty],
        hooks: Hooks,
        wanted: Names = None,
        pulls: Mapping[str, Pull] = {},
    ) -> None:
        self.plan, self.model, self.state, self.hooks = plan, model, state, hooks
        self.loss, self.optimizer = loss, optimizer
        names = moving(model, wanted)
        self.wanted: Names = None if len(names) == len(model.trainable) else names
        self.flat = Flat(state.params, names, optimizer.moments, state.moments, penalties, pulls)
        state.params = {**state.params, **self.flat.params}
        state.moments = self.flat.moment_params

    def __call__(self, x: Array, labels: Array) -> None:
        """Take one step on this batch."""
        state = self.state
        value, buffers = self.gradients(x, labels)
        self.hooks.before_update(self.plan, state, value)
        self.update(self.flat.on_device(self.factors(state.step)))
        state.params.update(buffers)
        self.count(value)

    def factors(self, number: int) -> np.ndarray[Any, Any]:
        """What update number 0, 1, ... of the phase needs besides arrays, on the host."""
        return self.optimizer.factors(self.plan.lr * self.plan.gamma**number, number + 1)

    def count(self, value: Array) -> None:
        """The step is done, and this was its loss."""
        self.state.losses.append(value)
        self.state.step += 1
        if len(self.state.losses) % LOSS_CHECK_STEPS == 0:
            settle_losses(self.plan, self.state)

    @property
    def alone(self) -> bool:
        """Whether the host has no part in a step: it draws no mask, and nobody listens between gradient and update."""
        draws = any(isinstance(layer, Dropout) and layer.rate > 0 for _, layer in self.model.walk())
        return not draws and type(self.hooks).before_update is Hooks.before_update

    def gradients(self, x: Array, labels: Array) -> tuple[Array, Params]:
        """Forward, loss, backward into `flat.grad`: the loss and the buffers after the batch."""
        params = self.state.params
        outputs, cache = self.model.forward(params, x, Mode(train=True, dropout=self.state.dropout))
        value, gy = self.loss.value_and_grad(outputs, labels)
        _, grads = self.model.backward(params, cache, gy, input_gradient=False, wanted=self.wanted)
        self.flat.set_gradients(grads)
        return value, self.model.new_buffers(params, cache)

    def update(self, factors: Array) -> None:
        """The optimizer's update of the flat parameters, with its factors on the device; the pulls join before it."""
        self.flat.pull()
        self.optimizer.update(self.flat, factors)


def settle_losses(plan: PhasePlan, state: PhaseState) -> list[float]:
    """The epoch's losses as host floats, each finite; all since the last check come in one read.

    Raises: DivergenceError at the first that is not.
    """
    settled = sum(type(value) is float for value in state.losses)  # they come first
    if pending := state.losses[settled:]:
        state.losses[settled:] = to_host(array_module(pending[0]).stack(pending)).tolist()
    for number, value in enumerate(state.losses):
        if not math.isfinite(value):
            step = state.step - len(state.losses) + number + 1
            raise DivergenceError(
                f"task {plan.task}, phase {plan.name}, epoch {len(state.history) + 1}, step {step}",
                expected="a finite loss",
                received=str(value),
                next_step="Start a new run with a lower learning rate; if that fails too, check the data.",
            )
    return state.losses


def close_epoch(plan: PhasePlan, state: PhaseState, order: np.random.Generator, steps: int, hooks: Hooks) -> None:
    """Record the epoch and move the batch order on to the next."""
    losses = settle_losses(plan, state)
    record = {
        "task": plan.task,
        "phase": plan.name,
        "epoch": len(state.history) + 1,
        "steps": steps,
        "loss": sum(losses) / len(losses),
        "lr": plan.lr * plan.gamma ** (state.step - 1),
    }
    state.history.append(record)
    state.losses = []
    state.order = saved_generator(order)
    hooks.after_epoch(plan, record)


def batches(samples: int, size: int) -> Iterator[np.ndarray[Any, Any]]:
    """Row numbers in sequence, the last partial batch kept."""
    for start in range(0, samples, size):
        yield np.arange(start, min(start + size, samples))


def evaluate(model: Sequential, params: Params, examples: Examples, batch: int) -> float:
    """Top-1 accuracy in percent over all examples, in evaluation mode."""
    correct: Array = 0
    for rows in batches(len(examples), batch):
        x, labels = examples.batch(rows)
        outputs, _ = model.forward(params, x, EVALUATE)
        correct = correct + (outputs.argmax(axis=0) == labels).sum()
    return 100.0 * float(to_host(correct)) / len(examples)
