"""The global rank choice: the worked example, its edges, and what must hold for any scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halrp_np.errors import ConfigError, DivergenceError, ShapeError
from halrp_np.lowrank import (
    Decomposition,
    RankDecision,
    allocate_ranks,
    best_first,
    component_scores,
    decompose,
    initial_factors,
)

EXAMPLE = {
    "conv": component_scores(np.array([1, 0.5]), 4, 1.0),
    "fc1": component_scores(np.array([3, 1, 0.5]), 1, 0.5),
    "fc2": component_scores(np.array([0.4, 0.1]), 1, 2.0),
}
BIG = 10**6


def ranks(decisions: list[RankDecision]) -> tuple[int, ...]:
    return tuple(decision.rank for decision in decisions)


@st.composite
def networks(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """A few layers whose scores are all distinct."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    seed = draw(st.integers(0, 2**32 - 1))
    pooled = np.random.default_rng(seed).permutation(np.exp(np.linspace(-8, 3, sum(lengths))))
    cuts = np.split(pooled, np.cumsum(lengths)[:-1])
    return {f"layer{i}": np.sort(c)[::-1] for i, c in enumerate(cuts)}


shares = st.floats(0, 0.999999)


def test_scores_of_the_worked_example() -> None:
    np.testing.assert_allclose(EXAMPLE["conv"], [4, 1], rtol=1e-15)
    np.testing.assert_allclose(EXAMPLE["fc1"], [4.5, 0.5, 0.125], rtol=1e-15)
    np.testing.assert_allclose(EXAMPLE["fc2"], [0.32, 0.02], rtol=1e-15)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.4, (1, 1, 1)), (0.5, (1, 1, 1)), (0.9, (2, 1, 1)), (0.95, (2, 2, 1)), (0.99, (2, 3, 1))],
)
def test_ranks_of_the_worked_example(share: float, expected: tuple[int, ...]) -> None:
    for at_full_share in ("all", "one"):
        assert ranks(allocate_ranks(EXAMPLE, share=share, cap=BIG, at_full_share=at_full_share)) == expected


def test_cap_and_full_share_of_the_worked_example() -> None:
    assert ranks(allocate_ranks(EXAMPLE, share=0.99, cap=2)) == (2, 2, 1)
    for share in (1.0, 1.5):
        assert ranks(allocate_ranks(EXAMPLE, share=share, cap=BIG, at_full_share="one")) == (1, 1, 1)
        assert ranks(allocate_ranks(EXAMPLE, share=share, cap=BIG, at_full_share="all")) == (2, 3, 2)


def test_the_reason_is_kept() -> None:
    conv, fc1, fc2 = allocate_ranks(EXAMPLE, share=0.9, cap=BIG)
    assert (conv.layer, fc1.layer, fc2.layer) == ("conv", "fc1", "fc2")
    assert (conv.rank, conv.size, conv.kept, conv.clamp) == (2, 2, 2, "none")
    assert (fc1.rank, fc1.size, fc1.kept, fc1.clamp) == (1, 3, 1, "none")
    assert (fc2.rank, fc2.size, fc2.kept, fc2.clamp) == (1, 2, 0, "raised")
    np.testing.assert_allclose([conv.last_score, fc1.last_score, fc2.last_score], [1, 4.5, 0.32])
    cumulative = [0.9077879, 0.4300048, 0.9861443]
    np.testing.assert_allclose([d.cumulative_share for d in (conv, fc1, fc2)], cumulative, atol=1e-7)
    np.testing.assert_allclose([d.score_sum for d in (conv, fc1, fc2)], [5, 5.125, 0.34])
    np.testing.assert_allclose([d.kept_fraction for d in (conv, fc1, fc2)], [1, 4.5 / 5.125, 0.32 / 0.34])
    capped = allocate_ranks(EXAMPLE, share=0.99, cap=2)[1]
    assert (capped.rank, capped.kept, capped.clamp, capped.last_score) == (2, 3, "capped", 0.5)


