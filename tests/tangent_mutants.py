"""Deliberately wrong tangent passes, for the tests of the checkers in tangent_checks.py."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cases import Names, Params
from halrp_np.layers import BatchNorm1d, Layer

RForward = Callable[[Params, Any, Params, Any], tuple[Any, Any]]
Spoil = Callable[[Params, Any, Any, Any, Any, Any, Params], tuple[Any, Params]]


class Mutant(Layer):
    """A layer whose r_forward is replaced, or the result of whose r_backward is spoiled; all else is true."""

    def __init__(self, layer: Layer, r_forward: RForward | None = None, spoil: Spoil | None = None) -> None:
        self.layer, self.trainable, self.buffers = layer, layer.trainable, layer.buffers
        self.forward, self.backward, self.cotangents = layer.forward, layer.backward, layer.cotangents  # type: ignore[method-assign]
        self.spoil = spoil
        if r_forward is not None:
            self.r_forward = r_forward  # type: ignore[method-assign]

    def r_forward(self, params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
        return self.layer.r_forward(params, cache, rparams, rx)

    def r_backward(
        self, params: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, **options: Any
    ) -> tuple[Any, Params]:
        rgx, rgrads = self.layer.r_backward(params, cache, rcache, gy, rgy, **options)
        return (rgx, rgrads) if self.spoil is None else self.spoil(params, cache, rcache, gy, rgy, rgx, rgrads)


def rescaled(layer: Layer, result: str, factor: float) -> Mutant:
    """One result times a factor."""

    def r_forward(params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
        ry, rcache = layer.r_forward(params, cache, rparams, rx)
        return ry * (factor if result == "y" else 1), rcache

    def spoil(p: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, rgx: Any, r: Params) -> tuple[Any, Params]:
        return rgx * (factor if result == "x" else 1), {n: v * (factor if result == n else 1) for n, v in r.items()}

    return Mutant(layer, r_forward, spoil)


class Forgetful(Mutant):
    """One result is computed as if one tangent were zero: the term of the product rule that couples them is missing."""

    def __init__(self, layer: Layer, result: str, source: str) -> None:
        super().__init__(layer)
        self.result, self.source = result, source

    def r_forward(self, params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
        ry, rcache = self.layer.r_forward(params, cache, rparams, rx)
        kept, kept_x = {n: r for n, r in rparams.items() if n != self.source}, None if self.source == "x" else rx
        if not kept and kept_x is None:
            less, less_rcache = np.zeros_like(ry), None
        else:
            less, less_rcache = self.layer.r_forward(params, cache, kept, kept_x)
        return (less if self.result == "y" else ry), (rcache, less_rcache)

    def r_backward(
        self, params: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, **options: Any
    ) -> tuple[Any, Params]:
        whole, less = rcache or (None, None)
        kept = np.zeros_like(rgy) if self.source == "gy" else rgy
        rgx, rgrads = self.layer.r_backward(params, cache, whole, gy, rgy, **options)
        less_x, less_grads = self.layer.r_backward(params, cache, less, gy, kept, **options)
        return (less_x if self.result == "x" else rgx), {
            name: (less_grads if self.result == name else rgrads)[name] for name in rgrads
        }


AFFINE = {"y": "x weight bias", "x": "gy weight", "weight": "gy x", "bias": "gy"}
PERTURBED = {
    "y": "x R S A B bias", "x": "gy R S A B", "R": "gy x S", "S": "gy x R", "A": "gy x B", "B": "gy x A", "bias": "gy",
}  # fmt: skip
NORM = {"y": "x gamma beta", "x": "gy x gamma", "gamma": "gy x", "beta": "gy"}
FIXED = {"y": "x", "x": "gy"}
LOSS = {"y": "x", "x": "gy x"}

TERMS: dict[str, dict[str, str]] = {
    "linear": AFFINE,
    "conv k3 s1 p1": AFFINE,
    "conv k3 s2 p1": AFFINE,
    "batchnorm1d train": NORM,
    "batchnorm2d train": NORM,
    "batchnorm2d untracked eval": NORM,
    "batchnorm2d eval": {**NORM, "x": "gy gamma"},
    "perturbed linear r2": PERTURBED,
    "perturbed conv k3 s1 p1 r2": PERTURBED,
    "perturbed linear r0": {
        "y": "x R S bias", "x": "gy R S", "R": "gy x S", "S": "gy x R", "A": "", "B": "", "bias": "gy"
    },
    "relu": FIXED,
    "maxpool 3/2 overlapping": FIXED,
    "avgpool 2/2": FIXED,
    "dropout": FIXED,
    "flatten": FIXED,
    "cross-entropy": LOSS,
    "squared error": LOSS,
    "residual projection": {
        "y": "x body.weight body.bias shortcut.weight shortcut.bias", "x": "gy body.weight shortcut.weight",
        "body.weight": "gy x", "body.bias": "gy", "shortcut.weight": "gy x", "shortcut.bias": "gy",
    },
}  # fmt: skip
"""Which tangents each result contains, for layers of every kind."""


class WrittenOut(BatchNorm1d):
    """Train-mode batch normalisation with every term of its tangents on a line of its own; some are forgotten."""

    def __init__(self, channels: int, forget: str = "") -> None:
        super().__init__(channels)
        self.forget = forget

    def _unless(self, name: str, term: Any) -> Any:
        return 0.0 if name == self.forget else term

    def _moments(self, cache: Any, rx: Any) -> tuple[Any, ...]:
        """1/s and x̂, and how they move; statistics have the shape (C, K, 1)."""
        x, mean, var = cache[0], cache[1][:, None, None], cache[2][:, None, None]
        x, inv = x[:, None], (var + self.eps) ** -0.5
        r_mean = self._unless("mean moves", rx.mean(axis=2, keepdims=True))
        r_var = 2 * ((x - mean) * (rx - r_mean)).mean(axis=2, keepdims=True)
        r_inv = self._unless("variance moves", -0.5 * inv**3 * r_var)
        return inv, (x - mean) * inv, r_inv, (rx - r_mean) * inv + (x - mean) * r_inv

    def r_forward(self, params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
        some = next(iter(rparams.values())) if rx is None else rx.swapaxes(0, 1)
        zero = np.zeros((self.channels, some.shape[0], cache[0].shape[1]))
        rx = zero if rx is None else rx
        rgamma, rbeta = (rparams.get(n, zero[:, :, 0].T).T[:, :, None] for n in ("gamma", "beta"))
        _, x_hat, _, r_hat = self._moments(cache, rx)
        return params["gamma"][:, None, None] * r_hat + rgamma * x_hat + rbeta, (rx, rgamma)

    def r_backward(
        self, params: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, *,
        input_gradient: bool = True, wanted: Names = None,
    ) -> tuple[Any, Params]:  # fmt: skip
        rx, rgamma = rcache or (np.zeros_like(rgy), np.zeros((self.channels, 1, 1)))
        inv, x_hat, r_inv, r_hat = self._moments(cache, rx)
        g, gamma = gy[:, None], params["gamma"][:, None, None]

        def mean(rows: Any) -> Any:
            return rows.mean(axis=2, keepdims=True)

        bracket = g - mean(g) - x_hat * mean(g * x_hat)
        r_bracket = (
            rgy
            - self._unless("mean of rgy", mean(rgy))
            - self._unless("x̂ in front moves", r_hat * mean(g * x_hat))
            - self._unless("rgy under the mean", x_hat * mean(rgy * x_hat))
            - self._unless("x̂ under the mean moves", x_hat * mean(g * r_hat))
        )
        rgx = (
            self._unless("γ moves", rgamma * inv * bracket)
            + self._unless("1/s moves", gamma * r_inv * bracket)
            + self._unless("the bracket moves", gamma * inv * r_bracket)
        )
        r_gamma = (rgy * x_hat).sum(axis=2) + self._unless("x̂ in ∂γ moves", (g * r_hat).sum(axis=2))
        return rgx, {"gamma": r_gamma.T, "beta": rgy.sum(axis=2).T}
