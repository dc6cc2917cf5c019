"""Runs that differ in nothing but the order of the tasks and the seed, put together; and what makes groups unequal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import HalrpError
from ..runs import as_text
from ..runs.record import RunFolder
from .results import RunResult

Key: TypeAlias = tuple[tuple[int, ...], int]
"""What tells the runs of a group apart: the order of the tasks, by identity, and the seed."""

SAME = ("order", "seed", "data", "data_dir", "checkpoint_seconds")
"""Settings that runs of one group may differ in; of the data, what was found counts."""

MACHINE = ("device", "kernels", "python", "system", "processor", "packages", "blas", "variables")
"""The parts of environment.json."""


@dataclass(frozen=True, eq=False)
class Group:
    """Runs with the same settings but for order and seed; `name` says what sets it apart from the others."""

    name: str
    settings: dict[str, Any]
    runs: dict[Key, RunResult]

    @property
    def orders(self) -> dict[tuple[int, ...], str]:
        """The name of each order, as the first run in it has it."""
        found: dict[tuple[int, ...], str] = {}
        for (order, _), run in self.runs.items():
            found.setdefault(order, str(run.config["order"]))
        return found

    @property
    def seeds(self) -> list[int]:
        """Every seed of its runs, ascending."""
        return sorted({seed for _, seed in self.runs})


def title_of(run: RunResult) -> str:
    """The name of a run's benchmark; of a TOML file, without folder and suffix."""
    benchmark = str(run.config["benchmark"])
    return Path(benchmark).stem if benchmark.endswith(".toml") else benchmark


def by_benchmark(results: Iterable[RunResult]) -> dict[str, list[RunResult]]:
    """The runs of each benchmark, as config.json names it."""
    found: dict[str, list[RunResult]] = {}
    for run in results:
        found.setdefault(str(run.config["benchmark"]), []).append(run)
    return found


def grouped(results: Iterable[RunResult]) -> tuple[list[Group], list[str]]:
    """The groups, the runs of each by order and seed, and a sentence for each run that is another one again."""
    found: dict[str, tuple[dict[str, Any], dict[Key, RunResult]]] = {}
    notes = []
    for run in sorted(results, key=_place):
        settings = settings_of(run)
        _, runs = found.setdefault(repr(sorted(settings.items())), (settings, {}))
        key = (tuple(int(identity) for identity in run.protocol["order"]), int(run.config["seed"]))
        if key in runs:
            named = f"its order, {run.config['order']}, is {runs[key].config['order']}"
            twice = "" if run.config["order"] == runs[key].config["order"] else f" ({named})"
            notes.append(f"{run.path} is left out: {runs[key].path} has the same settings, order and seed{twice}")
        runs.setdefault(key, run)
    names = names_of([settings for settings, _ in found.values()])
    groups = [Group(name, settings, runs) for name, (settings, runs) in zip(names, found.values(), strict=True)]
    return groups, notes


def _place(run: RunResult) -> tuple[bool, int, str, int]:
    """Letters before drawn orders, random:2 before random:10, then by seed."""
    order = str(run.config["order"])
    return len(order) > 1, len(order), order, int(run.config["seed"])


def settings_of(run: RunResult) -> dict[str, Any]:
    """What the runs of a group share: benchmark, method, preset, network, data found, and every changed setting."""
    named = {key: run.config[key] for key in ("benchmark", "method", "preset", "model")}
    data = ", ".join(sorted(str(run.protocol["data"]).split(", ")))
    changed = {key: value for key, value in run.changed.items() if key not in SAME}
    return {**named, "data": data, **changed}


def names_of(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The shortest names of some groups: the method, then what not all of them share."""
    keys = list(dict.fromkeys(key for one in settings for key in one))
    differ = [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1 and key != "method"]
    plain = {"benchmark", "preset", "model", "data"}
    return [
        " ".join(
            [str(one["method"])]
            + [as_text(one[key]) if key in plain else f"{key}={as_text(one[key])}" for key in differ if key in one]
        )
        for one in settings
    ]


def unequal(groups: Sequence[Group]) -> list[str]:
    """Sentences on what makes a comparison of these groups unfair, or of their times."""
    return [*_protocols(groups), *_runs(groups), *_machines(groups)]


def _protocols(groups: Sequence[Group]) -> list[str]:
    """Where runs with the same order of tasks were given other tasks, images or splits, or learned fewer."""
    first: dict[tuple[int, ...], tuple[Group, RunResult]] = {}
    found: dict[tuple[str, str], dict[str, None]] = {}
    for group in groups:
        for (order, _), run in group.runs.items():
            before, other = first.setdefault(order, (group, run))
            parts = [key for key in {**other.protocol, **run.protocol} if not _same(other.protocol, run.protocol, key)]
            parts += ["tasks learned"] if run.learned != other.learned else []
            if parts:
                found.setdefault((group.name, before.name), {}).update(dict.fromkeys(parts))
    lines = []
    for (name, compared), differing in found.items():
        between = f"{name} and {compared}" if name != compared else f"the runs of {name}"
        lines.append(f"unfair: {between} differ in the data or its protocol: {', '.join(differing)}")
    return lines


def _same(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    """Whether two protocols say the same under a key."""
    return bool(key in one and key in other and one[key] == other[key])


def _runs(groups: Sequence[Group]) -> list[str]:
    """Where the means are over other orders and seeds."""
    largest = max(groups, key=lambda group: len(group.runs), default=None)
    lines = []
    for group in groups:
        if largest is None or group.runs.keys() == largest.runs.keys():
            continue
        common = len(group.runs.keys() & largest.runs.keys())
        counts = f"{group.name} has {_count(len(group.runs), 'run')} and {largest.name} {len(largest.runs)}"
        lines.append(f"uneven: {counts}; {common} of them share order and seed, and tests use only these")
    return lines


def _machines(groups: Sequence[Group]) -> list[str]:
    """Where the environments differ."""
    found: dict[str, dict[str, list[str]]] = {}
    for group in groups:
        for run in group.runs.values():
            for part, value in _environment(run).items():
                names = found.setdefault(part, {}).setdefault(value, [])
                if group.name not in names:
                    names.append(group.name)
    parts: dict[str, list[str]] = {}  # by how they differ: several variables may say the same
    for part, values in found.items():
        if len(values) > 1:
            how = "; ".join(f"{value} ({', '.join(names)})" for value, names in values.items())
            parts.setdefault(how, []).append(part)
    return [
        f"the environments differ in {', '.join(names)}, so times may not compare: {how}"
        for how, names in parts.items()
    ]


def _environment(run: RunResult) -> dict[str, str]:
    """Every entry of environment.json as text, by a dotted name; `unknown` where the file cannot be read."""
    try:
        content: Mapping[str, Any] = RunFolder(run.path).read_json("environment.json")
    except HalrpError:
        content = {}
    found = {}
    for part in MACHINE:
        value = content.get(part)
        if isinstance(value, dict):
            found.update({f"{part} {key}": "none" if inner is None else str(inner) for key, inner in value.items()})
        else:
            found[part] = "unknown" if value is None else str(value)
    return found


def _count(number: int, word: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
