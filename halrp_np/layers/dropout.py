"""Dropout with a mask that the cache keeps, so that every later pass meets the same function."""

from __future__ import annotations

import numpy as np

from ..backend import ops
from ..errors import ConfigError
from ..typing import Array, Params
from .base import EVALUATE, Cache, Layer, Mode, Names


class Dropout(Layer):
    """y = x ⊙ m / (1 - p) in train mode, with m Bernoulli(1 - p); y = x in evaluation.

    Only the seed of m comes from the mode's stream: the mask itself is formed where x lies.

    Raises: ConfigError for p outside [0, 1), or in train mode without a stream.
    """

    def __init__(self, rate: float) -> None:
        if not 0.0 <= rate < 1.0:
            raise ConfigError("Dropout", expected="a rate in [0, 1)", received=str(rate), next_step="Choose another.")
        self.rate = rate

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        if not mode.train or self.rate == 0.0:
            return x, None
        if mode.dropout is None:
            raise ConfigError(
                "Dropout",
                expected="a random stream in train mode",
                received="none",
                next_step="Pass Mode(train=True, dropout=Streams(seed).generator('dropout')).",
            )
        first, second = mode.dropout.integers(2**32, size=2, dtype=np.uint32)
        return ops.dropout(x, (int(first), int(second)), self.rate)

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        if not input_gradient:
            return None, {}
        return self.masked(cache, gy), {}

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        """ry = rx ⊙ m / (1 - p), with the mask of the forward pass."""
        return self.masked(cache, rx), None

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
        """rgx = rgy ⊙ m / (1 - p)."""
        return (self.masked(cache, rgy) if input_gradient else None), {}

    def masked(self, kept: Cache, r: Array) -> Array:
        """r (..., N), or each of K tangents r (..., K, N), under the mask of the forward pass, if there is one."""
        return r if kept is None else ops.dropout_again(r, kept, self.rate)
