"""The examples of several tasks as those of one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backend import array_module, to_host
from ..errors import ConfigError
from ..typing import Array, Examples


class Together:
    """Several examples one after the other, the labels of each shifted by an offset.

    Rows count through all parts. A batch holds its rows part by part, in the order of the parts, whatever their order
    in it; which part a row belongs to is looked up on the host.

    Raises: ConfigError without parts, or with another number of offsets.
    """

    on_host = True

    def __init__(self, parts: Sequence[Examples], offsets: Sequence[int]) -> None:
        if not parts or len(parts) != len(offsets):
            raise ConfigError(
                "Together",
                expected="at least one part, and an offset for each",
                received=f"{len(parts)} parts and {len(offsets)} offsets",
                next_step="Give the number of the first class of every part.",
            )
        self.parts, self.offsets = tuple(parts), tuple(int(offset) for offset in offsets)
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def begin_epoch(self, generator: np.random.Generator) -> None:
        """Every part draws from a stream of its own, seeded by the given one."""
        for part, seed in zip(self.parts, generator.integers(2**63, size=(len(self.parts), 2)), strict=True):
            part.begin_epoch(np.random.default_rng(seed))

    def batch(self, rows: Array) -> tuple[Array, Array]:
        """Inputs (..., N) and shifted labels (N,) of these rows, part by part."""
        rows = to_host(rows)
        owner = np.searchsorted(self.ends, rows, side="right")
        inputs, labels = [], []
        for k in np.unique(owner):
            first = self.ends[k] - len(self.parts[k])
            x, y = self.parts[k].batch(rows[owner == k] - first)
            inputs.append(x)
            labels.append(y.astype(np.int64) + self.offsets[k])
        xp = array_module(inputs[0])
        return xp.concatenate(inputs, axis=-1), xp.concatenate(labels)
