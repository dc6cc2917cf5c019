"""Batch normalisation over the batch (features) or over batch and pixels (images)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module, ops
from ..errors import ShapeError
from ..typing import Array, Params
from .base import EVALUATE, Cache, Layer, Mode, check_features, check_images


class BatchNorm(Layer):
    """y = γ (x - μ)/√(σ² + ε) + β, channel by channel; use BatchNorm1d or BatchNorm2d.

    In train mode, and always when `track` is off, μ and σ² (biased) are the batch's and are differentiated; in
    evaluation they are the running statistics, constants. `new_buffers` moves the running statistics by `momentum`
    towards the batch's mean and unbiased variance.

    Shapes: gamma, beta, running_mean, running_var (C,).
    Raises: ShapeError when x has other channels, or a batch's statistics would come from one value a channel.
    """

    trainable = ("gamma", "beta")

    def __init__(self, channels: int, *, track: bool = True, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.channels, self.track, self.eps, self.momentum = channels, track, eps, momentum
        self.buffers = ("running_mean", "running_var") if track else ()

    def init(self, generator: np.random.Generator, dtype: Any) -> Params:
        start = {"gamma": 1.0, "beta": 0.0, "running_mean": 0.0, "running_var": 1.0}
        return {name: np.full(self.channels, start[name], dtype) for name in self.names()}

    def check(self, x: Array) -> None:
        """Raise ShapeError unless x has this layer's channels and rank."""
        raise NotImplementedError

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        self.check(x)
        rows = x.reshape(self.channels, -1)  # (C, H W N)
        if mode.train or not self.track:
            if rows.shape[1] == 1:
                raise ShapeError(
                    type(self).__name__,
                    expected="more than one value a channel to take statistics of",
                    received="a batch of one",
                    next_step="Use a larger batch, or drop the last partial one.",
                )
            y, mean, var = ops.batchnorm_train(rows, params["gamma"], params["beta"], self.eps)
            return y.reshape(x.shape), (rows, mean, var, True)
        mean, var = params["running_mean"], params["running_var"]
        scale = params["gamma"] / array_module(x).sqrt(var + self.eps)
        y = ops.batchnorm_apply(rows, scale, params["beta"] - mean * scale)
        return y.reshape(x.shape), (rows, mean, var, False)

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, Params]:
        rows, mean, var, batch_statistics = cache
        gy_rows = gy.reshape(rows.shape)
        if batch_statistics:
            gx, ggamma, gbeta = ops.batchnorm_backward(gy_rows, rows, params["gamma"], mean, var, self.eps)
            return (gx.reshape(gy.shape) if input_gradient else None), {"gamma": ggamma, "beta": gbeta}
        inverse = 1.0 / array_module(gy).sqrt(var + self.eps)
        normal = (rows - mean[:, None]) * inverse[:, None]
        grads = {"gamma": (gy_rows * normal).sum(axis=1), "beta": gy_rows.sum(axis=1)}
        if not input_gradient:
            return None, grads
        return (gy_rows * (params["gamma"] * inverse)[:, None]).reshape(gy.shape), grads

    def new_buffers(self, params: Params, cache: Cache) -> Params:
        rows, mean, var, batch_statistics = cache
        if not self.track or not batch_statistics:
            return {}
        count = rows.shape[1]
        unbiased = var * (count / max(count - 1, 1))
        keep = 1.0 - self.momentum
        return {
            "running_mean": keep * params["running_mean"] + self.momentum * mean,
            "running_var": keep * params["running_var"] + self.momentum * unbiased,
        }


class BatchNorm1d(BatchNorm):
    """Batch normalisation of features x (C, N)."""

    def check(self, x: Array) -> None:
        check_features("BatchNorm1d", x, self.channels)


class BatchNorm2d(BatchNorm):
    """Batch normalisation of images x (C, H, W, N)."""

    def check(self, x: Array) -> None:
        check_images("BatchNorm2d", x, self.channels)
