"""Element-wise non-linearities."""

from __future__ import annotations

from ..backend import ops
from ..typing import Array, Params
from .base import EVALUATE, Cache, Layer, Mode, Names


class ReLU(Layer):
    """y = max(x, 0), with derivative 0 at 0; any shape."""

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        y = ops.relu(x)
        return y, y

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        return (ops.relu_backward(cache, gy) if input_gradient else None), {}

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        """ry = 1[y > 0] rx: between kinks the layer is linear, and its tangent is its derivative."""
        return ops.relu_backward(cache, rx), None

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
        """rgx = 1[y > 0] rgy."""
        return (ops.relu_backward(cache, rgy) if input_gradient else None), {}

    def branches(self, cache: Cache) -> list[Array]:
        return [cache > 0]
