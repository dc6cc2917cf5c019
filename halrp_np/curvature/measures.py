"""What the curvature of each layer's weight comes to: its norms, and the cost of dropping each component of a residual.

Exact by factors.py, some samples at a time; what does not add up over samples by their Gram matrix, if there is room.
Else from Hessian products: estimates from a stated number of them, and one for every component.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from ..backend import to_host
from ..layers import EVALUATE, Sequential, perturbed_twin
from ..losses import Loss
from ..lowrank import Decomposition
from ..lowrank.decompose import check_finite
from ..typing import Array, Examples, Params
from .data import Batch, Batches
from .dense import blocks
from .eigen import spectral_density
from .estimators import Estimate, directional_curvature, square_root, trace_and_frobenius
from .factors import Factor, curvature_roots, factor_bytes, gradient_roots, weight_factors
from .hessian import HessianOperator
from .memory import array_sizes, divisible
from .operator import MEMORY
from .truncation import chosen_layers

HostVector = np.ndarray[Any, Any]
Norms: TypeAlias = Literal["always", "exact", "never"]


@dataclass(frozen=True, eq=False)
class LayerCurvature:
    """The curvature of the mean loss in one layer's weight F.

    fisher:     tr (1/N) Σ_n g_n g_nᵀ = (1/N) Σ_n ‖g_n‖², with the gradient of every sample on its own; None where batch
                statistics tie the samples together.
    trace, frobenius, top: tr H, ‖H‖_F and λ_max(H); an exact one has a stderr of 0 and cost no products; that of an
                estimated `top` is not known (NaN). The last two are None where they were not asked for.
    removal:    (q,) on the host, c_i = -s_i ⟨G, T_i⟩ + ½ s_i² ⟨T_i, H T_i⟩: how the loss changes, to second order, when
                component i of the residual is dropped from F. G and H are the weight's gradient and Hessian at F, and
                T_i = u_i v_iᵀ, at every kernel position. Negative where dropping helps.
    """

    fisher: float | None
    trace: Estimate
    frobenius: Estimate | None
    top: Estimate | None
    removal: HostVector


def layer_curvatures(
    model: Sequential,
    params: Params,
    loss: Loss,
    examples: Examples,
    residuals: Mapping[str, Decomposition],
    *,
    samples: int,
    batch: int,
    products: int,
    generator: np.random.Generator,
    norms: Norms = "always",
    memory: int = MEMORY,
) -> dict[str, LayerCurvature]:
    """Return the curvature of each layer that has a residual, on the first `samples` examples, in evaluation mode.

    Where samples do not depend on one another all is exact, but for `frobenius` and `top` when the Gram matrix of all
    samples does not fit into `memory` bytes. These are then estimated, and under batch statistics the trace too: from
    `products` products a layer, and as many more for the largest eigenvalue, which Lanczos approaches from below, in
    batches of `batch`. `removal` is always exact. `frobenius` and `top` do not add up over samples and so cost most:
    `norms` says whether they are formed always, only where that is exact, or never.

    Raises: ConfigError for a residual of no linear layer or convolution; DivergenceError when the outputs are not
            finite.
    """
    chosen_layers(model, list(residuals), None)
    data = Batches(examples, batch, samples)
    operator = HessianOperator(model, params, loss, data, memory=memory)
    if not divisible(model, EVALUATE):
        return {name: _by_products(operator, name, parts, products, generator) for name, parts in residuals.items()}
    size, fits = _piece(operator, list(residuals), memory)
    pieces = [
        _read(operator, piece, residuals, norms != "never" and fits, piece[0].shape[-1] / data.samples)
        for piece in Batches(examples, size, samples)
    ]
    found = {}
    for name, parts in residuals.items():
        sums = sum((piece[name] for piece in pieces[1:]), pieces[0][name])
        frobenius, top = sums.norms or (None, None)
        if norms == "always" and not fits:
            _, frobenius, top = _estimated_norms(operator.block(f"{name}.weight"), products, generator)
        removal = _removal(parts, sums.slope, sums.bend)
        found[name] = LayerCurvature(sums.fisher, Estimate(sums.trace, 0.0, 0), frobenius, top, removal)
    return found


@dataclass(frozen=True, eq=False)
class _Reading:
    """What some samples add to one layer's curvature; the norms only where these are all samples."""

    fisher: float
    trace: float
    slope: HostVector
    bend: HostVector
    norms: tuple[Estimate, Estimate] | None

    def __add__(self, other: _Reading) -> _Reading:
        return _Reading(
            self.fisher + other.fisher,
            self.trace + other.trace,
            self.slope + other.slope,
            self.bend + other.bend,
            None,
        )


def _piece(operator: HessianOperator, layers: list[str], memory: int) -> tuple[int, bool]:
    """How many samples to take at once, and whether these are all and leave room for a Gram matrix."""
    model, params, data = operator.model, operator.params, operator.data
    assert isinstance(data, Batches)
    x, _ = data.examples.batch(np.arange(min(4, data.samples)))
    outputs, cache = model.forward(params, x, EVALUATE)
    check_finite("layer_curvatures", "the outputs", outputs)
    classes, few = outputs.shape
    one = (sum(array_sizes(cache)) + factor_bytes(model, params, cache, classes, layers)) / few
    size = max(1, min(int(0.75 * memory / one), data.samples))
    gram = 3 * 8 * (classes * data.samples) ** 2  # as it is made, and in float64 with its eigenvalues
    return size, size == data.samples and gram <= 0.25 * memory


