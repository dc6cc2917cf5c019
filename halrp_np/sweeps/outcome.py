"""What became of each run of a sweep, and who is told while it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .folders import Progress
from .plan import Job

State = Literal["found", "done", "failed", "stopped"]


@dataclass(frozen=True)
class Outcome:
    """The end of one job: finished before, finished now, failed with a reason, or stopped by the user."""

    job: Job
    folder: Path
    state: State
    reason: str = ""
    log: Path | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Row:
    """How one job stands: waiting, running or ended, how far it is, and for how long it has run here."""

    job: Job
    state: Literal["waiting", "running"] | State
    progress: Progress | None
    seconds: float


class Watcher:
    """Who is told how a sweep goes; the default does not listen."""

    def look(self, rows: Sequence[Row]) -> None:
        """How every job stands, in their order; a few times a second."""
