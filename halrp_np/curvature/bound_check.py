"""The quadratic term of the loss bound, checked by second differences of the loss, and the order of its norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..backend import Streams, array_module, to_host
from ..layers import EVALUATE, Mode, Sequential
from ..losses import Loss
from ..typing import Array, Params
from .bounds import block, spectral_norm
from .data import Batch, Data, check_repeatable, walk
from .dense import Progress, report
from .estimators import Estimate, frobenius_norm
from .finite_difference import SMOOTH_RUNGS, CheckResult, Rung
from .memory import divisible
from .operator import MEMORY
from .point import check_numbers
from .truncation import Above, Truncation, chosen_layers

STEPS = tuple(10.0 ** (-number / 2) for number in range(2, 13))
"""1e-1 … 1e-6, two to a decade, relative to Δ."""

TOLERANCE = 1e-3
"""Second differences lose twice the digits: with η ≈ 1e-16 the rounding of the loss, they err by 4η/t². Samples begin
to stay on their smooth pieces near t = 1e-4, where ΔᵀHΔ of 4e-3 (a fresh LeNet's) is so found to 1e-5, and 3e-4 (a
fresh AlexNet's) to 1e-4. Ten times that is allowed; a term that is missing or doubled is off by percents."""

LEAST = 1e-6
"""A ΔᵀHΔ that is 0 is all rounding; errors are relative to at least this share of the most it could be."""

PRODUCTS = 24
"""For a norm that is only to be above another one: three standard errors are allowed, however large they are."""

NOISE = 1e-9
"""Relative rounding of products, for inequalities that may hold with equality."""


@dataclass(frozen=True)
class _Plan:
    """What is the same for every layer."""

    seed: int
    generator: np.random.Generator
    tolerance: float
    products: int
    memory: int


def check_bound(
    model: Sequential,
    params: Params,
    loss: Loss,
    data: Data,
    *,
    layers: Sequence[str] | None = None,
    mode: Mode = EVALUATE,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    products: int = PRODUCTS,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> list[CheckResult]:
    """What the bound report rests on, at any point, a minimum or not: one result per linear layer or convolution.

    Along Δ, the layer's weight cut to half its rank, ΔᵀHΔ agrees with second differences of the loss; and it is within
    ½ ‖H‖₂ ‖Δ‖², and that within ½ ‖H‖_F ‖Δ‖², up to what the estimates leave open, whose probes are drawn from `seed`.
    Each step is taken on those samples that stay on one smooth piece, both ways; under batch statistics or dropout on
    all samples, or it does not count.

    Math:   |(L(θ + tΔ) - 2L(θ) + L(θ - tΔ)) / t² - ΔᵀHΔ| / |ΔᵀHΔ|, the divisor at least 1e-6 ‖H‖₂ ‖Δ‖².
    Raises: ConfigError unless all is float64, and for an unknown layer; DivergenceError for NaN or infinity.
    """
    check_repeatable(data)
    for name in model.names():
        check_numbers(name, params[name])
    for x, _ in walk(data):
        check_numbers("data", x)
    names = chosen_layers(model, layers, None)
    plan = _Plan(seed, Streams(seed).generator("probe"), tolerance, products, memory)
    results = []
    for done, name in enumerate(names, start=1):
        cut = Truncation(name, params[f"{name}.weight"])
        results.append(_check(plan, name, cut, Above(model, params, loss, data, mode, name)))
        report(progress, done, len(names))
    return results


def _check(plan: _Plan, name: str, cut: Truncation, above: Above) -> CheckResult:
    """One layer."""
    rank = cut.size // 2
    size = float(cut.delta_squared[rank])
    if size == 0.0:
        note = f"nothing is discarded at rank {rank} of {cut.size}"
        return CheckResult("bound", name, True, 0.0, 0.0, plan.tolerance, (), plan.seed, 1, note)
    delta, op = next(cut.deltas([rank])), block(above, plan.memory)
    quadratic = _along(op @ delta.reshape(-1), delta)
    norms = spectral_norm(op, plan.generator), frobenius_norm(op, products=plan.products, generator=plan.generator)
    floor = LEAST * norms[0].value * size
    ladder = tuple(_rung(plan, above, cut.weight, delta, t, floor) for t in STEPS)
    smooth = [rung for rung in ladder if rung.crossed == 0]
    best = min(smooth, key=lambda rung: rung.error, default=Rung(0.0, math.inf, 0))
    note = f"rank {rank} of {cut.size}: " + "; ".join(
        part for part in (_ladder_note(ladder, smooth, plan.tolerance), _order_note(quadratic, size, norms)) if part
    )
    passed = best.error <= plan.tolerance and len(smooth) >= SMOOTH_RUNGS and ordered(quadratic, size, norms)
    return CheckResult("bound", name, passed, best.error, best.h, plan.tolerance, ladder, plan.seed, 1, note)


def ordered(quadratic: float, size: float, norms: tuple[Estimate, Estimate]) -> bool:
    """|ΔᵀHΔ| ≤ ‖H‖₂ ‖Δ‖² ≤ ‖H‖_F ‖Δ‖², ‖H‖₂ known to its residual norm and ‖H‖_F to three standard errors."""
    spectral, frobenius = norms
    most = spectral.value + spectral.stderr
    first = abs(quadratic) <= most * size * (1 + NOISE)
    return first and spectral.value - spectral.stderr <= (frobenius.value + 3 * frobenius.stderr) * (1 + NOISE)


def _rung(plan: _Plan, above: Above, weight: Array, delta: Array, t: float, floor: float) -> Rung:
    """The relative error of the second difference at one step, on the samples that cross no kink within it."""
    points = weight, weight + t * delta, weight - t * delta
    part, crossed = _smooth_part(above, points)
    op = block(above, plan.memory, part)
    exact = _along(op @ delta.reshape(-1), delta)
    here, there, back = (above.at(point, part)[0] for point in points)
    found = ((there - here) + (back - here)) / t**2
    difference = abs(found - exact)
    return Rung(t, difference / max(abs(exact), abs(found), floor) if difference else 0.0, crossed)


def _smooth_part(above: Above, points: tuple[Array, Array, Array]) -> tuple[list[Batch], int]:
    """The samples whose branches are the same at all three points; without any, all samples and what they crossed."""
    if not divisible(above.model, above.mode):
        taken = zip(*(above.at(point)[1] for point in points), strict=True)
        return above.data, sum(int(to_host(_differs(*branches).sum())) for branches in taken)
    part, crossed = [], 0
    for x, targets in above.data:
        samples = int(x.shape[-1])
        stays = array_module(x).ones(samples, dtype=bool)
        for branches in zip(*(above.at(point, [(x, targets)])[1] for point in points), strict=True):
            differs = _differs(*branches).reshape(-1, samples)
            crossed += int(to_host(differs.sum()))
            stays &= ~differs.any(axis=0)
        if to_host(stays.any()):
            part.append((x[..., stays], targets[..., stays]))
    return (part, 0) if part else (above.data, crossed)


def _differs(here: Array, there: Array, back: Array) -> Array:
    """Where a branch is another one on either side."""
    return (there != here) | (back != here)


def _along(product: Array, delta: Array) -> float:
    """ΔᵀHΔ from HΔ."""
    return float(to_host((product * delta.reshape(-1)).sum()))


def _ladder_note(ladder: tuple[Rung, ...], smooth: list[Rung], tolerance: float) -> str:
    """What the second differences did not show."""
    if len(smooth) < SMOOTH_RUNGS:
        return (
            f"only {len(smooth)} of {len(ladder)} steps cross no kink: no smooth piece to compare on; "
            "take fewer samples, or evaluation mode"
        )
    lowest = min(rung.error for rung in smooth)
    return "" if lowest <= tolerance else f"second differences never come nearer than {lowest:.1e}"


def _order_note(quadratic: float, size: float, norms: tuple[Estimate, Estimate]) -> str:
    """The quadratic term and the two bounds, in order if they are."""
    terms = [0.5 * quadratic, *(0.5 * norm.value * size for norm in norms), 0.5 * norms[1].stderr * size]
    line = "½ΔᵀHΔ {:.2e}, ½‖H‖₂‖Δ‖² {:.2e}, ½‖H‖_F‖Δ‖² {:.2e} ± {:.0e}".format(*terms)
    return line if ordered(quadratic, size, norms) else f"{line} are not in rising order: a norm or a product is wrong"
