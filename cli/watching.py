"""How a sweep goes: a table that keeps itself up to date on a terminal, a line for every change elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich import box
from rich.live import Live
from rich.table import Table

import halrp_np

from .progress import count
from .screen import say

if TYPE_CHECKING:
    from rich.console import Console

WORDS = {"found": "finished before", "done": "finished", "failed": "failed", "stopped": "stopped", "running": "running"}
MOST = 20
"""Rows of the live table: what runs, what ended last, what comes next."""


class Changes(halrp_np.sweeps.Watcher):
    """A line whenever a run begins, has learned a task, or ends."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.told: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing to put away."""

    def look(self, rows: Sequence[Any]) -> None:
        for row in rows:
            learned = row.progress.learned if row.progress else 0
            before, now = self.told.get(row.job.name, ("waiting", 0)), (row.state, learned)
            if now != before and row.state not in ("waiting", "found"):
                say(self.console, f"{row.job.name}: {words(row)}")
            self.told[row.job.name] = now


class Board(Changes):
    """The live table."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Board:
        self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.live.stop()

    def look(self, rows: Sequence[Any]) -> None:
        ended = [row for row in rows if row.state not in ("waiting", "running")]
        going = [row for row in rows if row.state == "running"]
        shown = [*ended[-(MOST // 2) :], *going, *(row for row in rows if row.state == "waiting")][:MOST]
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, title=f"{len(ended)} of {count(len(rows), 'run')} ended")
        table.add_column("run", overflow="fold")
        table.add_column("", no_wrap=True)
        for row in shown:
            table.add_row(row.job.name, words(row) if row.state != "waiting" else "waiting")
        self.live.update(table)


def words(row: Any) -> str:
    """How one run stands."""
    time = f", {halrp_np.reports.duration(row.seconds)}" if row.seconds else ""
    if row.state != "running" or row.progress is None or not row.progress.tasks:
        return WORDS[row.state] + time
    progress = row.progress
    return f"{progress.learned} of {count(progress.tasks, 'task')}, {count(progress.epochs, 'epoch')} of the next{time}"


def open_watcher(console: Console) -> Changes:
    """A table where it can move, lines where it cannot."""
    return Board(console) if console.is_terminal else Changes(console)
