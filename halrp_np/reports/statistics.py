"""Means with their standard errors, paired tests and the correction for many of them; undefined with a reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

Name = TypeVar("Name")

ENUMERATED = 12
"""Up to so many pairs, all choices of signs are counted; beyond, DRAWN of them are drawn."""

DRAWN = 100_000

NEEDS_PAIRS = "needs two common seeds"


@dataclass(frozen=True)
class Mean:
    """A mean over runs with its standard error; `undefined` says why a None is one."""

    value: float | None
    error: float | None
    runs: int
    undefined: str = ""


@dataclass(frozen=True)
class Paired:
    """Two tests of whether the differences between paired runs are zero on average, corrected by Holm or not.

    `difference` is the mean of group minus reference; `t` and `flip` are p values; `undefined` says why a None is one.
    """

    pairs: int
    difference: float | None = None
    t: float | None = None
    flip: float | None = None
    t_holm: float | None = None
    flip_holm: float | None = None
    undefined: str = ""


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of some runs.

    Math:   x̄ ± s/√n, s² = Σ (x - x̄)² / (n - 1).
    """
    count = len(values)
    if not count:
        return Mean(None, None, 0, "needs a run")
    value = math.fsum(values) / count
    if count < 2:
        return Mean(value, None, count, "needs two runs")
    return Mean(value, float(np.std(values, ddof=1)) / math.sqrt(count), count)


def paired(differences: Sequence[float]) -> Paired:
    """Both tests on the differences of runs that share order and seed, not yet corrected."""
    pairs = len(differences)
    if pairs < 2:
        return Paired(pairs, math.fsum(differences) if pairs else None, undefined=NEEDS_PAIRS)
    equal = float(np.ptp(differences)) <= 1e-9 * max(map(abs, differences))  # but for rounding
    reason = "t-test: all differences are equal" if equal else ""
    difference = math.fsum(differences) / pairs
    return Paired(pairs, difference, None if equal else t_test(differences), sign_flip(differences), undefined=reason)


def t_test(differences: Sequence[float]) -> float:
    """The two-sided p value of the paired t-test.

    Math:   t = d̄ / (s/√n) against Student's distribution with n - 1 degrees of freedom.
    """
    from scipy import stats  # slow to load, and most commands need none of it

    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def sign_flip(differences: Sequence[float]) -> float:
    """The two-sided p value of the permutation test that flips the signs of the differences.

    Up to 12 pairs all 2ⁿ choices of signs are counted; beyond, 100,000 are drawn, always the same, and the observed one
    is counted with them, so that p is never 0.

    Math:   p = share of sign vectors σ with |Σ σ_i d_i| ≥ |Σ d_i|.
    """
    d = np.asarray(differences, float)
    observed = abs(d.sum()) - 1e-12 * np.abs(d).sum()  # equal sums, added in another order, are equal
    if len(d) <= ENUMERATED:
        signs = 1.0 - 2.0 * (np.arange(2 ** len(d))[:, None] >> np.arange(len(d)) & 1)
        return float((np.abs(signs @ d) >= observed).mean())
    generator = np.random.default_rng(0)
    total = np.zeros(DRAWN)
    for value in d:
        total += value * (1.0 - 2.0 * generator.integers(2, size=DRAWN))
    return float((np.count_nonzero(np.abs(total) >= observed) + 1) / (DRAWN + 1))


def holm(values: Mapping[Name, float]) -> dict[Name, float]:
    """P values corrected for there being several, by Holm's step-down method.

    Math:   with p_(1) ≤ ... ≤ p_(m): p̃_(i) = max_{j ≤ i} min(1, (m - j + 1) p_(j)).
    Reference: Holm (1979), Scandinavian Journal of Statistics 6, 65-70.
    """
    corrected, largest = {}, 0.0
    for passed, name in enumerate(sorted(values, key=lambda name: values[name])):
        largest = max(largest, min(1.0, (len(values) - passed) * values[name]))
        corrected[name] = largest
    return corrected


def corrected(tests: Mapping[Name, Paired]) -> dict[Name, Paired]:
    """The tests of one measure with Holm's correction over those that are defined, each kind by itself."""
    t = holm({name: test.t for name, test in tests.items() if test.t is not None})
    flip = holm({name: test.flip for name, test in tests.items() if test.flip is not None})
    return {name: replace(test, t_holm=t.get(name), flip_holm=flip.get(name)) for name, test in tests.items()}
