"""Convolution with stride and zero padding: the linear layer's three bilinear maps with a window."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import ops
from ..backend.reference import output_size
from ..typing import Array, Params, Shape
from .base import EVALUATE, Cache, Layer, Mode, Names, check_images, gradients
from .bilinear import Bilinear
from .init import uniform_fan_in
from .tangents import with_bias


def apply(x: Array, W: Array, stride: int, padding: int) -> Array:
    """y[j,u,v,n] = Σ_{i,c,d} W[j,i,c,d] x[i, us-p+c, vs-p+d, n]."""
    return ops.conv2d(x, W, stride, padding)


def grad_input(gy: Array, W: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """The adjoint of `apply` in x."""
    return ops.conv2d_grad_input(gy, W, x_shape, stride, padding)


def grad_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """The adjoint of `apply` in W."""
    return ops.conv2d_grad_weight(gy, x, w_shape, stride, padding)


def bilinear(stride: int, padding: int) -> Bilinear:
    """The three as one bilinear map."""
    return Bilinear(
        lambda x, W: apply(x, W, stride, padding),
        lambda gy, W, x_shape: grad_input(gy, W, x_shape, stride, padding),
        lambda gy, x, w_shape: grad_weight(gy, x, w_shape, stride, padding),
    )


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

    @property
    def plain(self) -> Conv2d:
        """The layer itself; of a perturbed one, the layer that it perturbs."""
        return self

    def check(self, x: Array, where: str = "Conv2d") -> None:
        """Raise ShapeError unless x has this layer's channels and is no smaller than its window."""
        check_images(where, x, self.inputs, self.kernel, self.padding)

    def dense_weight(self, params: Params) -> Array:
        """The weight of the convolution, (J, I, k, k)."""
        return params["weight"]

    def weight_gradients(self, params: Params, gW: Array) -> Params:
        """The gradients of what makes up the weight, from the gradient of the weight."""
        return {"weight": gW}

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        self.check(x)
        y = apply(x, params["weight"], self.stride, self.padding)
        y += params["bias"][:, None, None, None]  # y is ours: no second array
        return y, x

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        x, W = cache, params["weight"]
        formulas = {
            "weight": lambda: grad_weight(gy, x, tuple(W.shape), self.stride, self.padding),
            "bias": lambda: gy.reshape(self.outputs, -1).sum(axis=1),
        }
        gx = grad_input(gy, W, tuple(x.shape), self.stride, self.padding) if input_gradient else None
        return gx, gradients(wanted, formulas)

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        """ry = W * rx + rW * x + rb."""
        x, rW = cache, rparams.get("weight")
        ry = bilinear(self.stride, self.padding).r_apply(x, params["weight"], rx, rW)
        return with_bias(ry, rparams.get("bias"), self.y_shape(x)), (rx, rW)

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
        """The product rule over both adjoints, and rgb = Σ_n,u,v rgy."""
        x, W = cache, params["weight"]
        rx, rW = rcache or (None, None)
        maps = bilinear(self.stride, self.padding)
        formulas = {
            "weight": lambda: maps.r_grad_weight(gy, x, rgy, rx, tuple(W.shape)),
            "bias": lambda: rgy.sum(axis=(1, 2, 4)).T,
        }
        rgx = maps.r_grad_input(gy, W, rgy, rW, tuple(x.shape)) if input_gradient else None
        return rgx, gradients(wanted, formulas)

    def y_shape(self, x: Array) -> Shape:
        """The shape of the output for x."""
        rows, columns = (output_size(size, self.kernel, self.stride, self.padding) for size in x.shape[1:3])
        return self.outputs, rows, columns, int(x.shape[3])