def test_the_threshold_is_strict() -> None:
    """A share met exactly is not enough: one more component is kept."""
    scores = {"a": np.array([2.0, 1.0, 1.0])}
    assert ranks(allocate_ranks(scores, share=0.5, cap=BIG)) == (2,)
    assert ranks(allocate_ranks(scores, share=0.49, cap=BIG)) == (1,)


def test_a_cap_of_0_leaves_nothing() -> None:
    for decision in allocate_ranks(EXAMPLE, share=0.9, cap=0):
        assert (decision.rank, decision.last_score, decision.cumulative_share, decision.kept_fraction) == (0, 0, 0, 0)


def test_flat_gives_the_cap_to_every_layer() -> None:
    decisions = allocate_ranks(EXAMPLE, share=0.1, cap=2, rule="flat")
    assert ranks(decisions) == (2, 2, 2)
    assert [d.clamp for d in decisions] == ["none", "capped", "none"]
    assert ranks(allocate_ranks(EXAMPLE, share=0.1, cap=BIG, rule="flat")) == (2, 3, 2)


def test_nothing_to_keep_gives_rank_one_and_no_nan() -> None:
    zeros = {"a": np.zeros(3), "b": np.zeros(2)}
    for at_full_share in ("all", "one"):
        decisions = allocate_ranks(zeros, share=0.9, cap=BIG, at_full_share=at_full_share)
        assert ranks(decisions) == (1, 1)
        assert all(np.isfinite([d.cumulative_share, d.kept_fraction]).all() for d in decisions)


@given(scores=networks(), low=shares, high=shares, cap=st.integers(1, 7))
def test_a_larger_share_never_lowers_a_rank(scores: dict[str, np.ndarray], low: float, high: float, cap: int) -> None:
    less, more = sorted((low, high))
    for a, b in zip(
        allocate_ranks(scores, share=less, cap=cap), allocate_ranks(scores, share=more, cap=cap), strict=True
    ):
        assert a.rank <= b.rank <= min(cap, b.size)
        assert a.rank >= 1
        assert a.kept_fraction <= b.kept_fraction + 1e-12


@given(scores=networks(), share=shares)
def test_the_kept_components_are_the_fewest_above_the_share(scores: dict[str, np.ndarray], share: float) -> None:
    decisions = allocate_ranks(scores, share=share, cap=BIG)
    total = sum(c.sum() for c in scores.values())
    kept = [c[: d.kept] for c, d in zip(scores.values(), decisions, strict=True)]
    dropped = [c[d.kept :] for c, d in zip(scores.values(), decisions, strict=True)]
    weakest = min(c[-1] for c in kept if len(c))
    assert all(c[0] < weakest for c in dropped if len(c))
    assert sum(c.sum() for c in kept) > share * total * (1 - 1e-12)
    assert sum(c.sum() for c in kept) - weakest <= share * total * (1 + 1e-12)


@given(scores=networks(), share=shares, cap=st.integers(1, 7), data=st.data())
def test_the_order_of_layers_does_not_matter(
    scores: dict[str, np.ndarray], share: float, cap: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(list(scores)))
    straight = {d.layer: d for d in allocate_ranks(scores, share=share, cap=cap)}
    shuffled = allocate_ranks({layer: scores[layer] for layer in order}, share=share, cap=cap)
    assert [d.layer for d in shuffled] == order
    assert all(straight[d.layer] == d for d in shuffled)


@given(scores=networks(), share=shares, power=st.integers(-20, 20))
def test_the_unit_of_the_scores_does_not_matter(scores: dict[str, np.ndarray], share: float, power: int) -> None:
    scaled = {layer: c * 2.0**power for layer, c in scores.items()}
    assert ranks(allocate_ranks(scores, share=share, cap=BIG)) == ranks(allocate_ranks(scaled, share=share, cap=BIG))


