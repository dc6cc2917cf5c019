"""Mistakes in derivatives, each the passes of a layer that `spoiled` puts before the layer's own."""

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np

from halrp_np.layers import AvgPool2d, Layer, Mode

Params = dict[str, Any]


def spoiled(model: Any, path: str, mixin: type) -> Any:
    """The same network with a mistake in the layer of that path."""
    name, _, rest = path.partition(".")
    inner, same = model.layers[name], copy(model)
    if rest:
        twin = spoiled(inner, rest, mixin)
    else:
        twin = copy(inner)
        twin.__class__ = type(mixin.__name__, (mixin, type(inner)), {})
    same.layers = {**model.layers, name: twin}
    return same


# ---- mistakes that fit any layer ------------------------------------------------------------------------------------


class Faultless(Layer):
    """No mistake at all."""


def forgets(what: str, where: str) -> type:
    """The tangent of `what` (a parameter, or x) stands still on the way forward, or for the pass backward."""

    class Forgets(Layer):
        def r_forward(self, params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
            right = super().r_forward(params, cache, rparams, rx)
            if what == "x":
                less = super().r_forward(params, cache, rparams, None if rx is None else 0 * rx)
            else:
                less = super().r_forward(params, cache, rparams | {what: 0 * rparams[what]}, rx)
            return (less[0], right[1]) if where == "forward" else (right[0], less[1])

    return Forgets


def ignores_rgy(where: str) -> type:
    """What moves in gy does not move one of the gradients, of a parameter or of x."""

    class IgnoresRgy(Layer):
        def r_backward(self, params: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, **asked: Any) -> Any:
            rgx, rgrads = super().r_backward(params, cache, rcache, gy, rgy, **asked)
            less_x, less = super().r_backward(params, cache, rcache, gy, 0 * rgy, **asked)
            return (less_x, rgrads) if where == "x" else (rgx, rgrads | {where: less[where]})

    return IgnoresRgy


def scaled(name: str, passes: str) -> type:
    """One gradient, or its tangent, times 1.0005."""

    class Scaled(Layer):
        def backward(self, *arguments: Any, **asked: Any) -> Any:
            gx, grads = super().backward(*arguments, **asked)
            factor = 1.0005 if passes == "backward" else 1.0
            return gx, {n: g * factor if n == name else g for n, g in grads.items()}

        def r_backward(self, *arguments: Any, **asked: Any) -> Any:
            rgx, rgrads = super().r_backward(*arguments, **asked)
            factor = 1.0005 if passes == "r_backward" else 1.0
            return rgx, {n: r * factor if n == name else r for n, r in rgrads.items()}

    return Scaled


def loses_gx(factor: float | None = None) -> type:
    """The gradient of x is gy itself (no mask), or gx plus a multiple of gy, or nothing at all."""

    class LosesGx(Layer):
        def backward(self, params: Params, cache: Any, gy: Any, **asked: Any) -> Any:
            gx, grads = super().backward(params, cache, gy, **asked)
            if factor is None:
                return gy, grads
            return (gx + factor * gy if factor else 0 * gx), grads

    return LosesGx


class Through(Layer):
    """The tangent goes through unchanged: no mask of ReLU or dropout."""

    def r_forward(self, params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
        return rx, None


class ThroughBack(Layer):
    """The same on the way back."""

    def r_backward(self, params: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, **asked: Any) -> Any:
        return rgy, {}


# ---- mistakes of one kind of layer ----------------------------------------------------------------------------------


def turned(turn: Callable[[Any], Any], passes: str) -> type:
    """One pass of a convolution reads its kernel the wrong way round."""

    class Turned(Layer):
        def backward(self, params: Params, *rest: Any, **asked: Any) -> Any:
            return super().backward(self._turned(params, "backward"), *rest, **asked)

        def r_forward(self, params: Params, *rest: Any) -> tuple[Any, Any]:
            return super().r_forward(self._turned(params, "r_forward"), *rest)

        def r_backward(self, params: Params, *rest: Any, **asked: Any) -> Any:
            return super().r_backward(self._turned(params, "r_backward"), *rest, **asked)

        def _turned(self, params: Params, here: str) -> Params:
            return params | {"weight": turn(params["weight"])} if here == passes else params

    return Turned


class Constant(Layer):
    """The gradient of BatchNorm as if its mean and variance did not move."""

    eps: float

    def backward(self, params: Params, cache: Any, gy: Any, **asked: Any) -> Any:
        _, grads = super().backward(params, cache, gy, **asked)
        return gy * (params["gamma"] / np.sqrt(cache[2] + self.eps))[:, None], grads


class Spreads(Layer):
    """The gradient of a max-pool as if it took the mean."""

    def backward(self, params: Params, cache: Any, gy: Any, **asked: Any) -> Any:
        return AvgPool2d(self.kernel, self.stride).backward(params, cache[1], gy)  # type: ignore[attr-defined]


class Averages(Layer):
    """The tangent of a max-pool as if it took the mean."""

    def r_forward(self, params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
        return AvgPool2d(self.kernel, self.stride).r_forward(params, cache, rparams, rx)  # type: ignore[attr-defined]


class UpsideDown(Layer):
    """The tangent flattened in another order than the image."""

    def r_forward(self, params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
        return super().r_forward(params, cache, rparams, rx[:, ::-1])


class Sums(Layer):
    """The tangent of a mean without its 1/k²."""

    def r_forward(self, *arguments: Any) -> tuple[Any, Any]:
        ry, rcache = super().r_forward(*arguments)
        return 4 * ry, rcache


class NoShortcut(Layer):
    """The tangent of a residual block loses what x adds to y."""

    def r_forward(self, params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
        ry, rcache = super().r_forward(params, cache, rparams, rx)
        return ry - rx, rcache


class NoShortcutBack(Layer):
    """The tangent of its gradient loses what gy adds to gx."""

    def r_backward(self, params: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, **asked: Any) -> Any:
        rgx, rgrads = super().r_backward(params, cache, rcache, gy, rgy, **asked)
        return rgx - rgy, rgrads


class NoCrossTerm(Layer):
    """The tangent of ∂L/∂S = Σ_j R_j C_ji without Σ_j rR_j C_ji: K = R W S is bilinear in R and S."""

    def r_forward(self, params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
        ry, rcache = super().r_forward(params, cache, rparams, rx)
        return ry, (rcache, rparams)

    def r_backward(self, params: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, **asked: Any) -> Any:
        inner, rparams = rcache or (None, {})
        rgx, rgrads = super().r_backward(params, cache, inner, gy, rgy, **asked)
        if "R" not in rparams or "S" not in rgrads:
            return rgx, rgrads
        cross = [super(NoCrossTerm, self).backward(params | {"R": rR}, cache, gy)[1]["S"] for rR in rparams["R"]]
        return rgx, rgrads | {"S": rgrads["S"] - np.stack(cross)}


BATCHNORM_TERMS = dict.fromkeys(
    ["rμ", "x̂ rs forward", "mean(rg)", "rg x̂", "g rx̂", "rx̂ mean(g x̂)", "rs/s", "g rx̂ in γ"], "tail.fc.weight"
) | dict.fromkeys(["rγ x̂", "rγ/s"], "tail.norm.gamma")
"""Every term of the tangents of BatchNorm, and a column of the Hessian in which it shows."""


def batchnorm(missing: str) -> type:
    """BatchNorm1d in train mode with its tangents spelled out term by term, one of them missing.

    Math: gx = γ/s (g - mean(g) - x̂ mean(g x̂)), gγ = Σ g x̂, rx̂ = (rx - rμ - x̂ rs)/s, rs = mean(x̂ rx).
    """

    def term(name: str, value: Any) -> Any:
        return 0.0 if name == missing else value

    def mean(a: Any) -> Any:
        return a.mean(axis=-1, keepdims=True)

    class Spelled(Layer):
        eps: float

        def forward(self, params: Params, x: Any, mode: Mode = Mode()) -> tuple[Any, Any]:  # noqa: B008
            y, inner = super().forward(params, x, mode)
            s = np.sqrt(x.var(axis=1) + self.eps)[:, None, None]
            return y, (inner, (x - mean(x))[:, None] / s, s)  # x̂ (C, 1, N), s (C, 1, 1)

        def backward(self, params: Params, cache: Any, gy: Any, **asked: Any) -> Any:
            return super().backward(params, cache[0], gy, **asked)

        def r_forward(self, params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
            _, x_hat, s = cache
            gamma, still = params["gamma"][:, None, None], np.zeros((1, len(params["gamma"])))
            rgamma, rbeta = (rparams.get(name, still).T[:, :, None] for name in ("gamma", "beta"))
            rx = 0 * x_hat if rx is None else rx
            rs = mean(x_hat * rx)
            right = (rx - mean(rx) - x_hat * rs) / s
            rx_hat = (rx - term("rμ", mean(rx)) - term("x̂ rs forward", x_hat * rs)) / s
            return gamma * rx_hat + term("rγ x̂", rgamma * x_hat) + rbeta, (right, rs, rgamma)

        def r_backward(
            self, params: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, *, wanted: Any = None, **asked: Any
        ) -> Any:
            _, x_hat, s = cache
            rx_hat, rs, rgamma = rcache or (0 * x_hat, 0 * s, 0 * s)
            g, gamma = gy[:, None], params["gamma"][:, None, None]
            moment = mean(g * x_hat)
            bracket = (
                rgy
                - term("mean(rg)", mean(rgy))
                - x_hat * mean(term("rg x̂", rgy * x_hat) + term("g rx̂", g * rx_hat) + 0 * rgy)
                - term("rx̂ mean(g x̂)", rx_hat * moment)
            )
            r_scale = term("rγ/s", rgamma / s) - term("rs/s", gamma * rs / s**2)
            rgx = gamma / s * bracket + r_scale * (g - mean(g) - x_hat * moment)
            rgamma_gradient = (rgy * x_hat + term("g rx̂ in γ", g * rx_hat)).sum(axis=-1).T
            rgrads = {"gamma": rgamma_gradient, "beta": rgy.sum(axis=-1).T}
            return rgx, {name: r for name, r in rgrads.items() if wanted is None or name in wanted}

    return Spelled
