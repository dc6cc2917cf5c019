"""The seven pruning rules, and the fraction that a size budget asks for.

A pruned entry becomes 0. Candidates are the factors A and B of every task handed in, earlier zeros included, so a
fraction is cumulative: the same plan applied twice prunes nothing new.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..backend import array_module
from ..errors import ConfigError, ShapeError
from ..typing import Array
from .decompose import check_finite

Factors: TypeAlias = Mapping[str, tuple[Array, Array]]
"""One task's factors by layer: A (r, I) and B (J, r)."""

PRUNE_RULES = (
    "absolute",
    "relative",
    "relativeAllLayer",
    "relativeAllLayerAllTask",
    "mixAR",
    "mixAR_AllLayer",
    "mixAR_AllLayerAllTask",
)
"""The released code's names: `AllLayer` pools a task's layers, `AllTask` the tasks too, `mixAR` adds a floor."""

SOLVES = ("released", "exact")
"""How a budget becomes a fraction: as the released code does (overshoots), or so that growth lands on the budget."""


@dataclass(frozen=True)
class PrunePlan:
    """What `prune` removes: entries with |x| at most max(percentile of the pool, floor)."""

    rule: str
    fraction: float | None
    """Position of the percentile in 0..1; None for the floor alone."""
    floor: float = 0.0
    reachable: bool = True
    """False when what cannot be pruned already exceeds the budget."""


def value_count(rule: str) -> int:
    """Return how many values a rule takes: mixAR rules a floor and a fraction, the others one of the two.

    Raises: ConfigError for an unknown rule.
    """
    _check_choice("value_count", "rule", rule, PRUNE_RULES)
    return 2 if rule.startswith("mixAR") else 1


def pruning_plan(
    rule: str,
    values: Sequence[float],
    *,
    bounded: bool,
    growth: float = 0.0,
    factor_growth: float = 0.0,
    solve: str = "released",
    floor_before_bound: bool = False,
) -> PrunePlan | None:
    """Return what to prune under a rule and its values, or None when nothing is to be pruned.

    With `bounded` the last value v sets a budget β = 1 - v for `growth` instead of the fraction; the absolute rule has
    no budget. Below the budget nothing is pruned, except that `floor_before_bound` keeps the floor of the mixAR rules.

    `growth` is the model's increase over task 0 before this pruning, `factor_growth` the part of it that the candidate
    entries make up. When every task is a candidate, both are dense counts. When only the current task is, the earlier
    tasks enter `growth` with what is left of them.

    Math:   released  ρ = 1 - β / growth                  (lands at β + u·ρ, u the part that cannot be pruned)
            exact     ρ = (growth - β) / factor_growth    (lands at β, up to one entry per pool)
            When what cannot be pruned exceeds β, no ρ lands there: exact then takes the released fraction, which leaves
            something of every task, and the plan is not `reachable`.
    Raises: ConfigError for an unknown rule or solve, a wrong number of values, or a value out of range.
    Reference: HALRP (arXiv 2311.15161), pruning under a parameter budget.
    """
    where = "pruning_plan"
    _check_values(rule, values, bounded)
    _check_choice(where, "solve", solve, SOLVES)
    if rule == "absolute":
        return PrunePlan(rule, None, values[0])
    floor = values[0] if len(values) == 2 else 0.0
    if not bounded:
        return PrunePlan(rule, values[-1], floor)
    if not (math.isfinite(growth) and 0 <= factor_growth <= growth):
        _refuse(where, "finite 0 <= factor_growth <= growth", f"{factor_growth!r} and {growth!r}")
    budget = 1 - values[-1]
    reachable = growth - factor_growth <= budget
    if growth < budget or growth <= 0:
        return PrunePlan(rule, None, floor) if floor_before_bound and len(values) == 2 else None
    if solve == "released" or not reachable:
        fraction = 1 - budget / growth
    else:
        fraction = (growth - budget) / factor_growth if factor_growth else 0.0
    return PrunePlan(rule, float(min(max(fraction, 0.0), 1.0)), floor, bool(reachable))


def prune(factors: Sequence[Factors], plan: PrunePlan) -> list[dict[str, tuple[Array, Array]]]:
    """Return the tasks' factors with every entry up to its pool's threshold set to 0; the inputs stay as they are.

    Shapes: per task and layer A (r, I), B (J, r), in and out; a rank of 0 has nothing to prune.
    Math:   keep x when |x| > max(pct, floor), strictly. pct interpolates linearly between the sorted |entries| of the
            pool at position (n - 1)·ρ, zeros included; n distinct values lose ⌊(n - 1)·ρ⌋ + 1.
    Raises: ConfigError for an unknown rule or a fraction outside 0..1; ShapeError for arrays that are no pair of
        factors; DivergenceError for entries that are not finite.
    Reference: HALRP (arXiv 2311.15161), pruning under a parameter budget.
    """
    _check_plan(plan)
    for task in factors:
        for layer, (A, B) in task.items():
            _check_pair(layer, A, B)
    pooled_tasks = plan.rule.endswith("AllTask")
    pooled_layers = pooled_tasks or plan.rule.endswith("AllLayer")
    if pooled_tasks and factors:
        shared = _threshold([x for task in factors for pair in task.values() for x in pair], plan)
    result = []
    for task in factors:
        if pooled_layers and not pooled_tasks:
            shared = _threshold([x for pair in task.values() for x in pair], plan)
        kept = {}
        for layer, (A, B) in task.items():
            threshold = shared if pooled_layers else _threshold([A, B], plan)
            kept[layer] = (_keep_above(A, threshold), _keep_above(B, threshold))
        result.append(kept)
    return result


