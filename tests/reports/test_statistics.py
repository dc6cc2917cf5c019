"""Standard errors, paired tests and Holm's correction, against values worked out by hand and SciPy's own."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from halrp_np.reports import statistics


def test_mean_and_standard_error_by_hand() -> None:
    found = statistics.mean_of([1.0, 2.0, 6.0])
    assert found.value == 3.0
    assert found.error == pytest.approx(math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2 / 3), rel=1e-15)
    assert statistics.mean_of([5.0]) == statistics.Mean(5.0, None, 1, "needs two runs")
    assert statistics.mean_of([]) == statistics.Mean(None, None, 0, "needs a run")


def test_the_paired_t_test_by_hand_and_by_scipy() -> None:
    differences = [1.0, 2.0, 3.0]  # mean 2, s = 1: t = 2 √3 with two degrees of freedom
    by_hand = 1 - 2 * math.sqrt(3) / math.sqrt(12 + 2)  # p = 1 - t / √(t² + 2)
    assert statistics.t_test(differences) == pytest.approx(by_hand, rel=1e-12)
    one, other = np.array([3.0, 1.0, 4.0, 1.0, 5.0]), np.array([2.0, 7.0, 1.0, 8.0, 2.0])
    assert statistics.t_test(list(one - other)) == pytest.approx(stats.ttest_rel(one, other).pvalue, rel=1e-12)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([1.0, 2.0], 2 / 4),
        ([1.0, 2.0, 3.0], 2 / 8),
        ([1.0, 2.0, -3.0], 8 / 8),
        ([1.0, 2.0, 4.0, -1.0], 6 / 16),  # |Σ| is 8 for 1 + 2 + 4 + 1, and 6 where one of the 1 is turned
        ([0.0, 0.0], 1.0),
        ([0.1] * 12, 2 / 4096),
        ([0.1, 0.2, 0.3, -0.6], 1.0),  # sums to 0 but for rounding
    ],
)
def test_sign_flips_counted_by_hand(differences: list[float], expected: float) -> None:
    assert statistics.sign_flip(differences) == expected
    assert statistics.sign_flip([-value for value in differences]) == expected


def test_sign_flips_agree_with_scipy() -> None:
    d = np.random.default_rng(1).standard_normal(8) + 0.5
    theirs = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert statistics.sign_flip(list(d)) == pytest.approx(theirs, rel=1e-12)


def test_drawn_sign_flips_are_near_the_counted_ones() -> None:
    d = np.random.default_rng(2).standard_normal(13) + 0.4
    signs = np.array(list(itertools.product([-1, 1], repeat=13)))
    counted = (np.abs(signs @ d) >= abs(d.sum()) - 1e-12).mean()
    drawn = statistics.sign_flip(list(d))
    assert drawn == statistics.sign_flip(list(d))
    assert drawn == pytest.approx(counted, abs=4 * math.sqrt(counted / statistics.DRAWN))


def test_holm_by_hand() -> None:
    found = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})  # the last may not be below the third
    assert statistics.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert statistics.holm({}) == {}


def test_without_two_pairs_or_without_spread_tests_are_undefined() -> None:
    assert statistics.paired([]) == statistics.Paired(0, undefined="needs two common seeds")
    assert statistics.paired([1.5]) == statistics.Paired(1, 1.5, undefined="needs two common seeds")
    equal = statistics.paired([1.5, 1.5])
    assert (equal.t, equal.flip, equal.undefined) == (None, 0.5, "t-test: all differences are equal")


def test_the_correction_counts_only_what_is_defined() -> None:
    tests = {
        "a": statistics.Paired(2, 1.0, 0.02, 0.5),
        "b": statistics.Paired(1),
        "c": statistics.Paired(2, 1.0, 0.03, 0.5),
    }
    found = statistics.corrected(tests)
    assert [found[name].t_holm for name in "abc"] == [0.04, None, 0.04]
    assert [found[name].flip_holm for name in "abc"] == [1.0, None, 1.0]
