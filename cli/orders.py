"""`halrp-np orders`: how much the order of the tasks matters, from runs that are there or are run now."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import halrp_np

from .compare import say_sources, write
from .errors import STOPPED, RefusedError
from .running import Layer
from .subject import say_json, whole

if TYPE_CHECKING:
    from rich.console import Console

SETTINGS = ("benchmark", "method", "preset", "model", "epochs", "train_size", "data", "data_dir")
LISTED = ("benchmark", "method", "preset", "model")


@click.command("orders")
@click.argument("folders", metavar="[DIR]...", nargs=-1)
@click.option("--benchmark", metavar="NAME|FILE.toml", help="Stream of tasks.")
@click.option("--method", metavar="NAME", help="Algorithm.  [default: halrp]")
@click.option("--orders", metavar="A-E|random:10|A,C", help="Orders of the tasks; random:10 draws 10.  [default: A-E]")
@click.option("--seeds", metavar="N|0,1,5", help="How many seeds, or which.  [default: 3]")
@click.option("--preset", metavar="NAME", help="Set of switches.")
@click.option("--model", metavar="NAME", help="Network.")
@click.option("--epochs", metavar="N", help="Epochs of a task.")
@click.option("--train-size", metavar="SHARE", help="Of each task's training images.")
@click.option("--data", metavar="auto|full|sample", help="Official files or a small stand-in.")
@click.option("--data-dir", metavar="DIR", help="Folder with the data sets' own files.")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Any setting but order and seed.")
@click.option("--quick", is_flag=True, help="Small runs, for a look and not for a result.")
@click.option("--out", metavar="DIR", help="Folder of the run folders, new and old.  [default: runs]")
@click.option("--jobs", metavar="N", callback=whole(1), help="Runs at a time.  [default: 1]")
@click.option("--csv", "csv_file", metavar="FILE", help="Write every measure as CSV.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output, nothing else there.")
def orders_command(folders: tuple[str, ...], csv_file: str | None, as_json: bool, **options: Any) -> int:
    """Measure how much the order of the tasks matters: OPD of each task, AOPD and MOPD.

    With DIR, of the finished runs at and below each. With --benchmark, of the runs that it and the other options name:
    those that are finished under --out are taken from there, the others are run.
    """
    from .screen import LOUD, open_console, say

    console = open_console()
    given = [name for name, value in options.items() if value]
    if folders and given:
        named = "--" + given[0].replace("assignments", "set").replace("_", "-")
        raise refused(named, "no such option beside DIR: it says what to run", "both", "Leave out one of them.")
    if not folders and not options["benchmark"]:
        raise refused("arguments", "folders with finished runs, or --benchmark", "neither", "Name one of them.")
    failed: list[str] = []
    if not folders:
        paths, failed = run_missing(console, options, quiet=as_json)
        folders = tuple(map(str, paths))
    results, left_out = halrp_np.reports.read_finished(folders)
    report = halrp_np.reports.order_robustness(results)
    if as_json:
        if csv_file is not None:
            halrp_np.reports.write_orders_csv(csv_file, report)
        content = halrp_np.reports.orders_content(report)
        say_json("orders", {**content, "notes": [*content["notes"], *left_out, *failed]})
        return int(bool(failed))
    show_report(console, report)
    say_sources(console, results)
    for line in (*report.notes, *left_out):
        say(console, line)
    for line in (*report.warnings, *failed):
        say(console, line, LOUD)
    write(console, csv_file, halrp_np.reports.write_orders_csv, report)
    return int(bool(failed))


def refused(option: str, expected: str, received: str, advice: str) -> RefusedError:
    """The refusal of what stands on the command line."""
    return RefusedError(f"halrp-np orders: {option}: expected {expected}, received {received}. {advice}")


def run_missing(console: Console, options: dict[str, Any], *, quiet: bool) -> tuple[list[Path], list[str]]:
    """The folders of the runs asked for, those that are not there yet run now, and a line for each that failed."""
    from .watching import open_watcher

    jobs, out = jobs_of(options), Path(options["out"] or "runs")
    with contextlib.nullcontext() if quiet else open_watcher(console) as watcher:
        outcomes = halrp_np.sweeps.execute(jobs, out, at_once=options["jobs"] or 1, watcher=watcher)
    if any(outcome.state == "stopped" for outcome in outcomes):
        click.echo("stopped, everything is saved; the same command goes on", err=True)
        raise click.exceptions.Exit(STOPPED)
    folders = [Path(outcome.folder) for outcome in outcomes if outcome.state in READY]
    failed = [
        f"failed: {outcome.job.name}: {outcome.reason} (log: {outcome.log})"
        for outcome in outcomes
        if outcome.state == "failed"
    ]
    if not folders:
        raise halrp_np.HalrpError(
            f"halrp-np orders, runs in {out}",
            expected="at least one that finishes",
            received="; ".join(failed[:3]),
            next_step="The log says what happened.",
        )
    return folders, failed


READY = ("found", "done")


def jobs_of(options: dict[str, Any]) -> Any:
    """A job for each order and seed, named after its settings."""
    found: list[Layer] = [(f"--{key.replace('_', '-')}", {key: options[key]}) for key in SETTINGS if options[key]]
    for assignment in options["assignments"]:
        key, value = halrp_np.runs.parse_assignment(assignment)
        if key in ("order", "seed"):
            raise refused(f"--set {key}", "another setting", f"'{assignment}'", f"Use --{key}s.")
        found.append(("--set", {key: value}))
    halrp_np.resolve_config(*found, quick=options["quick"])  # names the option of whatever is wrong
    settings = {key: value for _, layer in found for key, value in layer.items()}
    content = {f"{key}s": [settings.pop(key)] for key in LISTED if key in settings}
    content["orders"] = [word.strip() for word in (options["orders"] or "A-E").split(",")]
    content["seeds"] = numbers(options["seeds"] or "3")
    where = "halrp-np orders"
    sweep = halrp_np.sweeps.expand({**content, "settings": settings}, where, name="orders", quick=options["quick"])
    return sweep.jobs


def numbers(text: str) -> Any:
    """`3` as a number, `0,1,5` as a list."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise refused(
            "--seeds", "a number of seeds, or seeds with commas", f"'{text}'", "Write, for example, 3 or 0,1,5."
        )
    return [int(word) for word in words] if len(words) > 1 else int(text)


