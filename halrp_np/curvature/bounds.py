"""The loss bound of low-rank truncation, held against what truncating a layer does to the loss.

At a minimum of the loss, moving the weight of layer l by Δ changes the loss by ½ ΔᵀH_lΔ and terms of third order, and
½ ΔᵀH_lΔ ≤ ½ ‖H_l‖₂ ‖Δ‖² ≤ ½ ‖H_l‖_F ‖Δ‖². Elsewhere the gradient term ⟨g, Δ⟩ comes first. Ranks are chosen by that
bound: how tight it is, and where and why it fails, is what the report says.
Reference: HALRP (arXiv 2311.15161), bound of the loss under a layer's perturbation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import to_host
from ..errors import ConfigError
from ..layers import EVALUATE, Mode, Sequential
from ..losses import Loss
from ..typing import Array, Params
from .data import Data, check_repeatable
from .dense import BLOCK, Progress
from .eigen import extreme_eigenvalues
from .estimators import PRODUCTS, Estimate, frobenius_norm
from .hessian import HessianOperator
from .memory import divisible
from .operator import MEMORY
from .truncation import Above, Truncation, chosen_layers

ROUNDING = 100
"""A measured change is known to this many roundings of the loss: those of a few layers, of one sign in all samples."""

SPECTRAL_PRODUCTS = 2000
"""The most that a layer's spectral norm may take: some 50 where its eigenvector stands clear of the others."""

SHOWN = 12
"""About how many ranks of a layer are looked at, unless told otherwise."""


@dataclass(frozen=True)
class BoundRow:
    """One layer cut to one rank: what it did to the loss, and what second-order theory says of it.

    `size` is the full rank. `delta_squared` is ‖Δ‖², of which `window_lost` falls to the mean over a convolution's
    window. `measured` is L(θ + Δ) - L(θ) = `gradient_term` + `quadratic_term` + `remainder`, known to ± `rounding`. The
    bounds are ½ ‖H‖₂ ‖Δ‖² and ½ ‖H‖_F ‖Δ‖² ± `frobenius_stderr`; `tightness` is |measured| over the latter, and
    `quadratic_tightness` |½ ΔᵀHΔ| over it (nan where nothing is discarded). `crossed` of `branches` ReLU signs and pool
    choices differ between θ and θ + Δ. `verdict` is explained at the function of that name.
    """

    layer: str
    rank: int
    size: int
    delta_squared: float
    window_lost: float
    measured: float
    gradient_term: float
    quadratic_term: float
    remainder: float
    spectral_bound: float
    frobenius_bound: float
    frobenius_stderr: float
    tightness: float
    quadratic_tightness: float
    rounding: float
    crossed: int
    branches: int
    verdict: str

    @property
    def crossed_share(self) -> float:
        """The share of all branches, from the layer up, that differ."""
        return self.crossed / self.branches if self.branches else 0.0


