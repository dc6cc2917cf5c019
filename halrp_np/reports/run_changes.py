"""What a page says of what became of earlier tasks: bytes that changed, measured, and what their change did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..training import metrics
from . import charts
from .content import Block, Figures, Section, Table, Words
from .details import RunDetails
from .results import RunResult
from .run_ledgers import AXES
from .words import fixed, size_of

KIND_WORDS = {
    "factors": "low-rank factors (pruning)",
    "batchnorm": "BatchNorm",
    "weights": "weights",
    "scalings": "scalings",
    "biases": "biases",
    "head": "head",
}
"""What each kind of changes.csv is; a change of old factors is what pruning does."""


def changes_section(details: RunDetails, prefix: str) -> Section | None:
    """What learning a task did to the earlier ones: measured bytes, and whose change cost how much."""
    rows = details.changes
    if not rows:
        return None
    afters = sorted({row["after_task"] for row in rows})
    kinds = [kind for kind in KIND_WORDS if any(row["kind"] == kind for row in rows)]
    kinds += [kind for kind in dict.fromkeys(row["kind"] for row in rows) if kind not in kinds]
    named = {kind: KIND_WORDS.get(kind, kind) for kind in kinds}
    means: dict[str, list[float]] = {kind: [] for kind in kinds}
    table, tally = [], dict.fromkeys(kinds, (0, 0))
    for after in afters:
        earlier = len({row["task"] for row in rows if row["after_task"] == after})
        for kind in kinds:
            own = [row for row in rows if row["after_task"] == after and row["kind"] == kind]
            held, changed = sum(row["bytes"] for row in own), sum(row["bytes_changed"] for row in own)
            mean = sum(row["accuracy_change"] for row in own) / earlier
            means[kind].append(mean)
            tally[kind] = (tally[kind][0] + held, tally[kind][1] + changed)
            if own:
                table.append([str(after), named[kind], f"{held:,}", f"{changed:,}", fixed(mean)])
    frozen = [named[kind] for kind in kinds if not tally[kind][1]]
    moved = {named[kind]: values for kind, values in means.items() if any(values)}
    blocks: list[Block] = [
        Words(
            "At every boundary between two tasks, all bytes that answer for an earlier task were compared with those "
            "at the boundary before. Then the task was tested with every choice of the kinds that changed moved and "
            "the others as they were: a kind's share of the change of accuracy is what moving it did, averaged over "
            "all orders of moving (its Shapley value)."
        ),
        *_frozen_words(
            frozen, [named[kind] for kind in kinds if tally[kind][1]], sum(held for held, _ in tally.values())
        ),
        _attribution(rows, tally),
        _attribution_words(details.result, {named[kind]: _since_learned(rows, kind) for kind in kinds}),
    ]
    if moved:
        words = (
            f"Change of test accuracy at each boundary, mean over the earlier tasks, after task {afters[-1]}: "
            + ", ".join(f"{name} {fixed(values[-1])} points" for name, values in moved.items())
        )
        title = "What changed earlier tasks"
        name = f"{prefix}changes"
        blocks.append(charts.stacked(name, title, f"{words}.", afters, moved, (AXES[0], "points of accuracy, mean")))
    columns = (
        "after task",
        "kind",
        "bytes that answer",
        "bytes changed",
        "accuracy change (points, mean of earlier tasks)",
    )
    blocks.append(Table("Bytes changed and accuracy changed, by kind, at each boundary", columns, table, ("kind",)))
    return Section(f"{prefix}changes-section", "What became of earlier tasks", blocks)


def _frozen_words(frozen: Sequence[str], changed: Sequence[str], held: int) -> list[Words]:
    """What was found unchanged, as a measurement."""
    found = []
    if frozen:
        also = "" if changed else f", of {size_of(held)} compared"
        found.append(
            Words(f"Measured: 0 bytes changed in {', '.join(frozen)}, at every boundary, for every earlier task{also}.")
        )
    if changed:
        found.append(Words(f"Changed while later tasks were learned: {', '.join(changed)}."))
    return found


def _attribution(rows: Sequence[dict[str, Any]], tally: dict[str, tuple[int, int]]) -> Figures:
    """What pruning, BatchNorm and the rest did to the accuracy of earlier tasks, and the bytes that changed."""
    parts = {"Pruning": ["factors"], "BatchNorm": ["batchnorm"]}
    parts["The rest"] = [kind for kind in tally if kind not in ("factors", "batchnorm")]
    entries = []
    for name, kinds in parts.items():
        own = [kind for kind in kinds if kind in tally]
        if not own:
            entries.append((name, "none", "earlier tasks have no such numbers"))
            continue
        changed = sum(tally[kind][1] for kind in own)
        points = fixed(sum(_since_learned(rows, kind) for kind in own))
        note = f"points of BWT; {changed:,} bytes changed" if changed else "changed, as measured at every boundary"
        entries.append((name, points if changed else "0 bytes", note))
    return Figures(entries)


def _since_learned(rows: Sequence[dict[str, Any]], kind: str) -> float:
    """The sum of a kind's changes of accuracy over all boundaries, mean over the earlier tasks."""
    tasks = {row["task"] for row in rows}
    return float(sum(row["accuracy_change"] for row in rows if row["kind"] == kind)) / len(tasks)


def _attribution_words(run: RunResult, shares: dict[str, float]) -> Words:
    """Backward transfer as the sum of what each kind did."""
    transfer = metrics.backward_transfer(run.accuracy["test"])
    if transfer is None:
        return Words("Nothing to attribute: backward transfer needs two tasks.")
    parts = ", ".join(f"{name} {fixed(value)}" for name, value in shares.items() if round(value, 2))
    total = sum(shares.values())
    apart = (
        "" if abs(total - transfer) < 0.005 else f" (they add up to {fixed(total)}: some boundaries are not recorded)"
    )
    whole = f"Earlier tasks changed by {fixed(transfer)} points since each was learned (BWT)"
    return Words(f"{whole}: {parts or 'no kind moved'}{apart}.")