def test_float32_scores_are_summed_in_float64() -> None:
    s = np.linspace(2, 1, 50, dtype=np.float32)
    c = component_scores(s, 9, 0.5)
    assert c.dtype == np.float64
    np.testing.assert_array_equal(c, 4.5 * s.astype(np.float64) ** 2)
    assert s.dtype == np.float32


def test_best_first_sorts_the_components_and_keeps_the_matrix(dtype: type) -> None:
    parts = decompose(np.random.default_rng(0).normal(size=(5, 4)).astype(dtype))
    sorted_ = best_first(parts, np.array([0.5, 2.0, 0.0, 2.0]))
    for found, expected in ((sorted_.U.T, parts.U.T), (sorted_.s, parts.s), (sorted_.Vt, parts.Vt)):
        np.testing.assert_array_equal(found, expected[[1, 3, 0, 2]])
        assert found.dtype == dtype
    product = sorted_.U * sorted_.s @ sorted_.Vt
    np.testing.assert_allclose(product, parts.U * parts.s @ parts.Vt, atol=1e-14 if dtype is np.float64 else 1e-6)
    A, B = initial_factors(sorted_, 1)
    np.testing.assert_allclose(B @ A, parts.s[1] * np.outer(parts.U[:, 1], parts.Vt[1]), rtol=1e-5, atol=1e-7)


def test_best_first_moves_nothing_when_scores_fall_with_the_singular_values() -> None:
    parts = Decomposition(np.eye(3), np.array([2.0, 1.0, 1.0]), np.eye(3))
    for importance in (3.0, 0.0):
        assert best_first(parts, component_scores(parts.s, 4, importance)) is parts
    with pytest.raises(ShapeError, match=r"best_first: expected scores \(3,\), one for each component"):
        best_first(parts, np.ones(2))


def test_wrong_values_are_refused() -> None:
    s = np.array([2.0, 1.0])
    for importance in (np.nan, np.inf, -1.0):
        with pytest.raises(DivergenceError, match="finite importance"):
            component_scores(s, 1, importance)
    with pytest.raises(DivergenceError, match="the singular values finite, received NaN"):
        component_scores(np.array([np.nan, 1.0]), 1, 1.0)
    for window in (0, 2.5, True):
        with pytest.raises(ShapeError, match="positive whole number"):
            component_scores(s, window, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="non-empty vector"):
        component_scores(np.zeros((2, 2)), 1, 1.0)
    with pytest.raises(ShapeError, match="descending"):
        component_scores(s[::-1], 1, 1.0)
    with pytest.raises(ShapeError, match="descending and at least 0"):
        component_scores(-s[::-1], 1, 1.0)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(DivergenceError, match="the scores of layer b finite"):
        allocate_ranks({"a": np.ones(2), "b": np.array([np.nan])}, share=0.9, cap=1)
    with pytest.raises(ShapeError, match=r"the scores of layer a as a non-empty vector of floats.*int64"):
        allocate_ranks({"a": np.ones(2, np.int64)}, share=0.9, cap=1)
    with pytest.raises(ConfigError, match="rule among importance, flat, received 'imp'"):
        allocate_ranks(EXAMPLE, share=0.9, cap=1, rule="imp")
    with pytest.raises(ConfigError, match="at_full_share among all, one"):
        allocate_ranks(EXAMPLE, share=0.9, cap=1, at_full_share="some")
    with pytest.raises(ConfigError, match="at least one layer"):
        allocate_ranks({}, share=0.9, cap=1)
    for share in (np.nan, -0.1):
        with pytest.raises(ConfigError, match="share of at least 0"):
            allocate_ranks(EXAMPLE, share=share, cap=1)
    for cap in (-1, 1.5, True):
        with pytest.raises(ConfigError, match="cap as a whole number"):
            allocate_ranks(EXAMPLE, share=0.9, cap=cap)  # type: ignore[arg-type]
