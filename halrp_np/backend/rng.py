"""Randomness belongs to the host: one seed, and a named stream for each purpose."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np


class Streams:
    """Independent generators derived from one seed by name, so that no draw of one purpose moves another.

    `Streams(7).generator("head", 3)` draws the fresh head of task 3: the same each time it is asked for, whatever else
    was drawn before. Names in use: `order PHASE`, `dropout PHASE` and `augment PHASE` (numbered by
    task and epoch) for each phase of training; init, head, probe, fisher, `augment fisher` (by task), curvature (by
    boundary and task); bootstrap and chance, of comparisons; constants, images and labels, of fresh subjects.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generator(self, name: str, *numbers: int) -> np.random.Generator:
        """A fresh generator at the start of the stream called `name` (and numbered, e.g. by task)."""
        key = (zlib.crc32(name.encode()), *numbers)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=key)))


def saved_generator(generator: np.random.Generator) -> dict[str, Any]:
    """The generator's state as JSON values."""
    state: dict[str, Any] = dict(generator.bit_generator.state)
    return state


def restore_generator(state: dict[str, Any]) -> np.random.Generator:
    """The generator whose state `saved_generator` returned."""
    generator = np.random.Generator(np.random.PCG64())
    generator.bit_generator.state = state
    return generator
