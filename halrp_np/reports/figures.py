"""The figures of the paper (arXiv 2311.15161, 2 to 5) from run folders: a picture, and the drawn numbers as CSV.

Which quantity a figure shows is the paper's. Ours are the benchmarks and methods of the shipped sweeps, the forgetting
(from the best before the end, as `halrp-np compare` has it), both counts of the growth, and every scale.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import ConfigError, ResumeError, nearest
from ..runs import as_text
from ..runs.record import RunFolder
from .compare import value_of
from .groups import Group, by_benchmark, grouped, title_of, unequal
from .means import Look, Place, Point, draw_lines, draw_rows, error_words, write_points
from .picture import check_picture_path
from .results import RunResult

FORGETTING = "forgetting_chaudhry"

COUNTS = {"growth_released": "released count", "growth_honest": "every number kept"}
"""The columns of capacity.csv that are drawn, and what they count."""

MEASURES = {"acc": ("ACC (%)", 1.0), FORGETTING: ("forgetting", 1.0), "growth_released": ("released growth (%)", 100.0)}
"""What the strengths of the penalties act on: title and factor of each measure."""

PENALTIES = ("weight_decay", "l1")

IMAGES, AMOUNTS = "images a task", ("train_size", "train_images")
"""The amount of data, and the settings that it comes from."""

Found: TypeAlias = tuple[list[Point], list[str]]
"""The means of a figure, and what its reader should know."""


@dataclass(frozen=True)
class Figure:
    """One figure: the means it takes from runs, and how they are drawn."""

    points: Callable[[Sequence[RunResult]], Found]
    draw: Callable[[Any, Sequence[Point], Look], None]
    look: Look


@dataclass(frozen=True)
class Drawn:
    """What was written of a figure, and what its reader should know."""

    picture: Path
    table: Path
    notes: list[str]


def check_figure(name: str) -> None:
    """Refuse a figure that there is not, before the runs for it.

    Raises: ConfigError for an unknown name.
    """
    if name not in FIGURES:
        near = nearest(name, FIGURES)
        raise ConfigError(
            "figure",
            expected=f"one of {', '.join(FIGURES)}",
            received=repr(name),
            next_step=f"Did you mean '{near}'?" if near else "Choose one of these.",
        )


def draw_figure(name: str, results: Sequence[RunResult], folder: str | os.PathLike[str]) -> Drawn:
    """Draw a figure of the paper from finished runs as NAME.png in a folder, with its numbers beside it in NAME.csv.

    Runs that are not finished are left out, and so are those that a figure does not ask for; both are told.

    Raises: ConfigError for an unknown name, or when runs that the figure needs are absent; ResumeError for a damaged
    run folder; StorageError when a file cannot be written.
    """
    check_figure(name)
    figure, picture, table = FIGURES[name], Path(folder) / f"{name}.png", Path(folder) / f"{name}.csv"
    check_picture_path(picture)
    finished = [run for run in results if run.finished]
    points, notes = figure.points(finished)
    if not points:
        received = "none" if len(finished) == len(results) else "runs that are not finished"
        raise _absent(name, "finished runs of two tasks or more", received if results else "none")
    left = [f"{run.path} is left out: it is not finished" for run in results if not run.finished]
    data = {title_of(runs[0]): _data(runs) for runs in by_benchmark(finished).values()}
    below = f"{figure.look.x_label}\ndata: {_data(finished)}"
    figure.draw(picture, points, replace(figure.look, x_label=below))
    write_points(table, name, points, data)
    return Drawn(picture, table, [*notes, error_words(points), *left])


def forgetting(results: Sequence[RunResult]) -> Found:
    """Figure 2: the forgetting of each method, in points of accuracy."""
    points: list[Point] = []
    notes: list[str] = []
    for title, groups, told in _panels(results):
        notes += told
        points += [
            Point(title, "", group.name, "group", group.name, _values(list(group.runs.values()), FORGETTING))
            for group in groups
        ]
    return points, notes


def growth(results: Sequence[RunResult]) -> Found:
    """Figure 3a: by how much of task 0 the model has grown, in percent, after each task."""
    points: list[Point] = []
    notes: list[str] = []
    for title, groups, told in _panels(results):
        notes += told
        grown = {group.name: [_growth(run) for run in group.runs.values()] for group in groups}
        for column, words in COUNTS.items():
            for name, runs in grown.items():
                values = _by_place([run[column] for run in runs])
                points += [Point(title, words, name, "tasks learned", at, found) for at, found in values.items()]
    return points, notes


def time(results: Sequence[RunResult]) -> Found:
    """Figure 3b: the seconds that learning a task took, over those of a task of a single-task network."""
    points: list[Point] = []
    notes: list[str] = []
    for title, groups, told in _panels(results, timed=True):
        notes += told
        taken = {group.name: [_seconds(run) for run in group.runs.values()] for group in groups}
        alone = [x for g in groups if g.settings["method"] == "stl" for run in taken[g.name] for x in run.values()]
        unit = sum(alone) / len(alone) if alone else None
        mean = f"the mean of STL's {len(alone)} tasks, {unit:.3g} s" if unit else "the run's own task 0: no run of STL"
        notes.append(f"{title}: times are over {mean}")
        for name, runs in taken.items():
            runs = [run for run in runs if run and (unit or run.get(0))]
            if not runs:
                notes.append(f"{title}: {name} is left out: its times are not known")
            ratios = [{task: seconds / (unit or run[0]) for task, seconds in run.items()} for run in runs]
            points += [Point(title, "", name, "task", at, found) for at, found in _by_place(ratios).items()]
    return points, notes


def regularisation(results: Sequence[RunResult]) -> Found:
    """Figure 4: accuracy, forgetting and growth by the strengths of both penalties, λ0 and λ1 in the paper.

    Ours are `weight_decay`, of ½‖·‖², and `l1`, of the |·|₁ on the factors.

    Raises: ConfigError when pairs of strengths are missing, or there is one pair only.
    """
    runs = [run for run in results if run.config["method"] == "halrp"]
    notes = [] if len(runs) == len(results) else ["runs of other methods than halrp are left out: they have no l1"]
    points: list[Point] = []
    for title, cells, told in _cells(runs, PENALTIES, "regularisation"):
        notes += told
        alone = len({group.name for groups in cells.values() for group in groups}) == 1
        for measure, (words, factor) in MEASURES.items():
            for (decay, l1), groups in cells.items():
                for group in groups:
                    name = f"weight_decay={decay}" if alone else f"{group.name} weight_decay={decay}"
                    values = _values(list(group.runs.values()), measure, factor)
                    points.append(Point(title, words, name, "l1", l1, values))
    return points, notes


def orders_and_data(results: Sequence[RunResult]) -> Found:
    """Figure 5: forgetting by the order of the tasks and the number of training images of each.

    Raises: ConfigError when combinations are missing, or there is one only.
    """
    points: list[Point] = []
    notes: list[str] = []
    for title, cells, told in _cells(results, (IMAGES, "order"), "orders-and-data"):
        notes += told
        for (images, order), groups in cells.items():
            for group in groups:
                values = _values(list(group.runs.values()), FORGETTING)
                points.append(Point(title, f"{int(images):,} {IMAGES}", group.name, "order", order, values))
    return points, notes


FIGURES: dict[str, Figure] = {
    "forgetting": Figure(
        forgetting,
        draw_rows,
        Look("forgetting, points of accuracy", "", height=2.2, level=0.0, share=False),
    ),
    "growth": Figure(
        growth,
        draw_lines,
        Look("tasks learned", "growth over task 0, %", logarithmic=True),
    ),
    "time": Figure(
        time,
        draw_lines,
        Look("task", "time, single task = 1", level=1.0),
    ),
    "regularisation": Figure(
        regularisation,
        draw_lines,
        Look("l1: λ of |·|₁ on the factors", "", columns=3, height=2.4, share=False),
    ),
    "orders-and-data": Figure(
        orders_and_data,
        draw_lines,
        Look("order of the tasks", "forgetting, points of accuracy", level=0.0),
    ),
}
"""Every figure by its name, which is also that of the sweep that runs what it needs."""


def _data(results: Sequence[RunResult]) -> str:
    """Every kind of data that some runs were on, each named once."""
    return ", ".join(sorted({name for run in results for name in str(run.protocol["data"]).split(", ")}))


def _panels(results: Sequence[RunResult], *, timed: bool = False) -> list[tuple[str, list[Group], list[str]]]:
    """Title, groups and notes of each benchmark; runs of one task have neither forgotten nor grown."""
    several = [run for run in results if run.learned > 1]
    found = []
    for runs in by_benchmark(several).values():
        groups, notes = grouped(runs)
        told = [line for line in unequal(groups) if timed or "times may not compare" not in line]
        found.append((title_of(runs[0]), groups, [*notes, *told]))
    return found


def _cells(
    results: Sequence[RunResult], keys: tuple[str, str], figure: str
) -> list[tuple[str, dict[tuple[str, str], list[Group]], list[str]]]:
    """For each benchmark its groups by the values of two settings (or IMAGES), in ascending order, none missing.

    Raises: ConfigError naming every pair of values that a group lacks, or when there is one pair only.
    """
    found = []
    for runs in by_benchmark([run for run in results if run.learned > 1]).values():
        parts: dict[tuple[Any, Any], list[RunResult]] = {}
        for run in runs:
            first, second = (_at(run, key) for key in keys)
            hidden = {*keys, *(AMOUNTS if IMAGES in keys else ())}
            other = {key: value for key, value in run.changed.items() if key not in hidden}
            parts.setdefault((first, second), []).append(replace(run, changed=other))
        axes = [sorted({pair[axis] for pair in parts}, key=_rank) for axis in (0, 1)]
        cells, notes, title = {}, [], title_of(runs[0])
        for pair in [(first, second) for first in axes[0] for second in axes[1]]:
            groups, told = grouped(parts.get(pair, []))
            cells[as_text(pair[0]), as_text(pair[1])] = groups
            notes += told
        names = dict.fromkeys(group.name for groups in cells.values() for group in groups)
        lacking = [
            f"{title} {name} {keys[0]}={first} {keys[1]}={second}"
            for (first, second), groups in cells.items()
            for name in names
            if name not in {group.name for group in groups}
        ]
        if lacking or len(cells) < 2:
            one = f"{title} with {keys[0]}={as_text(axes[0][0])} and {keys[1]}={as_text(axes[1][0])} alone"
            wanted = f"finished runs with every pair of the values of {keys[0]} and {keys[1]}, two or more of one"
            raise _absent(figure, wanted, f"none of {', '.join(lacking)}" if lacking else one)
        found.append((title, cells, notes))
    return found


def _at(run: RunResult, key: str) -> Any:
    """A setting of a run; of IMAGES, how many training images a task has on average, held out ones among them.

    Raises: ResumeError for a protocol that does not say.
    """
    if key != IMAGES:
        return run.config[key]
    try:
        sizes = run.protocol["sizes"]
        return round(sum(size["train"] + size["validation"] for size in sizes) / len(sizes))
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise _damaged(run, "config.json", f"no sizes of the tasks ({type(error).__name__})") from error


def _rank(value: Any) -> tuple[Any, ...]:
    """Numbers by size; letters before drawn orders, random:2 before random:10."""
    return (0, value) if isinstance(value, int | float) else (len(value) > 1, len(value), value)


def _values(runs: Sequence[RunResult], measure: str, factor: float = 1.0) -> tuple[float, ...]:
    """One measure of every run.

    Raises: ResumeError for a summary.json that lacks it.
    """
    found = []
    for run in runs:
        value, reason = value_of(run, measure)
        if value is None:
            raise _damaged(run, "summary.json", f"no {measure}: {reason}")
        found.append(value * factor)
    return tuple(found)


def _growth(run: RunResult) -> dict[str, dict[int, float]]:
    """Each count's growth in percent by the number of tasks learned, 0 after the first.

    Raises: ResumeError for a capacity.csv that is absent or damaged.
    """
    _, rows = RunFolder(run.path).read_csv("capacity.csv")
    found: dict[str, dict[int, float]] = {column: {1: 0.0} for column in COUNTS}
    for row in rows:
        for column in COUNTS:
            after, task, value = (row.get(key) for key in ("after_task", "task", column))
            if type(after) is not int or not isinstance(value, int | float):
                raise _damaged(run, "capacity.csv", f"a row without a number under after_task or {column}")
            if after == task:
                found[column][after + 1] = 100 * float(value)
    if any(sorted(grown) != list(range(1, run.learned + 1)) for grown in found.values()):
        raise _damaged(run, "capacity.csv", "not a row for each task")
    return found


def _seconds(run: RunResult) -> dict[int, float]:
    """The seconds that learning each task took, by its position; what is not known is left out."""
    rows = enumerate(run.timing)
    taken = {task: row.get("learn_seconds") for task, row in rows if isinstance(row, dict)}
    return {task: float(value) for task, value in taken.items() if isinstance(value, int | float) and value > 0}


def _by_place(runs: Sequence[Mapping[int, float]]) -> dict[Place, tuple[float, ...]]:
    """The values of some runs at each place that any of them has."""
    places = sorted({place for run in runs for place in run})
    return {place: tuple(run[place] for run in runs if place in run) for place in places}


def _absent(figure: str, expected: str, received: str) -> ConfigError:
    """The refusal to draw a figure that runs are missing for."""
    step = f"See what `halrp-np sweep {figure}` runs: a sweep given again makes the runs that are missing."
    return ConfigError(f"figure {figure}", expected=expected, received=received, next_step=step)


def _damaged(run: RunResult, name: str, received: str) -> ResumeError:
    """A table of a run folder that is not as runs write it."""
    step = "The file is damaged: restore it from a copy, or run again in a new folder."
    return ResumeError(f"{run.path}/{name}", expected="what every run writes", received=received, next_step=step)
