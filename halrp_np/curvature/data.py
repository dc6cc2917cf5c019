"""The data of a curvature: one batch, or batches that can be walked through again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from ..errors import ConfigError, ShapeError
from ..typing import Array, Examples

Batch: TypeAlias = tuple[Array, Array]
"""Inputs (..., N) and targets (..., N), batch last."""

Data: TypeAlias = Batch | Iterable[Batch]


class Batches:
    """The first `samples` of some examples (all of them for None), `size` at a time, the last partial batch kept.

    Raises: ConfigError for a size or a number of samples below 1.
    """

    def __init__(self, examples: Examples, size: int, samples: int | None = None) -> None:
        for name, number in (("size", size), ("samples", samples)):
            if number is not None and number < 1:
                raise ConfigError(name, expected="at least 1", received=str(number), next_step=f"Raise {name}.")
        self.examples, self.size = examples, size
        self.samples = len(examples) if samples is None else min(samples, len(examples))

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.samples, self.size):
            yield self.examples.batch(np.arange(start, min(start + self.size, self.samples)))


def walk(data: Data) -> Iterator[Batch]:
    """Every batch, checked.

    Raises: ShapeError for a batch that is no pair of equally many inputs and targets, ConfigError without any batch.
    """
    count = 0
    batches: Iterable[Any] = [data] if is_one_batch(data) else data
    for batch in batches:
        _check_batch(batch, count)
        yield batch
        count += 1
    if count == 0:
        raise ConfigError(
            "data", expected="at least one batch", received="none", next_step="Pass (x, targets), or a list of such."
        )


def is_one_batch(data: Any) -> bool:
    """Whether it is a pair of arrays, and not a collection of such pairs."""
    return isinstance(data, tuple) and len(data) == 2 and all(hasattr(part, "ndim") for part in data)


def check_repeatable(data: Data) -> None:
    """Refuse what can be walked through only once: every product needs all batches again.

    Raises: ConfigError.
    """
    if is_one_batch(data):
        return
    if not isinstance(data, Iterable) or iter(data) is data:
        raise ConfigError(
            "data",
            expected="one batch (x, targets), or a collection of batches that can be walked through again",
            received=f"a {type(data).__name__}",
            next_step="Pass a list of batches, or an object whose __iter__ starts afresh.",
        )


def _check_batch(batch: Any, number: int) -> None:
    """Refuse anything but inputs and as many targets, at least one."""
    if not is_one_batch(tuple(batch) if isinstance(batch, list) else batch):
        raise ShapeError(
            f"batch {number}",
            expected="a pair of arrays (x, targets)",
            received=f"a {type(batch).__name__}",
            next_step="Pass batches as tuples of two arrays.",
        )
    x, targets = batch
    if x.ndim < 2 or targets.ndim < 1 or x.shape[-1] != targets.shape[-1] or x.shape[-1] == 0:
        raise ShapeError(
            f"batch {number}",
            expected="x (..., N) and targets (..., N) with N ≥ 1, batch last",
            received=f"shapes {tuple(x.shape)} and {tuple(targets.shape)}",
            next_step="Put the batch on the last axis of both.",
        )
