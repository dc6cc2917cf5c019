"""`halrp-np show`, and the result at the end of a run: the tables of a run folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import halrp_np

from .errors import resume_line

if TYPE_CHECKING:
    from rich.console import Console

Row = dict[str, Any]

CAUSES = {"factors": "by pruning", "batchnorm": "by BatchNorm"}
SHORT = 13
"""Letters of a task's name over a column of numbers."""
RESULT = ("acc", "bwt", "forgetting_chaudhry")


@click.command("show")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def show_command(folder: Path) -> None:
    """Show what the run in DIR is and what it found, finished or not."""
    from .screen import open_console

    console = open_console()
    run = halrp_np.runs.RunFolder.open(folder)
    for name, part in PARTS.items():
        try:
            part(console, run)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise damaged(run.path / name, "numbers and names where every run writes them", "others") from error


def show_result(console: Console, path: Path) -> None:
    """The end of a run: data, result, where it is, what next."""
    from .screen import say, say_data, say_table

    summary = halrp_np.runs.RunFolder.open(path).read_json("summary.json")
    rows = [(halrp_np.reports.MEASURE_WORDS[name], measure(summary, name)) for name in RESULT]
    rows += [(words, f"{summary['growth'][name]:.2%}") for name, words in halrp_np.reports.GROWTH_WORDS.items()]
    rows += costs(summary)
    title = f"Result of {summary['benchmark']}, {summary['method']}, preset {summary['preset']}"
    learned = f"{summary['tasks_learned']} of {summary['tasks']} tasks"
    say_table(console, f"{title}: {learned}", ("measure", "value"), rows, ("measure",))
    say_data(console, summary["data"])
    say(console, f"saved in {path}", whole=True)
    say(console, f"look at it: {resume_line(path).replace('resume', 'show', 1)}", whole=True)


def show_head(console: Console, run: Any) -> None:
    """What was run, and on what data."""
    from .protocol import say_protocol
    from .screen import HEAD, say, say_data

    config, protocol = recorded(run)
    say(console, f"{run.path}", HEAD, whole=True)
    names = ("benchmark", "method", "preset", "model", "device", "dtype", "seed")
    say(console, ", ".join(f"{name} {config.get(name)}" for name in names))
    own = halrp_np.benchmarks.changes(config)
    if not _has_tasks(config.get("benchmark")):
        own.pop("tasks", None)  # then it is not the user's number, but that of the data
    changed = [f"{key}={halrp_np.runs.as_text(value)}" for key, value in own.items() if key not in names]
    say(console, f"settings changed: {', '.join(changed) if changed else 'none'}")
    say_data(console, halrp_np.runs.as_text(protocol.get("data", "unknown")))
    say_protocol(console, protocol, config.get("order", "unknown"), config.get("seed", "unknown"))


def _has_tasks(benchmark: object) -> bool:
    """Whether a benchmark has a number of tasks of its own, whatever the data."""
    return any(row.tasks for row in halrp_np.BENCHMARKS.values() if row.name == benchmark)


def recorded(run: Any) -> tuple[Row, Row]:
    """The configuration of a run and the protocol of its stream."""
    content = run.config()
    for key in ("config", "protocol"):
        if not isinstance(content.get(key), dict):
            raise damaged(run.path / "config.json", f"an object under '{key}', as every run writes", "none")
    return content["config"], content["protocol"]


def number(value: object) -> str:
    """A whole number, or that there is none."""
    return f"{value:,}" if isinstance(value, int) else "an unknown number of"


