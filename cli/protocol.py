"""The protocol of a stream in a few lines: what a run says before it begins, and `show` long after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import halrp_np

if TYPE_CHECKING:
    from rich.console import Console

PARTS = {"train": "training", "validation": "validation", "test": "test"}
TOLD = {"benchmark", "data", "tasks", "image_shape", "order", "sizes", "split", "normalisation", "augmentation"}
"""What has a place of its own; whatever else a stream says goes into the last line."""
STEPS = ("resize", "pad", "divide", "mean", "std")
LONGEST = 400  # characters of names: five lines of a terminal
MOST = 24  # numbers in a line


def say_protocol(console: Console, protocol: dict[str, Any], order: object, seed: object) -> None:
    """Tasks, sizes, order, split and pixels; what the protocol lacks is unknown."""
    from .screen import say

    sizes = protocol.get("sizes") or []
    tasks, shape = protocol.get("tasks"), protocol.get("image_shape")
    images = "images of unknown shape" if shape is None else f"images of {'x'.join(str(n) for n in shape)}"
    counted = "an unknown number of tasks" if tasks is None else f"{tasks:,} {'task' if tasks == 1 else 'tasks'}"
    classes = span([row.get("classes") for row in sizes])
    say(console, f"{protocol.get('benchmark', 'unknown')}: {counted} of {classes} classes, {images}")
    counts = [f"{span([row.get(part) for row in sizes])} {word}" for part, word in PARTS.items()]
    say(console, f"images of a task: {', '.join(counts)}")
    say(console, f"order {halrp_np.runs.as_text(order)}: {learning_order(protocol)}")
    say(console, f"split: {protocol.get('split', 'unknown')}")
    say(console, f"normalisation: {entries(protocol['normalisation']) if 'normalisation' in protocol else 'unknown'}")
    say(console, f"augmentation: {protocol.get('augmentation', 'unknown')}")
    others = sorted(key for key in protocol if key not in TOLD and not key.endswith("_sha256"))
    others = [key for key in others if not isinstance(protocol[key], dict)]  # the content of a user's file
    say(console, f"seed {halrp_np.runs.as_text(seed)}{''.join(f', {key} {words(protocol[key])}' for key in others)}")


def learning_order(protocol: dict[str, Any]) -> str:
    """The tasks in the order of learning: their names where they are short, else their numbers."""
    if "order" not in protocol:
        return "unknown"
    names = ", ".join(str(row.get("name", "unknown")) for row in protocol.get("sizes") or [])
    return names if 0 < len(names) <= LONGEST else words(protocol["order"])


def span(values: Sequence[Any]) -> str:
    """One number, or the least and the largest."""
    if not values or None in values:
        return "an unknown number of"
    least, most = min(values), max(values)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def words(value: Any) -> str:
    """A value as people write it: numbers in few digits, with spaces between, a long list by its beginning."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        if len(value) > MOST and value == list(range(len(value))):
            return f"0 to {len(value) - 1}"
        more = f" and {len(value) - MOST:,} more, in config.json" if len(value) > MOST else ""
        return " ".join(words(inner) for inner in value[:MOST]) + more
    return f"{value:.4g}" if isinstance(value, float) else halrp_np.runs.as_text(value)


def entries(normalisation: dict[str, Any]) -> str:
    """What is done to the pixels, step by step; a file does not keep their order."""
    steps = sorted(normalisation, key=lambda key: (STEPS.index(key) if key in STEPS else -1, key))
    return "; ".join(f"{key} {words(normalisation[key])}" for key in steps)
