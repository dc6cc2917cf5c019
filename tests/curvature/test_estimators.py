"""Estimators against known spectra: coverage of 3 stderr over 100 seeds, exactness, budgets, determinism."""

from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

import strict
from curvature.spectra import SIZE, SPECTRA, Counted, OnDevice, known, matrix
from halrp_np.curvature.dense import BLOCK
from halrp_np.curvature.estimators import (
    PRODUCTS,
    Estimate,
    directional_curvature,
    frobenius_norm,
    frobenius_squared,
    hutch_pp_trace,
    hutchinson_trace,
    square_root,
    trace_and_frobenius,
)
from halrp_np.errors import ConfigError, DivergenceError, ShapeError

ALL = [hutchinson_trace, hutch_pp_trace, frobenius_squared, frobenius_norm]
DEFLATED = ALL[1:]


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def truth(estimator: Any, eigenvalues: Any) -> float:
    """What the estimator estimates."""
    eigenvalues = np.asarray(eigenvalues)
    if estimator in (hutchinson_trace, hutch_pp_trace):
        return float(eigenvalues.sum())
    square = float((eigenvalues**2).sum())
    return square**0.5 if estimator is frobenius_norm else square


@lru_cache
def errors(estimator: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Error and stderr at each of 100 seeds, of the default budget."""
    op, exact = known(name), truth(estimator, SPECTRA[name])
    found = [estimator(op, generator=draw(seed)) for seed in range(100)]
    assert op.products == 100 * PRODUCTS
    assert {each.products for each in found} == {PRODUCTS}
    return np.array([each.value - exact for each in found]), np.array([each.stderr for each in found])


# ---- acceptance -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("estimator", ALL)
def test_three_standard_errors_hold_the_truth(estimator: Any, name: str) -> None:
    error, stderr = errors(estimator, name)
    assert np.sum(np.abs(error) <= 3 * stderr) >= 95


@pytest.mark.parametrize("name", ["decaying", "indefinite", "low rank"])
@pytest.mark.parametrize("estimator", ALL)
def test_a_standard_error_is_no_larger_than_the_errors(estimator: Any, name: str) -> None:
    """Coverage alone would forgive one that is far too large, or a bias hidden in it."""
    error, stderr = errors(estimator, name)
    assert 0.6 < np.sqrt((error**2).mean() / (stderr**2).mean()) < 1.6
    assert abs(error.mean()) < 4 * error.std() / len(error) ** 0.5


@pytest.mark.parametrize("name", ["decaying", "steep"])
def test_the_largest_part_is_not_left_to_chance(name: str) -> None:
    """Beside plain means of as many products."""
    plain, _ = errors(hutchinson_trace, name)
    better, _ = errors(hutch_pp_trace, name)
    assert np.abs(better).mean() < np.abs(plain).mean() / 2
    square, _ = errors(frobenius_squared, name)
    A, exact = known(name).A, truth(frobenius_squared, SPECTRA[name])
    Z = [A @ draw(seed).choice([-1.0, 1.0], size=(SIZE, PRODUCTS)) for seed in range(100)]
    assert np.abs(square).mean() < np.mean([abs((z**2).sum(axis=0).mean() - exact) for z in Z]) / 10


# ---- where nothing is left to chance ------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", DEFLATED)
def test_a_rank_below_a_third_of_the_budget_is_found_whole(estimator: Any, dtype: Any) -> None:
    eigenvalues = np.zeros(SIZE)
    eigenvalues[:5] = 5.0, -4.0, 3.0, 2.0, 1.0
    found, exact = estimator(Counted(matrix(eigenvalues, dtype)), generator=draw()), truth(estimator, eigenvalues)
    tolerance = 1e2 * np.finfo(dtype).eps * exact
    assert abs(found.value - exact) < tolerance
    assert found.stderr < tolerance


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize(("size", "products"), [(1, 4), (4, 4), (37, 40)])
def test_a_budget_for_every_column_buys_the_exact_answer(estimator: Any, size: int, products: int, dtype: Any) -> None:
    eigenvalues = np.linspace(-1.0, 2.0, size)
    op = Counted(matrix(eigenvalues, dtype))
    found = estimator(op, products=products, generator=draw())
    assert (found.stderr, found.products, op.products) == (0.0, size, size)
    assert found.value == pytest.approx(truth(estimator, eigenvalues), rel=float(1e2 * np.finfo(dtype).eps))


def test_a_diagonal_costs_hutchinson_no_variance() -> None:
    found = hutchinson_trace(np.diag(SPECTRA["decaying"]), products=2, generator=draw())
    assert found.value == pytest.approx(truth(hutchinson_trace, SPECTRA["decaying"]))
    assert found.stderr < 1e-12


@pytest.mark.parametrize("estimator", ALL)
def test_the_zero_operator(estimator: Any) -> None:
    assert estimator(np.zeros((SIZE, SIZE)), generator=draw()) == Estimate(0.0, 0.0, PRODUCTS)


# ---- one set of products ------------------------------------------------------------------------------------


@pytest.mark.parametrize("products", [4, 5, 31, 60])
def test_both_halves_come_from_the_same_products(products: int) -> None:
    op = known("decaying")
    trace, square = trace_and_frobenius(op, products=products, generator=draw(3))
    assert op.products == trace.products == square.products == products
    assert trace == hutch_pp_trace(op, products=products, generator=draw(3))
    assert square == frobenius_squared(op, products=products, generator=draw(3))
    assert square_root(square) == frobenius_norm(op, products=products, generator=draw(3))


def test_the_root_by_the_delta_method() -> None:
    assert square_root(Estimate(4.0, 0.2, 9)) == Estimate(2.0, 0.05, 9)


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_change_nothing(estimator: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = estimator(known("decaying"), generator=draw(1))
    monkeypatch.setattr(import_module("halrp_np.curvature.dense"), "BLOCK", block)
    op = known("decaying")
    found = estimator(op, generator=draw(1))
    assert op.widest <= block
    assert (found.value, found.stderr) == pytest.approx((expected.value, expected.stderr), rel=1e-9)


@pytest.mark.parametrize("estimator", ALL)
def test_the_generator_alone_decides(estimator: Any) -> None:
    op = known("decaying")
    first, again, other = (estimator(op, generator=draw(seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("estimator", ALL)
def test_single_precision_sees_the_same_probes(estimator: Any) -> None:
    single, double = (estimator(known("decaying", dtype), generator=draw(1)) for dtype in (np.float32, np.float64))
    assert (single.value, single.stderr) == pytest.approx((double.value, double.stderr), rel=1e-4)


@pytest.mark.parametrize("estimator", ALL)
def test_scipy_operators_and_devices(estimator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    qr = strict._lifted(lambda a: tuple(np.linalg.qr(a)))
    monkeypatch.setattr(strict.xp.linalg, "qr", qr, raising=False)
    A = matrix(SPECTRA["decaying"])
    expected = estimator(A, generator=draw(1))
    for op in (aslinearoperator(A), OnDevice(A)):
        found = estimator(op, generator=draw(1))
        assert (found.value, found.stderr) == pytest.approx((expected.value, expected.stderr), rel=1e-9)
    assert estimator(OnDevice(A), products=SIZE, generator=draw()).stderr == 0.0


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("products", [41, 500])
def test_progress_counts_up_to_the_budget(estimator: Any, products: int) -> None:
    told: list[tuple[int, int]] = []
    estimator(known("decaying"), products=products, generator=draw(), progress=lambda *both: told.append(both))
    total = min(products, SIZE)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (total, total)
    assert {of for _, of in told} == {total}


# ---- curvature along directions -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 7, 33])
def test_directional_curvature(count: int, dtype: Any, rng: np.random.Generator) -> None:
    """Not normalised; columns of a larger array are not contiguous."""
    op = known("indefinite", dtype)
    V = rng.normal(size=(SIZE, 2 * count)).astype(dtype)[:, ::2]
    found = directional_curvature(op, V)
    expected = np.einsum("pk,pq,qk->k", V.astype(float), op.A.astype(float), V.astype(float), optimize=True)
    np.testing.assert_allclose(found, expected, rtol=1e3 * np.finfo(dtype).eps, atol=1e2 * np.finfo(dtype).eps)
    assert found.dtype == np.float64
    assert op.products == count
    assert op.widest <= BLOCK


def test_directional_curvature_on_a_device(rng: np.random.Generator) -> None:
    op, V = OnDevice(matrix(SPECTRA["decaying"])), rng.normal(size=(SIZE, 20))
    np.testing.assert_allclose(directional_curvature(op, strict.StrictArray(V)), ((op.A @ V) * V).sum(axis=0))


@pytest.mark.parametrize("shape", [(SIZE,), (3, SIZE), (SIZE, 1, 1)])
def test_directions_are_columns(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"^directional_curvature: expected directions as columns, shape \(200, K\)"):
        directional_curvature(known("decaying"), np.zeros(shape))


# ---- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("products", [0, -60, 1, True, 60.0, "60", None])
def test_budgets_that_cannot_answer(estimator: Any, products: Any) -> None:
    op = known("decaying")
    with pytest.raises(ConfigError, match=f"^{estimator.__name__}: expected products, a whole number from .*larger"):
        estimator(op, products=products, generator=draw())
    assert op.products == 0


def test_two_samples_are_the_least() -> None:
    assert hutchinson_trace(known("decaying"), products=2, generator=draw()).stderr > 0
    with pytest.raises(ConfigError, match="from 4 up, received 3"):
        frobenius_norm(known("decaying"), products=3, generator=draw())


@pytest.mark.parametrize("estimator", ALL)
def test_a_seed_is_no_generator(estimator: Any) -> None:
    with pytest.raises(ConfigError, match=r"numpy\.random\.Generator, received int.*default_rng"):
        estimator(known("decaying"), generator=0)


@pytest.mark.parametrize("estimator", ALL)
def test_an_operator_that_is_not_square(estimator: Any) -> None:
    with pytest.raises(ShapeError, match=f"^{estimator.__name__}: expected a square operator"):
        estimator(np.zeros((3, 4)), generator=draw())


@pytest.mark.parametrize("products", [10, 500])
@pytest.mark.parametrize("estimator", ALL)
def test_what_is_not_finite_is_refused(estimator: Any, products: int) -> None:
    A = known("decaying").A.copy()
    A[3, 4] = A[4, 3] = np.nan
    with pytest.raises(DivergenceError, match=f"^{estimator.__name__}: expected products with finite entries"):
        estimator(A, products=products, generator=draw())
