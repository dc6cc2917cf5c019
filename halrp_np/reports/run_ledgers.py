"""What a page says of one run's ranks, growth, changes, curvature and time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import charts
from .content import Block, Cell, Section, Table, Words
from .details import LATER_SIZES, SIZES, RunDetails
from .results import RunResult
from .words import counted, duration, memory, percent

SIZE_WORDS = {
    "weights": "weights",
    "factors_nonzero": "factors, not zero",
    "scalings": "scalings",
    "batchnorm": "BatchNorm",
    "head": "heads",
    "biases": "biases",
    "running_statistics": "running statistics",
    "training_state": "kept for training",
}
"""The kinds of numbers in the honest count."""


def ranks_section(details: RunDetails, prefix: str) -> Section | None:
    """Ranks, spectra and the reason for each decision; none for methods without ranks."""
    ranks = details.ranks
    if not ranks:
        return None
    blocks: list[Block] = [charts.rank_map(prefix, ranks), _rank_words(details), _rank_table(details)]
    if len(_alternatives(details)) > 1:
        blocks.append(_alternatives_table(details))
    drawn = charts.spectrum_tasks(details.spectra)
    tasks = len({task for task, _ in details.spectra})
    if drawn:
        left = f" Of {tasks} tasks, {len(drawn)} are drawn, evenly spread." if len(drawn) < tasks else ""
        blocks.append(
            Words(
                "Below, the singular values of what the shared weights leave over, each layer's components in the "
                f"order in which they are kept; the kept ones are shaded.{left}"
            )
        )
        ends = list(dict.fromkeys((drawn[0], drawn[-1])))
        blocks += [charts.spectrum(prefix, task, ranks, details.spectra, folded=False) for task in ends]
        blocks += [charts.spectrum(prefix, task, ranks, details.spectra, folded=True) for task in drawn[1:-1]]
    return Section(f"{prefix}ranks-section", "Ranks, spectra and why", blocks)


def _rank_words(details: RunDetails) -> Words:
    """How a rank comes about, with this run's numbers."""
    config = details.result.config
    if config.get("rank_rule") == "flat":
        return Words(
            f"The rule is flat: every layer keeps its first {config.get('rank_cap')} components, or all it has."
        )
    return Words(
        "A component's score is the loss that dropping it is estimated to cost. All layers' components compete: the "
        f"largest are kept until they hold more than {percent(config['rank_share'])} of the sum of all scores; then "
        f"each layer's number is clamped to between 1 and {config['rank_cap']}."
    )


def why(row: dict[str, Any], config: dict[str, Any]) -> str:
    """The reason for one rank in words."""
    if config.get("rank_rule") == "flat":
        return "the flat rule"
    kept = counted(row["kept"], "component")
    if row["clamp"] == "capped":
        return f"capped: {kept} above the threshold, and the cap is {row['rank']}"
    if row["clamp"] == "raised":
        return "raised: no component above the threshold, and every layer keeps one"
    return f"by threshold: {kept} above it"


def _rank_table(details: RunDetails) -> Table:
    """Every rank with its reason."""
    rows: list[list[Cell | str]] = [
        [
            Cell(f"{row['task']}, {row['layer']}", row["task"] + number / 1e6),
            *(str(row["rank"]), str(row["size"]), f"{row['importance']:.3g}", f"{row['last_score']:.3g}"),
            *(percent(row["cumulative_share"]), percent(row["kept_fraction"]), why(row, details.result.config)),
        ]
        for number, row in enumerate(details.ranks or [])
    ]
    columns = (
        *("task, layer", "rank", "components", "importance of the layer", "score of the last kept"),
        *("network's score down to it", "layer's score kept", "why"),
    )
    return Table("Every rank and the reason for it", columns, rows, ("task, layer", "why"))


def _alternatives(details: RunDetails) -> list[str]:
    """The columns of ranks.csv that say what other importances would have chosen."""
    first = (details.ranks or [{}])[0]
    return [name for name in first if name.startswith("rank_") and first[name] is not None]


def _alternatives_table(details: RunDetails) -> Table:
    """The ranks that each importance would have chosen."""
    names = _alternatives(details)
    rows = [
        [f"{row['task']}, {row['layer']}", *("undefined" if row[name] is None else str(row[name]) for name in names)]
        for row in details.ranks or []
    ]
    heads = [name.removeprefix("rank_").replace("_", "-") for name in names]
    return Table(
        "Ranks that each importance would choose", ("task, layer", *heads), rows, ("task, layer",), folded=True
    )


