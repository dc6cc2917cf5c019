"""The one crossing from N-first images on the host to batch-last arrays on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Device, ops
from ..data import Images
from ..typing import Array


class Feed:
    """Images of one subset, gathered on the device batch by batch: looked up, moved and normalised in one pass.

    Images with an augmentation are shown as they are until the first epoch begins.
    """

    def __init__(self, images: Images, store: Array, device: Device, dtype: Any) -> None:
        self.images, self.store, self.device = images, store, device
        self.source = device.to_device(images.source)
        self.table = device.to_device(images.table.astype(dtype))
        self.table_row = device.to_device(images.table_row)
        self.rows, self.labels = device.to_device(images.rows), device.to_device(images.labels_of())
        self.moves: Array = None  # of every image in this epoch, in the same memory for ever: recorded steps read it
        if images.augmentation is not None:
            self.moves = device.xp.zeros((len(images), 3), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def begin_epoch(self, generator: np.random.Generator) -> None:
        """Draw how each image is cropped and mirrored until the next epoch; without augmentation nothing is drawn."""
        if self.images.augmentation is not None:
            drawn = self.images.augmentation.draw(generator, len(self))
            self.moves[...] = self.device.to_device(drawn)

    def batch(self, rows: Array) -> tuple[Array, Array]:
        """Images (C, H, W, N) and labels (N,) of these positions of the subset, given on the host or on the device."""
        chosen = self.device.to_device(rows)
        store_rows = self.rows[chosen]
        arrays = (self.store, store_rows, self.source, self.table, self.table_row)
        if self.moves is None:
            pixels = ops.gather_images(*arrays)  # (C H W, N)
        else:
            pixels = ops.gather_augmented(*arrays, self.moves[chosen], self.images.shape)
        return pixels.reshape(*self.images.shape, rows.shape[0]), self.labels[chosen]


class Feeds:
    """Feeds that share one copy of the pixels on the device, however many tasks look at it."""

    def __init__(self, device: Device, dtype: Any) -> None:
        self.device, self.dtype = device, dtype
        self.stores: dict[int, tuple[Any, Array]] = {}  # by identity; the host array is kept so that the id stays its

    def open(self, images: Images) -> Feed:
        """The feed of one subset."""
        key = id(images.images)
        if key not in self.stores:
            self.stores[key] = (images.images, self.device.to_device(images.images))
        return Feed(images, self.stores[key][1], self.device, self.dtype)
