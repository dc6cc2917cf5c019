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

PLAIN_WIDTH = 120  # of a table in a file or a pipe
LOUD, HEAD, FAINT = "bold yellow", "bold", "dim"

DATA_WORDS = {
    "mnist-60k": "the full MNIST",
    "mnist-5k": "a SMALL SAMPLE of MNIST, 5,000 images: these results do not compare with published ones",
    "idx-other": "files that are NOT MNIST's: these results do not compare with published ones",
}
"""What a provenance means, in words."""


def open_console() -> Console:
    """A console on standard output as it is now; colours only on a terminal, and not under NO_COLOR."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, markup=False, emoji=False, width=None if known else PLAIN_WIDTH)


def say(console: Console, text: str, style: str | None = None, *, whole: bool = False) -> None:
    """A line of text; a terminal breaks it between words, unless it is one to copy, which stays `whole`."""
    unbroken = whole or not console.is_terminal
    console.print(Text(text, style=style or ""), soft_wrap=unbroken)  # a style given to print would colour the bars too


def say_data(console: Console, provenance: str) -> None:
    """What the data is, loudly unless it is the full set."""
    words = DATA_WORDS.get(provenance, "of unknown origin")
    say(console, f"data: {provenance}, {words}", None if provenance == "mnist-60k" else LOUD)


def say_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], words: Sequence[str] = ()
) -> None:
    """A title and a table; columns named in `words` are left-aligned and may wrap, the others hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    lines = [[str(cell) for cell in row] for row in rows]
    needed = 0
    for number, column in enumerate(columns):
        wordy = column in words
        cells = [column, *(line[number] for line in lines)]
        least = max(cell_len(part) for cell in cells for part in (cell.split() if wordy else [cell]) or [""])
        table.add_column(column, justify="left" if wordy else "right", no_wrap=not wordy, min_width=least)
        needed += least + 2
    for line in lines:
        table.add_row(*line)
    say(console, f"\n{title}", HEAD)
    width = console.width
    console.width = max(width, needed)  # beyond the edge, if it must: a number that is cut is another number
    console.print(table)
    console.width = width


def memory(size: float) -> str:
    """A number of bytes as people say it."""
    return f"{size / 1e9:.1f} GB" if size >= 0.95e9 else f"{size / 1e6:,.0f} MB"


def duration(seconds: float) -> str:
    """A time as people say it."""
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
