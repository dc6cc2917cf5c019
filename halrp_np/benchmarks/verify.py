"""The first steps of a run's first task on two devices, or in two columns, side by side: do they learn the same?

On a GPU the other side is the CPU; on the CPU, whose kernels are fast or readable, the other side is the readable
column. Both start from the same network and meet the same batches. Rounding differs, and training enlarges it (an
activation on the other side of 0, Adam's division by a small gradient), so the limits are those of a wrong kernel and
not of rounding; in float64 they are far sharper.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import Device, to_host
from ..backend.ops import kernels_in_use
from ..data import Stream
from ..errors import DeviceError
from ..methods import MethodTask
from ..training import Hooks, PhasePlan
from .catalog import new_method
from .feed import Feeds

STEPS = 20
LIMITS = {"float32": (0.02, 0.1), "float64": (1e-6, 1e-4)}
"""Of the loss, absolute, and of the parameters, relative to how far they moved."""


@dataclass(frozen=True)
class Agreement:
    """How far two ways to compute the same steps came apart."""

    sides: tuple[str, str]
    dtype: str
    steps: int
    loss: float
    parameter: float
    moved: float

    @property
    def holds(self) -> bool:
        """Whether the differences are those of rounding; what is not a number is none."""
        loss, moved = LIMITS[self.dtype]
        return self.loss <= loss and self.moved <= moved

    def __str__(self) -> str:
        loss, moved = LIMITS[self.dtype]
        return (
            f"{' and '.join(self.sides)}, {self.steps} steps in {self.dtype}: the largest difference of a loss is "
            f"{self.loss:.1e} (limit {loss:.0e}), of a parameter {self.parameter:.1e}; all parameters together differ "
            f"by {self.moved:.1e} of how far they moved (limit {moved:.0e})"
        )


class _Enough(Exception):  # noqa: N818 - it ends the first task, nothing failed
    """The steps are done."""


class _FirstSteps(Hooks):
    """Keeps every loss, and the parameters after the first step and after the last."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.losses: list[float] = []
        self.first: dict[str, Any] = {}
        self.last: dict[str, Any] = {}

    def after_step(self, plan: PhasePlan, state: Any, steps: int) -> None:
        if state.losses:  # at the end of an epoch they are told as a mean
            self.losses.append(float(to_host(state.losses[-1])))
        else:
            self.losses.append(state.history[-1]["loss"])
        if state.step == 1:
            self.first = _moving(state)
        if state.step == min(self.steps, steps):
            self.last = _moving(state)
            raise _Enough


def _moving(state: Any) -> dict[str, Any]:
    """Host copies of what is trained, in float64."""
    names = {name.partition("/")[2] for name in state.moments} or set(state.params)
    return {name: to_host(state.params[name]).astype(np.float64).copy() for name in sorted(names)}


def agreement(config: Any, stream: Stream, device: Device, steps: int = STEPS) -> Agreement:
    """The first steps on `device` beside the same on the CPU, or on the CPU beside the same in the readable column.

    Raises: DeviceError when the two come apart by more than rounding does; DivergenceError as training does.
    """
    on_gpu = device.name != "cpu"
    if not on_gpu and kernels_in_use() == "reference":
        raise DeviceError(
            "--verify-device",
            expected="kernels to hold against the readable ones",
            received="HALRP_NP_KERNELS=reference: both sides the same",
            next_step="Unset HALRP_NP_KERNELS.",
        )
    sides = (device.name, "cpu") if on_gpu else (f"cpu ({kernels_in_use()})", "cpu (reference)")
    ours = _first_steps(config, stream, device, steps)
    with nullcontext() if on_gpu else _readable():
        theirs = _first_steps(config, stream, Device("cpu"), steps)
    gaps = {name: ours.last[name] - theirs.last[name] for name in theirs.last}
    found = Agreement(
        sides,
        str(config.dtype),
        len(theirs.losses),
        float(max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))),
        float(max(abs(gap).max(initial=0.0) for gap in gaps.values())),
        _length(gaps) / max(_length({name: theirs.last[name] - theirs.first[name] for name in gaps}), 1e-300),
    )
    if not found.holds:
        raise DeviceError(
            "--verify-device",
            expected="the same steps up to rounding",
            received=str(found),
            next_step="Do not trust results of this device; try --dtype float64, then report the difference.",
        )
    return found


def _length(arrays: dict[str, Any]) -> float:
    """The 2-norm of all entries together."""
    return float(np.sqrt(sum((array * array).sum() for array in arrays.values())))


def _first_steps(config: Any, stream: Stream, device: Device, steps: int) -> _FirstSteps:
    """What the first steps of the first task leave on a device."""
    task, hooks = stream.tasks[0], _FirstSteps(steps)
    method, feeds = new_method(config, task.train.shape, device), Feeds(device, np.dtype(config.dtype))
    images = feeds.open(task.train), feeds.open(task.validation)
    with suppress(_Enough):
        method.learn(
            MethodTask(0, task.classes, len(stream.tasks), config.validation_share, *images, config.train_size), hooks
        )
    return hooks


@contextmanager
def _readable() -> Iterator[None]:
    """Within, every op runs as reference.py has it."""
    before = os.environ.get("HALRP_NP_KERNELS")
    os.environ["HALRP_NP_KERNELS"] = "reference"
    try:
        yield
    finally:
        del os.environ["HALRP_NP_KERNELS"]
        if before is not None:
            os.environ["HALRP_NP_KERNELS"] = before
