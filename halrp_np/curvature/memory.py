"""How much runs at once: what linearisations and tangents take, and how many fit into a stated number of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..layers import EVALUATE, Mode, Sequential
from ..layers.norm import BatchNorm
from ..typing import Array, Params

TANGENT = 3.0  # arrays of a tangent for each of a layer's: one kept for the way back, and two in passing
VECTORS = 4  # a vector, its parts, and their products
AT_ONCE = 2**24  # bytes of one array on the host: folding saves calls, but arrays beyond the caches cost more than that


@dataclass(frozen=True)
class Budget:
    """Half of `memory` bytes is for what is kept of the batches, half for the tangents that run over one of them."""

    memory: int

    def __post_init__(self) -> None:
        if isinstance(self.memory, bool) or not isinstance(self.memory, int) or self.memory < 1:
            raise ConfigError(
                "memory",
                expected="a positive whole number of bytes",
                received=repr(self.memory),
                next_step="Pass for example 2**30.",
            )

    def holds(self, size: int) -> bool:
        """Whether so many bytes of linearisations may be kept."""
        return size <= self.memory / 2

    def tangents(self, layers: Sequence[int], vector: int, *, host: bool) -> int:
        """How many tangents, at least 1, run at once through layers of these bytes, for vectors of `vector` bytes."""
        fit = self.memory / 2 // (TANGENT * sum(layers) + VECTORS * vector)
        fast = AT_ONCE // max(vector, *layers) if host else fit
        return max(1, int(min(fit, fast)))

    def samples(self, sample: float, vector: int, batch: int, *, divisible: bool) -> int:
        """How many samples of a batch to take at once, where one sample's caches take `sample` bytes.

        Raises: ConfigError when not even one tangent over one sample fits, or over a whole batch that must not be
        divided.
        """
        fit = int((self.memory / 2 - VECTORS * vector) // (TANGENT * sample))
        least = 1 if divisible else batch
        if fit < least:
            bytes_needed = 2 * (VECTORS * vector + TANGENT * sample * least)
            what = "a sample" if divisible else f"{batch} samples tied together by batch statistics or dropout"
            raise ConfigError(
                "memory",
                expected=f"at least {bytes_needed:.0f} bytes for {what}",
                received=str(self.memory),
                next_step="Raise the budget, or use fewer parameters or smaller batches.",
            )
        return min(fit, batch)


def divisible(model: Sequential, mode: Mode) -> bool:
    """Whether samples do not depend on one another: no batch statistics, and no masks drawn for a batch as a whole."""
    tied = any(isinstance(layer, BatchNorm) and not layer.track for _, layer in model.walk())
    return not mode.train and not tied


def sample_bytes(model: Sequential, params: Params, x: Array) -> float:
    """The bytes that one sample's caches take, measured on two."""
    few = x[..., :2]  # normalisation of features by their batch needs two
    _, cache = model.forward(params, few, EVALUATE)
    return sum(array_sizes(cache)) / int(few.shape[-1])


def array_sizes(cache: Any) -> list[int]:
    """The bytes of every array in nested tuples, lists and dicts, each array counted once."""
    found: dict[int, int] = {}
    left = [cache]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            left.extend(part.values())
        elif isinstance(part, tuple | list):
            left.extend(part)
        elif hasattr(part, "nbytes"):
            found[id(part)] = int(part.nbytes)
    return list(found.values())