def _threshold(arrays: list[Array], plan: PrunePlan) -> Array:
    """The pool's threshold, as a one-entry float64 array on the arrays' device."""
    xp = array_module(arrays[0])
    pool = xp.concatenate([xp.abs(x).reshape(-1) for x in arrays])
    check_finite("prune", "factors", pool)
    if pool.shape[0] == 0:
        return xp.zeros((1,), dtype=xp.float64)
    floor = float(pool.dtype.type(plan.floor))  # an entry that equals the floor in its own precision is removed
    if plan.fraction is None:
        return xp.full((1,), floor, dtype=xp.float64)
    return xp.maximum(_percentile(pool, plan.fraction), floor)


def _percentile(pool: Array, fraction: float) -> Array:
    """numpy.percentile(pool, 100 ρ) in float64; the position is a host number, so float32 data cannot shift it."""
    position = (pool.shape[0] - 1) * (100 * fraction / 100)
    low = math.floor(position)
    high = min(low + 1, pool.shape[0] - 1)
    weight = position - low
    xp = array_module(pool)
    ordered = xp.partition(pool, [low, high])
    below, above = (ordered[i : i + 1].astype(xp.float64) for i in (low, high))
    # from the nearer end, as NumPy does: the result never rounds past either entry
    return below + (above - below) * weight if weight < 0.5 else above - (above - below) * (1 - weight)


def _keep_above(x: Array, threshold: Array) -> Array:
    """A copy of x with every entry up to the threshold set to 0."""
    xp = array_module(x)
    return xp.where(xp.abs(x) > threshold, x, xp.zeros_like(x))


def _check_values(rule: str, values: Sequence[float], bounded: bool) -> None:
    """Refuse values that do not fit the rule: floors are at least 0, fractions in 0..1, budgets 1 - v finite."""
    where = "pruning_plan"
    wanted = value_count(rule)
    if len(values) != wanted:
        _refuse(where, f"{wanted} value{'s' if wanted > 1 else ''} for the rule {rule}", f"{len(values)}")
    floors = values[:1] if rule == "absolute" or wanted == 2 else values[:0]
    if any(not (math.isfinite(v) and v >= 0) for v in floors):
        _refuse(where, "a finite floor of at least 0", repr(values[0]))
    last = values[-1]
    if rule != "absolute" and not (math.isfinite(last) and last <= 1 and (bounded or last >= 0)):
        _refuse(where, "a fraction in 0..1, or 1 - budget when bounded", repr(last))


def _check_plan(plan: PrunePlan) -> None:
    """Refuse a plan built by hand that no rule can follow."""
    _check_choice("prune", "rule", plan.rule, PRUNE_RULES)
    if plan.fraction is not None and not 0 <= plan.fraction <= 1:
        _refuse("prune", "fraction in 0..1", repr(plan.fraction))
    if not (math.isfinite(plan.floor) and plan.floor >= 0):
        _refuse("prune", "a finite floor of at least 0", repr(plan.floor))
    if plan.rule == "absolute" and plan.fraction is not None:
        _refuse("prune", "no fraction for the rule absolute", repr(plan.fraction))


def _check_pair(layer: str, A: Array, B: Array) -> None:
    """Refuse two arrays whose product B A does not exist."""
    fits = A.ndim == 2 and B.ndim == 2 and A.shape[0] == B.shape[1] and 0 not in (A.shape[1], B.shape[0])
    if not fits or A.dtype != B.dtype or A.dtype.kind != "f":
        raise ShapeError(
            f"factors of layer {layer}",
            expected="A (r, I) and B (J, r) of one float dtype",
            received=f"A {tuple(A.shape)} {A.dtype}, B {tuple(B.shape)} {B.dtype}",
            next_step="Pass them in the order (A, B) that initial_factors returns.",
        )


def _check_choice(where: str, name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a name that is not among the choices."""
    if value not in choices:
        _refuse(where, f"{name} among {', '.join(choices)}", repr(value))


def _refuse(where: str, expected: str, received: str) -> None:
    """Raise a configuration error."""
    raise ConfigError(where, expected=expected, received=received, next_step="Correct the pruning settings.")
