"""Stand-ins for the data sets: images made by rule, for tests and a first look where the real ones are not at hand."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..typing import Shape
from .dataset import DataSet

_GRID = 4  # a pattern is smooth between so many grey values a side
_NOISE = 64


class _Like(NamedTuple):
    """What a stand-in has in common with the real data set, and how many images of each class it has."""

    classes: int
    shape: Shape
    train: int = 20
    test: int = 10


_STAND_INS = {
    "cifar10": _Like(10, (3, 32, 32)),
    "cifar100": _Like(100, (3, 32, 32)),
    "svhn": _Like(10, (3, 32, 32)),
    "fashion-mnist": _Like(10, (1, 28, 28)),
    "notmnist": _Like(10, (1, 28, 28)),
    "omniglot": _Like(60, (1, 32, 32), test=0),  # characters for five tasks, not all 1,623
    "tiny-imagenet": _Like(200, (3, 64, 64), train=24, test=8),
}


def synthetic(name: str) -> DataSet:
    """The stand-in of a data set: a smooth random pattern for each class, and images that are this pattern plus noise.

    The same on every platform, and something that a network learns; accuracies on it mean nothing. Number of classes
    and image shape are those of the real data set (of Omniglot's characters there are 60), images are few. Classes take
    turns, so that any beginning of it is balanced; only Omniglot's drawings lie character by character.

    Math: image = clip(pattern[class] + noise, 0, 255), noise uniform in [-64, 64]
    Raises: ConfigError for a data set without a stand-in.
    """
    like = _STAND_INS.get(name)
    if like is None:
        known = ", ".join(_STAND_INS)
        raise ConfigError("stand-in", expected=known, received=repr(name), next_step="Choose one of these.")
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    patterns = _patterns(draw, like)
    order = np.arange(like.classes)
    train = np.repeat(order, like.train) if name == "omniglot" else np.tile(order, like.train)
    test = np.tile(order, like.test)
    sizes = f"{len(train):,} training and {len(test):,} test images"
    note = (
        f"data: {name}-synthetic, {sizes} that are NOT REAL: synthetic patterns in the shape of {name}, to see that "
        "everything runs; accuracies on them mean nothing"
    )
    return DataSet(
        name,
        _noisy(draw, patterns, train),
        train,
        _noisy(draw, patterns, test),
        test,
        tuple(f"pattern {k}" for k in range(like.classes)),
        f"{name}-synthetic",
        "made by rule",
        [note],
    )


def _patterns(draw: np.random.Generator, like: _Like) -> NDArray[np.int16]:
    """A pattern a class, linear between the values of a coarse grid; in integers, so that no platform rounds otherwise.

    Shapes: -> (classes, C, H, W)
    """
    channels, height, width = like.shape
    coarse = draw.integers(0, 256, (like.classes, channels, _GRID, _GRID))
    rows, columns = _weights(height), _weights(width)
    smooth: NDArray[np.int64] = rows @ coarse @ columns.T // (rows.sum(1)[:, None] * columns.sum(1))
    return smooth.astype(np.int16)


def _weights(size: int) -> NDArray[np.int64]:
    """How much each coarse value counts at each of `size` pixels. Shapes: -> (size, _GRID)."""
    pixel = (2 * np.arange(size) + 1) * _GRID  # centres of pixels and of coarse cells, in the same integer unit
    cell = (2 * np.arange(_GRID) + 1) * size
    distance = np.abs(np.clip(pixel, cell[0], cell[-1])[:, None] - cell)
    weights: NDArray[np.int64] = np.maximum(0, 2 * size - distance)
    return weights


def _noisy(draw: np.random.Generator, patterns: NDArray[np.int16], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The pattern of each label with noise, a few hundred at a time to stay small."""
    images = np.empty((len(labels), *patterns.shape[1:]), np.uint8)
    for start in range(0, len(labels), 500):
        clean = patterns[labels[start : start + 500]]
        noise = draw.integers(-_NOISE, _NOISE + 1, clean.shape, dtype=np.int16)
        images[start : start + 500] = np.clip(clean + noise, 0, 255)
    return images
