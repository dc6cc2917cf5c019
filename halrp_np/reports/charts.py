"""The pictures of one run: accuracy, forgetting, ranks and growth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..training import metrics
from ..training.metrics import Matrix
from ..typing import Array
from .content import Picture
from .details import Row, Spectra
from .drawing import GREY, filled, series
from .heat_map import CELLS, heat_map, map_height
from .plots import BLACK, BLUE, ORANGE, RED
from .words import fixed, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LETTERS = 22
"""Of a task's name beside a picture."""

PANELS = 48
"""As many spectra are drawn of a run; of more, those of some tasks, evenly spread."""

SHOWN = 150
"""Components of a spectrum that are drawn."""

ARROWS = {"capped": "↓", "raised": "↑"}
"""Beside a rank that was clamped."""


def task_names(names: Sequence[str]) -> list[str]:
    """`3 svhn`, shortened, for each position."""
    short = (name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…" for name in names)
    return [f"{position} {name}" for position, name in enumerate(short)]


def task_axis(axes: Axes, positions: Sequence[int], label: str = "after learning task") -> None:
    """Whole numbers below, not more than there is room for."""
    step = -(-len(positions) // CELLS)
    axes.set_xticks(list(positions)[::step])
    axes.set_xlabel(label)


def marked(axes: Axes, x: Sequence[float], y: Array, error: Array, **style: Any) -> None:
    """A line with its standard errors, where there are any."""
    if (error > 0).any():
        axes.errorbar(x, y, error, capsize=2, elinewidth=0.8, **style)
    else:
        axes.plot(x, y, **style)


def accuracy_map(prefix: str, accuracy: Matrix, names: Sequence[str]) -> Picture:
    """The accuracy matrix: a row for each task, a column for each moment."""
    tasks = len(accuracy)
    values = np.full((tasks, tasks), np.nan)
    for after, row in enumerate(accuracy):
        values[: after + 1, after] = row
    first, last = accuracy[-1][0], metrics.average_accuracy(accuracy)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    words = (
        f"Test accuracy of {tasks} tasks after each of them: between {fixed(low, 1)} and {fixed(high, 1)} %. "
        f"At the end the mean is {fixed(last, 1)} %. Task 0 ({names[0]}) goes from {fixed(accuracy[0][0], 1)} to "
        f"{fixed(first, 1)} %."
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        texts = [["" if math.isnan(v) else fixed(v, 1 if v < 99.95 else 0) for v in row] for row in values]
        heat_map(axes, values, texts, task_names(names), "test accuracy (%)")
        task_axis(axes, range(tasks))

    return Picture(f"{prefix}accuracy-matrix", "Accuracy matrix", words, map_height(tasks), draw)


def accuracy_curves(prefix: str, accuracy: Matrix) -> Picture:
    """Every task's accuracy over time, and the mean of the tasks seen."""
    tasks = len(accuracy)
    mean = [metrics.average_accuracy(accuracy[: after + 1]) for after in range(tasks)]
    words = (
        f"Mean test accuracy over the tasks seen: {fixed(mean[0], 1)} % after the first task, {fixed(mean[-1], 1)} % "
        f"after {tasks}. Thin lines are the single tasks, each from where it is learned."
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for task in range(tasks):
            own = [accuracy[after][task] for after in range(task, tasks)]
            axes.plot(range(task, tasks), own, color=GREY, linewidth=0.8, marker=".", markersize=3)
            if tasks <= CELLS or task % -(-tasks // CELLS) == 0:
                axes.annotate(str(task), (task, own[0]), (-3, 2), textcoords="offset points", ha="right", fontsize=6.5)
        axes.plot([], [], color=GREY, linewidth=0.8, marker=".", markersize=3, label="one task, by its number")
        axes.plot(range(tasks), mean, color=BLUE, marker="o", linewidth=2, label="mean of the tasks seen")
        axes.set_ylabel("test accuracy (%)")
        task_axis(axes, range(tasks))
        legend(figure)

    return Picture(f"{prefix}accuracy-curves", "Accuracy over the tasks", words, 2.9, draw)


def legend(figure: Figure, order: Iterable[str] = ()) -> None:
    """What the lines of all panels are, above them; those named in `order` come first, in it."""
    named: dict[str, Any] = dict.fromkeys(order)
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named[label] = named.get(label) or handle
    named = {label: handle for label, handle in named.items() if handle}
    longest = max(map(len, named), default=0)
    columns = 1 if longest > 38 else 2 if longest > 20 else 3
    figure.legend(list(named.values()), list(named), loc="outside upper left", ncols=columns, fontsize=7)


def forgetting_curves(prefix: str, accuracy: Matrix) -> Picture:
    """Forgetting after each task, since each was learned and from the best."""
    tasks = range(1, len(accuracy))
    lost, lost_from_best = metrics.forgetting_since_learned, metrics.forgetting_from_best  # defined from two tasks on
    since = [value for after in tasks if (value := lost(accuracy[: after + 1])) is not None]
    best = [value for after in tasks if (value := lost_from_best(accuracy[: after + 1])) is not None]
    words = (
        f"Points of test accuracy lost, mean over the earlier tasks: after task {len(accuracy) - 1}, "
        f"{fixed(since[-1])} since each was learned and {fixed(best[-1])} from the best before; the most after any "
        f"task is {fixed(max(since))} since learned."
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=BLACK, linewidth=0.8)
        axes.plot(tasks, since, color=BLUE, marker="o", label="since each was learned")
        axes.plot(tasks, best, color=RED, marker="s", linestyle="--", label="from the best before (Chaudhry)")
        axes.set_ylabel("points lost, mean of earlier tasks")
        task_axis(axes, tasks)
        legend(figure)

    return Picture(f"{prefix}forgetting-curves", "Forgetting over the tasks", words, 2.9, draw)


def learned_and_last(prefix: str, accuracy: Matrix, names: Sequence[str]) -> Picture:
    """Each task's accuracy when it was learned and at the end, and the way between."""
    tasks = len(accuracy)
    changes = [accuracy[-1][task] - accuracy[task][task] for task in range(tasks)]
    worst, best = (changes.index(found) for found in (min(changes), max(changes)))
    words = (
        f"Test accuracy of each task when it was learned and at the end. Task {worst} ({names[worst]}) changes by "
        f"{fixed(changes[worst], 1)} points, task {best} ({names[best]}) by {fixed(changes[best], 1)}."
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        rows = np.arange(tasks)
        first, last = [accuracy[task][task] for task in range(tasks)], accuracy[-1]
        axes.hlines(rows, first, last, color=GREY, linewidth=1.2)
        axes.plot(first, rows, "o", color=BLUE, markerfacecolor="none", label="when learned")
        axes.plot(last, rows, "D", color=RED, markersize=3.5, label="at the end")
        step = -(-tasks // 24)
        axes.set_yticks(range(0, tasks, step), task_names(names)[::step])
        axes.set_ylim(tasks - 0.5, -0.5)
        axes.set_xlabel("test accuracy (%)")
        legend(figure)

    return Picture(f"{prefix}learned-and-last", "What became of each task", words, max(map_height(tasks), 2.6), draw)


def rank_map(prefix: str, ranks: Sequence[Row]) -> Picture:
    """The rank of every layer and task: number, and share of the layer's components as colour."""
    layers = list(dict.fromkeys(row["layer"] for row in ranks))
    tasks = sorted({row["task"] for row in ranks})
    values, texts = np.full((len(layers), len(tasks)), np.nan), [[""] * len(tasks) for _ in layers]
    for row in ranks:
        at, column = layers.index(row["layer"]), tasks.index(row["task"])
        values[at, column] = 100 * row["rank"] / row["size"] if row["size"] else np.nan
        texts[at][column] = f"{row['rank']}{ARROWS.get(row['clamp'], '')}"
    spans = []
    for layer in layers:
        own = [row["rank"] for row in ranks if row["layer"] == layer]
        size = max(row["size"] for row in ranks if row["layer"] == layer)
        spans.append(f"{layer} {min(own)}{f' to {max(own)}' if max(own) > min(own) else ''} of {size}")
    clamps = [row["clamp"] for row in ranks]
    words = (
        f"Ranks of {len(layers)} layers in {len(tasks)} tasks: {'; '.join(spans)}. {clamps.count('capped')} of "
        f"{len(ranks)} are capped (arrow down), {clamps.count('raised')} raised to 1 (arrow up)."
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        heat_map(axes, values, texts, layers, "kept (% of components)")
        step = -(-len(tasks) // CELLS)
        axes.set_xticks(range(0, len(tasks), step), [str(task) for task in tasks][::step])
        axes.set_xlabel("task")

    return Picture(f"{prefix}ranks", "Ranks per layer and task", words, map_height(len(layers)), draw)


def spectrum_tasks(spectra: Spectra) -> list[int]:
    """The tasks whose spectra are drawn: all, or some from the first to the last."""
    tasks = sorted({task for task, _ in spectra})
    layers = len({layer for _, layer in spectra})
    room = max(2, PANELS // max(layers, 1))
    if len(tasks) <= room:
        return tasks
    return [tasks[round(place)] for place in np.linspace(0, len(tasks) - 1, room)]


def spectrum(prefix: str, task: int, ranks: Sequence[Row], spectra: Spectra, *, folded: bool) -> Picture:
    """The spectra of one task's residuals, a panel for each layer, what is kept shaded."""
    rows = [row for row in ranks if row["task"] == task and (task, row["layer"]) in spectra]
    parts = [
        f"{row['layer']} keeps {row['rank']} of {row['size']} components, {percent(row['kept_fraction'])} of its score"
        for row in rows
    ]
    high = -(-len(rows) // 2)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(high, 2 if len(rows) > 1 else 1, squeeze=False).ravel()
        for axes, row in zip(grid, rows, strict=False):
            _spectrum(axes, spectra[task, row["layer"]], row)
        for axes in grid[len(rows) :]:
            axes.remove()
        figure.supylabel("singular value of the residual", fontsize=8)
        figure.supxlabel("component", fontsize=8)
        legend(figure)

    title = f"Spectra of the residual, task {task}"
    return Picture(f"{prefix}spectrum-task-{task}", title, f"{'; '.join(parts)}.", 0.7 + 1.25 * high, draw, folded)


def _spectrum(axes: Axes, values: Array, row: Row) -> None:
    """One spectrum: a step a component, shaded up to the rank."""
    size, rank = len(values), row["rank"]
    chosen = np.unique(
        np.concatenate([np.linspace(0, size - 1, min(size, SHOWN)), [max(rank - 1, 0), min(rank, size - 1)]])
    )
    at = chosen.astype(int)
    x, y = at + 1, values[at]
    kept = x <= rank
    axes.fill_between(x[kept] - 0.5, y[kept], step="post" if size <= SHOWN else None, color=ORANGE, alpha=0.45, lw=0)
    if kept.any():
        end = float(values[rank - 1])
        axes.fill_between([x[kept][-1] - 0.5, rank + 0.5], [end, end], color=ORANGE, alpha=0.45, lw=0, label="kept")
    axes.step(
        np.append(x - 0.5, size + 0.5), np.append(y, y[-1]), where="post", color=BLUE, linewidth=1, label="spectrum"
    )
    if row["clamp"] == "capped" and row["kept"] <= size:
        axes.axvline(row["kept"] + 0.5, color=RED, linestyle=":", label="where the threshold alone would cut")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0.5, size + 0.5)
    axes.locator_params(axis="x", integer=True, nbins=5)
    axes.locator_params(axis="y", nbins=4)
    axes.set_title(f"{row['layer']}: {rank} of {size}", loc="left", fontsize=7.5)


def growth_curves(prefix: str, grown: Mapping[int, Mapping[str, float]]) -> Picture:
    """Growth over task 0 after each task, in the three conventions."""
    words = {"growth_released": "released count", "growth_honest": "honest count", "growth_bytes": "bytes on disk"}
    tasks = sorted(grown)
    ends = ", ".join(f"{percent(grown[tasks[-1]][key])} by {word}" for key, word in words.items())

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (key, word) in enumerate(words.items()):
            color, marker, line = series(number)
            values = [100 * grown[task][key] for task in tasks]
            axes.plot(tasks, values, color=color, marker=marker, linestyle=line, label=word)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_ylabel("growth over task 0 (%)")
        task_axis(axes, tasks)
        legend(figure)

    title = "Growth over the tasks"
    return Picture(f"{prefix}growth", title, f"Growth over task 0 after task {tasks[-1]}: {ends}.", 2.9, draw)


def stacked(
    name: str,
    title: str,
    words: str,
    tasks: Sequence[int],
    parts: Mapping[str, Sequence[float]],
    labels: tuple[str, str],
) -> Picture:
    """Bars of several parts for each task, losses below the line; parts differ in colour and hatching."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        above, below = np.zeros(len(tasks)), np.zeros(len(tasks))
        for number, (part, values) in enumerate(parts.items()):
            height = np.asarray(values, float)
            bottom = np.where(height >= 0, above, below)
            axes.bar(tasks, height, 0.75, bottom, label=part, **filled(number))
            above, below = above + np.maximum(height, 0), below + np.minimum(height, 0)
        axes.axhline(0, color=BLACK, linewidth=0.8)
        axes.set_ylabel(labels[1])
        axes.grid(False, axis="x")
        task_axis(axes, tasks, labels[0])
        legend(figure)

    return Picture(name, title, words, 3.0, draw)


def curvature_curves(prefix: str, rows: Sequence[Row], measure: str, title: str) -> Picture:
    """A measure of the curvature over the tasks, a panel for each layer, a line for each learned task."""
    rows = [row for row in rows if row[measure] is not None]
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    last = max(row["after_task"] for row in rows)
    spans = []
    for layer in layers:
        own = [row[measure] for row in rows if row["layer"] == layer and row["after_task"] == last]
        spans += [f"{layer} {min(own):.3g} to {max(own):.3g}"] if own else []
    high = -(-len(layers) // 2)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(high, 2 if len(layers) > 1 else 1, squeeze=False).ravel()
        for axes, layer in zip(grid, layers, strict=False):
            _curvature(axes, [row for row in rows if row["layer"] == layer], measure)
            axes.set_title(layer, loc="left", fontsize=7.5)
        for axes in grid[len(layers) :]:
            axes.remove()
        figure.supxlabel("after learning task", fontsize=8)
        figure.supylabel(title.lower(), fontsize=8)
        legend(figure)

    words = f"{title} of the learned tasks' losses after task {last}, least and largest: {'; '.join(spans)}."
    return Picture(f"{prefix}curvature-{measure}", f"{title} at each boundary", words, 0.7 + 1.3 * high, draw)


def _curvature(axes: Axes, rows: Sequence[Row], measure: str) -> None:
    """One layer: a line with error bars for each task, its number where it begins."""
    tasks = sorted({row["task"] for row in rows})
    for number, task in enumerate(tasks):
        own = sorted((row for row in rows if row["task"] == task), key=lambda row: row["after_task"])
        after = [row["after_task"] for row in own]
        error = np.array([row[f"{measure}_stderr"] or 0.0 for row in own])
        label = "loss of one task, by its number, ± standard error" if number == 0 else None
        values = np.array([row[measure] for row in own], float)
        marked(axes, after, values, error, color=BLUE, marker=".", markersize=4, linewidth=0.9, label=label)
        axes.annotate(str(task), (after[0], values[0]), (-3, 2), textcoords="offset points", ha="right", fontsize=6)
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.locator_params(axis="y", nbins=4)
