"""Means over runs as points and lines with error bars, and the same numbers as CSV."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from ..files import write_whole
from ..runs.tables import table_text
from .drawing import SERIES
from .picture import Layout, draw
from .plots import BLACK, BLUE, GREY
from .statistics import Mean, mean_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = (*SERIES, (BLACK, "X", "-."), (GREY, "*", ":"))
"""Colour, marker and line of each group: as many as there are methods."""

CSV_HEADER = ("figure", "benchmark", "data", "measure", "group", "along", "at", "mean", "standard_error", "runs")

Place: TypeAlias = int | str
"""Where a point stands: a number, or a name on an axis of names."""


@dataclass(frozen=True)
class Point:
    """One mean: of `measure` of `group` in `benchmark`, `at` a place `along` some axis, over the `values` of runs."""

    benchmark: str
    measure: str
    group: str
    along: str
    at: Place
    values: tuple[float, ...]

    @property
    def mean(self) -> Mean:
        """Mean and standard error over the runs."""
        return mean_of(self.values)

    @property
    def panel(self) -> str:
        """The title of the panel it is drawn in."""
        return ": ".join(part for part in (self.benchmark, self.measure) if part)


@dataclass(frozen=True)
class Look:
    """How the panels of a figure look."""

    x_label: str
    y_label: str
    columns: int = 2
    height: float = 2.6  # of a panel, in inches
    level: float | None = None  # where a line of reference is drawn
    logarithmic: bool = False  # above 1; linear below, with a place for 0
    share: bool = True  # one range for all panels


def write_points(path: str | os.PathLike[str], figure: str, points: Sequence[Point], data: Mapping[str, str]) -> None:
    """A line of CSV for each mean, with its standard error and the number of runs; `data` is by benchmark.

    Raises: StorageError when the file cannot be written.
    """
    rows = [
        [figure, p.benchmark, data[p.benchmark], p.measure, p.group, p.along, p.at, m.value, m.error, m.runs]
        for p, m in ((point, point.mean) for point in points)
    ]
    write_whole(path, table_text(CSV_HEADER, rows, os.fspath(path)))


def draw_lines(path: str | os.PathLike[str], points: Sequence[Point], look: Look) -> None:
    """A panel for each benchmark and measure, in it a line of means for each group.

    Raises: ConfigError for another suffix than .png, .svg and .pdf; StorageError when the file cannot be written.
    """
    groups = list(dict.fromkeys(point.group for point in points))
    top = max((value for point in points for value in point.values), default=0.0)
    _draw(path, points, look, partial(_lines, look=look, groups=groups, top=top))


def draw_rows(path: str | os.PathLike[str], points: Sequence[Point], look: Look) -> None:
    """A panel for each benchmark and measure, in it a row for each group: every run, and the mean.

    Raises: ConfigError for another suffix than .png, .svg and .pdf; StorageError when the file cannot be written.
    """
    _draw(path, points, look, partial(_rows, look=look))


def error_words(points: Sequence[Point]) -> str:
    """What the error bars are, and over how many runs; that there are none over one run."""
    counts = sorted({len(point.values) for point in points})
    if counts == [1]:
        return "one run each: no error bars"
    over = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"mean ± standard error over {over} runs" + ("; none over 1" if counts[0] == 1 else "")


def _draw(
    path: str | os.PathLike[str], points: Sequence[Point], look: Look, drawn: Callable[[list[Point], Axes], None]
) -> None:
    """The panels in a picture, with what the error bars are under it."""
    panels: dict[str, list[Point]] = {}
    for point in points:
        panels.setdefault(point.panel, []).append(point)
    label = "\n".join(line for line in (look.x_label, error_words(points)) if line)
    layout = Layout(label, look.y_label, look.columns, look.height, look.share)
    draw(path, {title: partial(drawn, inside) for title, inside in panels.items()}, layout)


def _lines(points: list[Point], axes: Axes, look: Look, groups: Sequence[str], top: float) -> None:
    """One panel: a line for each group, colours and markers the same in every panel."""
    if look.level is not None:
        axes.axhline(look.level, color=GREY, linestyle=":", linewidth=1)
    places = list(dict.fromkeys(point.at for point in points))
    named = any(isinstance(place, str) for place in places)
    for group in dict.fromkeys(point.group for point in points):
        own = [point for point in points if point.group == group]
        x = [places.index(point.at) if named else point.at for point in own]
        color, marker, line = LOOKS[groups.index(group) % len(LOOKS)]
        axes.plot(x, _means(own), color=color, marker=marker, linestyle=line, label=group)
        _bars(axes, (x, _means(own)), own, color=color)
    if named:
        axes.set_xticks(range(len(places)), [str(place) for place in places])
        axes.margins(x=0.08)
    else:
        axes.locator_params(axis="x", integer=True)
    if look.logarithmic:
        _logarithmic(axes, top)


def _logarithmic(axes: Axes, top: float) -> None:
    """A vertical axis from 0 to the largest value of all panels, logarithmic above 1."""
    axes.set_yscale("symlog", linthresh=1)
    axes.set_yticks([0.0, *(10.0**power for power in range(max(1, math.ceil(math.log10(max(top, 1.0)))) + 1))])
    axes.set_ylim(-0.2, 2.0 * max(top, 1.0))
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:g}")


def _rows(points: list[Point], axes: Axes, look: Look) -> None:
    """One panel: a row for each group, from the top down, hollow for a run, filled for the mean."""
    if look.level is not None:
        axes.axvline(look.level, color=GREY, linestyle=":", linewidth=1)
    y = list(range(len(points)))
    runs = [(value, row) for row, point in enumerate(points) for value in point.values]
    several = len(runs) > len(points)
    if several:
        x, rows = zip(*runs, strict=True)
        axes.plot(x, rows, "o", color=GREY, markerfacecolor="none", markersize=3.5, label="a run")
    axes.plot(_means(points), y, "D", color=BLUE, markersize=5, label="mean" if several else "a run")
    _bars(axes, (_means(points), y), points, across=True, color=BLUE)
    axes.set_yticks(y, [point.group for point in points])
    axes.set_ylim(len(points) - 0.5, -0.5)


def _bars(
    axes: Axes, places: tuple[Sequence[Any], Sequence[Any]], points: list[Point], *, color: str, across: bool = False
) -> None:
    """The standard errors of points drawn at some places, where there are any."""
    known = [(x, y, p.mean.error) for x, y, p in zip(*places, points, strict=True) if p.mean.error is not None]
    if known:
        x, y, error = zip(*known, strict=True)
        upward, sideways = (None, error) if across else (error, None)
        axes.errorbar(x, y, upward, sideways, fmt="none", ecolor=color, elinewidth=1.2, capsize=2.5)


def _means(points: Sequence[Point]) -> list[float]:
    """The mean of each point."""
    return [math.fsum(point.values) / len(point.values) for point in points]
