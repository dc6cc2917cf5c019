"""What every layer is: an object without state beyond its hyper-parameters, and pure passes over named parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..errors import ShapeError
from ..typing import Array, Params

Cache: TypeAlias = Any
"""What a forward pass keeps for the passes that differentiate it; opaque to everybody else."""

Names: TypeAlias = Collection[str] | None
"""Parameters whose gradient is asked for; None means all."""


@dataclass(frozen=True)
class Mode:
    """How to run: `train` uses batch statistics and drops units with masks drawn from `dropout`; else evaluation."""

    train: bool = False
    dropout: np.random.Generator | None = None


EVALUATE = Mode()


class Layer:
    """A differentiable function of (params, x); subclasses write the formula and, under it, its derivatives.

    `trainable` and `buffers` name the entries of `params` that the layer reads. Nothing is mutated and nothing
    accumulates: a pass may be repeated at one point, and BatchNorm's new running statistics come from `new_buffers`.

    A tangent is a direction in which a quantity moves. K of them travel together: those of x (..., N) are rx
    (..., K, N), those of a parameter of shape s are (K, *s). None, or a name left out of `rparams`, means zero.
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
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        """Given gy = ∂L/∂y: ∂L/∂x (None when not asked for) and ∂L/∂θ for each wanted name, None meaning all."""
        raise NotImplementedError

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        """The tangent of `forward`: how y moves as the parameters and x move, and what `r_backward` needs of it."""
        raise NotImplementedError

    def r_backward(
        self,
        params: Params,
        cache: Cache,
        rcache: Cache,
        gy: Cache,
        rgy: Array,
        *,
        input_gradient: bool = True,
        wanted: Names = None,
    ) -> tuple[Array | None, Params]:
        """The tangent of `backward`: how ∂L/∂x and ∂L/∂θ move; gy is what `cotangents` returned.

        Without `rcache` nothing moved on the way forward, and what is left is `backward` itself, of K cotangents rgy.
        """
        raise NotImplementedError

    def cotangents(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Cache]:
        """∂L/∂x, and gy as `r_backward` needs it: gy itself, or for a container that of every layer inside."""
        gx = self.backward(params, cache, gy, wanted=())[0] if input_gradient else None
        return gx, gy

    def branches(self, cache: Cache) -> list[Array]:
        """The choices made on the way forward, at a kink; points with equal branches lie on one smooth piece."""
        return []

    def new_buffers(self, params: Params, cache: Cache) -> Params:
        """Buffers after a forward pass in train mode; empty for a layer without any."""
        return {}

    def names(self) -> tuple[str, ...]:
        """Every entry of `params` that the layer reads."""
        return self.trainable + self.buffers


def gradients(wanted: Names, formulas: dict[str, Callable[[], Array]]) -> Params:
    """The gradients that are wanted, each by its formula; the others are not computed."""
    return {name: formula() for name, formula in formulas.items() if wanted is None or name in wanted}


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