def growth_section(details: RunDetails, prefix: str) -> Section | None:
    """What the tasks cost: the ledger, by convention and by kind."""
    rows = details.capacity
    if not rows:
        return None
    grown = {row["after_task"]: row for row in rows if row["task"] == row["after_task"]}
    afters = sorted({row["after_task"] for row in rows})
    kinds = [key for key in SIZE_WORDS if key in rows[0]]
    sums = {
        after: {key: sum(row[key] for row in rows if row["after_task"] == after) for key in _summed(rows[0])}
        for after in afters
    }
    ledger = [
        [
            str(after),
            *(f"{sums[after][key]:,}" for key in ("released_count", "honest_count", "bytes")),
            *(percent(grown[after][key]) if after in grown else "undefined" for key in _GROWTH),
            *(f"{sums[after][key]:,}" for key in (*SIZES, *(key for key in LATER_SIZES if key in rows[0]))),
        ]
        for after in afters
    ]
    later = [
        {"weights": "weights", "training_state": "kept for training"}[key] for key in LATER_SIZES if key in rows[0]
    ]
    columns = (
        *("after task", "released count", "honest count", "bytes", "released", "honest", "bytes, growth"),
        *("scalings", "factors", "factors, not zero", "BatchNorm", "heads", "biases", "running statistics", *later),
    )
    parts = {SIZE_WORDS[key]: [sums[after][key] / 1000 for after in afters] for key in kinds}
    parts = {name: values for name, values in parts.items() if any(values)}
    last = sums[afters[-1]]
    words = f"Numbers that all later tasks together add, after task {afters[-1]}: " + ", ".join(
        f"{last[key]:,} {SIZE_WORDS[key]}" for key in kinds if last[key]
    )
    blocks: list[Block] = [
        Words(
            "Everything that tasks 1 and later add to the network of task 0. Released: as the released code counts, "
            "non-zero factor entries, scalings, BatchNorm and heads. Honest: biases, running statistics and what is "
            "kept to learn further tasks too. Pruning makes earlier tasks smaller, so a count can fall."
        )
    ]
    if grown:
        blocks.append(charts.growth_curves(prefix, grown))
    name = f"{prefix}growth-by-kind"
    blocks.append(charts.stacked(name, "What the tasks add, by kind", f"{words}.", afters, parts, AXES))
    blocks.append(Table("Growth ledger: all later tasks together, after each task", columns, ledger))
    return Section(f"{prefix}growth-section", "Growth", blocks)


PHASES = ("base", "warm-up", "perturbation")
"""Phases in the order in which a task has them; others stand behind."""

PHASE_WORDS = {"between": "between phases"}

AXES = ("after learning task", "thousands of numbers")
_GROWTH = ("growth_released", "growth_honest", "growth_bytes")


def _summed(row: dict[str, Any]) -> Iterable[str]:
    """The columns of capacity.csv that add up over tasks."""
    return [key for key in row if key not in ("after_task", "task", *_GROWTH)]


def curvature_section(details: RunDetails, prefix: str) -> Section | None:
    """Trace and largest eigenvalue of every learned task's loss, where they were recorded."""
    rows = details.curvature
    if not rows:
        return None
    config = details.result.config
    blocks: list[Block] = [
        Words(
            f"The Hessian of each learned task's loss in one layer's weight, on its first "
            f"{counted(config.get('curvature_images', 0), 'validation image')}, after each task; at most "
            f"{counted(config.get('curvature_products', 0), 'product')} with it a layer."
        )
    ]
    for measure, title in (("trace", "Trace"), ("top", "Largest eigenvalue")):
        if any(row[measure] is not None for row in rows):
            blocks.append(charts.curvature_curves(prefix, rows, measure, title))
        else:
            blocks.append(Words(f"{title}: undefined, the products did not suffice."))
    table: list[list[Cell | str]] = [
        [
            Cell(f"{row['after_task']}, {row['task']}, {row['layer']}", row["after_task"] * 1e3 + row["task"]),
            *(
                "undefined" if row[key] is None else f"{row[key]:.4g}"
                for key in ("trace", "trace_stderr", "top", "top_stderr")
            ),
            str(row["products"]),
        ]
        for row in rows
    ]
    columns = (
        "after, task, layer",
        "trace",
        "its standard error",
        "largest eigenvalue",
        "its standard error ",
        "products",
    )
    blocks.append(Table("Curvature in numbers", columns, table, ("after, task, layer",), folded=True))
    return Section(f"{prefix}curvature-section", "Curvature along the way", blocks)


