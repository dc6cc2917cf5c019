"""`halrp-np time`: how long steps, evaluation, Hessian products and whole tasks take here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

import halrp_np

from .subject import say_json, waiting, whole, wrong

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_WHAT = "base_step,low_rank_step,evaluation,block_hvp"
PEERS = ("torch",)
WHAT = f"What to time, with commas between; also start, task, late_task, or all.  [default: {DEFAULT_WHAT}]"
FEWEST = 0.01
"""Ops with a smaller share of a step stand in one line together."""
NAMES = {
    "base_step": "base step",
    "low_rank_step": "low-rank step",
    "evaluation": "evaluation",
    "block_hvp": "block HVPs",
    "start": "start",
    "task": "task",
    "late_task": "late task",
}
SECONDS = {
    "start": "process start to the first step of each kind and an evaluation",
    "task": "a base task and a later one, process start to end",
}


def words_of(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Names with commas between, `all` for each there is."""
    known = halrp_np.timing.WHAT
    words = tuple(known) if value == "all" else tuple(part.strip() for part in value.split(","))
    for word in words:
        if word not in known:
            raise wrong(ctx, param, f"some of {', '.join(known)}, or all", word, (*known, "all"))
    return words


def numbers_of(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Whole numbers with commas between."""
    parts = value.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise wrong(ctx, param, "whole numbers like 3,20,60,60", value, ())
    return tuple(int(part) for part in parts)


def peer_of(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A library to compare with, if any."""
    if value is not None and value not in PEERS:
        raise wrong(ctx, param, " or ".join(PEERS), value, PEERS)
    return value


@click.command("time")
@click.option("--what", metavar="LIST", default=DEFAULT_WHAT, callback=words_of, help=WHAT)
@click.option("--against", metavar="torch", callback=peer_of, help="The same in PyTorch, in turns; from a clone.")
@click.option("--ops", "with_ops", is_flag=True, help="Where the time of each step goes, op by op.")
@click.option("--batch", metavar="N", default="128", callback=whole(2), help="Images.  [default: 128]")
@click.option("--ranks", metavar="N,N,...", default="3,20,60,60", callback=numbers_of, help="[default: 3,20,60,60]")
@click.option(
    "--widths", metavar="N,N,...", default="20,50,800,500", callback=numbers_of, help="[default: 20,50,800,500]"
)
@click.option("--threads", metavar="N", callback=whole(1), help="Of every library.  [default: all usable processors]")
@click.option("--rounds", metavar="N", default="10", callback=whole(1), help="At most 3 of a process.  [default: 10]")
@click.option("--epochs", metavar="N", default="12", callback=whole(2), help="Of a whole task.  [default: 12]")
@click.option("--device", metavar="cpu|gpu|gpu:N|auto", default="cpu", help="Where.  [default: cpu]")
@click.option("--fast-math", is_flag=True, help="Winograd convolutions: faster, coarser rounding.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output, nothing else there.")
def time_command(against: str | None, with_ops: bool, as_json: bool, threads: int | None, **chosen: Any) -> None:
    """Time LeNet's training steps, evaluation and Hessian products, beside what this machine can do at best.

    \b
    base_step      forward, loss, backward and Adam of a base task
    low_rank_step  the same of a later task, at the ranks given
    evaluation     outputs of a learned network
    block_hvp      a Hessian product of each of the four weights, at a point not yet linearised
    start          a process until it has done one of the first three; cold (compiling) and warm
    task           a base task and a later one as released, from process start to process end
    late_task      low-rank steps of the tenth task beside those of the second
    """
    settings = halrp_np.timing.TimeSettings(threads=threads or 0, **chosen)
    with waiting("timing") as progress:
        found = halrp_np.timing.measure(
            settings, against_torch=against == "torch", with_ops=with_ops, progress=progress
        )
    if as_json:
        say_json("time", found)
        return
    show(settings, found)


def show(settings: Any, found: dict[str, Any]) -> None:
    """Every table, under a line that says what it is of."""
    from .screen import open_console, say

    console, machine = open_console(), found["machine"]
    network = f"LeNet on 3x32x32, widths {spaced(settings.widths)}, ranks {spaced(settings.ranks)}"
    say(console, f"{network}, batch {settings.batch}, float32, {machine['kernels']} kernels", whole=True)
    place = machine["processor"]["model"] if settings.device == "cpu" else settings.device
    counts = [f"{n} {word}" + "s" * (n != 1) for n, word in ((settings.threads, "thread"), (settings.rounds, "round"))]
    say(console, f"{place}, {', '.join(counts)}", whole=True)
    if "floor" in found:
        floor = found["floor"]
        best = f"{floor['gflops']:.0f} GFLOP/s in registers, {floor['gbytes']:.1f} GB/s of copying"
        say(console, f"floor of this machine, measured here: {best}", whole=True)
        show_steps(console, found)
    for name in ("start", "task"):
        if name in found:
            show_seconds(console, name, found[name])
    if "late_task" in found:
        show_late(console, found["late_task"])
    for name, rows in found.get("ops", {}).items():
        show_ops(console, name, rows)


def show_steps(console: Console, found: dict[str, Any]) -> None:
    """A line for each thing timed again and again, and for each way PyTorch could do it better."""
    from .screen import say, say_table

    compared = any("ratio" in found[name] for name in NAMES if name in found)
    beside = ["PyTorch", "ratio", "(quartiles)"] if compared else []
    columns = ["what", "halrp_np", *beside, "floor: compute", "memory", "x of floor"]
    lines = []
    for name in halrp_np.timing.STEPS:
        if name in found:
            lines += step_lines(name, found[name], compared)
    say_table(console, "Milliseconds, median (quartiles)", columns, lines, words=("what",))
    if compared:
        say(
            console,
            "\nfused Adam, merged, folded: what PyTorch can do better, by Adam(fused=True), one dense kernel a layer,"
            "\nand normalisation folded into the weights, as ours is",
        )
    sizes = [f"{who} {halrp_np.reports.memory(found['memory'][key])}" for who, key in memory_keys(found["memory"])]
    say(console, f"\nlargest size of the process: {', '.join(sizes)}", whole=True)


def memory_keys(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The libraries whose memory is known."""
    pairs = (("halrp_np", "ours_peak_bytes"), ("PyTorch", "torch_peak_bytes"))
    return [(who, key) for who, key in pairs if key in found]


def step_lines(name: str, row: dict[str, Any], compared: bool) -> list[list[object]]:
    """One thing's line, and those of PyTorch's variants."""
    floor = [f"{row[key]:.1f}" for key in ("compute_floor_ms", "memory_floor_ms", "of_floor")]
    ratio = against_cells(row) if compared else []
    lines: list[list[object]] = [[NAMES[name], with_quartiles(row, "ours", "ms"), *ratio, *floor]]
    for variant, other in row.get("others", {}).items():
        lines.append([f"  {variant}", "", *against_cells(other), "", "", ""])
    return lines


def against_cells(row: dict[str, Any], unit: str = "ms") -> list[str]:
    """PyTorch's time, the ratio, and its quartiles over the rounds."""
    low, high = row["ratio_quartiles"]
    return [with_quartiles(row, "torch", unit), f"{row['ratio']:.2f}", f"({low:.2f}-{high:.2f})"]


def with_quartiles(row: dict[str, Any], side: str, unit: str) -> str:
    """A median and its quartiles."""
    low, high = row[f"{side}_quartiles"]
    return f"{row[f'{side}_{unit}']:.1f} ({low:.1f}-{high:.1f})"


def show_seconds(console: Console, name: str, row: dict[str, Any]) -> None:
    """Cold and warm seconds of whole processes."""
    from .screen import say, say_table

    columns = ["halrp_np, cold", "halrp_np, warm"]
    cells = [with_quartiles(row, "cold", "s"), with_quartiles(row, "ours", "s")]
    if "ratio" in row:
        columns, cells = [*columns, "PyTorch", "ratio to warm", "(quartiles)"], [*cells, *against_cells(row, "s")]
    say_table(console, f"Seconds, {SECONDS[name]}", columns, [cells])
    sizes = [f"{who} {halrp_np.reports.memory(row[key])}" for who, key in memory_keys(row)]
    if sizes:
        say(console, f"\nlargest size of the process: {', '.join(sizes)}", whole=True)
    for who, key in (("halrp_np", "ours_accuracy"), ("PyTorch", "torch_accuracy")):
        if key in row:
            say(console, f"accuracy after both tasks, {who}: {spaced([f'{a:.1f} %' for a in row[key]])}", whole=True)


def show_late(console: Console, row: dict[str, Any]) -> None:
    """The tenth task beside the second."""
    from .screen import say_table

    low, high = row["ratio_quartiles"]
    cells = [with_quartiles(row, side, "ms") for side in ("second", "tenth")]
    title = "Milliseconds from one low-rank step to the next, in the training of a stream"
    columns = ["second task", "tenth task", "ratio", "(quartiles)"]
    say_table(console, title, columns, [[*cells, f"{row['ratio']:.2f}", f"({low:.2f}-{high:.2f})"]])


def show_ops(console: Console, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """The ops of a step by falling time."""
    from .screen import say_table

    columns = ("op", "shape", "calls", "ms", "share", "GFLOP/s", "GB/s", "floor ms", "x of floor")
    shown = [row for row in rows if row["share"] >= FEWEST or not row["calls"]]
    small = [row for row in rows if row["share"] < FEWEST and row["calls"]]
    lines = [op_cells(row) for row in shown]
    if small:
        calls, ms, share = (sum(row[key] for row in small) for key in ("calls", "ms", "share"))
        lines.insert(-1, [f"{len(small)} smaller ones", "", calls, f"{ms:.2f}", f"{share:.1%}", "", "", "", ""])
    say_table(console, f"Where the time of the {NAMES[name]} goes", columns, lines, words=("op",))


def op_cells(row: dict[str, Any]) -> list[object]:
    """One op's line; what is not known stays empty."""
    shown: Callable[[str, str], str] = lambda key, form: format(row[key], form) if row.get(key) else ""  # noqa: E731
    rates = [shown("gflops", ".0f"), shown("gbytes", ".1f"), shown("floor_ms", ".2f"), shown("of_floor", ".1f")]
    return [row["op"], row["shape"], row["calls"] or "", f"{row['ms']:.2f}", f"{row['share']:.1%}", *rates]


def spaced(values: Sequence[object]) -> str:
    """Values with spaces between."""
    return " ".join(str(value) for value in values)
