"""Order robustness on tables worked out by hand; its floors against what they must be where that is known."""

import itertools
import math

import numpy as np
import pytest

from halrp_np.errors import DataError
from halrp_np.training import robustness

# P[order][seed][task]; task 1 stands still, task 2 moves most
TABLE = {
    "A": {0: {0: 90.0, 1: 80.0, 2: 70.0}, 1: {0: 92.0, 1: 80.0, 2: 74.0}},  # means 91, 80, 72
    "B": {0: {0: 88.0, 1: 80.0, 2: 60.0}, 1: {0: 88.0, 1: 80.0, 2: 62.0}},  # means 88, 80, 61
    "C": {0: {0: 93.0, 1: 79.0, 2: 66.0}, 1: {0: 95.0, 1: 81.0, 2: 66.0}},  # means 94, 80, 66
}
OPD = {0: 94.0 - 88.0, 1: 80.0 - 80.0, 2: 72.0 - 61.0}  # 6, 0, 11
SAME_ORDER = {0: (2 + 0 + 2) / 3, 1: (0 + 0 + 2) / 3, 2: (4 + 2 + 0) / 3}
SAME_ORDER_AOPD = ((2 + 0 + 4) / 3 + (0 + 0 + 2) / 3 + (2 + 2 + 0) / 3) / 3  # of A, B and C
SAME_ORDER_MOPD = (4 + 2 + 2) / 3  # the largest of A, of B and of C


def test_every_measure_on_a_hand_written_table() -> None:
    found = robustness.robustness(TABLE, draws=50)
    assert (found.orders, found.seeds, found.tasks) == (("A", "B", "C"), (0, 1), (0, 1, 2))
    assert {task: spread.value for task, spread in found.opd.items()} == pytest.approx(OPD, rel=1e-14)
    assert found.aopd.value == pytest.approx((6 + 0 + 11) / 3, rel=1e-14)
    assert found.mopd.value == pytest.approx(11.0, rel=1e-14)
    assert {task: spread.same_order for task, spread in found.opd.items()} == pytest.approx(SAME_ORDER, rel=1e-14)
    assert found.aopd.same_order == pytest.approx(SAME_ORDER_AOPD, rel=1e-14)
    assert found.mopd.same_order == pytest.approx(SAME_ORDER_MOPD, rel=1e-14)
    assert found.undefined == {}


def test_chance_of_two_orders_with_two_seeds_is_the_mean_over_all_choices() -> None:
    """The residuals are ±1/2, times 2; all 4⁴ choices of four of them are counted."""
    P = np.array([[[10.0], [12.0]], [[50.0], [54.0]]])  # means 11, 52 of the orders, 30, 33 of the seeds, 31.5 of all
    residuals = [1.0, -1.0, -1.0, 1.0]
    all_choices = [abs((a + b) / 2 - (c + d) / 2) for a, b, c, d in itertools.product(residuals, repeat=4)]
    drawn = robustness.chance(P, 40_000, np.random.default_rng(0)).aopd
    assert drawn.mean() == pytest.approx(sum(all_choices) / len(all_choices), rel=0.02)
    assert set(np.unique(drawn.round(9))) == {round(value, 9) for value in all_choices}


def test_the_bootstrap_of_two_seeds_is_the_quantile_over_all_choices() -> None:
    P = np.array([[[10.0], [14.0]], [[20.0], [21.0]]])
    means = [[(P[r, i, 0] + P[r, j, 0]) / 2 for i in range(2) for j in range(2)] for r in range(2)]
    all_choices = [abs(a - b) for a, b in zip(*means, strict=True)]  # both orders with the same seeds
    drawn = robustness.bootstrap(P, 40_000, np.random.default_rng(0)).aopd
    assert drawn.mean() == pytest.approx(sum(all_choices) / len(all_choices), rel=0.01)
    assert {drawn.min(), drawn.max()} == {min(all_choices), max(all_choices)}


def test_chance_is_what_orders_that_do_nothing_show() -> None:
    """Over many such tables the mean floor is the mean AOPD, and one table in twenty is above its own 95 % quantile.

    What a seed does alike in every order, here twice as much as all else, changes neither.
    """
    generator = np.random.default_rng(11)
    values, floors, above = [], [], []
    for _ in range(300):
        P = 80 + 2 * generator.standard_normal((5, 5, 4)) + 4 * generator.standard_normal((5, 4))
        drawn = robustness.chance(P, 400, generator).aopd
        values.append(robustness.measures(P.mean(axis=1)).aopd)
        floors.append(drawn.mean())
        above.append(values[-1] > np.quantile(drawn, 0.95))
    assert np.mean(values) == pytest.approx(np.mean(floors), rel=0.05)
    assert 0.02 <= np.mean(above) <= 0.12


def test_the_same_table_and_seed_give_the_same_numbers() -> None:
    first, again, other = (robustness.robustness(TABLE, seed=seed, draws=200) for seed in (0, 0, 1))
    assert first == again
    assert first.aopd.chance != other.aopd.chance
    assert first.aopd.value == other.aopd.value
    assert float(first.aopd.low or 0) < float(first.aopd.high or 0)


def test_tasks_are_told_apart_by_identity_wherever_they_stood() -> None:
    turned = {order: {seed: dict(reversed(run.items())) for seed, run in runs.items()} for order, runs in TABLE.items()}
    assert robustness.robustness(turned, draws=50).opd == robustness.robustness(TABLE, draws=50).opd


def test_one_order_or_one_seed_leaves_undefined_what_needs_two() -> None:
    one_order = robustness.robustness({"A": TABLE["A"]}, draws=50)
    assert one_order.aopd.value is None
    assert one_order.aopd.same_order == pytest.approx((2 + 0 + 4) / 3)
    assert set(one_order.undefined.values()) == {"needs two orders"}
    one_seed = robustness.robustness({order: {0: runs[0]} for order, runs in TABLE.items()}, draws=50)
    assert one_seed.mopd.value == 70.0 - 60.0
    assert (one_seed.mopd.low, one_seed.mopd.same_order, one_seed.mopd.chance_95) == (None, None, None)
    assert one_seed.undefined.keys() == {"low", "high", "same_order", "chance", "chance_95"}
    neither = robustness.robustness({"A": {0: TABLE["A"][0]}}, draws=50)
    assert neither.opd[0] == robustness.Spread(None, None, None, None, None, None)
    assert neither.undefined["chance"] == "needs two orders and needs two seeds of each order"


def test_a_gap_is_named_and_common_seeds_close_it() -> None:
    ragged = {**TABLE, "B": {0: TABLE["B"][0]}}
    with pytest.raises(DataError, match="order B without seed 1"):
        robustness.robustness(ragged)
    table, left = robustness.common_seeds(ragged)
    assert robustness.robustness(table, draws=50).seeds == (0,)
    assert left == [f"seed 1 of order {order} is left out: not every order has it" for order in "AC"]
    with pytest.raises(DataError, match=r"a seed that every order has.*A: 0; B: 1"):
        robustness.common_seeds({"A": {0: {0: 1.0}}, "B": {1: {0: 1.0}}})
    with pytest.raises(DataError, match="order B, seed 0 without task 2"):
        robustness.robustness({"A": {0: TABLE["A"][0]}, "B": {0: {0: 1.0, 1: 1.0}}})
    with pytest.raises(DataError, match="nan in order A, seed 0, task 0"):
        robustness.robustness({"A": {0: {0: math.nan}}})
    with pytest.raises(DataError, match="at least one order"):
        robustness.robustness({})
