"""Convolution with stride and zero padding: the linear layer's three bilinear maps with a window."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import ops
from ..typing import Array, Params, Shape
from .base import EVALUATE, Cache, Layer, Mode, check_images
from .init import uniform_fan_in


def apply(x: Array, W: Array, stride: int, padding: int) -> Array:
    """y[j,u,v,n] = Σ_{i,c,d} W[j,i,c,d] x[i, us-p+c, vs-p+d, n]."""
    return ops.conv2d(x, W, stride, padding)


def grad_input(gy: Array, W: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """The adjoint of `apply` in x."""
    return ops.conv2d_grad_input(gy, W, x_shape, stride, padding)


def grad_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """The adjoint of `apply` in W."""
    return ops.conv2d_grad_weight(gy, x, w_shape, stride, padding)


class Conv2d(Layer):
    """y = W * x + b, cross-correlation as every framework calls convolution.

    Shapes: x (I, H, W, N), weight (J, I, k, k), bias (J,), y (J, H', W', N) with H' = ⌊(H + 2p - k)/s⌋ + 1.
    Raises: ShapeError when x has other channels or is smaller than the window.
    """

    trainable = ("weight", "bias")

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def init(self, generator: np.random.Generator, dtype: Any) -> Params:
        fan_in = self.inputs * self.kernel**2
        weight = uniform_fan_in(generator, (self.outputs, self.inputs, self.kernel, self.kernel), fan_in, dtype)
        return {"weight": weight, "bias": uniform_fan_in(generator, (self.outputs,), fan_in, dtype)}

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        check_images("Conv2d", x, self.inputs, self.kernel, self.padding)
        y = apply(x, params["weight"], self.stride, self.padding)
        y += params["bias"][:, None, None, None]  # y is ours: no second array
        return y, x

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, Params]:
        x, weight = cache, params["weight"]
        gx = grad_input(gy, weight, tuple(x.shape), self.stride, self.padding) if input_gradient else None
        gW = grad_weight(gy, x, tuple(weight.shape), self.stride, self.padding)
        return gx, {"weight": gW, "bias": gy.reshape(self.outputs, -1).sum(axis=1)}
