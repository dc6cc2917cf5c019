"""Residual, decomposition and first factors: exact at full rank where that is possible, optimal below it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halrp_np.errors import ConfigError, DivergenceError, ShapeError
from halrp_np.lowrank import (
    COLUMN_RULES,
    decompose,
    fit_col_scale,
    fit_row_scale,
    initial_factors,
    residual,
    scaled_base,
    truncated,
    window_mean,
)

sizes = st.integers(1, 8)
seeds = st.integers(0, 2**32 - 1)


def kernel(W: Any, F: Any, rule: str, rank: int | None = None) -> Any:
    """The effective weight right after initialisation, at the given rank or at full rank."""
    R = fit_row_scale(W, F)
    S = fit_col_scale(W, F, R, rule)
    parts = decompose(window_mean(residual(W, F, R, S)))
    A, B = initial_factors(parts, rank or parts.size)
    return scaled_base(W, R, S) + (B @ A).reshape(*W.shape[:2], *([1] * (W.ndim - 2)))


@pytest.mark.parametrize("rule", COLUMN_RULES)
@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (1, 5), (5, 1), (8, 4, 1, 1)])
def test_full_rank_is_exact_for_linear_and_1x1(
    rule: str,
    shape: tuple[int, ...],
    dtype: Any,
    layout: Callable[..., Any],
    rng: np.random.Generator,
) -> None:
    W, F = (layout(rng.normal(size=shape).astype(dtype)) for _ in range(2))
    K = kernel(W, F, rule)
    assert np.abs(K - F).max() < (1e-5 if dtype == np.float32 else 1e-13)
    x = rng.normal(size=(shape[1], 7)).astype(dtype)
    flat = K.reshape(shape[:2])
    assert np.abs(flat @ x - F.reshape(shape[:2]) @ x).max() < (1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("rule", COLUMN_RULES)
def test_full_rank_is_not_exact_for_a_wide_window(rule: str, dtype: Any, rng: np.random.Generator) -> None:
    W, F = (rng.normal(size=(4, 3, 5, 5)).astype(dtype) for _ in range(2))
    R = fit_row_scale(W, F)
    E = residual(W, F, R, fit_col_scale(W, F, R, rule))
    Ebar = window_mean(E)
    spread = Ebar[:, :, None, None] - E
    np.testing.assert_allclose(kernel(W, F, rule) - F, spread, atol=1e-5 if dtype == np.float32 else 1e-13)
    squares = 25 * (Ebar**2).sum() + (spread**2).sum()
    np.testing.assert_allclose((E**2).sum(), squares, rtol=1e-4 if dtype == np.float32 else 1e-12)


@given(J=sizes, I=sizes, seed=seeds)
def test_factors_carry_the_truncated_decomposition(J: int, I: int, seed: int) -> None:
    Ebar = np.random.default_rng(seed).normal(size=(J, I))
    parts = decompose(Ebar)
    assert parts.size == min(J, I)
    np.testing.assert_allclose(truncated(parts, parts.size), Ebar, atol=1e-12)
    previous = np.inf
    for rank in range(1, parts.size + 1):
        A, B = initial_factors(parts, rank)
        assert A.shape == (rank, I)
        assert B.shape == (J, rank)
        np.testing.assert_allclose(B @ A, truncated(parts, rank), atol=1e-12)
        np.testing.assert_allclose(((A**2).sum() + (B**2).sum()) / 2, parts.s[:rank].sum(), rtol=1e-12)
        miss = ((Ebar - B @ A) ** 2).sum()
        np.testing.assert_allclose(miss, (parts.s[rank:] ** 2).sum(), atol=1e-11)
        assert miss <= previous
        previous = miss


@given(J=sizes, I=sizes, seed=seeds)
def test_no_other_factors_of_the_same_rank_come_closer(J: int, I: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    Ebar = rng.normal(size=(J, I))
    parts = decompose(Ebar)
    rank = int(rng.integers(1, parts.size + 1))
    A, B = initial_factors(parts, rank)
    best = ((Ebar - B @ A) ** 2).sum()
    moved = (B + 0.1 * rng.normal(size=B.shape)) @ (A + 0.1 * rng.normal(size=A.shape))
    assert ((Ebar - moved) ** 2).sum() >= best - 1e-12


KINDS = {
    "random": lambda draw, J, I: draw.normal(size=(J, I)),
    "zero": lambda draw, J, I: np.zeros((J, I)),
    "of rank one": lambda draw, J, I: np.outer(draw.normal(size=J), draw.normal(size=I)),
    "of half its rank": lambda draw, J, I: draw.normal(size=(J, -(-J // 2))) @ draw.normal(size=(-(-J // 2), I)),
    "with equal singular values": lambda draw, J, I: 3 * np.linalg.qr(draw.normal(size=(max(J, I), min(J, I))))[0],
    "with small singular values": lambda draw, J, I: draw.normal(size=(J, I)) * 10.0 ** -np.arange(J)[:, None],
    "with a zero row and column": lambda draw, J, I: (
        draw.normal(size=(J, I)) * (np.arange(J) > 0)[:, None] * (np.arange(I) > 0)
    ),
}


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
@pytest.mark.parametrize("kind", KINDS)
@given(J=sizes, I=sizes, seed=seeds)
def test_any_matrix_is_decomposed_to_its_own_precision(kind: str, scale: float, J: int, I: int, seed: int) -> None:
    exact = KINDS[kind](np.random.default_rng(seed), J, I)
    exact = exact.T if exact.shape != (J, I) else exact
    for dtype in (np.float32, np.float64):
        Ebar = (scale * exact).astype(dtype)
        parts, q, eps = decompose(Ebar), min(J, I), 100 * np.finfo(dtype).eps
        assert (parts.U.shape, parts.s.shape, parts.Vt.shape) == ((J, q), (q,), (q, I))
        assert {parts.U.dtype, parts.s.dtype, parts.Vt.dtype} == {np.dtype(dtype)}
        U, s, Vt = (part.astype(np.float64) for part in (parts.U, parts.s, parts.Vt))
        np.testing.assert_allclose(U.T @ U, np.eye(q), atol=eps)
        np.testing.assert_allclose(Vt @ Vt.T, np.eye(q), atol=eps)
        expected = np.linalg.svd(Ebar.astype(np.float64), compute_uv=False)
        np.testing.assert_allclose(s, expected, rtol=0, atol=eps * expected[0])
        np.testing.assert_allclose((U * s) @ Vt, Ebar, rtol=0, atol=eps * expected[0])
        assert (np.diff(s) <= 0).all()
        assert s[-1] >= 0


def test_the_gram_matrix_serves_where_it_is_exact_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single precision and no singular value near rounding; everything else goes the long way."""
    calls, svd = [], np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *args, **options: calls.append(args[0].shape) or svd(*args, **options))
    draw = np.random.default_rng(0)
    wide, tall = draw.normal(size=(10, 40)), draw.normal(size=(40, 10))
    for Ebar in (wide, tall, 1e-18 * wide, np.asfortranarray(wide), wide[:, ::-1], np.ones((1, 1))):
        decompose(Ebar.astype(np.float32))
    assert calls == []
    at_the_edge = np.diag([1.0, 3e-4]).astype(np.float32)  # squares apart by more than single precision
    for Ebar in (wide, tall, at_the_edge, np.zeros((3, 2), np.float32), np.ones((3, 2), np.float32)):
        decompose(Ebar)
    assert calls == [(10, 40), (40, 10), (2, 2), (3, 2), (3, 2)]


