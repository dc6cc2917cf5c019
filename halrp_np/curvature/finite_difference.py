"""Derivatives checked by finite differences: gradients, Hessian-vector products, and the symmetry of the Hessian.

A central difference (f(θ + hv) - f(θ - hv)) / 2h errs by truncation, which falls as h², and by rounding, which rises
as 1/h. On a ladder of steps a right derivative therefore shows a V; a wrong one shows the same error on every rung.
Across a kink (a ReLU or a pool takes another branch) there is no derivative to compare with: such rungs do not count.
Reference: Nocedal and Wright, Numerical Optimization (2006), section 8.1.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from ..backend import array_module, to_host
from ..errors import ConfigError
from ..layers import EVALUATE, Mode, Sequential
from ..losses import Loss
from ..typing import Array, Params
from .data import Data
from .dense import Progress
from .hessian import HessianOperator
from .operator import MEMORY
from .point import Point, norm

STEPS = tuple(10.0 ** (-number / 2) for number in range(4, 17))
"""1e-2 … 1e-8, two to a decade, relative to the size of a parameter's entries. In float64 the V is lowest near
ε^⅓ ≈ 6e-6, the middle of the ladder: three decades on either side show both slopes, and reach below most kinks."""

SMOOTH_RUNGS = 3
"""The fewest rungs without a kink that make a ladder: one decade and both its ends."""

LEAST = 1e-4
"""A derivative that is 0 (a bias below train-mode BatchNorm) is all rounding, and its error relative to itself means
nothing: errors are relative to at least this share of the whole network's."""

SAME = 1e-11
"""Two ways to the same product differ by rounding only."""

Evaluate: TypeAlias = Callable[[Params], tuple[Array, list[Array]]]


@dataclass(frozen=True)
class Rung:
    """One step of a ladder: relative error, and the branches that differ between θ - hv, θ and θ + hv (0: smooth)."""

    h: float
    error: float
    crossed: int


@dataclass(frozen=True)
class CheckResult:
    """One line of a check: `error` is the relative error at `step`, the best smooth rung of `ladder`.

    `seed` draws the direction shown: `seed=result.seed, attempts=1` repeats the ladder. `attempts` directions were
    tried. Without any smooth rung `error` is infinite; without a ladder `step` is 0.
    """

    kind: str
    name: str
    passed: bool
    error: float
    step: float
    tolerance: float
    ladder: tuple[Rung, ...]
    seed: int
    attempts: int
    note: str


def check_gradient(
    model: Sequential,
    params: Params,
    loss: Loss,
    data: Data,
    *,
    names: Sequence[str] | None = None,
    mode: Mode = EVALUATE,
    seed: int = 0,
    tolerance: float = 1e-7,
    attempts: int = 5,
    progress: Progress | None = None,
) -> list[CheckResult]:
    """The gradient in each named parameter (None: every trainable one), against differences of the loss.

    Math: |⟨g, v⟩ - (L(θ + hv) - L(θ - hv)) / 2h| / (‖g‖ ‖v‖ / √P), v random in the P entries of one parameter; the
    divisor is the standard deviation of ⟨g, v⟩ over directions, which unlike ⟨g, v⟩ is never small by accident.
    Raises: ConfigError unless all is float64, and for an unknown name; DivergenceError for NaN or infinity.
    """
    point = Point(model, params, loss, data, mode)
    gradient = point.parts(point.gradient(params)[0])
    floor = LEAST * math.hypot(*(norm(g) * point.size[name] for name, g in gradient.items()))

    def exact(name: str, v: Array) -> tuple[Array, float]:
        return (gradient[name] * v).sum(), norm(gradient[name]) * point.size[name]

    plan = _Plan("grad", tolerance, seed, attempts)
    return [_climb(plan, point, name, point.value, exact, floor) for name in _counted(_chosen(model, names), progress)]


