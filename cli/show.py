"""`halrp-np show`, and the result at the end of a run: the tables of a run folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import halrp_np

from .errors import resume_line
from .listing import text

if TYPE_CHECKING:
    from rich.console import Console

Row = dict[str, Any]

MEASURES = {
    "acc": "ACC: accuracy on all tasks at the end, mean (%)",
    "aia": "mean of the accuracies after each task (%)",
    "bwt": "BWT: change on earlier tasks since each was learned, mean",
    "forgetting_all_tasks": "forgetting since each was learned, mean of all tasks",
    "forgetting_released_summary": "forgetting as the released summary prints it",
    "forgetting_chaudhry": "forgetting from the best before the end (Chaudhry)",
    "forgetting_mammoth": "forgetting from the best, never negative (Mammoth)",
}
GROWTH = {
    "released": "growth over task 0, counted as the released code does",
    "honest": "growth over task 0, biases and running statistics counted too",
    "bytes": "growth over task 0, bytes on disk",
}
RESULT = ("acc", "bwt", "forgetting_chaudhry")


@click.command("show")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def show_command(folder: Path) -> None:
    """Show what the run in DIR is and what it found, finished or not."""
    from .screen import open_console

    console = open_console()
    run = halrp_np.runs.RunFolder.open(folder)
    recorded = run.config()
    for key in ("config", "protocol"):
        if not isinstance(recorded.get(key), dict):
            raise damaged(run.path / "config.json", key)
    show_head(console, run, recorded)
    for part in (show_accuracy, show_ranks, show_capacity, show_metrics, show_time):
        part(console, run)


def show_result(console: Console, path: Path) -> None:
    """The end of a run: data, result, where it is, what next."""
    from .screen import duration, say, say_data, say_table

    summary = halrp_np.runs.RunFolder.open(path).read_json("summary.json")
    rows = [(MEASURES[name], measure(summary["metrics"].get(name))) for name in RESULT]
    rows += [(words, f"{summary['growth'][name]:.2%}") for name, words in GROWTH.items()]
    rows += [("time, learning and evaluating", duration(sum(summary["time"].values())))]
    title = f"Result of {summary['benchmark']}, {summary['method']}, preset {summary['preset']}"
    say_table(console, f"{title}: {summary['tasks_learned']} tasks", ("measure", "value"), rows, ("measure",))
    say_data(console, summary["data"])
    say(console, f"saved in {path}")
    say(console, f"look at it: {resume_line(path).replace('resume', 'show', 1)}")


def show_head(console: Console, run: Any, recorded: Row) -> None:
    """What was run, on what data, and how far it is."""
    from .screen import FAINT, HEAD, say, say_data

    config, protocol = recorded["config"], recorded["protocol"]
    say(console, f"{run.path}", HEAD)
    names = ("benchmark", "method", "preset", "model", "device", "dtype", "seed")
    say(console, ", ".join(f"{name} {config.get(name)}" for name in names))
    changed = changes(config)
    say(console, f"set by hand: {', '.join(changed) if changed else 'nothing'}")
    counts = [f"{protocol[part]:,} {part}" for part in ("train", "validation", "test")]
    say(console, f"{protocol['tasks']} tasks of {', '.join(counts)} images")
    say_data(console, protocol["data"])
    say(console, progress(run, protocol["tasks"]))
    if (run.path / "environment.json").is_file():
        found = run.read_json("environment.json")
        processor = found["processor"]["model"]
        say(console, f"Python {found['python']['version']}, NumPy {found['packages']['numpy']}, {processor}", FAINT)


def changes(config: Row) -> list[str]:
    """The settings that differ from those of the benchmark and the preset."""
    chosen: Row = {key: config[key] for key in ("benchmark", "preset") if key in config}
    plain = halrp_np.resolve_config(("config.json", chosen))
    told = {"method", "model", "device", "dtype", "seed"}
    found = []
    for key, value in config.items():
        value = tuple(value) if isinstance(value, list) else value
        if key not in told and value != getattr(plain, key, None):
            found.append(f"{key}={text(value)}")
    return found


def progress(run: Any, tasks: int) -> str:
    """How far the run is, in words."""
    metrics = run.read_metrics()
    learned = len({line.get("task") for line in metrics if line.get("event") == "task"})
    if learned >= tasks:
        return "finished"
    last = metrics[-1] if metrics else {}
    within = f", in task {last['task'] + 1} {last['phase']} epoch {last['epoch']} done" if "epoch" in last else ""
    return f"UNFINISHED: {learned} of {tasks} tasks learned{within}. Continue with: {resume_line(run.path)}"


def show_accuracy(console: Console, run: Any) -> None:
    """The accuracy matrix, in as many blocks of columns as the terminal needs."""
    from .screen import say_table

    rows = table(run, "accuracy.csv", ("after_task", "task", "split", "accuracy"))
    tested = {(row["after_task"], row["task"]): row["accuracy"] for row in rows if row["split"] == "test"}
    validated = {row["after_task"]: row["accuracy"] for row in rows if row["split"] == "validation"}
    tasks = sorted({task for _, task in tested})
    wide = max(1, (console.width - 28) // 9)
    for first in range(0, len(tasks), wide):
        block, last = tasks[first : first + wide], first + wide >= len(tasks)
        lines = []
        for after in [task for task in tasks if task >= block[0]]:
            cells = [f"{tested[after, task]:.2f}" if (after, task) in tested else "" for task in block]
            ends = [f"{validated[after]:.2f}" if after in validated else ""] if last else []
            lines.append([after + 1, *cells, *ends])
        columns = ["after", *(f"task {task + 1}" for task in block), *(["validation"] if last else [])]
        say_table(console, "Test accuracy (%) on each task after each task", columns, lines)


def show_ranks(console: Console, run: Any) -> None:
    """Every rank with its reason."""
    from .screen import say, say_table

    needed = ("task", "layer", "rank", "size", "kept", "clamp", "importance", "last_score", "cumulative_share")
    rows = table(run, "ranks.csv", (*needed, "kept_fraction"))
    lines = [
        (
            row["task"] + 1,
            row["layer"],
            f"{row['rank']} of {row['size']}",
            f"{row['importance']:.3g}",
            f"{row['last_score']:.3g}",
            f"{row['cumulative_share']:.1%}",
            reason(row),
        )
        for row in rows
    ]
    if lines:
        columns = ("task", "layer", "rank", "importance", "score", "network", "why")
        say_table(console, "Ranks", columns, lines, words=("layer", "why"))
        say(console, "score: of the last component kept; network: share of all layers' scores at and above it")


def reason(row: Row) -> str:
    """Why a layer has its rank."""
    holds = f"{row['kept_fraction']:.1%} of the layer's score"
    if row["clamp"] == "raised":
        return f"none above the network's threshold, raised to 1: {holds}"
    if row["clamp"] == "capped":
        return f"{row['kept']} above the threshold, capped: {holds}"
    return f"{row['kept']} above the threshold: {holds}"


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
    lines = [[row["task"] + 1, *(f"{row[part]:,}" for part in parts)] for row in rows]
    columns: tuple[str, ...] = ("task", "scalings", "factors", "not zero", "norms", "head", "biases", "running")
    say_table(console, "Numbers that each task added to the base network", columns, lines)
    lines = [
        [row["task"] + 1, *(f"{row[part]:,}" for part in sums[:3]), *(f"{100 * row[part]:.2f}" for part in sums[3:])]
        for row in rows
    ]
    columns = ("task", "released", "honest", "bytes", "released %", "honest %", "bytes %")
    say_table(
        console, "Capacity: counted as released, honestly, in bytes; in % of task 0 up to each task", columns, lines
    )


def show_metrics(console: Console, run: Any) -> None:
    """Every measure of the accuracy matrix, the undefined ones too."""
    from .screen import say_table

    if not (run.path / "summary.json").is_file():
        return
    summary = run.read_json("summary.json")
    for key in ("metrics", "growth"):
        if not isinstance(summary.get(key), dict):
            raise damaged(run.path / "summary.json", key)
    rows = [(words, measure(summary["metrics"].get(name)), name) for name, words in MEASURES.items()]
    rows += [(words, f"{summary['growth'].get(name, 0.0):.2%}", f"growth.{name}") for name, words in GROWTH.items()]
    say_table(console, "Measures", ("measure", "value", "in summary.json"), rows, ("measure", "in summary.json"))


def measure(value: float | None) -> str:
    """A measure, or why there is none."""
    return "undefined with one task" if value is None else f"{value:.2f}"


def show_time(console: Console, run: Any) -> None:
    """Seconds of each task."""
    from .screen import duration, say_table

    if not (run.path / "timing.json").is_file():
        return
    times = run.read_json("timing.json").get("tasks", [])
    if not times:
        return
    kinds = ("learn_seconds", "evaluate_seconds")
    rows = [[task, *(duration(row[kind]) for kind in kinds)] for task, row in enumerate(times, start=1)]
    rows.append(["all", *(duration(sum(row[kind] for row in times)) for kind in kinds)])
    say_table(console, "Time (a resumed task's last piece)", ("task", "learning", "evaluating"), rows)


def table(run: Any, name: str, columns: Sequence[str]) -> list[Row]:
    """The rows of a table, none when the run has not written it yet."""
    if not os.path.isfile(run.path / name):
        return []
    header, rows = run.read_csv(name)
    missing = [column for column in columns if column not in header]
    if missing:
        raise damaged(run.path / name, missing[0])
    return list(rows)


def damaged(path: Path, key: str) -> Exception:
    """The error of a file that lacks what every run writes."""
    return halrp_np.HalrpError(
        str(path),
        expected=f"'{key}' in it, as every run writes",
        received="a file without it",
        next_step="The file is damaged: restore it from a copy, or run again in a new folder.",
    )
