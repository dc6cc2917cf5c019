"""The pictures of several runs side by side: a line or a mark for each group, with standard errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..training import metrics
from ..training.metrics import Matrix
from ..typing import Array
from .charts import legend, marked, task_axis, task_names
from .content import Picture
from .drawing import filled, series
from .groups import Group
from .heat_map import CELLS
from .plots import BLACK
from .statistics import Mean, mean_of
from .words import duration, fixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Course = dict[int, Mean]
"""A mean over runs after each task, where all runs of the group have one."""


def course(runs: Sequence[Mapping[int, float]]) -> Course:
    """The mean over runs at each place that all of them have."""
    common = set.intersection(*(set(run) for run in runs)) if runs else set()
    return {place: mean_of([run[place] for run in runs]) for place in sorted(common)}


def accuracy_courses(prefix: str, groups: Sequence[Group]) -> Picture:
    """Mean accuracy of the tasks seen, after each task."""
    found = {group.name: _course(group, metrics.average_accuracy) for group in groups}
    words = f"Mean test accuracy over the tasks seen, at the end: {_ends(found)} %."
    title = "Accuracy over the tasks"
    return _lines(f"{prefix}accuracy-curves", title, words, found, "test accuracy (%), tasks seen")


def forgetting_courses(prefix: str, groups: Sequence[Group]) -> Picture | None:
    """Points lost since each task was learned, after each task; none where no group has two tasks."""
    found = {group.name: _course(group, metrics.forgetting_since_learned) for group in groups}
    if not any(found.values()):
        return None
    what = "Points of test accuracy lost since each task was learned, mean over earlier tasks"
    words = f"{what}, at the end: {_ends(found)}."
    return _lines(f"{prefix}forgetting-curves", "Forgetting over the tasks", words, found, "points lost, earlier tasks")


def _course(group: Group, measure: Callable[[Matrix], float | None]) -> Course:
    """A measure after each task, mean over the runs of a group."""
    rows = []
    for run in group.runs.values():
        a = run.accuracy["test"]
        values = {after: measure(a[: after + 1]) for after in range(len(a))}
        rows.append({after: value for after, value in values.items() if value is not None})
    return course(rows)


def _ends(found: Mapping[str, Course]) -> str:
    """The last mean of every line, with its error."""
    ends = {name: line[max(line)] for name, line in found.items() if line}
    return ", ".join(f"{name} {_told(mean)}" for name, mean in ends.items())


def _told(mean: Mean) -> str:
    """Mean and standard error."""
    if mean.value is None:
        return "undefined"
    return fixed(mean.value) if mean.error is None else f"{fixed(mean.value)} ± {fixed(mean.error)}"


def _lines(name: str, title: str, words: str, found: Mapping[str, Course], label: str) -> Picture:
    """A picture of one panel with a line for each group."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _courses(axes, found, label)
        legend(figure, found)

    return Picture(name, title, words, 2.9 + 0.1 * len(found), draw)


def _courses(axes: Axes, found: Mapping[str, Course], label: str) -> None:
    """Lines with standard errors."""
    places: set[int] = set()
    for number, (name, line) in enumerate(found.items()):
        if not line:
            continue
        color, marker, dashes = series(number)
        values, error = _values(line)
        marked(axes, list(line), values, error, label=name, color=color, marker=marker, linestyle=dashes)
        places |= set(line)
    axes.set_ylabel(label)
    task_axis(axes, sorted(places))


def _values(line: Course) -> tuple[Array, Array]:
    """The means and the lengths of their error bars, 0 where there is no error to show."""
    values = np.array([mean.value for mean in line.values()], float)
    return values, np.nan_to_num(np.array([mean.error for mean in line.values()], float))


