"""`halrp-np sweep`: many runs from one file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import halrp_np

from .errors import STOPPED, RefusedError
from .progress import count
from .subject import waiting, whole
from .watching import open_watcher

if TYPE_CHECKING:
    from rich.console import Console

    from .running import Layer

SETTINGS = ("epochs", "data", "data_dir", "device")


@click.command("sweep")
@click.argument("source", required=False, metavar="[FILE.toml|NAME]")
@click.option("--out", metavar="DIR", help="Folder of the run folders, new and old.  [default: runs]")
@click.option("--jobs", "at_once", metavar="N", callback=whole(1), help="Runs at a time, cores shared.  [default: 1]")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask cluster's, like tcp://host:8786, to run there instead.")
@click.option("--quick", is_flag=True, help="Small runs, for a look and not for a result.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be run, and end.")
@click.option("--epochs", metavar="N", help="Epochs of a task, in every run.")
@click.option("--data", metavar="auto|full|sample", help="Official files or a small stand-in, in every run.")
@click.option("--data-dir", metavar="DIR", help="Folder with the data sets' own files.")
@click.option("--device", metavar="cpu|gpu|gpu:N|auto", help="Where every run computes.")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Any setting, in every run.")
def sweep_command(
    source: str | None,
    out: str | None,
    at_once: int | None,
    scheduler: str | None,
    quick: bool,
    only_plan: bool,
    assignments: tuple[str, ...],
    **flags: Any,
) -> int:
    """Make every run of a sweep: benchmarks x methods x presets x networks x orders x seeds x a grid of settings.

    What is finished is left alone and what broke off goes on, so the same command continues a sweep that was stopped.
    Without an argument it lists the sweeps that come with the package.
    """
    from .screen import open_console, say, say_table

    if scheduler is not None and at_once is not None:
        raise RefusedError(
            "halrp-np sweep: --jobs: expected no value beside --scheduler, whose workers say how many runs they take, "
            f"received {at_once}. Leave one of them out."
        )
    console = open_console()
    if source is None:
        say_table(
            console, "Sweeps that come with the package", ("name", "what it is"), shipped(), ("name", "what it is")
        )
        say(console, "or a TOML file of your own: halrp-np sweep FILE.toml; `docs/sweeps.md` says what is in it")
        return 0
    sweep = halrp_np.sweeps.load(source, quick=quick, overrides=overrides(flags, assignments))
    if sweep.figure:
        halrp_np.reports.check_figure(sweep.figure)
    folder = Path(out or "runs")
    say_plan(console, sweep, folder, at_once or 1)
    if only_plan:
        return 0
    with open_watcher(console) as watcher:
        outcomes = halrp_np.sweeps.execute(
            sweep.jobs, folder, at_once=at_once or 1, scheduler=scheduler, watcher=watcher
        )
    return say_end(console, sweep, outcomes, folder)


def shipped() -> list[tuple[str, str]]:
    """The sweeps of the package, with their titles."""
    return list(halrp_np.sweeps.shipped().items())


def overrides(flags: dict[str, Any], assignments: Sequence[str]) -> list[Layer]:
    """The user's settings for every run, with their sources."""
    found: list[Layer] = [
        (f"--{key.replace('_', '-')}", {key: flags[key]}) for key in SETTINGS if flags[key] is not None
    ]
    for assignment in assignments:
        key, value = halrp_np.runs.parse_assignment(assignment)
        found.append(("--set", {key: value}))
    return found


def say_plan(console: Console, sweep: Any, folder: Path, at_once: int) -> None:
    """Every run with how it stands and what it will take."""
    from .screen import say, say_table

    standings = {job.name: halrp_np.sweeps.standing(job, folder) for job in sweep.jobs}
    ahead = [job for job in sweep.jobs if standings[job.name] != "found"]
    with waiting("measuring steps") as progress:
        expected = halrp_np.sweeps.expected_seconds(ahead, progress)
    rows = []
    for job in sweep.jobs:
        seconds = expected.get(job.name)
        rows.append(
            (job.name, STANDINGS[standings[job.name]], "-" if seconds is None else halrp_np.reports.duration(seconds))
        )
    title = f"{sweep.title}: {count(len(sweep.jobs), 'run')} in {folder}"
    say_table(console, title, ("run", "", "expected"), rows, ("run", ""))
    known = [seconds for seconds in expected.values() if seconds is not None]
    if known:
        unknown = f", {count(len(expected) - len(known), 'run')} of unknown length left out" * (
            len(known) < len(expected)
        )
        total = halrp_np.reports.duration(sum(known))
        say(console, f"expected in all: {total} of training and evaluation on all cores{unknown}")
    if at_once > 1:
        say(console, f"{at_once} at a time, each on its share of the cores")


STANDINGS = {"found": "finished", "resume": "to go on", "new": "to run"}


def say_end(console: Console, sweep: Any, outcomes: Sequence[Any], folder: Path) -> int:
    """What became of the runs, with the log of each that failed, and the figure; returns the exit code."""
    from .screen import LOUD, say

    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in ENDS}
    say(console, ", ".join(f"{number} {ENDS[state]}" for state, number in counts.items() if number))
    for outcome in outcomes:
        if outcome.state == "failed":
            say(console, f"failed: {outcome.job.name}: {outcome.reason} (log: {outcome.log})", LOUD, whole=True)
    if counts["stopped"]:
        say(console, "the same command goes on with what was stopped")
        return STOPPED
    finished = [outcome.folder for outcome in outcomes if outcome.state in ("found", "done")]
    if sweep.figure and counts["failed"]:
        say(console, f"the figure {sweep.figure} is not drawn: it takes all runs", LOUD)
    elif sweep.figure:
        say_figure(console, sweep.figure, finished, folder)
    if finished:
        named = shlex.quote(str(folder))
        say(console, f"compare them: halrp-np compare {named}; look at them: halrp-np report {named}", whole=True)
    return 1 if counts["failed"] else 0


def say_figure(console: Console, figure: str, finished: Sequence[Path], folder: Path) -> None:
    """Draw the figure of the finished runs, or say why these make none."""
    from .screen import LOUD, say

    try:
        drawn = halrp_np.reports.draw_figure(figure, halrp_np.reports.read_finished(finished)[0], folder)
    except halrp_np.HalrpError as error:
        say(console, f"the figure {figure} is not drawn: {error}", LOUD, whole=True)
        return
    for line in drawn.notes:
        say(console, line)
    say(console, f"drawn: {drawn.picture}, its numbers: {drawn.table}", whole=True)


ENDS = {"found": "finished before", "done": "finished now", "failed": "failed", "stopped": "stopped"}