def test_factors_are_contiguous_new_and_of_the_same_dtype(
    dtype: Any, layout: Callable[..., Any], rng: np.random.Generator
) -> None:
    Ebar = layout(rng.normal(size=(6, 5)).astype(dtype))
    before = Ebar.copy()
    parts = decompose(Ebar)
    U, s, Vt = (a.copy() for a in (parts.U, parts.s, parts.Vt))
    A, B = initial_factors(parts, 3)
    assert A.dtype == B.dtype == dtype
    assert A.flags.c_contiguous
    assert B.flags.c_contiguous
    A *= 0  # training updates factors in place; the decomposition must not notice
    B *= 0
    for now, then in ((parts.U, U), (parts.s, s), (parts.Vt, Vt), (Ebar, before)):
        assert (now == then).all()


def test_window_mean(dtype: Any, layout: Callable[..., Any], rng: np.random.Generator) -> None:
    E = rng.normal(size=(3, 2, 4, 5)).astype(dtype)
    expected = np.array([[E[j, i].mean() for i in range(2)] for j in range(3)])
    np.testing.assert_allclose(window_mean(layout(E)), expected, rtol=1e-4 if dtype == np.float32 else 1e-12, atol=1e-7)
    flat = E[:, :, 0, 0]
    assert (window_mean(flat) == flat).all()


def test_at_rank_0_the_factors_are_empty() -> None:
    A, B = initial_factors(decompose(np.random.default_rng(0).normal(size=(4, 3))), 0)
    assert (A.shape, B.shape) == ((0, 3), (4, 0))
    assert not (B @ A).any()


def test_wrong_input_is_refused(rng: np.random.Generator) -> None:
    E = rng.normal(size=(4, 3, 2, 2))
    parts = decompose(window_mean(E))
    with pytest.raises(ShapeError, match=r"decompose: expected a matrix.*window_mean"):
        decompose(E)
    for bad in (np.nan, np.inf):
        broken = window_mean(E).copy()
        broken[1, 2] = bad
        with pytest.raises(DivergenceError, match="the residual with finite entries only, received NaN or infinity"):
            decompose(broken)
    for rank in (4, -1, 1.0, True):
        with pytest.raises(ConfigError, match="whole rank between 0 and 3"):
            initial_factors(parts, rank)  # type: ignore[arg-type]
    for rank in (0, 4, -1, 1.0, True):
        with pytest.raises(ConfigError, match="whole rank between 1 and 3"):
            truncated(parts, rank)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"E of floats"):
        window_mean(np.zeros((2, 2, 2)))
    with pytest.raises(ShapeError, match="residual: expected F with W's shape"):
        residual(E, E[:, :2], np.ones(4), np.ones(3))
