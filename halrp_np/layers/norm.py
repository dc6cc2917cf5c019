"""Batch normalisation over the batch (features) or over batch and pixels (images)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module, ops
from ..errors import ShapeError
from ..typing import Array, Params
from .base import EVALUATE, Cache, Layer, Mode, Names, check_features, check_images, gradients
from .tangents import total, with_bias


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
            return y.reshape(x.shape), (x, mean, var, True)
        mean, var = params["running_mean"], params["running_var"]
        scale = params["gamma"] / array_module(x).sqrt(var + self.eps)
        y = ops.batchnorm_apply(rows, scale, params["beta"] - mean * scale)
        return y.reshape(x.shape), (x, mean, var, False)

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        x, mean, var, batch_statistics = cache
        rows, gy_rows = x.reshape(self.channels, -1), gy.reshape(self.channels, -1)
        if batch_statistics:
            gx, ggamma, gbeta = ops.batchnorm_backward(gy_rows, rows, params["gamma"], mean, var, self.eps)
            grads = gradients(wanted, {"gamma": lambda: ggamma, "beta": lambda: gbeta})
            return (gx.reshape(gy.shape) if input_gradient else None), grads
        inverse = self.inverse(cache)
        formulas = {
            "gamma": lambda: (gy_rows * ((rows - mean[:, None]) * inverse[:, None])).sum(axis=1),
            "beta": lambda: gy_rows.sum(axis=1),
        }
        return (self.rescaled(params, cache, gy) if input_gradient else None), gradients(wanted, formulas)

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        """ry = γ rx̂ + rγ x̂ + rβ, with x̂ = (x - μ)/s and s = √(σ² + ε); running statistics are constants: rx̂ = rx/s."""
        x, rgamma = cache[0], rparams.get("gamma")
        ry = None
        if rx is not None and cache[3]:
            ry = (_column(params["gamma"]) * self.r_normal(cache, rx)[0]).reshape(rx.shape)
        elif rx is not None:
            ry = self.rescaled(params, cache, rx)
        if rgamma is not None:
            moved = _column(rgamma.T) * self.normal(cache)
            ry = total(ry, moved.reshape(*x.shape[:-1], -1, x.shape[-1]))
        return with_bias(ry, rparams.get("beta"), tuple(x.shape)), (rx, rgamma)

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
        """rgγ = Σ (rgy x̂ + gy rx̂), rgβ = Σ rgy; for running statistics rgx = (γ rgy + rγ gy)/s."""
        rx, rgamma = rcache or (None, None)
        formulas = {
            "gamma": lambda: self.r_moment(cache, gy, rgy, rx).sum(axis=(1, 3)).T,
            "beta": lambda: _positions(rgy).sum(axis=(1, 3)).T,
        }
        rgx = None
        if input_gradient and cache[3]:
            rgx = self.r_batch_gradient(params, cache, gy, rgy, rx, rgamma).reshape(rgy.shape)
        elif input_gradient:
            rgx = self.rescaled(params, cache, rgy)
            if rgamma is not None:
                moved = _column((rgamma * self.inverse(cache)).T) * _positions(gy[..., None, :])
                rgx = rgx + moved.reshape(rgy.shape)
        return rgx, gradients(wanted, formulas)

    def r_batch_gradient(
        self, params: Params, cache: Cache, gy: Array, rgy: Array, rx: Array | None, rgamma: Array | None
    ) -> Array:
        """The tangent of gx = γ/s (gy - mean(gy) - x̂ mean(gy x̂)), the gradient through the batch's own statistics.

        Math: each factor in turn: r(γ/s) = rγ/s - γ/s rs/s; the bracket moves by
        rgy - mean(rgy) - rx̂ mean(gy x̂) - x̂ mean(rgy x̂ + gy rx̂).
        """
        x_hat, rg, inverse = self.normal(cache), _positions(rgy), self.inverse(cache)
        scale = _column(params["gamma"] * inverse)
        bracket = rg - _mean(rg) - x_hat * _mean(self.r_moment(cache, gy, rgy, rx))
        if rx is None and rgamma is None:
            return scale * bracket
        g = _positions(gy[..., None, :])
        moment, r_scale = _mean(g * x_hat), 0.0
        if rgamma is not None:
            r_scale = r_scale + _column((rgamma * inverse).T)
        if rx is not None:
            rx_hat, rs = self.r_normal(cache, rx)
            bracket = bracket - rx_hat * moment
            r_scale = r_scale - scale * rs * _column(inverse)
        return scale * bracket + r_scale * (g - _mean(g) - x_hat * moment)

    def r_moment(self, cache: Cache, gy: Array, rgy: Array, rx: Array | None) -> Array:
        """rgy x̂ + gy rx̂, the tangent of gy x̂, position by position (C, H W, K, N)."""
        moved = _positions(rgy) * self.normal(cache)
        if rx is None:
            return moved
        rx_hat = self.r_normal(cache, rx)[0] if cache[3] else _positions(rx) * _column(self.inverse(cache))
        return moved + _positions(gy[..., None, :]) * rx_hat

    def r_normal(self, cache: Cache, rx: Array) -> tuple[Array, Array]:
        """rx̂ (C, H W, K, N) and rs (C, 1, K, 1) when mean and variance are the batch's own and move with it.

        Math: rμ = mean(rx), rs = mean(x̂ rx), rx̂ = (rx - rμ - x̂ rs)/s.
        """
        x_hat, r = self.normal(cache), _positions(rx)
        rs = _mean(x_hat * r)
        return (r - _mean(r) - x_hat * rs) * _column(self.inverse(cache)), rs

    def normal(self, cache: Cache) -> Array:
        """x̂ = (x - μ)/s, position by position (C, H W, 1, N)."""
        x, mean, _, _ = cache
        return (_positions(x[..., None, :]) - _column(mean)) * _column(self.inverse(cache))

    def inverse(self, cache: Cache) -> Array:
        """1/s = 1/√(σ² + ε), (C,)."""
        return 1.0 / array_module(cache[2]).sqrt(cache[2] + self.eps)

    def rescaled(self, params: Params, cache: Cache, array: Array) -> Array:
        """γ/s times an array of any shape (C, ...)."""
        scale = params["gamma"] * self.inverse(cache)
        return ops.batchnorm_apply(array.reshape(self.channels, -1), scale, 0 * scale).reshape(array.shape)

    def new_buffers(self, params: Params, cache: Cache) -> Params:
        x, mean, var, batch_statistics = cache
        return self.moved(params, mean, var, x.size // self.channels) if batch_statistics else {}

    def moved(self, params: Params, mean: Array, var: Array, count: int) -> Params:
        """The running statistics after a batch of `count` values a channel with this mean and biased variance."""
        if not self.track:
            return {}
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


def _positions(r: Array) -> Array:
    """(C, H, W, K, N) or (C, K, N) as (C, H W, K, N), with H W = 1 for features."""
    return r.reshape(r.shape[0], -1, *r.shape[-2:])


def _column(values: Array) -> Array:
    """(C,) as (C, 1, 1, 1), and (C, K) as (C, 1, K, 1)."""
    return values.reshape(values.shape[0], 1, -1, 1)


def _mean(r: Array) -> Array:
    """The mean over positions and batch, (C, 1, K, 1)."""
    return r.mean(axis=(1, 3), keepdims=True)
