"""How much runs at once: what linearisations and tangents take, and how many fit into a stated number of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..layers import EVALUATE, Mode, Sequential
from ..layers.norm import BatchNorm
from ..typing import Array, Params

TANGENT = 2.0  # a tangent's arrays beside the layer's caches: those kept for the way back, and those in passing
VECTORS = 4  # a vector, its parts, and their products


@dataclass(frozen=True)
class Budget:
    """Half of `memory` bytes is for what is kept of the batches, half for the tangents that run over one of them."""

    memory: int

    def holds(self, size: int) -> bool:
        """Whether so many bytes of linearisations may be kept."""
        return size <= self.memory / 2

    def tangents(self, size: int, vector: int) -> int:
        """How many tangents, at least 1, may run at once over caches of `size` bytes, for vectors of `vector` bytes."""
        one = TANGENT * size + VECTORS * vector
        return max(1, int(self.memory / 2 // one))

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
    """The bytes that one sample's caches take, measured on a few."""
    few = x[..., :8]
    _, cache = model.forward(params, few, EVALUATE)
    return array_bytes(cache) / int(few.shape[-1])


def array_bytes(cache: Any) -> int:
    """The bytes of all arrays in nested tuples, lists and dicts, each array counted once."""
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
    return sum(found.values())