def final_accuracies(prefix: str, groups: Sequence[Group]) -> Picture:
    """The accuracy at the end on each task of the benchmark, wherever in the order it stood."""
    found = {group.name: course([run.final() for run in group.runs.values()]) for group in groups}
    tasks = sorted({task for line in found.values() for task in line})
    names = {
        identity: name
        for group in groups
        for run in group.runs.values()
        for identity, name in zip(run.identities, run.names, strict=True)
    }
    spans = []
    for name, line in found.items():
        values = [mean.value for mean in line.values() if mean.value is not None]
        spans += [f"{name} {fixed(min(values), 1)} to {fixed(max(values), 1)} %"] if values else []
    words = f"Test accuracy at the end on each of {len(tasks)} tasks, the least and the most: {', '.join(spans)}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (name, line) in enumerate(found.items()):
            color, marker, _ = series(number)
            shift = (number - (len(found) - 1) / 2) * 0.7 / max(len(found), 1)
            x = [tasks.index(task) + shift for task in line]
            values, error = _values(line)
            marked(axes, x, values, error, label=name, color=color, marker=marker, linestyle="none", markersize=4)
        step = -(-len(tasks) // CELLS)
        short = [name.partition(" ")[2] for name in task_names([names[task] for task in tasks])]
        labels = [f"{task} {name}" for task, name in zip(tasks, short, strict=True)]
        axes.set_xticks(range(0, len(tasks), step), labels[::step], rotation=60, ha="right", rotation_mode="anchor")
        axes.set_ylabel("test accuracy at the end (%)")
        axes.grid(False, axis="x")
        for edge in range(1, len(tasks)):
            axes.axvline(edge - 0.5, color="#e6e6e6", linewidth=0.6)
        legend(figure, found)

    return Picture(f"{prefix}final-accuracy", "Final accuracy per task", words, 3.3 + 0.1 * len(found), draw)


def growth_courses(prefix: str, found: Mapping[str, Mapping[str, Course]]) -> Picture | None:
    """Growth over task 0 after each task by two conventions, a panel each; none where no group has any."""
    titles = {"growth_released": "released count", "growth_honest": "honest count"}
    if not any(line for lines in found.values() for line in lines.values()):
        return None
    words = " ".join(
        f"By {title}, at the end: {_ends({name: lines[key] for name, lines in found.items()})} %."
        for key, title in titles.items()
    )

    def draw(figure: Figure) -> None:
        for axes, (key, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
            _courses(axes, {name: lines[key] for name, lines in found.items()}, "")
            axes.set_title(title, loc="left", fontsize=7.5)
            axes.set_xticks(axes.get_xticks()[:: 2 if len(axes.get_xticks()) > 7 else 1])
        figure.axes[0].set_ylabel("growth over task 0 (%)")
        legend(figure, found)

    return Picture(f"{prefix}growth", "Growth per task", words, 2.9 + 0.1 * len(found), draw)


def times(prefix: str, groups: Sequence[Group]) -> Picture | None:
    """Seconds of learning and evaluating, mean over the runs; none where a group's are not known."""
    found: dict[str, tuple[Mean, Mean]] = {}
    for group in groups:
        costs = [run.summary["cost"] for run in group.runs.values()]
        if any(cost.get("tasks_of_unknown_cost") for cost in costs):
            continue
        parts = [mean_of([float(cost[key]) for cost in costs]) for key in ("learn_seconds", "evaluate_seconds")]
        found[group.name] = (parts[0], parts[1])
    if not found:
        return None
    told = [f"{name} {duration((a.value or 0.0) + (b.value or 0.0))}" for name, (a, b) in found.items()]
    words = f"Learning and evaluating together, mean over the runs: {', '.join(told)}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        left = np.zeros(len(found))
        for number, word in enumerate(("learning", "evaluating")):
            width = np.array([pair[number].value for pair in found.values()], float)
            axes.barh(range(len(found)), width, 0.6, left=left, label=word, **filled(number))
            left = left + width
        axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.set_yticks(range(len(found)), [name if len(name) < 30 else f"{name[:29]}…" for name in found])
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        axes.grid(False, axis="y")
        legend(figure)

    return Picture(f"{prefix}time", "Time", words, 1.3 + 0.25 * len(found), draw)
