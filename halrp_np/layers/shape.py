"""Layers that only rearrange."""

from __future__ import annotations

from ..typing import Array, Params
from .base import EVALUATE, Cache, Layer, Mode, Names, check_images


class Flatten(Layer):
    """Images (C, H, W, N) as features (C H W, N), in that order.

    Raises: ShapeError when x is no batch of images.
    """

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        check_images("Flatten", x, None)
        return x.reshape(-1, x.shape[3]), tuple(x.shape)

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        return (gy.reshape(cache) if input_gradient else None), {}

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        """The same rearrangement of each tangent."""
        assert rx is not None
        return rx.reshape(-1, *rx.shape[3:]), None

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
        """And back."""
        return (rgy.reshape(*cache[:3], *rgy.shape[1:]) if input_gradient else None), {}
