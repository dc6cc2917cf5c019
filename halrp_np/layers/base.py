"""What every layer is: an object without state beyond its hyper-parameters, and pure passes over named parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..errors import ShapeError
from ..typing import Array, Params

Cache: TypeAlias = Any
"""What a forward pass keeps for the passes that differentiate it; opaque to everybody else."""


@dataclass(frozen=True)
class Mode:
    """How to run: `train` uses batch statistics and drops units with masks drawn from `dropout`; else evaluation."""

    train: bool = False
    dropout: np.random.Generator | None = None


EVALUATE = Mode()


class Layer:
    """A differentiable function of (params, x); subclasses write the formula and, under it, its derivative.

    `trainable` and `buffers` name the entries of `params` that the layer reads. Nothing is mutated and nothing
    accumulates: a pass may be repeated at one point, and BatchNorm's new running statistics come from `new_buffers`.
    The tangent passes `r_forward(params, cache, rparams, rx)` and `r_backward(params, cache, rcache, gy, rgy)` join
    these two under the same contract.
    """

    trainable: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()

    def init(self, generator: np.random.Generator, dtype: Any) -> Params:
        """Fresh host parameters and buffers, drawn in the order of `trainable`."""
        return {}

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        """The output y and what the derivative needs."""
        raise NotImplementedError

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, Params]:
        """Given gy = ∂L/∂y: ∂L/∂x (None when not asked for) and ∂L/∂θ for each trainable name."""
        raise NotImplementedError

    def new_buffers(self, params: Params, cache: Cache) -> Params:
        """Buffers after a forward pass in train mode; empty for a layer without any."""
        return {}

    def names(self) -> tuple[str, ...]:
        """Every entry of `params` that the layer reads."""
        return self.trainable + self.buffers


def check_features(where: str, x: Array, features: int) -> None:
    """Raise ShapeError unless x is (features, N)."""
    if x.ndim != 2 or x.shape[0] != features:
        raise ShapeError(
            where,
            expected=f"features ({features}, N), batch last",
            received=f"shape {tuple(x.shape)}",
            next_step="Flatten images first, and put the batch on the last axis.",
        )


def check_images(where: str, x: Array, channels: int | None, window: int = 1, padding: int = 0) -> None:
    """Raise ShapeError unless x is (channels, H, W, N) and the window fits into the padded image."""
    fits = x.ndim == 4 and (channels is None or x.shape[0] == channels)
    if not fits or min(x.shape[1], x.shape[2]) + 2 * padding < window:
        size = "any" if channels is None else str(channels)
        raise ShapeError(
            where,
            expected=f"images ({size} channels, H, W, N), batch last, H and W at least {window - 2 * padding}",
            received=f"shape {tuple(x.shape)}",
            next_step="Check the image size and the channel count of the layer before.",
        )