def show_progress(console: Console, run: Any) -> None:
    """How far the run is, in words."""
    from .screen import LOUD, say

    config, protocol = recorded(run)
    metrics = run.read_metrics()
    learned = len({line.get("task") for line in metrics if line.get("event") == "task"})
    tasks = protocol.get("tasks", config.get("tasks"))
    ends = [end for end in (config.get("stop_after"), tasks) if end]
    if ends and learned >= min(ends):
        early = f": {learned} of {tasks} tasks, as stop_after asked" if learned != tasks else ""
        say(console, f"finished{early}")
        return
    last = metrics[-1] if metrics else {}
    within = f", in task {last['task']} {last['phase']} epoch {last['epoch']} done" if "epoch" in last else ""
    wanted = number(min(ends, default=None))
    say(console, f"UNFINISHED: {learned} of {wanted} tasks learned{within}", LOUD)
    say(console, f"continue with: {resume_line(run.path)}", whole=True)


def show_machine(console: Console, run: Any) -> None:
    """On what it ran."""
    from .screen import FAINT, say

    if not (run.path / "environment.json").is_file():
        return
    found = run.read_json("environment.json")
    processor = found["processor"]["model"]
    say(console, f"Python {found['python']['version']}, NumPy {found['packages']['numpy']}, {processor}", FAINT)


