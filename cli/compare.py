"""`halrp-np compare`: groups of runs side by side, with paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import halrp_np

if TYPE_CHECKING:
    from rich.console import Console


@click.command("compare")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True)
@click.option("--reference", metavar="NAME", help="Group to test against.  [default: halrp, preset paper]")
@click.option("--csv", "csv_file", metavar="FILE", help="Write every mean and test as CSV.")
@click.option("--latex", "latex_file", metavar="FILE", help="Write the table as LaTeX (package booktabs).")
def compare_command(
    folders: tuple[str, ...], reference: str | None, csv_file: str | None, latex_file: str | None
) -> None:
    """Compare the finished runs at and below each DIR.

    Runs that differ in order of tasks and seed only are one group. Tests pair the runs of two groups that share both.
    """
    from .screen import LOUD, open_console, say

    console = open_console()
    results, unfinished = halrp_np.reports.read_finished(folders)
    found = halrp_np.reports.comparisons(results, reference)
    for comparison in found:
        show_means(console, comparison)
        show_tests(console, comparison)
        for line in comparison.notes:
            say(console, line)
        for line in comparison.warnings:
            say(console, line, LOUD)
    say_sources(console, results)
    for line in unfinished:
        say(console, line, LOUD)
    write(console, csv_file, halrp_np.reports.write_comparison_csv, found)
    write(console, latex_file, halrp_np.reports.write_comparison_latex, found)


def show_means(console: Console, comparison: Any) -> None:
    """Mean and standard error of every measure of every group."""
    from .screen import say, say_table

    measures = halrp_np.reports.MEASURES
    columns = ("group", "orders", "seeds", "runs", *(measure.heading for measure in measures))
    lines = []
    for row in comparison.rows:
        counts = (len(row.group.orders), len(row.group.seeds), len(row.group.runs))
        cells = (halrp_np.reports.plus_minus(row.means[measure.name], measure) for measure in measures)
        lines.append((row.group.name, *counts, *cells))
    say_table(console, f"{comparison.title}: mean ± standard error over the runs", columns, lines, ("group",))
    say(console, "forgetting: from the best before the end (Chaudhry); released, honest, bytes: growth over task 0")
    for row in comparison.rows:
        for measure in measures:
            mean = row.means[measure.name]
            if mean.value is None:
                say(console, f"{measure.heading} of {row.group.name} is undefined: {mean.undefined}")


def show_tests(console: Console, comparison: Any) -> None:
    """The tests of every group against the reference."""
    from .screen import LOUD, say, say_table

    if comparison.reference is None:
        say(console, "tests: none, no group of this benchmark is the reference", LOUD)
        return
    lines = []
    for row in comparison.rows:
        for measure in halrp_np.reports.MEASURES:
            if measure.name in row.tests:
                lines.append((row.group.name, measure.heading, *test_cells(row.tests[measure.name], measure)))
    if not lines:
        return
    title = f"{comparison.title}: paired tests against {comparison.reference}"
    columns = ["group", "measure", "pairs", "difference", "t-test p", "Holm", "sign flips p", "Holm ", "undefined"]
    if not any(line[-1] for line in lines):
        columns, lines = columns[:-1], [line[:-1] for line in lines]
    say_table(console, title, columns, lines, ("group", "measure", "undefined"))
    few = [int(line[2]) for line in lines if int(line[2]) >= 2]
    groups = len({line[0] for line in lines})
    enough = next(n for n in range(2, 64) if 2 * groups / 2**n <= 0.05)
    if few and min(few) < enough:
        least = f"sign flips of {min(few)} pairs give no p below {2 / 2 ** min(few):.3g}"
        say(console, f"{least}: to reach 0.05 after Holm's correction takes {enough} pairs")


def test_cells(test: Any, measure: Any) -> list[str]:
    """Pairs, difference and p values of one test, and why one is undefined."""
    difference = "" if test.difference is None else f"{test.difference:+.{measure.decimals}f}"
    values = ["" if value is None else f"{value:.3g}" for value in (test.t, test.t_holm, test.flip, test.flip_holm)]
    return [str(test.pairs), difference, *values, test.undefined]


def say_sources(console: Console, results: Sequence[Any]) -> None:
    """What the data is, loudly unless the files are the official ones."""
    from .screen import say_data

    names = dict.fromkeys(name for result in results for name in str(result.protocol["data"]).split(", "))
    say_data(console, ", ".join(names))


def write(console: Console, path: str | None, writer: Any, content: Any) -> None:
    """Write a file if one is asked for, and say where it is."""
    from .screen import say

    if path is not None:
        writer(Path(path), content)
        say(console, f"saved in {path}", whole=True)
