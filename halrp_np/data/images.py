"""Subsets of a pixel store: an image is looked up through a table, pixel by pixel, when a batch is gathered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import ConfigError
from ..typing import Shape

Rows: TypeAlias = NDArray[np.integer[Any]] | NDArray[np.bool_] | Sequence[int] | slice


@dataclass(frozen=True)
class Augmentation:
    """How training images vary from epoch to epoch: a crop after zero padding by `pad` pixels, then a mirror image."""

    pad: int
    flip: bool

    def draw(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        """One draw an image: (dy, dx) from -pad to pad, and whether it is mirrored. Shapes: -> (count, 3)."""
        shifts = generator.integers(-self.pad, self.pad + 1, (count, 2))
        mirrored = generator.integers(0, 2 if self.flip else 1, (count, 1))
        return np.concatenate([shifts, mirrored], axis=1)

    def __str__(self) -> str:
        crop = f"training images are cropped at random after zero padding by {self.pad}"
        return f"{crop}, then mirrored with probability 1/2" if self.flip else crop


CROP_AND_FLIP = Augmentation(pad=4, flip=True)


@dataclass(frozen=True, eq=False)
class Images:
    """A subset of a pixel store, and how an image is made of a stored row.

    Shapes: images (M, P) uint8, labels (M,) int64, source (D,) int32, table (K, 256) float64, table_row (D,) uint8,
    rows (N,) int64, with D = C·H·W for `shape` = (C, H, W). The store is shared by tasks and never written.
    Math: x[n, d] = table[table_row[d], images[rows[n], source[d]]]; an `augmentation` moves raw pixels before that.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    shape: Shape
    source: NDArray[np.int32]
    table: NDArray[np.float64]
    table_row: NDArray[np.uint8]
    rows: NDArray[np.int64]
    augmentation: Augmentation | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Rows) -> Images:
        """The subset at these positions, in their order, over the same store."""
        return replace(self, rows=self.rows[rows])

    def augmented(self, augmentation: Augmentation | None) -> Images:
        """The same images, with crops and flips when a network is trained on them.

        Raises: ConfigError where pixels are not stored as the image shows them, so that neighbours are not neighbours.
        """
        places = int(np.prod(self.shape[1:]))
        if augmentation is not None and (self.source.reshape(-1, places) % places != np.arange(places)).any():
            raise ConfigError(
                "augment",
                expected="images whose pixels lie in their places, to crop and mirror them",
                received="permuted pixels",
                next_step="Leave augment out, or choose another benchmark.",
            )
        return replace(self, augmentation=augmentation)

    def labels_of(self, rows: Rows | None = None) -> NDArray[np.int64]:
        """The labels at these positions, or all. Shapes: -> (N,)."""
        return self.labels[self.rows if rows is None else self.rows[rows]]

    def arrays(self, rows: Rows | None = None, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """The images at these positions, or all, as the network sees them unaugmented. Shapes: -> (N, C, H, W)."""
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


def normalisation_table(mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float64]:
    """What the network sees for each pixel value, a row for each of K channels, in the released loaders' precision.

    Shapes: -> (K, 256)
    Math: (x/255 - mean) / std, each step rounded to float32; kept as float64, which holds it exactly
    """
    scaled = np.arange(256, dtype=np.float32) / np.float32(255)
    centred = scaled - np.asarray(mean, np.float32)[:, None]
    return (centred / np.asarray(std, np.float32)[:, None]).astype(np.float64)


def whole_images(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    mean: Sequence[float],
    std: Sequence[float],
    channels: int | None = None,
) -> Images:
    """All images of an array, each stored whole; a single channel is shown as `channels` equal ones.

    A contiguous array is not copied, so it may be a memory map. `mean` and `std` have an entry a channel, or one for
    all.

    Shapes: images (M, C, H, W), labels (M,)
    """
    stored, height, width = images.shape[1:]
    shown, places = channels or stored, height * width
    source = np.arange(shown * places, dtype=np.int32) % (stored * places)
    row = np.arange(shown, dtype=np.uint8) if len(mean) > 1 else np.zeros(shown, np.uint8)
    return Images(
        np.ascontiguousarray(images).reshape(len(images), -1),  # else every batch would copy all of them
        labels,
        (shown, height, width),
        source,
        normalisation_table(mean, std),
        np.repeat(row, places),
        np.arange(len(images)),
    )