def time_section(run: RunResult, prefix: str) -> Section | None:
    """What each task took, by phase where that is known; nothing depends on it."""
    known = [(task, row) for task, row in enumerate(run.timing) if _is_time(row)]
    if not known:
        return None
    phased = all(_phases(row) for _, row in known)
    found = dict.fromkeys(name for _, row in known for name in (_phases(row) if phased else ("learning",)))
    names = sorted(found, key=lambda name: PHASES.index(name) if name in PHASES else len(PHASES))
    parts = {PHASE_WORDS.get(name, name): [_seconds(row, name) for _, row in known] for name in names}
    parts["evaluating"] = [row["evaluate_seconds"] for _, row in known]
    totals = {name: sum(values) for name, values in parts.items()}
    words = "Seconds of all tasks: " + ", ".join(f"{name} {duration(total)}" for name, total in totals.items())
    tasks = [task for task, _ in known]
    rows: list[list[Cell | str]] = [
        [
            str(task),
            *(_time_cell(parts[name][at]) for name in parts),
            Cell(memory(row["peak_memory_bytes"]), row["peak_memory_bytes"]),
        ]
        for at, (task, row) in enumerate(known)
    ]
    columns = ("task", *parts, "most memory so far")
    blocks: list[Block] = [
        charts.stacked(f"{prefix}time", "Time of each task", f"{words}.", tasks, parts, ("task", "seconds")),
        Table("Time of each task by phase, and the most memory so far", columns, rows),
    ]
    if len(known) < run.learned:
        blocks.append(Words(f"The time of {counted(run.learned - len(known), 'task')} is not known."))
    return Section(f"{prefix}time-section", "Time", blocks)


def _time_cell(seconds: float) -> Cell | str:
    """A time, or nothing for a phase that a task did not have."""
    return Cell(duration(seconds), seconds) if seconds else ""


def _is_time(row: Any) -> bool:
    """Whether a task's row of timing.json is as runs write it."""
    keys = ("learn_seconds", "evaluate_seconds", "peak_memory_bytes")
    return isinstance(row, dict) and all(type(row.get(key)) in (int, float) for key in keys)


def _phases(row: dict[str, Any]) -> dict[str, float]:
    """The seconds of each phase, none where they are not known."""
    found = row.get("phases")
    whole = isinstance(found, dict) and all(type(value) in (int, float) for value in found.values())
    return found if whole and found else {}


def _seconds(row: dict[str, Any], name: str) -> float:
    """The seconds of one phase of a task, 0 for one that the task did not have."""
    return float(row["learn_seconds"] if name == "learning" and not _phases(row) else _phases(row).get(name, 0.0))


def missing_rows(details: RunDetails) -> list[list[str]]:
    """What is not recorded, and why."""
    run, rows = details.result, []
    if not run.learned:
        return [["every result", "no task is learned yet"]]
    if not details.ranks:
        why_not = (
            "rank decisions begin with the second task" if run.learned < 2 else "this method or preset chooses no ranks"
        )
        rows.append(["ranks and spectra", why_not])
    elif not details.spectra:
        rows.append(["spectra", "the folder holds no checkpoint of the state; they are kept there"])
    if not details.capacity:
        rows.append(["growth ledger", "growth begins with the second task" if run.learned < 2 else "no capacity.csv"])
    if not details.changes:
        early = "needs two tasks" if run.learned < 2 else "no changes.csv: the run is of an earlier version"
        rows.append(["what became of earlier tasks", early])
    if not details.curvature:
        rows.append(["curvature along the way", "off by default; --set curvature_products=N records it"])
    unknown = sum(not _is_time(row) for row in run.timing)
    if unknown:
        rows.append(["time of each task", f"not known of {counted(unknown, 'task')}"])
    elif not all(_phases(row) for row in run.timing):
        rows.append(["time of each phase", "the run is of an earlier version, or was resumed from one"])
    return rows
