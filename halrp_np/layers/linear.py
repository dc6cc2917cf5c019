"""The linear layer y = W x + b: three bilinear maps, each one's derivative written with the other two."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import ops
from ..typing import Array, Params
from .base import EVALUATE, Cache, Layer, Mode, Names, check_features, gradients
from .bilinear import Bilinear
from .init import uniform_fan_in
from .tangents import with_bias


def apply(x: Array, W: Array) -> Array:
    """W x, for x (I, N) and W (J, I)."""
    return ops.matmul(W, x)


def grad_input(gy: Array, W: Array) -> Array:
    """Wᵀ gy: the adjoint of `apply` in x."""
    return ops.matmul(W.T, gy)


def grad_weight(gy: Array, x: Array) -> Array:
    """gy xᵀ: the adjoint of `apply` in W."""
    return ops.matmul(gy, x.T)


PRODUCT = Bilinear(apply, lambda gy, W, x_shape: grad_input(gy, W), lambda gy, x, w_shape: grad_weight(gy, x))
"""The three as one bilinear map; their shapes follow from the arguments."""


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

    @property
    def plain(self) -> Linear:
        """The layer itself; of a perturbed one, the layer that it perturbs."""
        return self

    def dense_weight(self, params: Params) -> Array:
        """The weight of the layer, (J, I)."""
        return params["weight"]

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        check_features("Linear", x, self.inputs)
        return ops.linear(x, params["weight"], params["bias"]), x

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        x, W = cache, params["weight"]
        gx = grad_input(gy, W) if input_gradient else None
        return gx, gradients(wanted, {"weight": lambda: grad_weight(gy, x), "bias": lambda: gy.sum(axis=1)})

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        """ry = W rx + rW x + rb."""
        x, rW = cache, rparams.get("weight")
        ry = PRODUCT.r_apply(x, params["weight"], rx, rW)
        return with_bias(ry, rparams.get("bias"), (self.outputs, x.shape[1])), (rx, rW)

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
        """rgx = Wᵀ rgy + rWᵀ gy, rgW = rgy xᵀ + gy rxᵀ, rgb = Σ_n rgy."""
        x, W = cache, params["weight"]
        rx, rW = rcache or (None, None)
        formulas = {
            "weight": lambda: PRODUCT.r_grad_weight(gy, x, rgy, rx, tuple(W.shape)),
            "bias": lambda: rgy.sum(axis=2).T,
        }
        rgx = PRODUCT.r_grad_input(gy, W, rgy, rW, tuple(x.shape)) if input_gradient else None
        return rgx, gradients(wanted, formulas)
