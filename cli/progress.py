"""How far a run is: bars on a terminal, lines anywhere else."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import halrp_np

from .protocol import say_protocol
from .screen import LOUD, say, say_data


class Pace:
    """Where a run is among all the images it shows its networks, each once an epoch, and how fast it goes."""

    def __init__(self, epochs: int, stop_after: int) -> None:
        self.epochs, self.stop_after = epochs, stop_after
        self.told: dict[tuple[int, str], int] = {}  # epochs told of each phase; after a resume they are told again
        self.images: list[int] = []  # of the training set of each task that will be learned
        self.phase: tuple[int, str] | None = None
        self.heard = 0.0  # when the run was last heard of: the clock of a phase's first step starts there
        self.mark = (0.0, 0)  # time and step of the phase where the epoch is timed from
        self.begin: tuple[float, float] | None = None  # time and images of the run when this process began
        self.done = 0.0

    @property
    def total(self) -> int:
        """The images of the whole run."""
        return self.epochs * sum(self.images)

    def stream(self, protocol: dict[str, Any]) -> None:
        """The run begins."""
        images = [row["train"] for row in protocol["sizes"]]
        self.images, self.heard = images[: self.stop_after or None], time.monotonic()

    def step(self, plan: Any, step: int, steps: int) -> None:
        """A step is done."""
        before, now, per_epoch = self.heard, time.monotonic(), steps // plan.epochs
        if plan.name == "together":  # then the first task's epochs show the images of all
            self.images = [sum(self.images), *(0 for _ in self.images[1:])]
        if self.phase != (plan.task, plan.name):
            self.phase, self.mark = (plan.task, plan.name), (before, step - 1)
        if step % per_epoch == 0:
            self.mark = (now, step)
        self.heard = now
        earlier = sum(count for (task, name), count in self.told.items() if task == plan.task and name != plan.name)
        within = (earlier + step / per_epoch) * self.images[plan.task]
        self.done = self.epochs * sum(self.images[: plan.task]) + within
        self.begin = self.begin or (now, self.done)

    def epoch(self, plan: Any, record: dict[str, Any]) -> float | None:
        """An epoch is done; returns its images per second where there was something to time."""
        self.told[plan.task, plan.name] = record["epoch"]
        self.heard = now = time.monotonic()
        began, step = self.mark
        done = step - (record["epoch"] - 1) * record["steps"]  # of this epoch's steps, before the clock started
        if self.phase != (plan.task, plan.name) or now <= began:
            return None
        return (self.in_epoch(plan, record["steps"]) - int(done * plan.batch)) / (now - began)

    def in_epoch(self, plan: Any, steps: int) -> int:
        """The images of an epoch: a partial last batch is either short or dropped."""
        return min(steps * int(plan.batch), self.images[int(plan.task)])

    def task(self) -> None:
        """A task is learned, evaluated and saved."""
        self.heard = time.monotonic()

    def seconds_left(self) -> float | None:
        """The whole run's time left, at the pace since this process began."""
        if self.begin is None or self.done <= self.begin[1]:
            return None
        return (time.monotonic() - self.begin[0]) / (self.done - self.begin[1]) * max(self.total - self.done, 0)


