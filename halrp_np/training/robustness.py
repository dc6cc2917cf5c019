"""How much the order of the tasks matters: OPD of each task, AOPD and MOPD, and what chance alone would give.

P_t^{r,s} is the accuracy in percent on task t at the end of the run with task order r and seed s, wherever task t stood
in that order. Measures are of its mean over the seeds, P_t^r. What is not defined is None, with a reason, never 0.
Sources: OPD, AOPD and MOPD from Yoon et al. (arXiv 1902.09432); the floors and intervals are this package's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..backend import Streams
from ..errors import DataError

Table: TypeAlias = Mapping[str, Mapping[int, Mapping[int, float]]]
"""`table[order][seed][task]`: the accuracy at the end, in percent."""

Accuracies: TypeAlias = NDArray[np.float64]
"""(R, S, T): orders, seeds, tasks."""

DRAWS = 10_000
"""As many times chance is played."""

LEVEL = 0.95
"""Of the intervals, and the quantile of chance."""


@dataclass(frozen=True)
class Spread:
    """One measure (the OPD of a task, AOPD or MOPD), and what it is to be compared with; None where undefined.

    `low` to `high`: bootstrap interval of 95 % over the seeds. `same_order`: the measure taken over the seeds of one
    order in place of the orders, mean over the orders. `chance`, `chance_95`: mean and 95 % quantile of what as many
    orders with as many seeds would show if the order did nothing.
    """

    value: float | None
    low: float | None
    high: float | None
    same_order: float | None
    chance: float | None
    chance_95: float | None


@dataclass(frozen=True)
class Robustness:
    """What a table of accuracies says on the order of the tasks; `undefined` gives the reason for each None."""

    orders: tuple[str, ...]
    seeds: tuple[int, ...]
    tasks: tuple[int, ...]
    opd: dict[int, Spread]
    aopd: Spread
    mopd: Spread
    undefined: dict[str, str]


class Measures(NamedTuple):
    """OPD of each task with its mean and maximum over the tasks, with any axes before."""

    opd: Any  # (..., T)
    aopd: Any  # (...)
    mopd: Any  # (...)


def measures(means: Accuracies) -> Measures:
    """OPD, AOPD and MOPD of the accuracy of each order on each task.

    Shapes: means (..., R, T) -> (..., T), (...), (...).
    Math:   OPD_t = max_r P_t^r - min_r P_t^r, AOPD = (1/T) Σ_t OPD_t, MOPD = max_t OPD_t.
    Reference: Yoon et al. (arXiv 1902.09432).
    """
    opd = means.max(axis=-2) - means.min(axis=-2)
    return Measures(opd, opd.mean(axis=-1), opd.max(axis=-1))


def same_order(P: Accuracies) -> Measures:
    """What the seeds of one order show when they are taken for orders: the mean over the orders.

    Shapes: P (R, S, T) -> (T,), (), ().
    Math:   (1/R) Σ_r of the measures of P^{r,1}, ..., P^{r,S}: for a task,
            (1/R) Σ_r (max_s P_t^{r,s} - min_s P_t^{r,s}).
    """
    return Measures(*(found.mean(axis=0) for found in measures(P)))


def chance(P: Accuracies, draws: int, generator: np.random.Generator) -> Measures:
    """Measures that as many orders with as many seeds would show if the order did nothing, `draws` times.

    Shapes: P (R, S, T) -> (draws, T), (draws,), (draws,).
    Math:   e^{r,s} = √(R S / ((R-1)(S-1))) (P^{r,s} - P^r - P^s + P), a vector over the tasks, with P^s the mean over
            the orders and P over all; each draw takes R·S of all these at random, with replacement, averages S of
            them for each order, and measures the R averages. What a seed does alike in every order moves no OPD, so
            it is no part of the residual; the factor makes up for the means being those of the same runs.
    """
    orders, seeds, tasks = P.shape
    rows, columns, whole = (P.mean(axis=axis, keepdims=True) for axis in (1, 0, (0, 1)))
    factor = np.sqrt(orders * seeds / ((orders - 1) * (seeds - 1)))
    residuals = (factor * (P - rows - columns + whole)).reshape(orders * seeds, tasks)
    means = np.empty((draws, orders, tasks))
    for order in range(orders):
        means[:, order] = _mean_of(residuals, generator.integers(orders * seeds, size=(draws, seeds)))
    return measures(means)


def bootstrap(P: Accuracies, draws: int, generator: np.random.Generator) -> Measures:
    """Measures with the seeds, the same for every order, drawn anew with replacement, `draws` times.

    Shapes: P (R, S, T) -> (draws, T), (draws,), (draws,).
    """
    orders, seeds, tasks = P.shape
    means, chosen = np.empty((draws, orders, tasks)), generator.integers(seeds, size=(draws, seeds))
    for order in range(orders):
        means[:, order] = _mean_of(P[order], chosen)
    return measures(means)


def robustness(table: Table, *, seed: int = 0, draws: int = DRAWS) -> Robustness:
    """Every measure of a table, with intervals and floors; the same table and seed give the same numbers.

    Raises: DataError for an empty table, or one with a gap, which is named; `common_seeds` leaves such seeds out.
    """
    P, seeds, tasks = as_array(table)
    undefined: dict[str, str] = {}
    lacking = [] if len(seeds) > 1 else ["needs two seeds of each order"]
    if len(table) < 2:
        undefined["value"] = "needs two orders"
        lacking.insert(0, "needs two orders")
    if lacking:
        undefined.update(dict.fromkeys(("low", "high", "chance", "chance_95"), " and ".join(lacking)))
    if len(seeds) < 2:
        undefined["same_order"] = "needs two seeds of the same order"
    found: dict[str, Measures] = {"value": measures(P.mean(axis=1))}
    if "low" not in undefined:
        streams, edge = Streams(seed), (1 - LEVEL) / 2
        drawn = bootstrap(P, draws, streams.generator("bootstrap"))
        played = chance(P, draws, streams.generator("chance"))
        found["low"] = Measures(*(np.quantile(part, edge, axis=0) for part in drawn))
        found["high"] = Measures(*(np.quantile(part, 1 - edge, axis=0) for part in drawn))
        found["chance"] = Measures(*(part.mean(axis=0) for part in played))
        found["chance_95"] = Measures(*(np.quantile(part, LEVEL, axis=0) for part in played))
    if "same_order" not in undefined:
        found["same_order"] = same_order(P)
    defined = {name: part for name, part in found.items() if name not in undefined}
    opd = {task: _spread({name: part.opd[n] for name, part in defined.items()}) for n, task in enumerate(tasks)}
    aopd, mopd = (_spread({name: getattr(part, kind) for name, part in defined.items()}) for kind in ("aopd", "mopd"))
    return Robustness(tuple(table), seeds, tasks, opd, aopd, mopd, undefined)


def common_seeds(table: Table) -> tuple[Table, list[str]]:
    """The table with only the seeds that every order has, and a sentence for each that is left out.

    Raises: DataError when the orders have no seed in common.
    """
    common = set.intersection(*(set(runs) for runs in table.values())) if table else set()
    if table and not common:
        held = "; ".join(f"{order}: {', '.join(map(str, sorted(runs))) or 'none'}" for order, runs in table.items())
        raise _wrong("a seed that every order has", f"the seeds {held}", "Run the orders with the same seeds.")
    left = [
        f"seed {seed} of order {order} is left out: not every order has it"
        for order, runs in table.items()
        for seed in sorted(set(runs) - common)
    ]
    return {order: {seed: runs[seed] for seed in sorted(common)} for order, runs in table.items()}, left


def as_array(table: Table) -> tuple[Accuracies, tuple[int, ...], tuple[int, ...]]:
    """The accuracies of a table (R, S, T) with its seeds and tasks, both ascending.

    Raises: DataError for an empty table, a seed or task that one order lacks, or an accuracy that is not finite.
    """
    seeds = sorted({seed for runs in table.values() for seed in runs})
    tasks = sorted({task for runs in table.values() for run in runs.values() for task in run})
    if not seeds or not tasks:
        raise _wrong("at least one order with one seed and one task", "none", "Name finished runs.")
    for order, runs in table.items():
        for seed in seeds:
            if seed not in runs:
                raise _wrong("every seed in every order", f"order {order} without seed {seed}", "Run it too.")
            for task in tasks:
                value = runs[seed].get(task)
                where = f"order {order}, seed {seed}"
                if value is None:
                    raise _wrong("the same tasks in every run", f"{where} without task {task}", "Learn all tasks.")
                if not np.isfinite(value):
                    raise _wrong("accuracies in percent", f"{value} in {where}, task {task}", "Run it again.")
    values = [[[runs[seed][task] for task in tasks] for seed in seeds] for runs in table.values()]
    return np.array(values, float), tuple(seeds), tuple(tasks)


def _mean_of(rows: Accuracies, chosen: NDArray[np.int64]) -> Accuracies:
    """The mean of the chosen rows: rows (N, T), chosen (draws, S) -> (draws, T)."""
    total: Accuracies = rows[chosen[:, 0]]
    for column in chosen.T[1:]:
        total += rows[column]
    total /= chosen.shape[1]
    return total


def _spread(parts: Mapping[str, Any]) -> Spread:
    """The parts that are defined, None for the others."""
    names = ("value", "low", "high", "same_order", "chance", "chance_95")
    return Spread(*(float(parts[name]) if name in parts else None for name in names))


def _wrong(expected: str, received: str, next_step: str) -> DataError:
    """The error of a table that cannot be measured."""
    return DataError("accuracies by order and seed", expected=expected, received=received, next_step=next_step)
