"""Small classification data for tests: Gaussian blobs as features or images, batch-last."""

from typing import Any

import numpy as np


class Blobs:
    """Labelled samples around a centre for each class; the rows asked for are written down, and what epochs draw."""

    def __init__(
        self, seed: int, count: int, shape: tuple[int, ...] = (6,), classes: int = 3, dtype: Any = np.float64
    ) -> None:
        draw = np.random.default_rng(seed)
        centres = np.random.default_rng(seed // 10).normal(size=(*shape, classes))  # subsets of a task share them
        self.y = draw.integers(0, classes, count)
        self.x = (centres[..., self.y] + 0.7 * draw.normal(size=(*shape, count))).astype(dtype)
        self.asked: list[list[int]] = []
        self.begun: list[int] = []

    def __len__(self) -> int:
        return len(self.y)

    def begin_epoch(self, generator: np.random.Generator) -> None:
        self.begun.append(int(generator.integers(2**32)))

    def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(rows.tolist())
        return np.ascontiguousarray(self.x[..., rows]), self.y[rows]
