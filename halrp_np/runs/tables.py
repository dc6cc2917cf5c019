"""Tables as CSV text: one header line, numbers in their shortest exact form, an empty cell for a missing value."""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from ..errors import ResumeError, StorageError

Cell: TypeAlias = int | float | str | bool | None

_NUMBER = re.compile(r"-?(0|[1-9]\d{0,299})(\.\d+)?(e[-+]?\d{1,3})?", re.ASCII)
_TRUTH = {"true": True, "false": False}


def table_text(header: Sequence[str], rows: Iterable[Sequence[object]], where: str) -> str:
    """Return a header and rows as CSV text.

    Raises: StorageError for a row of another length than the header, a number that is not finite, or any other object.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise StorageError(
                f"{where}, row {number}",
                expected=f"{len(header)} cells ({', '.join(header)})",
                received=f"{len(row)} cells",
                next_step="Write None for a missing value.",
            )
        named = zip(header, row, strict=True)
        writer.writerow([_cell_text(cell, f"{where}, row {number}, {name}") for name, cell in named])
    return text.getvalue()


def _cell_text(cell: object, where: str) -> str:
    """Write one cell; floats as repr, the shortest text that reads back to the same number."""
    value = cell.item() if isinstance(cell, np.generic) else cell
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.isprintable():
        return value
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    received = repr(value) if isinstance(value, float | str) else f"a {type(value).__name__}"
    raise StorageError(
        where,
        expected="a finite number, text on one line, true, false or None",
        received=received,
        next_step="Write None for a missing value.",
    )


def parse_table(text: str, where: str) -> tuple[list[str], list[dict[str, Cell]]]:
    """Read CSV text into its header and one dict per row.

    A column is of numbers (or of true and false) if each of its filled cells is one, and of text otherwise.
    An empty cell reads as None.

    Raises: ResumeError naming the line whose length differs from the header's.
    """
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise _damaged(where, str(error)) from error
    if not lines or not lines[0]:
        raise _damaged(where, "no header line")
    header, rows = lines[0], [line for line in lines[1:] if line]
    for number, row in enumerate(lines, start=1):
        if row and len(row) != len(header):
            raise _damaged(f"{where}, line {number}", f"{len(row)} cells")
    columns = [_typed([row[index] for row in rows]) for index in range(len(header))]
    return header, [dict(zip(header, row, strict=True)) for row in zip(*columns, strict=True)]


def _typed(cells: list[str]) -> list[Cell]:
    """Give a column its type."""
    filled = [cell for cell in cells if cell]
    if all(cell in _TRUTH for cell in filled):
        return [_TRUTH.get(cell) for cell in cells]
    if all(_NUMBER.fullmatch(cell) for cell in filled):
        return [_number(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]


def _number(cell: str) -> int | float:
    return int(cell) if cell.lstrip("-").isdigit() else float(cell)


def _damaged(where: str, received: str) -> ResumeError:
    return ResumeError(
        where,
        expected="a table with as many cells in each line as in its header",
        received=received,
        next_step="Restore the file from a copy, or run again in a new folder.",
    )
