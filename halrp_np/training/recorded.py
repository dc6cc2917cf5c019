"""The steps of a phase on a GPU: a few op by op, then one recorded as a CUDA graph and replayed for every full batch.

What changes from step to step is copied on the device into arrays that the recording reads: the rows of the batch, out
of the epoch's order, and the optimizer's factors, out of a table uploaded every TABLE steps. Running statistics are
written over the old ones, and so must be what examples draw when an epoch begins. A network that draws on the host
(dropout), examples that gather there (`on_host`), and a listener between gradients and update go on step by step, as
everything does on a CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend.graph import Replay, recordable
from ..typing import Array, Examples

if TYPE_CHECKING:
    from .loop import Step

TABLE = 1024
"""Steps whose factors are uploaded together."""


class Recorded:
    """Takes the steps of one phase, each on a range of the epoch's order."""

    def __init__(self, step: Step, examples: Examples) -> None:
        self.step, self.examples = step, examples
        self.order: Array = None
        self.replay: Replay | None = None
        if step.alone and recordable(step.flat.xp) and not getattr(examples, "on_host", False):
            xp, theta = step.flat.xp, step.flat.theta
            self.rows = xp.zeros((step.plan.batch,), dtype=np.int64)
            self.factors = xp.zeros(step.optimizer.factors(1.0, 1).shape, dtype=theta.dtype)
            self.table: Array = None
            self.first = -TABLE  # the step that the table starts with
            self.own: dict[str, Array] = {}  # running statistics, written in place
            self.replay = Replay(lambda: self.take(self.rows), xp, step.hooks.warn)

    def epoch(self, order: np.ndarray[Any, Any]) -> None:
        """The rows of the coming epoch in their order; they go to the device at once."""
        self.order = order if self.replay is None else self.step.flat.xp.asarray(order)

    def __call__(self, first: int, last: int) -> None:
        """One step on the rows first .. last - 1 of the order."""
        rows = self.order[first:last]
        if self.replay is None:
            self.step(*self.examples.batch(rows))
            return
        self.factors[...] = self.next_factors()
        if rows.shape == self.rows.shape:
            self.rows[...] = rows
            value = self.replay()
        else:
            value = self.take(rows)
        self.step.count(value.copy())  # the next replay writes over it

    def take(self, rows: Array) -> Array:
        """Gather, forward, backward, update, all on the device; returns the loss."""
        value, buffers = self.step.gradients(*self.examples.batch(rows))
        self.step.update(self.factors)
        params = self.step.state.params
        for name, moved in buffers.items():
            if name not in self.own:
                params[name] = self.own[name] = moved.copy()
            else:
                self.own[name][...] = moved
        return value

    def next_factors(self) -> Array:
        """The optimizer's factors of the coming step, a row of the table on the device."""
        number = self.step.state.step
        if not self.first <= number < self.first + TABLE:
            self.first = number
            rows = [self.step.factors(n) for n in range(number, number + TABLE)]
            self.table = self.step.flat.on_device(np.stack(rows))
        return self.table[number - self.first]
