"""The terminal: one console, lines that lose nothing, tables, and numbers as people read them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

import halrp_np

PLAIN_WIDTH = 120  # of a table in a file or a pipe
LOUD, HEAD, FAINT = "bold yellow", "bold", "dim"


def open_console() -> Console:
    """A console on standard output as it is now; colours only on a terminal, and not under NO_COLOR."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, markup=False, emoji=False, width=None if known else PLAIN_WIDTH)


def say(console: Console, text: str, style: str | None = None, *, whole: bool = False) -> None:
    """A line of text; a terminal breaks it between words, unless it is one to copy, which stays `whole`."""
    unbroken = whole or not console.is_terminal
    console.print(Text(text, style=style or ""), soft_wrap=unbroken)  # a style given to print would colour the bars too


def say_data(console: Console, provenance: str) -> None:
    """What the data is, one line for each kind of it, loudly unless the files are the official ones."""
    for words, names in halrp_np.reports.kinds_of_data(provenance).items():
        official = words == halrp_np.reports.OFFICIAL
        say(console, f"data: {', '.join(names)}, {words}", None if official else LOUD)


def say_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], words: Sequence[str] = ()
) -> None:
    """A title and a table; columns named in `words` are left-aligned and may wrap, the others hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    lines = [[str(cell) for cell in row] for row in rows]
    cells = [[column, *(line[number] for line in lines)] for number, column in enumerate(columns)]
    whole = [max(map(cell_len, column)) for column in cells]
    least = [
        max(cell_len(word) for cell in column for word in cell.split() or [""]) if name in words else width
        for name, column, width in zip(columns, cells, whole, strict=True)
    ]
    between = 2 * (len(columns) - 1)
    widths = fitted(whole, least, console.width - between)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, justify="left" if column in words else "right", width=width)
    for line in lines:
        table.add_row(*line)
    say(console, f"\n{title}", HEAD)
    width = console.width
    console.width = max(width, sum(widths) + between)  # beyond the edge, if it must: a cut number is another number
    console.print(table)
    console.width = width


def fitted(whole: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths of columns that fit into a room, the widest made narrower first, none narrower than its `least`."""
    widths = list(whole)
    while sum(widths) > room and (free := [n for n, width in enumerate(widths) if width > least[n]]):
        widths[max(free, key=lambda n: widths[n])] -= 1
    return widths
