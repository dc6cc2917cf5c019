"""The linear layer y = W x + b: three bilinear maps, each one's derivative written with the other two."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import ops
from ..typing import Array, Params
from .base import EVALUATE, Cache, Layer, Mode, check_features
from .init import uniform_fan_in


def apply(x: Array, W: Array) -> Array:
    """W x, for x (I, N) and W (J, I)."""
    return ops.matmul(W, x)


def grad_input(gy: Array, W: Array) -> Array:
    """Wᵀ gy: the adjoint of `apply` in x."""
    return ops.matmul(W.T, gy)


def grad_weight(gy: Array, x: Array) -> Array:
    """gy xᵀ: the adjoint of `apply` in W."""
    return ops.matmul(gy, x.T)


class Linear(Layer):
    """y = W x + b.

    Shapes: x (I, N), weight W (J, I), bias b (J,), y (J, N).
    Raises: ShapeError when x is not (I, N).
    """

    trainable = ("weight", "bias")

    def __init__(self, inputs: int, outputs: int) -> None:
        self.inputs, self.outputs = inputs, outputs

    def init(self, generator: np.random.Generator, dtype: Any) -> Params:
        weight = uniform_fan_in(generator, (self.outputs, self.inputs), self.inputs, dtype)
        return {"weight": weight, "bias": uniform_fan_in(generator, (self.outputs,), self.inputs, dtype)}

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        check_features("Linear", x, self.inputs)
        return apply(x, params["weight"]) + params["bias"][:, None], x

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, Params]:
        x = cache
        gx = grad_input(gy, params["weight"]) if input_gradient else None
        return gx, {"weight": grad_weight(gy, x), "bias": gy.sum(axis=1)}
