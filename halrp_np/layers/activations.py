"""Element-wise non-linearities."""

from __future__ import annotations

from ..backend import ops
from ..typing import Array, Params
from .base import EVALUATE, Cache, Layer, Mode


class ReLU(Layer):
    """y = max(x, 0), with derivative 0 at 0; any shape."""

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        y = ops.relu(x)
        return y, y

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, Params]:
        return (ops.relu_backward(cache, gy) if input_gradient else None), {}