def show_accuracy(console: Console, run: Any) -> None:
    """The accuracy matrix, in as many blocks of columns as the terminal needs."""
    from .screen import say_table

    rows = table(run, "accuracy.csv", ("after_task", "task", "split", "accuracy"))
    tested = {(row["after_task"], row["task"]): row["accuracy"] for row in rows if row["split"] == "test"}
    newest = [row for row in rows if row["split"] == "validation" and row["task"] == row["after_task"]]
    validated = {row["after_task"]: row["accuracy"] for row in newest}
    tasks = sorted({task for _, task in tested})
    heads = task_heads(recorded(run)[1], tasks)
    wide = max(1, (console.width - 28) // (2 + max(map(len, heads.values()), default=7)))
    for first in range(0, len(tasks), wide):
        block, last = tasks[first : first + wide], first + wide >= len(tasks)
        lines = []
        for after in [task for task in tasks if task >= block[0]]:
            cells = [f"{tested[after, task]:.2f}" if (after, task) in tested else "" for task in block]
            ends = [f"{validated[after]:.2f}" if after in validated else ""] if last else []
            lines.append([after, *cells, *ends])
        columns = ["after", *(heads[task] for task in block), *(["validation"] if last else [])]
        say_table(console, "Test accuracy (%) on each task after each task", columns, lines)


def task_heads(protocol: Row, tasks: Sequence[int]) -> dict[int, str]:
    """`3 svhn` for each task where every name is short, else `task 3`."""
    names = [str(row.get("name", "unknown")) for row in protocol.get("sizes") or []]
    short = len(names) > max(tasks, default=0) and max(map(len, names)) <= SHORT
    return {task: f"{task} {names[task]}" if short else f"task {task}" for task in tasks}


def show_ranks(console: Console, run: Any) -> None:
    """Every rank with its reason."""
    from .screen import say, say_table

    needed = ("task", "layer", "rank", "size", "kept", "clamp", "importance", "last_score", "cumulative_share")
    rows = table(run, "ranks.csv", (*needed, "kept_fraction"))
    lines = [
        (
            row["task"],
            row["layer"],
            f"{row['rank']} of {row['size']}",
            f"{row['importance']:.3g}",
            f"{row['last_score']:.3g}",
            f"{row['cumulative_share']:.1%}",
            f"{row['kept_fraction']:.1%}",
            reason(row),
        )
        for row in rows
    ]
    if lines:
        columns = ("task", "layer", "rank", "importance", "score", "network", "in layer", "why")
        say_table(console, "Ranks", columns, lines, words=("layer", "why"))
        say(console, "score: of the last component kept; network: share of all layers' scores down to it")
        say(console, "in layer: share of the layer's own scores that is kept")
        show_alternatives(console, rows)


def show_alternatives(console: Console, rows: list[Row]) -> None:
    """The ranks that each importance would have chosen, where the run has compared them."""
    from .screen import say_table

    names = [name for name in rows[0] if name.startswith("rank_") and rows[0][name] is not None]
    if len(names) > 1:
        lines = [[row["task"], row["layer"], *(row[name] for name in names)] for row in rows]
        columns = ["task", "layer", *(name.removeprefix("rank_").replace("_", "-") for name in names)]
        say_table(console, "Ranks that each importance would choose", columns, lines, words=("layer",))


def reason(row: Row) -> str:
    """Why a layer has its rank."""
    if row["clamp"] == "raised":
        return "raised from 0"
    if row["clamp"] == "capped":
        return f"capped from {row['kept']}"
    return "by threshold"


def show_capacity(console: Console, run: Any) -> None:
    """What each task costs in numbers and bytes, as it stands after the newest."""
    from .screen import say_table

    parts = ("scalings", "factors", "factors_nonzero", "batchnorm", "head", "biases", "running_statistics")
    sums = ("released_count", "honest_count", "bytes", "growth_released", "growth_honest", "growth_bytes")
    rows = table(run, "capacity.csv", ("after_task", "task", *parts, *sums))
    newest = max((row["after_task"] for row in rows), default=0)
    rows = [row for row in rows if row["after_task"] == newest]
    if not rows:
        return
    lines = [[row["task"], *(f"{row[part]:,}" for part in parts)] for row in rows]
    columns: tuple[str, ...] = ("task", "scalings", "factors", "not zero", "norms", "head", "biases", "running")
    say_table(console, "Numbers that each task added to the base network", columns, lines)
    lines = [
        [row["task"], *(f"{row[part]:,}" for part in sums[:3]), *(f"{100 * row[part]:.2f}" for part in sums[3:])]
        for row in rows
    ]
    columns = ("task", "released", "honest", "bytes", "released %", "honest %", "bytes %")
    say_table(console, "Capacity: as released, honest, in bytes; in % of task 0, up to each task", columns, lines)


def show_changes(console: Console, run: Any) -> None:
    """What became of earlier tasks while later ones were learned, all boundaries added up."""
    from .screen import say, say_table

    rows = table(run, "changes.csv", ("after_task", "task", "kind", "bytes", "bytes_changed", "accuracy_change"))
    if rows and not any(row["bytes_changed"] for row in rows):
        say(console, "\nNo bit of what answers for an earlier task has changed since it was learned.")
        return
    lines = []
    for task in sorted({row["task"] for row in rows}):
        own = [row for row in rows if row["task"] == task]
        changes = {kind: sum(r["accuracy_change"] for r in own if r["kind"] == kind) for kind in CAUSES}
        rest = sum(row["accuracy_change"] for row in own if row["kind"] not in CAUSES)
        parts = [*changes.values(), rest]
        held = sum(row["bytes"] for row in own if row["after_task"] == own[-1]["after_task"])
        changed = sum(row["bytes_changed"] for row in own)
        lines.append([task, *(f"{part + 0.0:+.2f}" for part in (sum(parts), *parts)), f"{changed:,}", f"{held:,}"])
    if lines:
        columns = ("task", "accuracy", *CAUSES.values(), "the rest", "bytes changed", "of")
        say_table(console, "Accuracy of earlier tasks since each was learned (points), by what changed", columns, lines)


def show_curvature(console: Console, run: Any) -> None:
    """The curvature of every learned task's layers after the newest one, if the run has recorded it."""
    from .screen import say, say_table

    needed = ("after_task", "task", "layer", "trace", "trace_stderr", "top", "top_stderr", "products")
    rows = table(run, "curvature.csv", needed)
    newest = max((row["after_task"] for row in rows), default=0)
    lines = [
        [row["task"], row["layer"], estimate(row, "trace"), estimate(row, "top"), row["products"]]
        for row in rows
        if row["after_task"] == newest
    ]
    if lines:
        columns = ("task", "layer", "trace", "largest eigenvalue", "products")
        title = f"Curvature of the loss in each layer's weight, after task {newest}"
        say_table(console, title, columns, lines, words=("layer",))
        say(console, "with one standard error; without products a number is exact")


def estimate(row: Row, name: str) -> str:
    """A number with its standard error, where it has one."""
    if row[name] is None:
        return "not found"
    error = row[f"{name}_stderr"]
    return f"{row[name]:.3g} ± {error:.1g}" if error else f"{row[name]:.3g}"


def show_metrics(console: Console, run: Any) -> None:
    """Every measure of the accuracy matrix, the undefined ones too."""
    from .screen import say_table

    if not (run.path / "summary.json").is_file():
        return
    summary = run.read_json("summary.json")
    rows = [(words, measure(summary, name), name) for name, words in halrp_np.reports.MEASURE_WORDS.items()]
    rows += [
        (words, f"{summary['growth'][name]:.2%}", f"growth.{name}")
        for name, words in halrp_np.reports.GROWTH_WORDS.items()
    ]
    say_table(console, "Measures", ("measure", "value", "in summary.json"), rows, ("measure", "in summary.json"))


def costs(summary: Row) -> list[tuple[str, str]]:
    """What the run took, as far as it is known."""
    duration, memory = halrp_np.reports.duration, halrp_np.reports.memory
    cost = summary["cost"]
    rows = [("time, learning and evaluating", duration(cost["learn_seconds"] + cost["evaluate_seconds"]))]
    if missing := cost.get("tasks_of_unknown_cost"):
        rows.append(("tasks whose time is not known", str(missing)))
    if peak := cost["peak_memory_bytes"]:
        rows.append(("memory at its peak", memory(peak)))
    return rows


def measure(summary: Row, name: str) -> str:
    """A measure, or why there is none."""
    value = summary["metrics"].get(name)
    if value is None:
        return f"undefined: {summary.get('undefined', {}).get(name, 'unknown why')}"
    return f"{round(value, 2) + 0.0:.2f}"  # never -0.00


def show_time(console: Console, run: Any) -> None:
    """What each task took; nothing else depends on it, so damage here is no error."""
    from .screen import LOUD, say, say_table

    if not (run.path / "timing.json").is_file():
        return
    duration, memory = halrp_np.reports.duration, halrp_np.reports.memory
    kinds = {"learn_seconds": duration, "evaluate_seconds": duration, "peak_memory_bytes": memory}
    rows: list[list[object]] = []
    try:
        tasks = run.read_json("timing.json")["tasks"]
        for task, cost in enumerate(tasks):
            rows.append([task, *("unknown" if cost is None else words(cost[kind]) for kind, words in kinds.items())])
    except (halrp_np.HalrpError, KeyError, OverflowError, TypeError, ValueError):
        say(console, "\ntime: unknown, timing.json is damaged", LOUD)
        return
    if rows:
        say_table(console, "Time, and the most memory so far", ("task", "learning", "evaluating", "memory"), rows)


def table(run: Any, name: str, columns: Sequence[str]) -> list[Row]:
    """The rows of a table, none when the run has not written it yet."""
    if not os.path.isfile(run.path / name):
        return []
    header, rows = run.read_csv(name)
    missing = [column for column in columns if column not in header]
    if missing:
        raise damaged(run.path / name, f"a column '{missing[0]}', as every run writes", "a table without it")
    return list(rows)


PARTS = {
    "config.json": show_head,
    "metrics.jsonl": show_progress,
    "environment.json": show_machine,
    "accuracy.csv": show_accuracy,
    "ranks.csv": show_ranks,
    "capacity.csv": show_capacity,
    "changes.csv": show_changes,
    "curvature.csv": show_curvature,
    "summary.json": show_metrics,
    "timing.json": show_time,
}
"""What is shown, in this order, and the file that each part is of."""


def damaged(path: Path, expected: str, received: str) -> Exception:
    """The error of a file that is not as every run writes it."""
    return halrp_np.HalrpError(
        str(path),
        expected=expected,
        received=received,
        next_step="The file is damaged: restore it from a copy, or run again in a new folder.",
    )
