"""`halrp-np list`: what can be chosen."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

import halrp_np

from .errors import RefusedError, refusal
from .settings import text

if TYPE_CHECKING:
    from rich.console import Console


@click.command("list")
@click.argument("what", required=False, metavar="[benchmarks|methods|presets|models|settings]")
def list_command(what: str | None) -> None:
    """List what can be chosen: everything, or one kind of it."""
    from .screen import open_console

    if what is not None and what not in KINDS:
        advice = "Leave the word out to list everything."
        raise RefusedError(refusal("halrp-np list", f"one of {', '.join(KINDS)}", what, KINDS, advice))
    console = open_console()
    for kind in [what] if what else KINDS:
        KINDS[kind](console)


def benchmarks(console: Console) -> None:
    """The streams of tasks."""
    _named(console, "Benchmarks (--benchmark)", [(row.name, row.description) for row in halrp_np.BENCHMARKS.values()])


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
        (key, *(text(getattr(resolved[name], key)) for name in names), why)
        for key, why in halrp_np.methods.PRESET_NOTES.items()
    ]
    columns = ("switch", *names, "why")
    say_table(console, "Presets (--preset): the switches in which they differ", columns, rows, words=columns)


def settings(console: Console) -> None:
    """Every key of --set and --config."""
    from .screen import say_table

    rows = halrp_np.runs.describe(halrp_np.RunConfig)
    columns = ("key", "type", "default", "meaning")
    title = "Settings (--set KEY=VALUE, or in the file of --config)"
    say_table(console, title, columns, [(row.key, row.type, row.default, row.help) for row in rows], words=columns)


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
