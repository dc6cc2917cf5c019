"""`halrp-np data`: what there is, a download, a check."""

from __future__ import annotations

from typing import Any

import click

import halrp_np


@click.group("data")
def data_command() -> None:
    """List, fetch and verify data sets."""


@data_command.command("list")
def list_data() -> None:
    """List the data sets and whether they are on this machine."""
    from .screen import FAINT, open_console, say, say_table

    console, rows = open_console(), halrp_np.data.data_sets()
    columns = ("name", "size", "licence", "here")
    lines = [(row.name, row.size, row.licence, "yes" if row.found else "no") for row in rows]
    say_table(console, "Data sets", columns, lines, words=columns)
    say(
        console,
        "\nFiles of your own: halrp-np run --data-dir DIR, in the layout that the data set's authors use.",
        FAINT,
    )
    for row in rows:
        say(console, f"{row.name}: {row.where}", whole=row.found)


@data_command.command("fetch")
@click.argument("name")
def fetch_data(name: str) -> None:
    """Download the data set NAME into the cache, as far as it is not there, and check it."""
    from .screen import open_console, say

    console = open_console()
    rows = halrp_np.data.fetch(name, lambda text: say(console, text))
    report(rows, f"Try again: halrp-np data fetch {name}.")


@data_command.command("verify")
@click.argument("name")
@click.option("--data-dir", metavar="DIR", help="Folder with the files.  [default: the cache]")
def verify_data(name: str, data_dir: str | None) -> None:
    """Check every file of the data set NAME."""
    advice = "Copy the file again" if data_dir else "Fetch it again"
    report(halrp_np.data.verify(name, data_dir), f"{advice}: halrp-np data fetch {name} gets the real one.")


def report(rows: list[Any], advice: str) -> None:
    """Print a line a file, and fail when one of them is not as it should be."""
    from .screen import open_console, say

    console = open_console()
    for row in rows:
        say(console, f"{'ok ' if row.ok else 'BAD'} {row.file}: {row.detail}")
    bad = [row for row in rows if not row.ok]
    if bad:
        received = bad[0].detail + (f" (and {len(bad) - 1} more are bad)" if len(bad) > 1 else "")
        raise halrp_np.HalrpError(
            bad[0].file, expected="the data set's own, whole file", received=received, next_step=advice
        )
