"""How a run survives: checkpoints of the phase in progress and of everything learned, and the clean interrupt."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..backend import Device, restore_generator, saved_generator, to_host
from ..runs import checkpoint
from ..runs.record import RunFolder
from ..training import Hooks, PhasePlan
from ..training.loop import PhaseState, settle_losses
from ..typing import Params

STATE = "state"
BETWEEN = "between"
"""What of a task's time lies between its phases, by its name in timing.json."""


class RunInterruptedError(Exception):
    """The user asked to stop; everything up to the last step is saved."""


class Reporter:
    """Where a run tells how far it is; the default is silent."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    def stream(self, protocol: dict[str, Any]) -> None:
        """The stream is ready."""

    def step(self, plan: PhasePlan, step: int, steps: int) -> None:
        """An update is done."""

    def epoch(self, plan: PhasePlan, record: dict[str, Any]) -> None:
        """An epoch is done."""

    def task(self, position: int, accuracies: list[float], growth: float, ranks: list[int]) -> None:
        """A task is learned and every seen task is evaluated."""


class Session(Hooks):
    """The hooks of one run folder: a phase's state is saved when time is up, when it ends, and on an interrupt.

    `fingerprint` goes into every checkpoint, so that a resume notices when config.json was changed.
    """

    def __init__(
        self, folder: RunFolder, device: Device, reporter: Reporter, seconds: float, fingerprint: str = ""
    ) -> None:
        self.folder, self.device, self.reporter, self.seconds = folder, device, reporter, seconds
        self.fingerprint = fingerprint
        self.saved_at = time.monotonic()
        self.interrupted = False
        self.start_clock()

    def start_clock(self) -> None:
        """A task begins."""
        self.began, self.earlier = time.monotonic(), 0.0
        self.phases: dict[str, float] = {}  # seconds by name; of the one in progress those before `phase_began`
        self.phase_began = self.began
        self.phases_known = True

    def elapsed(self) -> float:
        """Seconds spent on the task, those before a resume included up to its checkpoint."""
        return self.earlier + time.monotonic() - self.began

    def restore(self, plan: PhasePlan) -> PhaseState | None:
        self.phases[plan.name], self.phase_began = 0.0, time.monotonic()
        if not checkpoint.exists(self.folder.checkpoints, plan.name):
            return None
        arrays, meta = checkpoint.load(self.folder.checkpoints, plan.name)
        if meta["task"] != plan.task:  # left by a task that ended just before the process did
            return None
        self.earlier = max(self.earlier, meta["seconds"])  # a later phase holds those of the earlier ones too
        self.phases.update(meta.get("phases", {}))
        self.phases_known &= "phases" in meta  # not in folders of earlier versions
        state: dict[str, Any] = meta["state"]
        return PhaseState(
            params=self._on_device(arrays, "params/"),
            moments=self._on_device(arrays, "moments/"),
            order=state["order"],
            dropout=restore_generator(state["dropout"]),
            step=state["step"],
            losses=list(state["losses"]),
            history=list(state["history"]),
        )

    def after_step(self, plan: PhasePlan, state: PhaseState, steps: int) -> None:
        self.reporter.step(plan, state.step, steps)
        if self.interrupted:
            self.save(plan, state)
            raise RunInterruptedError
        if time.monotonic() - self.saved_at >= self.seconds:
            self.save(plan, state)

    def after_epoch(self, plan: PhasePlan, record: dict[str, Any]) -> None:
        self.folder.append_metric({"event": "epoch", **record})
        self.reporter.epoch(plan, record)

    def warn(self, text: str) -> None:
        self.reporter.note(text)

    def finished(self, plan: PhasePlan, state: PhaseState) -> None:
        self.save(plan, state)
        self.phases = self.phases_with(plan)

    def phase_seconds(self) -> dict[str, float] | None:
        """Seconds of each phase of the task that has just been learned, and of what lies between; None if not known."""
        between = max(self.elapsed() - sum(self.phases.values()), 0.0)
        return {**self.phases, BETWEEN: between} if self.phases_known else None

    def phases_with(self, plan: PhasePlan) -> dict[str, float]:
        """Seconds of each phase of the task until now, when this one is in progress."""
        return {**self.phases, plan.name: self.phases[plan.name] + time.monotonic() - self.phase_began}

    def save(self, plan: PhasePlan, state: PhaseState) -> None:
        """Write the state of the phase in progress."""
        arrays = {f"params/{name}": to_host(value) for name, value in state.params.items()}
        arrays.update({f"moments/{name}": to_host(value) for name, value in state.moments.items()})
        cursor = {
            "order": state.order,
            "dropout": saved_generator(state.dropout),
            "step": state.step,
            "losses": settle_losses(plan, state),
            "history": state.history,
        }
        seconds = {"seconds": self.elapsed(), "phases": self.phases_with(plan)}
        meta = {"task": plan.task, "state": cursor, **seconds, "config_sha256": self.fingerprint}
        checkpoint.save(self.folder.checkpoints, plan.name, arrays, meta)
        self.saved_at = time.monotonic()

    def forget_phases(self) -> None:
        """Delete the phases' checkpoints: the task they belong to is saved."""
        for name in checkpoint.names(self.folder.checkpoints):
            if name != STATE:
                checkpoint.remove(self.folder.checkpoints, name)

    def _on_device(self, arrays: Any, prefix: str) -> Params:
        """The arrays under a prefix, by what follows it."""
        return {
            name.removeprefix(prefix): self.device.to_device(value)
            for name, value in arrays.items()
            if name.startswith(prefix)
        }

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let the first Ctrl-C stop at the next step with everything saved; a second one stops at once."""

        def stop(_number: int, _frame: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            self.reporter.note("stopping after this step (Ctrl-C again to stop at once)")

        try:
            before = signal.signal(signal.SIGINT, stop)
        except ValueError:  # not the main thread: the caller handles signals
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