def bound_report(
    model: Sequential,
    params: Params,
    loss: Loss,
    data: Data,
    *,
    layers: Sequence[str] | None = None,
    ranks: str | Sequence[int] | None = None,
    residuals: Mapping[str, Array] | None = None,
    products: int = PRODUCTS,
    generator: np.random.Generator,
    mode: Mode = EVALUATE,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> list[BoundRow]:
    """Cut each layer, on its own, to each rank: the change of the loss beside its second-order terms and bounds.

    `layers`: linear layers and convolutions by name, all for None. `ranks`: "all" from 0 to q, some whole numbers, or
    None for about a dozen from end to end. What is cut is the layer's weight, or its entry in `residuals` (the part of
    the weight that low-rank factors stand for). `products` go into the Frobenius norm of each layer; the spectral norm
    takes as many as it needs, at most 2000, and every rank one. `memory` bounds, in bytes, what the products take.

    Shapes: residuals as the weights, (J, I) or (J, I, kh, kw).
    Math:   L(θ + Δ) - L(θ) = ⟨g, Δ⟩ + ½ ΔᵀHΔ + remainder. With running statistics the outputs are piecewise linear in
            one weight: H is positive semi-definite, and on one piece the remainder comes from the loss alone.
    Raises: ConfigError for unknown layers, ranks that a layer does not have, or a budget too small; ShapeError for a
            residual that does not fit, or neither float32 nor float64; DivergenceError for NaN or infinity.
    """
    check_repeatable(data)
    names = chosen_layers(model, layers, residuals)
    cuts = {name: Truncation(name, params[f"{name}.weight"], (residuals or {}).get(name)) for name in names}
    wanted = {name: _ranks(name, ranks, cut.size) for name, cut in cuts.items()}
    told = _Told(sum(products + len(some) for some in wanted.values()), progress)
    rows: list[BoundRow] = []
    for name in names:
        above = Above(model, params, loss, data, mode, name)
        op = block(above, memory)
        op.probe()
        frobenius = frobenius_norm(op, products=products, generator=generator, progress=told.within)
        told.add(products)
        norms = spectral_norm(op, generator), frobenius
        rows += sorted(_rows(name, cuts[name], wanted[name], above, op, norms, told), key=lambda row: row.rank)
    return rows


def block(above: Above, memory: int, data: Any = None) -> HessianOperator:
    """The Hessian in one layer's weight; nothing below that layer is run for it."""
    batches = above.data if data is None else data
    return HessianOperator(
        above.model, above.params, above.loss, batches, names=[above.name], mode=above.mode, memory=memory
    )


def spectral_norm(op: HessianOperator, generator: np.random.Generator) -> Estimate:
    """‖H‖₂ of one weight's block, with the residual norm of its eigenvector as `stderr`.

    Math: λ_max(H) where the block is positive semi-definite, as it is unless batch statistics tie the samples; there
          √λ_max(H²), whose end stands as clear of the rest whichever sign it has.
    """
    if divisible(op.model, op.mode):
        return extreme_eigenvalues(op, products=SPECTRAL_PRODUCTS, generator=generator)[0]
    square = extreme_eigenvalues(_Square(op), products=SPECTRAL_PRODUCTS // 2, generator=generator)[0]
    value = math.sqrt(max(square.value, 0.0))
    return Estimate(value, square.stderr / (2 * value) if value else 0.0, 2 * square.products)


def verdict(terms: tuple[float, float, float], bound: float, rounding: float, *, kinks: bool) -> str:
    """Whether the change of the loss is within the bound, and if not, what is to blame.

    `terms` are the measured change, its gradient term and its remainder; `bound` is ½ ‖H‖_F ‖Δ‖² with three standard
    errors, `rounding` what the change is known to; `kinks` says whether any were crossed.

    holds       |measured| ≤ bound. Across kinks it does so without the theorem, whose expansion is that of the smooth
                piece around θ.
    undecided   The bound is smaller than the rounding of the loss, and so is what was measured beyond it.
    violated    To blame is the part without which the change would be within the bound: the gradient term, which is 0
                at an optimum, before the remainder, which is put down to kinks where any were crossed, else to higher
                order; or both, if neither is enough. The quadratic term alone never exceeds the bound.
    """
    measured, gradient, remainder = terms
    limit = bound + rounding
    if abs(measured) <= limit:
        if bound < rounding and measured != 0.0:
            return "undecided: the bound is below the rounding of the loss"
        return "holds, but kinks were crossed: the second-order model does not apply" if kinks else "holds"
    rest = "kinks were crossed" if kinks else "higher order"
    if abs(measured - gradient) <= limit:
        return "violated: the gradient term (no optimum)"
    if abs(measured - remainder) <= limit:
        return f"violated: {rest}"
    return f"violated: the gradient term (no optimum), and {rest}"


# ---- one layer ------------------------------------------------------------------------------------------------------


def _rows(
    name: str,
    cut: Truncation,
    ranks: list[int],
    above: Above,
    op: HessianOperator,
    norms: tuple[Estimate, Estimate],
    told: _Told,
) -> Iterator[BoundRow]:
    """A row for each rank, from the highest down."""
    value, here = above.at(cut.weight)
    gradient = op.gradient()
    rounding = ROUNDING * float(np.finfo(op.dtype).eps) * abs(value)
    deltas = cut.deltas(ranks)
    for some in _together(ranks, op):
        rows = op.xp.stack([next(deltas) for _ in some])
        V = op.flatten({above.name: rows})
        firsts, seconds = to_host(V.T @ gradient), 0.5 * to_host((V.T * (op @ V).T).sum(axis=1, dtype=np.float64))
        for number, rank in enumerate(some):
            moved, there = above.at(cut.weight + rows[number])
            terms = moved - value, float(firsts[number]), float(seconds[number])
            yield _row(name, cut, rank, terms, norms, (_crossed(here, there), _count(here)), rounding)
        told.add(len(some))


def _row(
    name: str,
    cut: Truncation,
    rank: int,
    terms: tuple[float, float, float],
    norms: tuple[Estimate, Estimate],
    branches: tuple[int, int],
    rounding: float,
) -> BoundRow:
    """What follows from the numbers of one rank."""
    measured, first, second = terms
    half = 0.5 * float(cut.delta_squared[rank])
    spectral, frobenius = norms
    bound, noise = half * frobenius.value, half * frobenius.stderr
    remainder = measured - first - second
    return BoundRow(
        layer=name,
        rank=rank,
        size=cut.size,
        delta_squared=2 * half,
        window_lost=cut.lost_squared,
        measured=measured,
        gradient_term=first,
        quadratic_term=second,
        remainder=remainder,
        spectral_bound=half * spectral.value,
        frobenius_bound=bound,
        frobenius_stderr=noise,
        tightness=abs(measured) / bound if bound else math.nan,
        quadratic_tightness=abs(second) / bound if bound else math.nan,
        rounding=rounding,
        crossed=branches[0],
        branches=branches[1],
        verdict=verdict((measured, first, remainder), bound + 3 * noise, rounding, kinks=branches[0] > 0),
    )


def _together(ranks: list[int], op: HessianOperator) -> Iterator[list[int]]:
    """The ranks in groups whose perturbations and products fit, beside each other, into an eighth of the memory."""
    vector = op.shape[0] * op.dtype.itemsize
    width = max(1, min(BLOCK, op.budget.memory // (8 * vector)))
    return (ranks[start : start + width] for start in range(0, len(ranks), width))


def _ranks(layer: str, ranks: str | Sequence[int] | None, size: int) -> list[int]:
    """The ranks to look at, from the highest down."""
    if ranks is None:
        spread = np.geomspace(1, size, SHOWN).round().astype(int).tolist()
        return sorted({0, *spread, size}, reverse=True)
    if isinstance(ranks, str) and ranks == "all":
        return list(range(size, -1, -1))
    wanted = [ranks] if isinstance(ranks, str) else list(ranks)
    for rank in wanted:
        if isinstance(rank, bool) or not isinstance(rank, int | np.integer) or not 0 <= rank <= size:
            raise ConfigError(
                f"ranks of {layer}",
                expected=f'whole numbers from 0 to {size}, or "all"',
                received=repr(rank),
                next_step="Leave it out, or name only the layers that have it.",
            )
    if not wanted:
        raise ConfigError(f"ranks of {layer}", expected="at least one", received="none", next_step='Pass "all".')
    return sorted({int(rank) for rank in wanted}, reverse=True)


def _crossed(here: list[Array], there: list[Array]) -> int:
    """How many branches differ."""
    return sum(int(to_host((a != b).sum())) for a, b in zip(here, there, strict=True))


def _count(branches: list[Array]) -> int:
    """How many there are."""
    return sum(int(branch.size) for branch in branches)


class _Square:
    """H²: positive semi-definite, with the eigenvectors of H."""

    def __init__(self, op: HessianOperator) -> None:
        self.op, self.shape, self.dtype, self.xp = op, op.shape, op.dtype, op.xp

    def __matmul__(self, v: Array) -> Array:
        return self.op @ (self.op @ v)


class _Told:
    """Progress over all layers: what is done before the present part, and within it."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def within(self, done: int, total: int) -> None:
        """So much of the present part."""
        if self.progress is not None:
            self.progress(min(self.done + done, self.total), self.total)

    def add(self, count: int) -> None:
        """So much more is done for good."""
        self.done += count
        self.within(0, 0)
