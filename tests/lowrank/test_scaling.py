"""The scaling fits: worked numbers, optimality, and the official closed form against the code it stands for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halrp_np.errors import ConfigError, ShapeError
from halrp_np.lowrank import (
    COLUMN_RULES,
    decompose,
    fit_col_scale,
    fit_row_scale,
    residual,
    scaled_base,
    window_mean,
)

SHAPES = [(6, 5), (5, 6), (4, 3, 5, 5), (3, 4, 1, 1), (2, 3, 2, 4)]
TOLERANCE = {np.float32: 1e-4, np.float64: 1e-9}

TOY_W = np.array([[1.0, 2.0], [3.0, -1.0], [0.0, 2.0]])
TOY_F = np.array([[2.0, 3.0], [3.0, 1.0], [1.0, -2.0]])


def outer_product_emulation(W: np.ndarray, F: np.ndarray, R: np.ndarray) -> np.ndarray:
    """The released code word for word: a (J, 1[, 1, 1]) column of R times a (J[, kh, kw]) slice of column i."""
    column = R.reshape(-1, *([1] * (W.ndim - 1)))
    S = np.empty(W.shape[1], W.dtype)
    for i in range(W.shape[1]):
        product = column * W[:, i]  # (J', J[, kh, kw]), not (J[, kh, kw])
        S[i] = (product * F[:, i]).sum() / max((product**2).sum(), 1e-20)
    return S


def test_toy_of_the_specification(dtype: Any) -> None:
    W, F = TOY_W.astype(dtype), TOY_F.astype(dtype)
    R = fit_row_scale(W, F)
    np.testing.assert_allclose(R, [1.6, 0.8, -1.0], rtol=TOLERANCE[dtype])
    cases = {
        "official": ([11 / 30, 1 / 27], 20.5641744856, [3.9284453779, 2.2652795410]),
        "least-squares": ([1.25, 0.8602150538], 3.9892473118, [1.7400549928, 0.9805385938]),
    }
    for rule, (S, squares, s) in cases.items():
        found = fit_col_scale(W, F, R, rule)
        E = residual(W, F, R, found)
        np.testing.assert_allclose(found, S, rtol=max(TOLERANCE[dtype], 1e-9))
        np.testing.assert_allclose((E**2).sum(), squares, rtol=max(TOLERANCE[dtype], 1e-9))
        np.testing.assert_allclose(decompose(E).s, s, rtol=max(TOLERANCE[dtype], 1e-9))
        assert found.dtype == E.dtype == dtype


def test_random_convolution_of_the_specification() -> None:
    legacy = np.random.RandomState(0)
    W, F = legacy.randn(4, 3, 5, 5), legacy.randn(4, 3, 5, 5)
    R = fit_row_scale(W, F)
    S = fit_col_scale(W, F, R, "official")
    paper = fit_col_scale(W, F, R, "least-squares")
    E = residual(W, F, R, S)
    Ebar = window_mean(E)
    s = decompose(Ebar).s
    rest = ((E - Ebar[:, :, None, None]) ** 2).sum()
    np.testing.assert_allclose(R, [-0.0499738520, -0.0705224951, 0.0612329983, 0.1821062170], atol=1e-10)
    np.testing.assert_allclose(S, [-0.1005781941, 0.2194628528, 0.0823281826], atol=1e-10)
    np.testing.assert_allclose(paper, [0.9424849874, 1.3602728406, 0.6608259777], atol=1e-10)
    np.testing.assert_allclose(s, [0.6548741122, 0.2642284948, 0.1593531527], atol=1e-10)
    np.testing.assert_allclose((E**2).sum(), 304.8030381770, rtol=1e-12)
    np.testing.assert_allclose(25 * (s**2).sum(), 13.1017556887, rtol=1e-11)
    np.testing.assert_allclose(rest, 291.7012824883, rtol=1e-12)
    # full rank keeps the window mean and nothing else: K - F = Ebar - E
    K = scaled_base(W, R, S) + Ebar[:, :, None, None]
    np.testing.assert_allclose(K - F, Ebar[:, :, None, None] - E, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_official_closed_form_is_the_released_outer_product(
    shape: tuple[int, ...], dtype: Any, layout: Callable[..., Any], rng: np.random.Generator
) -> None:
    W, F = (layout(rng.normal(size=shape).astype(dtype)) for _ in range(2))
    R = fit_row_scale(W, F)
    expected = outer_product_emulation(W.astype(float), F.astype(float), R.astype(float))
    # cancellation inside ⟨F_i, W_i⟩ is measured against the sum of absolute products
    scale = outer_product_emulation(np.abs(W.astype(float)), np.abs(F.astype(float)), np.abs(R.astype(float)))
    assert np.max(np.abs(fit_col_scale(W, F, R, "official") - expected) / scale) < 10 * np.finfo(dtype).eps * W.size


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", COLUMN_RULES)
def test_layout_and_purity(
    shape: tuple[int, ...],
    rule: str,
    dtype: Any,
    layout: Callable[..., Any],
    rng: np.random.Generator,
) -> None:
    W, F = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    here = [layout(a.copy()) for a in (W, F)]
    R = fit_row_scale(*here)
    S = fit_col_scale(*here, R, rule)
    E = residual(*here, R, S)
    R_ref = fit_row_scale(W, F)
    S_ref = fit_col_scale(W, F, R_ref, rule)
    tolerance = {"rtol": 100 * TOLERANCE[dtype], "atol": 100 * np.finfo(dtype).eps}
    np.testing.assert_allclose(R, R_ref, **tolerance)
    np.testing.assert_allclose(S, S_ref, **tolerance)
    np.testing.assert_allclose(E, F - scaled_base(W, R_ref, S_ref), **tolerance)
    assert R.dtype == S.dtype == E.dtype == dtype
    assert all((a == b).all() for a, b in zip(here, (W, F), strict=True))


@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**32 - 1),
    step=st.floats(-0.5, 0.5).filter(lambda x: abs(x) > 1e-3),
)
def test_each_fit_is_a_minimum(shape: tuple[int, ...], seed: int, step: float) -> None:
    rng = np.random.default_rng(seed)
    W, F = rng.normal(size=shape), rng.normal(size=shape)
    R = fit_row_scale(W, F)
    S = fit_col_scale(W, F, R)
    ones = np.ones(shape[1])

    def miss(R: np.ndarray, S: np.ndarray) -> float:
        return float((residual(W, F, R, S) ** 2).sum())

    worse_R, worse_S = R.copy(), S.copy()
    worse_R[rng.integers(len(R))] += step
    worse_S[rng.integers(len(S))] += step
    assert miss(R, ones) < miss(worse_R, ones)
    assert miss(R, S) < miss(R, worse_S)
    assert miss(R, S) <= miss(R, ones) * (1 + 1e-12)


@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**32 - 1))
def test_the_rules_agree_when_all_rows_scale_alike(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    W, F = rng.normal(size=shape), rng.normal(size=shape)
    R = np.full(shape[0], 0.7)
    np.testing.assert_allclose(
        fit_col_scale(W, F, R, "official"), fit_col_scale(W, F, R, "least-squares"), rtol=1e-9, atol=1e-12
    )


def test_a_weight_that_is_only_rescaled_is_recovered(dtype: Any, rng: np.random.Generator) -> None:
    W = rng.normal(size=(7, 5, 3, 3)).astype(dtype)
    R = rng.uniform(0.5, 2, size=7).astype(dtype)
    F = scaled_base(W, R, np.ones(5, dtype))
    found = fit_row_scale(W, F)
    S = fit_col_scale(W, F, found)
    np.testing.assert_allclose(found, R, rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(S, 1, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("rule", COLUMN_RULES)
def test_zero_rows_and_columns_scale_by_zero(rule: str, dtype: Any, rng: np.random.Generator) -> None:
    W, F = (rng.normal(size=(4, 3)).astype(dtype) for _ in range(2))
    W[1], W[:, 2] = 0, 0
    R = fit_row_scale(W, F)
    S = fit_col_scale(W, F, R, rule)
    assert R[1] == 0
    assert S[2] == 0
    assert np.isfinite(R).all()
    assert np.isfinite(S).all()
    assert not fit_row_scale(0 * W, F).any()


def test_wrong_input_is_refused(rng: np.random.Generator) -> None:
    W, R, S = rng.normal(size=(4, 3)), rng.normal(size=4), rng.normal(size=3)
    with pytest.raises(
        ShapeError, match=r"fit_row_scale: expected F with W's shape \(4, 3\) .* received shape \(3, 4\)"
    ):
        fit_row_scale(W, W.T)
    with pytest.raises(ShapeError, match="dtype float32"):
        fit_row_scale(W, W.astype(np.float32))
    with pytest.raises(ShapeError, match=r"W of floats.*dtype int64"):
        fit_row_scale(np.ones((2, 2), np.int64), np.ones((2, 2), np.int64))
    with pytest.raises(ShapeError, match=r"received shape \(4, 3, 2\)"):
        fit_row_scale(np.zeros((4, 3, 2)), np.zeros((4, 3, 2)))
    with pytest.raises(ShapeError, match="non-empty"):
        fit_row_scale(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(ShapeError, match=r"fit_col_scale: expected R of floats with shape \(4,\)"):
        fit_col_scale(W, W, S)
    with pytest.raises(ShapeError, match=r"scaled_base: expected S of floats with shape \(3,\)"):
        scaled_base(W, R, R)
    with pytest.raises(ConfigError, match="least-squares, official, received 'ls'"):
        fit_col_scale(W, W, R, "ls")