class Lines(halrp_np.benchmarks.Reporter):
    """A line an epoch and a line a task, without control characters."""

    def __init__(self, console: Console, config: Any, folder: Path) -> None:
        self.console, self.config, self.folder = console, config, folder
        self.pace = Pace(config.epochs, config.stop_after)
        self.noted: set[str] = set()  # data sets of which a note has told

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing to put away."""

    def note(self, text: str) -> None:
        told = text.partition(",")[0].removeprefix("data: ") if text.startswith("data: ") else ""
        self.noted.add(told)
        style = None if told and halrp_np.reports.data_words(told) == halrp_np.reports.OFFICIAL else LOUD
        with contextlib.suppress(RuntimeError):  # Ctrl-C in the middle of another print: the note can be missed
            say(self.console, text, style)

    def stream(self, protocol: dict[str, Any]) -> None:
        self.pace.stream(protocol)
        untold = [name for name in protocol["data"].split(", ") if name not in self.noted]
        if untold:  # a resume brings no notes
            say_data(self.console, ", ".join(untold))
        say_protocol(self.console, protocol, self.config.order, self.config.seed)
        if len(self.pace.images) < protocol["tasks"]:
            self.say(f"the first {count(len(self.pace.images), 'task')} will be learned, as stop_after asks")
        say(self.console, f"saving in {self.folder}", whole=True)

    def step(self, plan: Any, step: int, steps: int) -> None:
        self.pace.step(plan, step, steps)

    def epoch(self, plan: Any, record: dict[str, Any]) -> None:
        rate = self.pace.epoch(plan, record)
        speed = "" if rate is None else f", {rate:,.0f} images/s"
        self.say(f"{self.where(plan)}, epoch {record['epoch']}/{plan.epochs}: loss {record['loss']:.4f}{speed}")

    def task(self, position: int, accuracies: list[float], growth: float, ranks: list[int]) -> None:
        self.pace.task()
        mean = sum(accuracies) / len(accuracies)
        over = f", mean of {len(accuracies)} tasks {mean:.2f} %" if len(accuracies) > 1 else ""
        model = f", model grown by {growth:.1%}, ranks {' '.join(map(str, ranks))}" if ranks else ""
        left = self.pace.seconds_left() if position + 1 < len(self.pace.images) else None
        wait = "" if left is None else f", about {halrp_np.reports.duration(left)} left"
        done = f"task {position} learned ({position + 1} of {len(self.pace.images)})"
        self.say(f"{done}: accuracy {accuracies[-1]:.2f} %{over}{model}{wait}")

    def say(self, text: str) -> None:
        """One line."""
        say(self.console, text)

    def where(self, plan: Any) -> str:
        """The task and the phase in progress."""
        return f"task {plan.task}, {plan.name}"


class Bars(Lines):
    """Two bars, of the phase in progress with its loss and of the whole run with its speed, under a line a task."""

    def __init__(self, console: Console, config: Any, folder: Path) -> None:
        super().__init__(console, config, folder)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[figure]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
        )
        self.current = self.bars.add_task("", total=None, figure="", visible=False)
        self.whole = self.bars.add_task("whole run", total=None, figure="", visible=False)
        self.showing: tuple[int, str] | None = None

    def __enter__(self) -> Bars:
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bars.stop()

    def step(self, plan: Any, step: int, steps: int) -> None:
        super().step(plan, step, steps)
        if self.showing != (plan.task, plan.name):
            self.showing = (plan.task, plan.name)
            self.bars.reset(self.current, total=steps, completed=step - 1, figure="")
        speed, per_epoch = self.bars.tasks[self.current].speed, steps // plan.epochs
        rate = "" if speed is None else f"{speed * self.pace.in_epoch(plan, per_epoch) / per_epoch:,.0f} images/s"
        epoch = min(step // per_epoch + 1, plan.epochs)
        text = f"{self.where(plan)}, epoch {epoch}/{plan.epochs}"
        self.bars.update(self.current, description=text, completed=step, visible=True)
        self.bars.update(self.whole, total=self.pace.total, completed=self.pace.done, figure=rate, visible=True)

    def epoch(self, plan: Any, record: dict[str, Any]) -> None:
        self.pace.epoch(plan, record)
        self.bars.update(self.current, figure=f"loss {record['loss']:.4f}")


def count(number: int, word: str) -> str:
    """A number with its noun."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def open_progress(console: Console, config: Any, folder: Path) -> Lines:
    """Bars where they can move, lines where they cannot."""
    moving = console.is_terminal and not console.is_dumb_terminal
    return (Bars if moving else Lines)(console, config, folder)
