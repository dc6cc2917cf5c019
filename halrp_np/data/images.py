"""Subsets of a pixel store: an image is looked up through a table, pixel by pixel, when a batch is gathered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..typing import Shape

Rows: TypeAlias = NDArray[np.integer[Any]] | NDArray[np.bool_] | Sequence[int] | slice


@dataclass(frozen=True, eq=False)
class Images:
    """A subset of a pixel store, and how an image is made of a stored row.

    Shapes: images (M, P) uint8, labels (M,) int64, source (D,) int32, table (K, 256) float64, table_row (D,) uint8,
    rows (N,) int64, with D = C·H·W for `shape` = (C, H, W). The store is shared by tasks and never written.
    Math: x[n, d] = table[table_row[d], images[rows[n], source[d]]]
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    shape: Shape
    source: NDArray[np.int32]
    table: NDArray[np.float64]
    table_row: NDArray[np.uint8]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Rows) -> Images:
        """The subset at these positions, in their order, over the same store."""
        return replace(self, rows=self.rows[rows])

    def labels_of(self, rows: Rows | None = None) -> NDArray[np.int64]:
        """The labels at these positions, or all. Shapes: -> (N,)."""
        return self.labels[self.rows if rows is None else self.rows[rows]]

    def arrays(self, rows: Rows | None = None, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """The images at these positions, or all, as the network sees them. Shapes: -> (N, C, H, W)."""
        chosen = self.rows if rows is None else self.rows[rows]
        pixels = self.images[chosen[:, None], self.source]  # (N, D)
        return self.table.astype(dtype)[self.table_row, pixels].reshape(len(chosen), *self.shape)


@dataclass(frozen=True, eq=False)
class Task:
    """One task of a stream: its place in the order, which data it is, the number of classes, and three subsets."""

    position: int
    identity: int
    classes: int
    train: Images
    validation: Images
    test: Images


@dataclass(frozen=True, eq=False)
class Stream:
    """Tasks in the order of learning; `protocol` says in JSON values how the data was made."""

    name: str
    tasks: tuple[Task, ...]
    protocol: dict[str, Any]
