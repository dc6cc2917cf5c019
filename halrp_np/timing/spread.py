"""Medians, quartiles and ratios: what a list of times says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Rounds = Sequence[Sequence[float]]
"""The times of each round."""


def quartiles(times: Sequence[float]) -> list[float]:
    """The lower and the upper quartile."""
    return [float(value) for value in np.quantile(times, (0.25, 0.75))]


def flat(rounds: Rounds) -> list[float]:
    """All times."""
    return [time for one in rounds for time in one]


def spread(times: Sequence[float], unit: str, name: str) -> dict[str, Any]:
    """Median, quartiles and number of times, under keys that carry whose they are and their unit."""
    return {
        f"{name}_{unit}": float(np.median(times)),
        f"{name}_quartiles": quartiles(times),
        f"{name}_count": len(times),
    }


def compared(ours: Rounds, theirs: Rounds, unit: str = "ms") -> dict[str, Any]:
    """Both libraries' times and how often the first goes into the second.

    Math: ratio = median of all of theirs / median of all of ours; `ratio_quartiles` and `ratio_range` (least, median,
    largest) are of the ratios within a round, median by median, where both saw the same machine.
    """
    paired = [float(np.median(b) / np.median(a)) for a, b in zip(ours, theirs, strict=True)]
    return {
        **spread(flat(ours), unit, "ours"),
        **spread(flat(theirs), unit, "torch"),
        "ratio": float(np.median(flat(theirs)) / np.median(flat(ours))),
        "ratio_quartiles": quartiles(paired),
        "ratio_range": [min(paired), float(np.median(paired)), max(paired)],
    }