def _read(
    operator: HessianOperator, piece: Batch, residuals: Mapping[str, Decomposition], norms: bool, weight: float
) -> dict[str, _Reading]:
    """From the factors of every layer's Fisher and Hessian on these samples, which are this share of all."""
    model, params, loss, layers = operator.model, operator.params, operator.loss, list(residuals)
    x, targets = piece
    outputs, cache = model.forward(params, x, EVALUATE)
    check_finite("layer_curvatures", "the outputs", outputs)
    names = [f"{name}.weight" for name in layers]
    gy = loss.grad(outputs, targets)
    _, grads = model.backward(params, cache, gy, input_gradient=False, wanted=names)
    gradients = weight_factors(model, params, cache, gradient_roots(loss, outputs, targets), layers)
    fishers = {name: _sum(factor.squares()) for name, factor in gradients}
    found = {}
    for name, factor in weight_factors(model, params, cache, curvature_roots(loss, outputs, targets), layers):
        parts, G = residuals[name], _over_window(grads[f"{name}.weight"])
        slope = to_host((parts.U * (G @ parts.Vt.T)).sum(axis=0, dtype=np.float64))
        bend = to_host((factor.along(parts.U, parts.Vt) ** 2).sum(axis=1, dtype=np.float64))
        trace, whole = weight * _sum(factor.squares()), _exact_norms(factor) if norms else None
        found[name] = _Reading(weight * fishers[name], trace, weight * slope, weight * bend, whole)
    return found


def _exact_norms(factor: Factor) -> tuple[Estimate, Estimate]:
    """‖H‖_F and λ_max(H); the eigenvalues of ZᵀZ are those of H = Z Zᵀ but for zeros."""
    gram = to_host(factor.gram()).astype(np.float64)
    top = max(float(np.linalg.eigvalsh(gram)[-1]), 0.0)
    return Estimate(float(np.linalg.norm(gram)), 0.0, 0), Estimate(top, 0.0, 0)


def _by_products(
    operator: HessianOperator, name: str, parts: Decomposition, products: int, generator: np.random.Generator
) -> LayerCurvature:
    """All from products with the Hessian."""
    trace, frobenius, top = _estimated_norms(operator.block(f"{name}.weight"), products, generator)
    return LayerCurvature(None, trace, frobenius, top, removal_by_products(operator, name, parts))


def _estimated_norms(
    block: HessianOperator, products: int, generator: np.random.Generator
) -> tuple[Estimate, Estimate, Estimate]:
    """Trace, Frobenius norm and largest eigenvalue; the last by two Lanczos runs, whose error is not known."""
    trace, square = trace_and_frobenius(block, products=products, generator=generator)
    density = spectral_density(block, probes=2, steps=max(1, products // 2), generator=generator)
    return trace, square_root(square), Estimate(float(density.nodes.max()), float("nan"), density.products)


def removal_by_products(operator: HessianOperator, name: str, parts: Decomposition) -> HostVector:
    """`LayerCurvature.removal` from one Hessian product a component, under any normalisation.

    Math: in the perturbed layer with R = S = 1, A = Vᵀ and B = 0 the effective weight is F, and T_i is its derivative
    in B along u_i e_iᵀ; so slope and curvature of B along it are those of F along T_i.
    """
    xp, params = operator.xp, operator.params
    J, I = params[f"{name}.weight"].shape[:2]
    model = operator.model.replaced(lambda path, layer: perturbed_twin(layer) if path == name else layer)
    ones = {f"{name}.{scale}": xp.asarray(np.ones(n, operator.dtype)) for scale, n in (("R", J), ("S", I))}
    slope, bend = np.empty(parts.size), np.empty(parts.size)
    for chosen in blocks(parts.size):
        count = chosen.stop - chosen.start
        U = xp.ascontiguousarray(parts.U[:, chosen])
        own = {f"{name}.A": parts.Vt[chosen], f"{name}.B": xp.zeros((J, count), dtype=operator.dtype)}
        at_B = HessianOperator(
            model,
            {**params, **ones, **own},
            operator.loss,
            operator.data,
            names=[f"{name}.B"],
            mode=operator.mode,
            memory=operator.budget.memory,
        )
        unit = xp.asarray(np.eye(count, dtype=operator.dtype))
        directions = (U[:, :, None] * unit).reshape(J * count, count)
        bend[chosen] = directional_curvature(at_B, directions)
        slope[chosen] = to_host((U * at_B.gradient().reshape(J, count)).sum(axis=0, dtype=np.float64))
    return _removal(parts, slope, bend)


def _removal(parts: Decomposition, slope: HostVector, bend: HostVector) -> HostVector:
    """Math: L(F - s_i T_i) - L(F) = -s_i ⟨G, T_i⟩ + ½ s_i² ⟨T_i, H T_i⟩, to second order."""
    s = to_host(parts.s).astype(np.float64)
    removal: HostVector = -s * slope + 0.5 * s**2 * bend
    return removal


def _over_window(G: Array) -> Array:
    """Σ over the kernel positions, (J, I)."""
    return G if G.ndim == 2 else G.sum(axis=(2, 3))


def _sum(values: Array) -> float:
    """The sum in float64, on the host."""
    return float(to_host(values).sum(dtype=np.float64))
