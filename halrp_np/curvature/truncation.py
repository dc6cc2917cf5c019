"""What a layer's weight moves by when it is cut to a rank, and the network above that layer, where this is felt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np

from ..backend import array_module, to_host
from ..errors import ConfigError, DivergenceError, ShapeError, nearest
from ..layers import Layer, Mode, Sequential, decomposed_layers
from ..losses import Loss
from ..lowrank import Decomposition, decompose, window_mean
from ..typing import Array, Params
from .data import Batch, Data, walk


class Truncation:
    """The perturbations Δ_r, r = 0..q, by which a weight changes when its residual E is cut to rank r.

    Shapes: weight and E (J, I) or (J, I, kh, kw); q = min(J, I).
    Math:   Δ_r = E_r - E with E_r = Σ_{i≤r} s_i u_i v_iᵀ, repeated over the window of a convolution. For E = weight the
            weight itself is cut.
            ‖Δ_r‖² = k Σ_{i>r} s_i² + ‖E - Ē‖², k = kh·kw; the last term, 0 for a linear layer, is lost at any rank.
    Raises: ShapeError for a residual of another shape or dtype than the weight, or for neither float32 nor float64;
            DivergenceError for NaN or infinity.
    """

    def __init__(self, layer: str, weight: Array, E: Array | None = None) -> None:
        E = weight if E is None else E
        _check_residual(layer, weight, E)
        Ebar = window_mean(E)
        self.parts: Decomposition = decompose(Ebar)
        self.weight, self.E, self.window = weight, E, int(np.prod(weight.shape[2:]))
        self.lost = E - self._over_window(Ebar)
        self.lost_squared = _squared(self.lost) if E.ndim == 4 else 0.0
        s = to_host(self.parts.s).astype(np.float64)
        smallest_first = np.cumsum((s**2)[::-1])
        self.delta_squared = self.window * np.append(smallest_first[::-1], 0.0) + self.lost_squared

    @property
    def size(self) -> int:
        """The number q of singular values."""
        return self.parts.size

    def deltas(self, ranks: Sequence[int]) -> Iterator[Array]:
        """Δ_r for every rank, which must fall: each adds to the one before what is discarded next."""
        U, s, Vt = self.parts.U, self.parts.s, self.parts.Vt
        discarded, known = array_module(U).zeros((U.shape[0], Vt.shape[1]), dtype=U.dtype), self.size
        for rank in ranks:
            discarded = discarded + (U[:, rank:known] * s[rank:known]) @ Vt[rank:known]
            known = rank
            # At rank 0 nothing is rounded: what is cut from itself leaves exact zeros, not noise that breaks ties.
            yield -self._over_window(discarded) - self.lost if rank else -self.E

    def _over_window(self, matrix: Array) -> Array:
        """A matrix (J, I) at each position of the window."""
        missing = self.weight.ndim - 2
        return array_module(matrix).broadcast_to(matrix.reshape(*matrix.shape, *[1] * missing), self.weight.shape)


class Above:
    """The network from one layer up, with the batches as they reach that layer: all that its weight can change.

    Under dropout it is the whole network, whose masks are drawn in order.
    """

    def __init__(self, model: Sequential, params: Params, loss: Loss, data: Data, mode: Mode, layer: str) -> None:
        below, self.model = split(model, layer) if mode.dropout is None else (Sequential({}), model)
        self.params, self.loss, self.mode, self.name = params, loss, mode, f"{layer}.weight"
        self.data: list[Batch] = [(below.forward(params, x, mode)[0], targets) for x, targets in walk(data)]

    def at(self, weight: Array, data: list[Batch] | None = None) -> tuple[float, list[Array]]:
        """The mean loss, summed in float64, and the branches taken; the layer has this weight.

        In evaluation mode what a kink looks at moves along a straight line until the first branch changes: equal
        branches at two weights mean that all weights between them are on one smooth piece.
        """
        params, mode = {**self.params, self.name: weight}, replace(self.mode, dropout=deepcopy(self.mode.dropout))
        total, samples, branches = 0.0, 0, []
        for x, targets in self.data if data is None else data:
            outputs, cache = self.model.forward(params, x, mode)
            count = int(outputs.shape[-1])
            total += count * float(to_host(self.loss.value(outputs.astype(np.float64), targets)))
            samples += count
            branches += self.model.branches(cache)
        if not np.isfinite(total):
            raise DivergenceError(
                self.name,
                expected="a finite loss",
                received=str(total),
                next_step="Look at the parameters and the data.",
            )
        return total / samples, branches


def split(model: Sequential, layer: str) -> tuple[Sequential, Sequential]:
    """What runs before a layer, and the rest; a residual block with the layer in it is not split."""
    below: dict[str, Layer] = {}
    above: dict[str, Layer] = {}
    for name, child in model.layers.items():
        inside = layer.startswith(f"{name}.")
        if inside and isinstance(child, Sequential):
            below[name], above[name] = split(child, layer.removeprefix(f"{name}."))
        elif above or inside or layer == name:
            above[name] = child
        else:
            below[name] = child
    return Sequential(below), Sequential(above)


def chosen_layers(
    model: Sequential, layers: Sequence[str] | None, residuals: Mapping[str, Array] | None
) -> tuple[str, ...]:
    """The layers to truncate, each linear or a convolution; None means all of them, or all that have a residual.

    Raises: ConfigError for another name, and for a layer without a residual where there are residuals.
    """
    known = list(decomposed_layers(model, head=""))
    names = tuple(layers if layers is not None else known if residuals is None else residuals)
    if len(set(names)) < len(names):
        raise ConfigError("layers", expected="each once", received=", ".join(names), next_step="Name each once.")
    for name in (*names, *(residuals or ())):
        if name not in known:
            near = nearest(name, known)
            raise ConfigError(
                "layers",
                expected="linear layers or convolutions of the network",
                received=repr(name),
                next_step=f"Did you mean {near!r}?" if near else f"Choose among {', '.join(known)}.",
            )
        if residuals is not None and name not in residuals:
            raise ConfigError(
                "residuals",
                expected="one for every layer",
                received=f"none for {name!r}",
                next_step="Add it, or leave the layer out.",
            )
    if not names:
        raise ConfigError("layers", expected="at least one", received="none", next_step="Name one.")
    return names


def _check_residual(layer: str, weight: Array, E: Array) -> None:
    """Refuse what cannot be subtracted from the weight or decomposed."""
    if E.shape != weight.shape or E.dtype != weight.dtype or E.dtype not in (np.float32, np.float64):
        raise ShapeError(
            layer,
            expected=f"weight and residual of one shape, {tuple(weight.shape)}, both float32 or float64",
            received=f"{weight.dtype} and a residual {tuple(E.shape)} of {E.dtype}",
            next_step="Pass residual(W, F, R, S) of this layer, in the dtype of the parameters.",
        )


def _squared(array: Array) -> float:
    """‖array‖², summed in float64."""
    return float(to_host((array * array).sum(dtype=np.float64)))
