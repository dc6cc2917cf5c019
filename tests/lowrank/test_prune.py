"""The seven pruning rules and the budget: exact counts of the specification, and what must hold for any factors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halrp_np.errors import ConfigError, DivergenceError, ShapeError
from halrp_np.lowrank import (
    PRUNE_RULES,
    SOLVES,
    PrunePlan,
    TaskSize,
    count_nonzero,
    growth_dense,
    growth_factors,
    growth_released,
    prune,
    pruning_plan,
    released_count,
    released_increase,
    task_size,
    value_count,
)

Task = dict[str, tuple[Any, Any]]
fractions = st.integers(0, 1024).map(lambda k: k / 1024)  # binary, so that (n - 1)·ρ is exact
N0 = 2_995_620  # LeNet, 3x32x32, 10 classes
OTHER = {"batchnorm": 2_740, "head": 5_010, "bias": 1_370, "running_stats": 2_740}
SHAPES = {"conv1": (20, 3), "conv2": (50, 20), "fc1": (800, 3200), "fc2": (500, 800)}
CAPS = (3, 20, 100, 100)


def distinct_task(dtype: Any, seed: int = 0) -> Task:
    """LeNet factors at the capped ranks: 531,469 entries of distinct sizes, none near 0."""
    total = sum(r * (J + I) for r, (J, I) in zip(CAPS, SHAPES.values(), strict=True))
    sizes = (np.arange(1, total + 1) / total).astype(dtype)
    assert len(np.unique(sizes)) == total == 531_469
    rng = np.random.default_rng(seed)
    pool = rng.permutation(sizes) * rng.choice([-1, 1], total).astype(dtype)
    task, at = {}, 0
    for r, (layer, (J, I)) in zip(CAPS, SHAPES.items(), strict=True):
        A, B = pool[at : at + r * I].reshape(r, I), pool[at + r * I : at + r * (I + J)].reshape(J, r)
        task[layer], at = (A, B), at + r * (I + J)
    return task


def random_tasks(seed: int, dtype: Any = np.float64, tasks: int = 3, zeros: bool = True) -> list[Task]:
    """Small factors of several tasks and layers, some entries already 0."""
    rng = np.random.default_rng(seed)
    result: list[Task] = []
    for _ in range(tasks):
        task: Task = {}
        for layer in ("a", "b"):
            r, J, I = rng.integers(1, 4), rng.integers(1, 6), rng.integers(1, 6)
            task[layer] = tuple(
                (rng.normal(size=n) * (rng.random(n) > 0.2 * zeros)).astype(dtype) for n in ((r, I), (J, r))
            )  # type: ignore[assignment]
        result.append(task)
    return result


def flat(tasks: list[Task]) -> np.ndarray:
    return np.concatenate([x.ravel() for task in tasks for pair in task.values() for x in pair])


def pools(tasks: list[Task], rule: str) -> list[np.ndarray]:
    """The entries that share one threshold, by the table of the specification."""
    if rule.endswith("AllTask"):
        return [flat(tasks)]
    if rule.endswith("AllLayer"):
        return [flat([task]) for task in tasks]
    return [flat([{layer: pair}]) for task in tasks for layer, pair in task.items()]


def plan_for(rule: str, fraction: float = 0.4, floor: float = 0.1) -> PrunePlan:
    values = [floor, fraction] if value_count(rule) == 2 else [floor if rule == "absolute" else fraction]
    plan = pruning_plan(rule, values, bounded=False)
    assert plan is not None
    return plan


# ---- worked numbers -------------------------------------------------------------------------------------------------


def test_percentile_of_the_worked_example(dtype: Any) -> None:
    v = np.array([0, 0.1, -0.2, 0.3, 0.4, -0.5, 0.6, 0.7, -0.8, 1.0], dtype)
    tasks: list[Task] = [{"layer": (v[:5].reshape(1, 5), v[5:].reshape(5, 1))}]
    for fraction, left in ((0.75, [0.7, -0.8, 1.0]), (0.75, [0.7, -0.8, 1.0]), (0.8, [-0.8, 1.0])):
        tasks = prune(tasks, plan_for("relativeAllLayer", fraction))
        np.testing.assert_allclose(flat(tasks)[flat(tasks) != 0], left, rtol=1e-6)
    direct = prune([{"layer": (v[:5].reshape(1, 5), v[5:].reshape(5, 1))}], plan_for("relativeAllLayer", 0.8))
    np.testing.assert_array_equal(flat(direct), flat(tasks))


def test_an_entry_equal_to_the_threshold_is_removed(dtype: Any) -> None:
    A, B = np.array([[0.1, -0.1, 0.3]], dtype), np.array([[0.2], [0.5]], dtype)
    kept = flat(prune([{"l": (A, B)}], plan_for("absolute", floor=0.1)))
    np.testing.assert_array_equal(kept, np.array([0, 0, 0.3, 0.2, 0.5], dtype))
    # five entries, position (5 - 1) · 0.5 = 2 is the entry 0.2 itself
    left = flat(prune([{"l": (A, B)}], plan_for("relative", 0.5)))
    assert count_nonzero(left) == 2


@pytest.mark.parametrize(
    ("value", "rho", "kept", "total", "increase"),
    [(0.80, 0.8777674136, 64_963, 3_698_574, 0.235), (0.40, 0.6333022409, 194_889, 4_867_908, 0.625)],
)
def test_budget_of_nine_lenet_tasks(
    value: float, rho: float, kept: int, total: int, increase: float, dtype: Any
) -> None:
    task = distinct_task(dtype)
    size = task_size(task, **OTHER)
    growth, factors = growth_dense(N0, [size] * 9), growth_factors(N0, [size] * 9)
    np.testing.assert_allclose(growth, 1.6362248883, rtol=1e-10)
    plan = pruning_plan("mixAR_AllLayer", [1e-5, value], bounded=True, growth=growth, factor_growth=factors)
    assert plan is not None
    np.testing.assert_allclose(plan.fraction, rho, rtol=1e-9)
    assert plan.reachable
    (pruned,) = prune([task], plan)  # the threshold is per task, and the nine tasks are alike
    after = task_size(pruned, **OTHER)
    assert after.factors_sparse == kept
    assert after.factors_dense == 531_469
    assert released_count(N0, [after] * 9) == total
    assert released_increase(N0, [after] * 9) == increase


def test_below_the_budget_nothing_is_pruned_not_even_by_the_floor() -> None:
    size = task_size(distinct_task(np.float32), **OTHER)
    growth, factors = growth_dense(N0, [size]), growth_factors(N0, [size])
    assert round(growth, 4) == 0.1818
    for solve in ("released", "exact"):
        bound: dict[str, Any] = {"bounded": True, "growth": growth, "factor_growth": factors, "solve": solve}
        assert pruning_plan("mixAR_AllLayer", [1e-5, 0.8], **bound) is None
        assert pruning_plan("relativeAllLayer", [0.8], floor_before_bound=True, **bound) is None
        plan = pruning_plan("mixAR_AllLayer", [1e-5, 0.8], floor_before_bound=True, **bound)
        assert plan == PrunePlan("mixAR_AllLayer", None, 1e-5)
    A, B = np.array([[1e-6, 2e-5, -1e-5]]), np.array([[-3.0], [-1e-7]])
    assert plan is not None
    assert flat(prune([{"l": (A, B)}], plan)).tolist() == [0, 2e-5, 0, -3, 0]


def test_fractions_grow_with_the_tasks() -> None:
    size = TaskSize(5_393, 531_469, 531_469, **OTHER)
    expected = [0.449953, 0.633302, 0.724977, 0.779981, 0.816651, 0.842844, 0.862488, 0.877767]
    found = []
    for t in range(2, 10):
        plan = pruning_plan("mixAR_AllLayer", [1e-5, 0.8], bounded=True, growth=growth_dense(N0, [size] * t))
        assert plan is not None
        found.append(plan.fraction)
    np.testing.assert_allclose(np.array(found, float), expected, atol=5e-7)


@pytest.mark.parametrize("rule", [rule for rule in PRUNE_RULES if rule != "absolute"])
@pytest.mark.parametrize("beta", [0.2, 0.6])
def test_the_exact_solve_lands_on_the_budget(rule: str, beta: float) -> None:
    task = distinct_task(np.float32, seed=1)
    sizes = [task_size(task, **OTHER)] * 2
    base = 1_000_000  # smaller than LeNet, so that two tasks are over both budgets
    growth, factors = growth_dense(base, sizes), growth_factors(base, sizes)
    values = [1 - beta] if value_count(rule) == 1 else [1e-9, 1 - beta]
    bound: dict[str, Any] = {"bounded": True, "growth": growth, "factor_growth": factors}
    exact = pruning_plan(rule, values, solve="exact", **bound)
    released = pruning_plan(rule, values, **bound)
    assert exact is not None
    assert released is not None
    after = [task_size(pruned, **OTHER) for pruned in prune([task, task], exact)]
    pool_count = {"AllTask": 1, "AllLayer": 2}.get(rule.removeprefix("relative").removeprefix("mixAR_"), 8)
    assert abs(growth_released(base, after) - beta) <= (pool_count + 2) / base
    overshoot = beta + (growth - factors) * released.fraction
    after = [task_size(pruned, **OTHER) for pruned in prune([task, task], released)]
    assert abs(growth_released(base, after) - overshoot) <= (pool_count + 2) / base


def test_an_unreachable_budget_is_said() -> None:
    bound: dict[str, Any] = {"bounded": True, "growth": 1.0, "factor_growth": 0.5}
    for solve in ("exact", "released"):  # exact would have to remove everything: it takes the released fraction
        plan = pruning_plan("relative", [0.6], solve=solve, **bound)
        assert plan is not None
        assert not plan.reachable
        np.testing.assert_allclose(plan.fraction, 0.6)
    plan = pruning_plan("relative", [0.5], solve="exact", **bound)
    assert plan is not None
    assert plan.reachable
    assert plan.fraction == 1
    empty = pruning_plan("relative", [0.5], solve="exact", bounded=True, growth=1.0, factor_growth=0.0)
    assert empty is not None
    assert not empty.reachable
    assert empty.fraction == 0.5


@pytest.mark.parametrize("solve", SOLVES)
def test_the_budget_itself_counts_as_reached(solve: str) -> None:
    def fraction(growth: float) -> float | None:
        bound: dict[str, Any] = {"bounded": True, "growth": growth, "factor_growth": growth / 2, "solve": solve}
        plan = pruning_plan("relative", [0.5], **bound)
        return None if plan is None else plan.fraction

    assert fraction(np.nextafter(0.5, 0)) is None
    assert fraction(0.5) == 0
    assert 0 < (fraction(0.501) or 0) < 0.01


def test_only_the_current_task_can_be_pruned_to_the_budget_of_all() -> None:
    old, new = random_tasks(5, tasks=2, zeros=False)
    base = 100
    sizes = [task_size(task, batchnorm=0, head=0, bias=0, running_stats=0) for task in (old, new)]
    growth, current = growth_released(base, sizes), growth_factors(base, sizes[1:])
    budget = growth - 0.5 * current
    plan = pruning_plan(
        "relativeAllLayer", [1 - budget], bounded=True, growth=growth, factor_growth=current, solve="exact"
    )
    assert plan is not None
    np.testing.assert_allclose(plan.fraction, 0.5)
    (pruned,) = prune([new], plan)
    after = [sizes[0], task_size(pruned, batchnorm=0, head=0, bias=0, running_stats=0)]
    assert abs(growth_released(base, after) - budget) <= 1 / base


# ---- any factors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", PRUNE_RULES)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), fraction=fractions, floor=st.floats(0, 0.5), double=st.booleans())
def test_thresholds_are_those_of_the_table(rule: str, seed: int, fraction: float, floor: float, double: bool) -> None:
    tasks = random_tasks(seed, np.float64 if double else np.float32, zeros=False)
    plan = plan_for(rule, fraction, floor)
    for before, after in zip(pools(tasks, rule), pools(prune(tasks, plan), rule), strict=True):
        floor_here = before.dtype.type(plan.floor)
        if plan.fraction is None:
            expected = np.abs(before) > floor_here
        else:
            n_pruned = int((len(before) - 1) * fraction) + 1
            order = np.argsort(np.abs(before), kind="stable")
            expected = np.abs(before) > floor_here
            expected[order[:n_pruned]] = False
        np.testing.assert_array_equal(after, np.where(expected, before, 0))


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 60),
    fraction=st.floats(0, 1) | st.integers(0, 100).map(lambda k: k / 100),
)
def test_the_percentile_is_numpys(seed: int, n: int, fraction: float) -> None:
    v = np.random.default_rng(seed).normal(size=n)
    threshold = np.percentile(np.abs(v), 100 * fraction)
    pruned = prune([{"layer": (v[None, :1], v[1:, None])}], plan_for("relative", fraction))
    np.testing.assert_array_equal(flat(pruned), np.where(np.abs(v) > threshold, v, 0))


@pytest.mark.parametrize("rule", PRUNE_RULES)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), fraction=fractions, more=fractions, double=st.booleans())
def test_pruning_is_idempotent_and_cumulative(rule: str, seed: int, fraction: float, more: float, double: bool) -> None:
    tasks = random_tasks(seed, np.float64 if double else np.float32)
    once = prune(tasks, plan_for(rule, fraction))
    np.testing.assert_array_equal(flat(prune(once, plan_for(rule, fraction))), flat(once))
    low, high = sorted((fraction, more))
    stepwise = prune(prune(tasks, plan_for(rule, low)), plan_for(rule, high))
    direct = prune(tasks, plan_for(rule, high))
    assert set(np.flatnonzero(flat(direct))) <= set(np.flatnonzero(flat(stepwise)))
    assert np.count_nonzero(flat(stepwise)) == np.count_nonzero(flat(direct))


@pytest.mark.parametrize("rule", PRUNE_RULES)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_the_order_of_tasks_and_layers_does_not_matter(rule: str, seed: int, data: st.DataObject) -> None:
    tasks = random_tasks(seed)
    turned = [dict(reversed(task.items())) for task in tasks[::-1]]
    straight, back = prune(tasks, plan_for(rule)), prune(turned, plan_for(rule))[::-1]
    for a, b in zip(straight, back, strict=True):
        assert list(b) == list(a)[::-1]
        np.testing.assert_array_equal(flat([a]), flat([{layer: b[layer] for layer in a}]))


@pytest.mark.parametrize("rule", PRUNE_RULES)
def test_layout_dtype_and_purity(rule: str, dtype: Any, layout: Callable[..., Any]) -> None:
    tasks = random_tasks(11, dtype)
    there: list[Task] = [{layer: (layout(A), layout(B)) for layer, (A, B) in task.items()} for task in tasks]
    before = [x.copy() for task in there for pair in task.values() for x in pair]
    pruned = prune(there, plan_for(rule))
    np.testing.assert_array_equal(flat(pruned), flat(prune(tasks, plan_for(rule))))
    after = [x for task in pruned for pair in task.values() for x in pair]
    assert all(x.dtype == dtype for x in after)
    for x in after:
        x[...] = 7  # the results share no memory with the inputs
    inputs = [x for task in there for pair in task.values() for x in pair]
    assert all((x == old).all() for x, old in zip(inputs, before, strict=True))


def test_no_tasks_give_no_tasks() -> None:
    assert all(prune([], plan_for(rule)) == [] for rule in PRUNE_RULES)


# ---- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "values", "bounded", "message"),
    [
        ("mixar", [1e-5, 0.8], False, "rule among absolute.*received 'mixar'"),
        ("mixAR", [0.8], False, "2 values for the rule mixAR, received 1"),
        ("relative", [1e-5, 0.8], True, "1 value for the rule relative, received 2"),
        ("absolute", [], False, "1 value for the rule absolute, received 0"),
        ("absolute", [-1e-5], False, "finite floor of at least 0"),
        ("absolute", [float("nan")], False, "finite floor of at least 0"),
        ("mixAR", [float("inf"), 0.8], False, "finite floor of at least 0"),
        ("mixAR", [1e-5, float("nan")], True, "fraction in 0..1"),
        ("relative", [1.5], False, "fraction in 0..1"),
        ("relative", [1.5], True, "1 - budget when bounded, received 1.5"),
        ("relative", [-0.5], False, "fraction in 0..1"),
    ],
)
def test_wrong_values_are_refused(rule: str, values: list[float], bounded: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pruning_plan(rule, values, bounded=bounded, growth=1.0, factor_growth=0.5)


def test_wrong_plans_and_factors_are_refused() -> None:
    with pytest.raises(ConfigError, match="solve among released, exact"):
        pruning_plan("relative", [0.5], bounded=True, growth=1.0, solve="right")
    for growth, factors in ((np.nan, 0.0), (np.inf, 0.0), (0.5, 0.6), (0.5, -0.1), (0.5, np.nan)):
        with pytest.raises(ConfigError, match="0 <= factor_growth <= growth"):
            pruning_plan("relative", [0.5], bounded=True, growth=growth, factor_growth=factors)
    for plan, message in (
        (PrunePlan("none", 0.5), "rule among"),
        (PrunePlan("relative", 1.5), "fraction in 0..1"),
        (PrunePlan("relative", float("nan")), "fraction in 0..1"),
        (PrunePlan("relative", 0.5, -1.0), "finite floor"),
        (PrunePlan("absolute", 0.5, 1.0), "no fraction for the rule absolute"),
    ):
        with pytest.raises(ConfigError, match=message):
            prune([], plan)
    A, B = np.ones((2, 3)), np.ones((4, 2))
    for bad in ((B, A), (A, B.astype(np.float32)), (A[0], B), (A.astype(int), B.astype(int)), (A[:, :0], B)):
        with pytest.raises(ShapeError, match="factors of layer fc1: expected A"):
            prune([{"fc1": bad}], plan_for("relative"))
    for value in (np.nan, np.inf):
        broken = A.copy()
        broken[0, 0] = value
        for rule in PRUNE_RULES:
            with pytest.raises(DivergenceError, match="factors with finite entries"):
                prune([{"fc1": (broken, B)}], plan_for(rule))


# ---- rank 0 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", PRUNE_RULES)
@pytest.mark.parametrize("fraction", [None, 0.0, 0.5, 1.0])
def test_a_rank_of_0_has_nothing_to_prune(rule: str, fraction: float | None, dtype: Any) -> None:
    """And takes no part in what is pruned of others."""
    (task,) = random_tasks(3, dtype, tasks=1)
    empty = np.zeros((0, 4), dtype), np.zeros((3, 0), dtype)
    plan = PrunePlan(rule, None if rule == "absolute" else fraction, 0.1)
    (alone,) = prune([task], plan)
    (beside,) = prune([{"none": empty, **task}], plan)
    for layer, pair in alone.items():
        for a, b in zip(pair, beside[layer], strict=True):
            np.testing.assert_array_equal(a, b)
    ((A, B),) = prune([{"none": empty}], plan)[0].values()
    assert (A.shape, B.shape, A.dtype, B.dtype) == ((0, 4), (3, 0), dtype, dtype)
