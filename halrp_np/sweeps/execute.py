"""Where the runs of a sweep take place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .local import run_here
from .outcome import Outcome, Watcher
from .plan import Job


def execute(
    jobs: Sequence[Job],
    out: Path,
    *,
    at_once: int = 1,
    scheduler: str | None = None,
    watcher: Watcher | None = None,
) -> list[Outcome]:
    """Make every job's run folder under `out`: here, some at a time, or on the Dask cluster at `scheduler`.

    Raises: as run_here and run_on_cluster.
    """
    if scheduler is None:
        return run_here(jobs, out, at_once=at_once, watcher=watcher)
    from .cluster import run_on_cluster

    return run_on_cluster(jobs, out, scheduler=scheduler, watcher=watcher)
