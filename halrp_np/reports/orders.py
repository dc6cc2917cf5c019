"""Order robustness of finished runs: OPD of each task, AOPD and MOPD for each group, and their CSV."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ConfigError
from ..files import write_whole
from ..runs import as_text
from ..runs.tables import table_text
from ..training.robustness import Robustness, Spread, common_seeds, robustness
from .groups import Group, by_benchmark, grouped, title_of, unequal
from .results import RunResult

CSV_HEADER = (
    *("benchmark", "group", "method", "preset", "model", "data", "settings", "orders", "seeds", "measure", "task"),
    *("name", "value", "low", "high", "same_order", "chance", "chance_95", "undefined"),
)


@dataclass(frozen=True, eq=False)
class OrderTable:
    """One group with what its orders show; `names[t]` is what the stream calls task t."""

    group: Group
    names: dict[int, str]
    found: Robustness


@dataclass(frozen=True, eq=False)
class OrderReport:
    """The groups of one benchmark, what makes them unequal, and which runs are left out."""

    title: str
    tables: list[OrderTable]
    warnings: list[str]
    notes: list[str]


def order_robustness(results: Sequence[RunResult]) -> OrderReport:
    """OPD, AOPD and MOPD of each group of runs that differ in order and seed only.

    Orders count as equal when their tasks come in the same order, whatever they are called. Of seeds, those count that
    all orders of the group have.

    Raises: ConfigError for runs of several benchmarks; DataError for orders without a common seed, or with other tasks.
    """
    benchmarks = by_benchmark(results)
    if len(benchmarks) != 1:
        raise ConfigError(
            "orders",
            expected="runs of one benchmark: its tasks are compared",
            received=", ".join(benchmarks) or "no run",
            next_step="Name the folders of one benchmark only.",
        )
    groups, notes = grouped(results)
    tables = []
    for group in groups:
        kept, left = common_seeds(_accuracies(group))
        several = len(groups) > 1
        notes += [f"{group.name}: {line}" if several else line for line in left]
        names = {
            identity: name
            for run in group.runs.values()
            for identity, name in zip(run.identities, run.names, strict=True)
        }
        tables.append(OrderTable(group, names, robustness(kept)))
    return OrderReport(title_of(results[0]), tables, unequal(groups), notes)


def write_orders_csv(path: str | os.PathLike[str], report: OrderReport) -> None:
    """A line for AOPD, MOPD and the OPD of each task, for each group.

    Raises: StorageError when the file cannot be written.
    """
    rows = []
    for table in report.tables:
        settings = table.group.settings
        hidden = {"benchmark", "method", "preset", "model", "data"}
        changed = " ".join(f"{key}={as_text(value)}" for key, value in settings.items() if key not in hidden)
        head = [report.title, table.group.name, *(settings[key] for key in ("method", "preset", "model", "data"))]
        head += [changed, len(table.found.orders), len(table.found.seeds)]
        rows += [[*head, *_csv_cells(line, table.found)] for line in _lines(table)]
    write_whole(path, table_text(CSV_HEADER, rows, os.fspath(path)))


def orders_content(report: OrderReport) -> dict[str, Any]:
    """The report as values that JSON holds."""
    tables = [
        {
            "group": table.group.name,
            "settings": {key: list(v) if isinstance(v, tuple) else v for key, v in table.group.settings.items()},
            "orders": {name: list(order) for order, name in _named(table.group.orders).items()},
            "seeds": list(table.found.seeds),
            "aopd": asdict(table.found.aopd),
            "mopd": asdict(table.found.mopd),
            "opd": [{"task": t, "name": table.names[t], **asdict(spread)} for t, spread in table.found.opd.items()],
            "undefined": table.found.undefined,
        }
        for table in report.tables
    ]
    return {"benchmark": report.title, "groups": tables, "warnings": report.warnings, "notes": report.notes}


def _accuracies(group: Group) -> dict[str, dict[int, dict[int, float]]]:
    """P[order][seed][task], the orders by their names."""
    names = _named(group.orders)
    found: dict[str, dict[int, dict[int, float]]] = {}
    for (order, seed), run in group.runs.items():
        found.setdefault(names[order], {})[seed] = run.final()
    return found


def _named(orders: dict[tuple[int, ...], str]) -> dict[tuple[int, ...], str]:
    """The orders with names that tell them apart: orders of different streams may go by one name."""
    names = list(orders.values())
    return {
        order: name if names.count(name) == 1 else f"{name} ({','.join(map(str, order))})"
        for order, name in orders.items()
    }


def _lines(table: OrderTable) -> Iterable[tuple[str, int | None, str, Spread]]:
    """Every measure of a table: its name, the task and its name, what was found."""
    yield "aopd", None, "", table.found.aopd
    yield "mopd", None, "", table.found.mopd
    for task, spread in table.found.opd.items():
        yield "opd", task, table.names[task], spread


def _csv_cells(line: tuple[str, int | None, str, Spread], found: Robustness) -> list[Any]:
    """The cells of one measure."""
    measure, task, name, spread = line
    reasons = "; ".join(dict.fromkeys(found.undefined.values()))
    return [measure, task, name, *asdict(spread).values(), reasons]