def check_hvp(
    model: Sequential,
    params: Params,
    loss: Loss,
    data: Data,
    *,
    names: Sequence[str] | None = None,
    mode: Mode = EVALUATE,
    seed: int = 0,
    tolerance: float = 1e-7,
    attempts: int = 5,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> list[CheckResult]:
    """The Hessian's column block of each named parameter times a vector, against differences of the gradient.

    The block on its own, whose tangents take a shorter way, has to give the same rows.

    Math: ‖H v - (g(θ + hv) - g(θ - hv)) / 2h‖ / ‖H v‖, v random in one parameter, rows over every trainable one.
    Raises: as check_gradient.
    """
    point = Point(model, params, loss, data, mode)
    hessian = HessianOperator(model, params, loss, data, mode=mode, memory=memory)
    floor = LEAST * norm(hessian @ point.flat(point.directions(seed)))

    def exact(name: str, v: Array) -> tuple[Array, float]:
        product = hessian @ point.flat({name: v})
        return product, norm(product)

    def one(name: str) -> CheckResult:
        result = _climb(plan, point, name, point.gradient, exact, floor)
        v = point.direction(name, result.seed)
        whole = hessian @ point.flat({name: v})
        apart = norm(hessian.block(name) @ v.reshape(-1) - point.parts(whole)[name].reshape(-1))
        if apart <= SAME * max(norm(whole), floor):
            return result
        note = f"the block's own product is another one, by {_ratio(apart, norm(whole)):.1e}"
        return replace(result, passed=False, note=_joined(result.note, note))

    plan = _Plan("hvp", tolerance, seed, attempts)
    return [one(name) for name in _counted(_chosen(model, names), progress)]


def check_symmetry(
    model: Sequential,
    params: Params,
    loss: Loss,
    data: Data,
    *,
    names: Sequence[str] | None = None,
    mode: Mode = EVALUATE,
    seed: int = 0,
    tolerance: float = 1e-11,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> list[CheckResult]:
    """uᵀHv = vᵀHu with u random in every trainable parameter and v in one; no step, so no ladder and no kink.

    Math: |⟨u, Hv⟩ - ⟨v, Hu⟩| / Σ|terms of either inner product|.
    Raises: as check_gradient.
    """
    point = Point(model, params, loss, data, mode)
    hessian = HessianOperator(model, params, loss, data, mode=mode, memory=memory)
    u = point.flat(point.directions(seed + 1))  # v below is drawn from `seed`
    Hu = hessian @ u
    floor = LEAST * _total(u * Hu)

    def one(name: str) -> CheckResult:
        v = point.flat({name: point.direction(name, seed)})
        terms = u * (hessian @ v), v * Hu
        size = max(map(_total, terms))
        difference = abs(float(to_host(terms[0].sum() - terms[1].sum())))
        error = _ratio(difference, max(size, floor))
        note = _zero_note(size, floor)
        if not error <= tolerance:
            note = _joined(note, "the product belongs to no symmetric matrix: a derivative is wrong")
        return CheckResult("symmetry", name, error <= tolerance, error, 0.0, tolerance, (), seed, 1, note)

    return [one(name) for name in _counted(_chosen(model, names), progress)]


# ---- the ladder -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """How to check, the same for every parameter."""

    kind: str
    tolerance: float
    seed: int
    attempts: int

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError("attempts", expected="at least 1", received=str(self.attempts), next_step="Use 5.")


def _climb(
    plan: _Plan,
    point: Point,
    name: str,
    evaluate: Evaluate,
    exact: Callable[[str, Array], tuple[Array, float]],
    floor: float,
) -> CheckResult:
    """Ladders in fresh directions until one has enough smooth rungs; the verdict on the one that has most."""
    if point.params[name].size == 0:
        return CheckResult(plan.kind, name, True, 0.0, 0.0, plan.tolerance, (), plan.seed, 1, "it has no entries")
    best: tuple[Rung, ...] = ()
    for tried in range(1, plan.attempts + 1):
        v = point.direction(name, plan.seed + tried - 1)
        expected, found = exact(name, v)
        ladder = tuple(_rung(point, name, v, h, evaluate, expected, max(found, floor)) for h in STEPS)
        if not best or len(_smooth(ladder)) > len(_smooth(best)):
            best, seed, size = ladder, plan.seed + tried - 1, found
        if len(_smooth(best)) >= SMOOTH_RUNGS:
            break
    passed, note = _verdict(best, plan.tolerance)
    if tried > 1 and len(_smooth(best)) >= SMOOTH_RUNGS:
        note = _joined(f"the first {tried - 1} of {tried} directions crossed kinks", note)
    note = _joined(_zero_note(size, floor), note)
    lowest = min(_smooth(best), key=lambda rung: rung.error, default=Rung(0.0, math.inf, 0))
    return CheckResult(plan.kind, name, passed, lowest.error, lowest.h, plan.tolerance, best, seed, tried, note)


def _rung(point: Point, name: str, v: Array, h: float, evaluate: Evaluate, expected: Array, scale: float) -> Rung:
    """The relative error of the central difference at one step, and what was crossed within it."""
    theta = point.params[name]
    above, branches_above = evaluate({**point.params, name: theta + h * v})
    below, branches_below = evaluate({**point.params, name: theta - h * v})
    above -= below  # in place: `above` is ours, and as large as the network
    above /= 2.0 * h
    scale = max(scale, norm(above))
    above -= expected
    error = _ratio(norm(above), scale)
    crossed = 0
    for here, left, right in zip(point.branches, branches_below, branches_above, strict=True):
        either = array_module(here).maximum(left != here, right != here)
        crossed += int(to_host(either.sum()))
    return Rung(h, error, crossed)


def _smooth(ladder: tuple[Rung, ...]) -> list[Rung]:
    """The rungs that count."""
    return [rung for rung in ladder if rung.crossed == 0]


def _verdict(ladder: tuple[Rung, ...], tolerance: float) -> tuple[bool, str]:
    """Whether the lowest smooth rung is within the tolerance, and if not, why.

    Where most rungs have one error the derivative is wrong, even if truncation happens to cancel that error on one.
    (Several that are lower prove it right: the error that the others share is rounding, at steps too small.)
    """
    smooth = _smooth(ladder)
    if len(smooth) < SMOOTH_RUNGS:
        fewest = min(rung.crossed for rung in ladder)
        return False, (
            f"only {len(smooth)} of {len(ladder)} steps cross no kink (at best {fewest} branches change): "
            "no smooth piece to compare on; use fewer samples, another seed or more attempts"
        )
    errors = [rung.error for rung in smooth]
    level = statistics.median(errors)
    flat = sum(level / 2 <= error <= 2 * level for error in errors)  # on the slopes of a V, rungs differ by 3 and by 10
    lower = sum(error < level / 2 for error in errors)
    if level > tolerance and flat >= max(SMOOTH_RUNGS, len(smooth) // 2) and lower <= 1:
        return False, f"the error stays at {level:.1e} over {flat} steps: the derivative is wrong"
    if min(errors) <= tolerance:
        return True, ""
    return False, "the error falls with the step but not far enough: rounding, or a derivative wrong by very little"


def _chosen(model: Sequential, names: Sequence[str] | None) -> Sequence[str]:
    """The names to check, each trainable."""
    for name in names or ():
        if name not in model.trainable:
            raise ConfigError(
                "names", expected=", ".join(model.trainable), received=repr(name), next_step="Choose among these."
            )
    return model.trainable if names is None else names


def _counted(names: Sequence[str], progress: Progress | None) -> Iterable[str]:
    """The names in turn; `progress` hears of each when it is done."""
    for done, name in enumerate(names, start=1):
        yield name
        if progress is not None:
            progress(done, len(names))


def _total(terms: Array) -> float:
    """Σ|terms|."""
    return float(to_host(abs(terms).sum()))


def _ratio(difference: float, scale: float) -> float:
    """difference / scale; 0/0 is no error, and what is not finite an infinite one."""
    if difference == 0.0:
        return 0.0
    ratio = difference / scale if scale else math.inf
    return ratio if math.isfinite(ratio) else math.inf


def _zero_note(size: float, floor: float) -> str:
    """What to say of a derivative that is as good as 0."""
    if size >= floor:
        return ""
    return f"nearly 0 ({size:.0e}): error relative to {LEAST:g} of the network's ({floor / LEAST:.0e})"


def _joined(*notes: str) -> str:
    """The notes that say something, in one line."""
    return "; ".join(note for note in notes if note)