def show_report(console: Console, report: Any) -> None:
    """AOPD and MOPD of every group, then the OPD of each task."""
    from .screen import say, say_table

    lines = []
    for table in report.tables:
        counts = (len(table.found.orders), len(table.found.seeds))
        for measure, spread in (("AOPD", table.found.aopd), ("MOPD", table.found.mopd)):
            lines.append((table.group.name, *counts, measure, *cells(spread)))
    columns = ("group", "orders", "seeds", "measure", *COLUMNS)
    say_table(
        console, f"Order robustness on {report.title}, in points of accuracy", columns, lines, ("group", "measure")
    )
    for table in report.tables:
        rows = [(task, table.names[task], *cells(spread)) for task, spread in table.found.opd.items()]
        title = f"OPD of each task, {table.group.name}: orders {', '.join(table.found.orders)}"
        say_table(console, title, ("task", "name", *COLUMNS), rows, ("name",))
        for reason in dict.fromkeys(table.found.undefined.values()):
            say(console, f"-: undefined, {reason}")
    for line in WORDS:
        say(console, line)


COLUMNS = ("value", "95 % interval", "same order", "chance", "chance 95 %")
WORDS = (
    "OPD: largest minus smallest accuracy on a task over the orders, each a mean over seeds; AOPD: mean, MOPD: maximum",
    "95 % interval: bootstrap over the seeds; same order: the measure between seeds of one order, mean over the orders",
    "chance, chance 95 %: mean and quantile of what as many orders and seeds show if the order does nothing",
)
"""What the columns are."""


def cells(spread: Any) -> list[str]:
    """One measure, its interval and its floors."""
    interval = "-" if spread.low is None else f"{spread.low:.2f} to {spread.high:.2f}"
    value, *floors = [
        "-" if number is None else f"{number:.2f}"
        for number in (spread.value, spread.same_order, spread.chance, spread.chance_95)
    ]
    return [value, interval, *floors]
