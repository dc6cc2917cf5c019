"""`halrp-np list`: what can be chosen."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

import halrp_np

from .errors import RefusedError, refusal
from .protocol import span
from .subject import waiting

if TYPE_CHECKING:
    from rich.console import Console


@click.command("list")
@click.argument("what", required=False, metavar="[benchmarks|methods|presets|models|settings]")
@click.option("--benchmarks", "measure", is_flag=True, help="The benchmarks, with the time each takes on this machine.")
def list_command(what: str | None, measure: bool) -> None:
    """List what can be chosen: everything, or one kind of it.

    --benchmarks measures some steps of each network, which takes a minute or more.
    """
    from .screen import open_console

    if what is not None and what not in KINDS:
        advice = "Leave the word out to list everything."
        raise RefusedError(refusal("halrp-np list", f"one of {', '.join(KINDS)}", what, KINDS, advice))
    if measure and what not in (None, "benchmarks"):
        raise RefusedError(
            f"halrp-np list: expected benchmarks with --benchmarks, received '{what}'. Leave one of them out."
        )
    console = open_console()
    if measure:
        benchmarks(console, measure=True)
        return
    for kind in [what] if what else KINDS:
        KINDS[kind](console)


def benchmarks(console: Console, *, measure: bool = False) -> None:
    """The streams of tasks, and each with its networks: sizes, growth, steps, and if asked for their time."""
    _named(console, "Benchmarks (--benchmark)", [(row.name, row.description) for row in halrp_np.BENCHMARKS.values()])
    rows = halrp_np.timing.estimates()
    _sizes(console, rows)
    _steps(console, rows)
    if measure:
        with waiting("measuring steps") as progress:
            times = halrp_np.timing.step_times(rows, progress)
        _times(console, rows, times)


def _sizes(console: Console, rows: Sequence[Any]) -> None:
    """What each network is, and how it grows."""
    from .screen import say, say_table

    lines = [
        (
            *_names(row),
            f"{len(row.images)} of {row.classes}",
            "x".join(str(n) for n in row.shape),
            f"{row.base_parameters():,}",
            f"{row.growth_at_caps():.0%}",
            f"{row.growth_pruned():.0%}",
        )
        for row in rows
    ]
    columns = ("benchmark", "network", "tasks of classes", "image", "parameters", "caps", "pruned")
    say_table(console, "Each with its networks (--model), the first by default", columns, lines, words=columns[:3])
    say(console, "parameters: of the first task's network")
    say(console, "caps: its growth over the stream at the rank caps (released count), unpruned")
    say(console, "pruned: the same after pruning to the budget, as far as that can be met")


def _steps(console: Console, rows: Sequence[Any]) -> None:
    """How long each is trained, in steps."""
    from .screen import say, say_table

    lines = []
    for row in rows:
        steps = span([row.steps_of_task(position) for position in range(len(row.images))])
        lines.append((*_names(row), row.config.batch_size, row.config.epochs, row.config.warmup_epochs, steps))
    columns = ("benchmark", "network", "batch", "epochs", "warm-up", "steps of a task")
    say_table(console, "Training, on the official files", columns, lines, words=columns[:2])
    say(console, "warm-up: those of a later task's epochs that come before its ranks are chosen")


def _times(console: Console, rows: Sequence[Any], times: Sequence[Any]) -> None:
    """What was measured, and what follows for the whole stream."""
    from .screen import say, say_table

    lines = [
        (
            *_names(row),
            *(f"{1 / seconds:,.1f}" for seconds in (time.base_step, time.low_rank_step)),
            f"{1 / time.image:,.0f}",
            halrp_np.reports.duration(row.seconds(time)),
        )
        for row, time in zip(rows, times, strict=True)
    ]
    columns = ("benchmark", "network", "base", "low-rank", "images", "whole stream")
    say_table(console, "Expected time on this machine's CPU", columns, lines, words=columns[:2])
    say(console, "base, low-rank: steps a second of the first task's network, and of a later one's")
    say(console, "images: evaluated a second")
    say(console, "whole stream: training and evaluation; choosing ranks and files left out")


def _names(row: Any) -> tuple[str, str]:
    """The benchmark and the network of a row."""
    return row.config.benchmark, row.config.model


def methods(console: Console) -> None:
    """The algorithms, with the first line of their file."""
    lines = [(name, _first_line(sys.modules[kind.__module__])) for name, kind in halrp_np.methods.METHODS.items()]
    _named(console, "Methods (--method)", lines)


def models(console: Console) -> None:
    """The networks, with their first line."""
    _named(console, "Models (--model)", [(name, _first_line(make)) for name, make in halrp_np.models.MODELS.items()])


def presets(console: Console) -> None:
    """Each switch in which the presets differ, its value in each, and why."""
    from .screen import say_table

    names = list(halrp_np.methods.PRESETS)
    resolved = {name: halrp_np.resolve_config(("preset", {"preset": name})) for name in names}
    rows = [
        (key, *(halrp_np.runs.as_text(getattr(resolved[name], key)) for name in names), why)
        for key, why in halrp_np.methods.PRESET_NOTES.items()
    ]
    columns = ("switch", *names, "why")
    say_table(console, "Presets (--preset): the switches in which they differ", columns, rows, words=columns)


def settings(console: Console) -> None:
    """Every key of --set and --config."""
    from .screen import say_table

    rows = halrp_np.runs.describe(halrp_np.RunConfig)
    columns = ("key", "type", "default", "methods", "meaning")
    title = "Settings (--set KEY=VALUE, or in the file of --config)"
    lines = [(row.key, row.type, row.default, _readers(row.key), row.help) for row in rows]
    say_table(console, title, columns, lines, words=columns)


def _readers(key: str) -> str:
    """The methods that read a setting, if not all of them do."""
    methods = halrp_np.methods
    if key not in methods.METHOD_SETTINGS:
        return "all"
    names = [name for name in methods.METHODS if key in methods.settings_used(name)]
    return "all" if len(names) == len(methods.METHODS) else ", ".join(names)


KINDS: dict[str, Callable[[Console], None]] = {
    "benchmarks": benchmarks,
    "methods": methods,
    "presets": presets,
    "models": models,
    "settings": settings,
}


def _named(console: Console, title: str, rows: list[tuple[str, str]]) -> None:
    """A table of names and what they are."""
    from .screen import say_table

    say_table(console, title, ("name", "what it is"), rows, words=("name", "what it is"))


def _first_line(thing: object) -> str:
    """The sentence that opens a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]
