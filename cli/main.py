"""The entry point: the group of commands, each of which loads what it needs when it is called."""

from __future__ import annotations

import importlib
from typing import Any

import click

import halrp_np

from .errors import guarded

COMMANDS = {
    "run": ("running", "Run a benchmark, from its configuration to results on disk."),
    "resume": ("running", "Go on with a run that stopped; it ends as if it never had."),
    "show": ("show", "Show what a run is and what it found, finished or not."),
    "sweep": ("sweep", "Make many runs from one file: methods, orders, seeds, grids; go on where it stopped."),
    "compare": ("compare", "Compare finished runs: means, standard errors, paired tests."),
    "orders": ("orders", "Measure how much the order of the tasks matters, running what is missing."),
    "report": ("report", "Write a page of one run or of several: one HTML file, or its pictures."),
    "check": ("check", "Check gradients, Hessian products and the bound by finite differences."),
    "spectrum": ("spectrum", "Draw the density of the Hessian's eigenvalues, layer by layer."),
    "time": ("timing", "Time steps, evaluation and Hessian products, beside the machine's floor and PyTorch."),
    "list": ("listing", "List benchmarks, methods, presets, models and settings."),
    "data": ("data", "List, fetch and verify data sets."),
}
"""Each command's module and its line in `--help`."""


class App(click.Group):
    """The commands by name, loaded when used, with every error told in one form and answered by an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command's module."""
        if cmd_name not in COMMANDS:
            return None
        module, line = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f".{module}", __package__), f"{cmd_name}_command")
        command.short_help = line
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line and leave the process with its exit code."""
        parent: Any = super().main
        if not kwargs.pop("standalone_mode", True):
            return parent(*args, standalone_mode=False, **kwargs)
        raise SystemExit(guarded(lambda: parent(*args, standalone_mode=False, **kwargs)))


@click.group("halrp-np", cls=App, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(halrp_np.__version__, prog_name="halrp-np")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Hessian-aware low-rank perturbation (HALRP) for continual learning, in NumPy.

    A first look, a minute long:  halrp-np run --benchmark pmnist --quick
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
