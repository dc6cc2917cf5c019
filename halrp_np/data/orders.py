"""The order in which the tasks of a stream are learned: a published one, a drawn one, or the user's own."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

LETTERS = "ABCDE"
"""The names of the five orders that every stream has."""


def task_order(
    text: str, tasks: int, named: Mapping[str, Sequence[int]], shuffled: Callable[[int], Sequence[int]]
) -> list[int]:
    """The identities 0 .. tasks - 1 in the order that `text` names: a key of `named`, `random:SEED`, or `1,0,2,...`.

    `shuffled(seed)` is the stream's own way to shuffle its tasks.

    Raises: ConfigError for anything else, listing what there is.
    """
    if text in named:
        return [int(identity) for identity in named[text]]
    kind, colon, seed = text.partition(":")
    if kind == "random" and colon and _is_number(seed) and int(seed) < 2**32:
        return [int(identity) for identity in shuffled(int(seed))]
    parts = [part.strip() for part in text.split(",")]
    if all(_is_number(part) for part in parts):
        order = [int(part) for part in parts]
        if sorted(order) == list(range(tasks)):
            return order
    numbers = f"the numbers 0 to {tasks - 1}, each once, with commas between them"
    raise ConfigError(
        "order",
        expected=f"{', '.join(named)}, random:SEED with a seed from 0 to 4294967295, or {numbers}",
        received=repr(text if len(text) <= 60 else f"{text[:57]}..."),
        next_step="Choose one of these, for example A or random:3.",
    )


def _is_number(text: str) -> bool:
    """Say whether a word is a whole number of a length that Python reads."""
    return len(text) <= 10 and text.isascii() and text.isdigit()


def legacy_permutation(n: int, seed: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1 by NumPy's legacy generator, which scikit-learn's `shuffle` uses.

    Reference: HALRP (arXiv 2311.15161), released code, task orders and pixel permutations.
    """
    indices = np.arange(n)
    np.random.RandomState(seed).shuffle(indices)  # the published permutations come from it
    return indices


def python_permutation(n: int, seed: int) -> list[int]:
    """A permutation of 0..n-1 by Python's own generator.

    Reference: HALRP (arXiv 2311.15161), released code, task orders of TinyImageNet.
    """
    indices = list(range(n))
    random.Random(seed).shuffle(indices)
    return indices


def five_seeds(shuffled: Callable[[int], Sequence[int] | NDArray[np.int64]]) -> dict[str, list[int]]:
    """Orders A to E as the shuffles with the seeds 0 to 4."""
    return {letter: [int(k) for k in shuffled(seed)] for seed, letter in enumerate(LETTERS)}


def in_place_first(tasks: int) -> dict[str, list[int]]:
    """Order A is 0, 1, 2, ...; B to E are the legacy permutations with the seeds 1 to 4."""
    return {**five_seeds(lambda seed: legacy_permutation(tasks, seed)), "A": list(range(tasks))}
