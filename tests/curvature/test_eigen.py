"""Extreme eigenvalues inside their residuals, and stochastic Lanczos quadrature: weights, degree, moments."""

from typing import Any

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

from curvature.spectra import SIZE, SPECTRA, Counted, OnDevice, known, matrix
from halrp_np.backend import to_host
from halrp_np.curvature.eigen import extreme_eigenvalues, spectral_density
from halrp_np.curvature.estimators import signs
from halrp_np.errors import ConfigError, DivergenceError


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def eps(dtype: Any, name: str) -> float:
    """What rounding of the matrix and of the products may add to an eigenvalue."""
    return float(20 * np.finfo(dtype).eps * np.abs(SPECTRA[name]).max())


# ---- extreme eigenvalues ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECTRA)
def test_errors_stay_below_the_residual(name: str, dtype: Any) -> None:
    """At each of 100 seeds in double precision, and of 20 in single."""
    truth = SPECTRA[name].max(), SPECTRA[name].min()
    for seed in range(100 if dtype == np.float64 else 20):
        op = known(name, dtype)
        pairs = extreme_eigenvalues(op, which="both", generator=draw(seed))
        for pair, exact in zip(pairs, truth, strict=True):
            assert abs(pair.value - exact) <= pair.stderr + eps(dtype, name), (seed, pair.value, exact, pair.stderr)
            assert pair.stderr <= 5e-4 * np.abs(SPECTRA[name]).max()
        assert pairs[0].products == op.products <= 500


@pytest.mark.parametrize(("which", "order"), [("largest", [-1, -2, -3]), ("smallest", [0, 1, 2])])
@pytest.mark.parametrize("name", ["indefinite", "clustered", "low rank"])
def test_several_from_the_end_inwards(name: str, which: str, order: list[int], dtype: Any) -> None:
    op = known(name, dtype)
    pairs = extreme_eigenvalues(op, count=3, which=which, generator=draw(1))
    for pair, exact in zip(pairs, np.sort(SPECTRA[name])[order], strict=True):
        assert abs(pair.value - exact) <= pair.stderr + eps(dtype, name)
    V = np.stack([pair.vector for pair in pairs], axis=1)
    assert V.dtype == dtype
    np.testing.assert_allclose(V.T @ V, np.eye(3), atol=1e-5)
    found = np.linalg.norm(op.A @ V - V * [pair.value for pair in pairs], axis=0)
    np.testing.assert_allclose(found, [pair.stderr for pair in pairs], rtol=1e-3, atol=eps(dtype, name))


def test_both_ends_in_order() -> None:
    pairs = extreme_eigenvalues(known("indefinite"), count=2, which="both", generator=draw())
    ends = np.sort(SPECTRA["indefinite"])[[-1, -2, 0, 1]]
    np.testing.assert_allclose([pair.value for pair in pairs], ends, atol=1e-8)


@pytest.mark.parametrize("size", [1, 2, 3, 20, 21, 25])
@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
def test_operators_of_any_order(size: int, which: str) -> None:
    """Down to those that ARPACK refuses."""
    eigenvalues = np.linspace(-1.0, 2.0, size)
    op = Counted(matrix(eigenvalues))
    pairs = extreme_eigenvalues(op, which=which, products=60, generator=draw())
    truth = {"largest": [eigenvalues[-1]], "smallest": [eigenvalues[0]], "both": eigenvalues[[-1, 0]]}[which]
    np.testing.assert_allclose([pair.value for pair in pairs], truth, atol=1e-6)
    assert pairs[0].products == op.products <= 60
    assert size > 21 or op.products == size


def test_all_eigenvalues_of_a_small_one() -> None:
    pairs = extreme_eigenvalues(Counted(matrix([3.0, 1.0, -2.0])), count=3, generator=draw())
    np.testing.assert_allclose([pair.value for pair in pairs], [3.0, 1.0, -2.0])


@pytest.mark.parametrize("value", [0.0, 2.0, -2.0])
def test_multiples_of_the_identity(value: float) -> None:
    """Every Krylov space is one-dimensional; ARPACK alone fails on zero."""
    pairs = extreme_eigenvalues(value * np.eye(SIZE), count=2, which="both", generator=draw())
    np.testing.assert_allclose([pair.value for pair in pairs], value, atol=1e-13)


def test_a_budget_too_small_to_converge_says_so() -> None:
    """Spectra without a clear end need more; nothing half-done comes back, and no product too many is spent."""
    op = Counted(matrix(np.linspace(0.0, 1.0, SIZE)))
    with pytest.raises(ConfigError, match=r"^extreme_eigenvalues: .*no convergence in 29 products.*Raise products"):
        extreme_eigenvalues(op, products=30, generator=draw())
    assert op.products == 29
    with pytest.raises(ConfigError, match="products, a whole number from 27 up, received 26"):
        extreme_eigenvalues(op, products=26, generator=draw())
    with pytest.raises(ConfigError, match="products, a whole number from 5 up, received 4"):
        extreme_eigenvalues(np.eye(5), products=4, generator=draw())


@pytest.mark.parametrize("rank", [0, 2, SIZE])
def test_the_generator_alone_decides_extremes(rank: int) -> None:
    """Also where ARPACK has to draw new vectors on its way, as for the zero operator."""
    A = matrix(np.where(np.arange(SIZE) < rank, 1.0 + np.arange(SIZE) % 7, 0.0))
    first, again = (extreme_eigenvalues(A, count=4, generator=draw(5)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert (one.value, one.stderr, one.products) == (other.value, other.stderr, other.products)
        np.testing.assert_array_equal(one.vector, other.vector)


def test_arpack_draws_from_the_generator_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left alone, SciPy would seed a generator of its own from the clock."""
    generator, own = draw(), np.random.default_rng

    def seeded(seed: Any = None) -> np.random.Generator:
        assert seed is not None
        return own(seed)

    monkeypatch.setattr(np.random, "default_rng", seeded)
    extreme_eigenvalues(np.zeros((SIZE, SIZE)), generator=generator)


def test_extremes_of_scipy_operators_and_on_devices(dtype: Any) -> None:
    A = matrix(SPECTRA["indefinite"], dtype)
    expected = extreme_eigenvalues(A, generator=draw(1))[0]
    for op in (aslinearoperator(A), OnDevice(A)):
        found = extreme_eigenvalues(op, generator=draw(1))[0]
        assert found.value == pytest.approx(expected.value, rel=1e-5)
        np.testing.assert_allclose(to_host(found.vector), expected.vector, atol=1e-4)
    small = extreme_eigenvalues(OnDevice(A[:5, :5]), generator=draw())[0]
    assert small.value == pytest.approx(np.linalg.eigvalsh(A[:5, :5])[-1], rel=1e-5)


@pytest.mark.parametrize("count", [0, -1, True, 1.0, SIZE + 1])
def test_counts_that_make_no_sense(count: Any) -> None:
    with pytest.raises(ConfigError, match=r"^extreme_eigenvalues: expected count, a whole number from 1 to 200"):
        extreme_eigenvalues(known("decaying"), count=count, generator=draw())


def test_ends_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match="expected which: largest, smallest, both, received 'LM'"):
        extreme_eigenvalues(known("decaying"), which="LM", generator=draw())


@pytest.mark.parametrize("size", [5, SIZE])
def test_what_is_not_finite_is_refused(size: int) -> None:
    A = np.full((size, size), np.nan)
    with pytest.raises(DivergenceError, match=r"^extreme_eigenvalues: expected products with finite entries"):
        extreme_eigenvalues(A, generator=draw())
    with pytest.raises(DivergenceError, match=r"^spectral_density: expected products with finite entries"):
        spectral_density(A, probes=2, steps=5, generator=draw())


# ---- spectral density ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECTRA)
def test_three_standard_errors_hold_the_moments(name: str) -> None:
    """tr H and ‖H‖_F²; 39 probes of 5 steps are just too few to be exact."""
    A = known(name).A
    found = [spectral_density(A, probes=39, steps=5, points=32, generator=draw(seed)) for seed in range(100)]
    for power in (1, 2):
        estimates = [density.trace(lambda x, p=power: x**p) for density in found]
        errors = [abs(estimate.value - (SPECTRA[name] ** power).sum()) for estimate in estimates]
        inside = [error <= 3 * estimate.stderr for error, estimate in zip(errors, estimates, strict=True)]
        assert sum(inside) >= 95
        spread = np.mean([estimate.stderr**2 for estimate in estimates])
        assert 0.6 < (np.mean(np.square(errors)) / spread) ** 0.5 < 1.6


@pytest.mark.parametrize("name", ["decaying", "indefinite"])
def test_m_steps_integrate_polynomials_of_degree_2m_minus_1(name: str) -> None:
    """Exactly, in each probe; and not those of degree 2m, so that the test can fail."""
    A, probes, steps = known(name).A, 3, 4
    density = spectral_density(A, probes=probes, steps=steps, generator=draw(2))
    Z = signs(A, probes, draw(2))
    for degree in range(2 * steps + 1):
        exact = (Z * (np.linalg.matrix_power(A, degree) @ Z)).sum(axis=0) / SIZE
        found = (density.weights * density.nodes**degree).sum(axis=1)
        if degree < 2 * steps:
            np.testing.assert_allclose(found, exact, rtol=1e-10, atol=1e-14)
        else:
            assert np.all(np.abs(found - exact) > 1e-8 * np.abs(exact))


@pytest.mark.parametrize("points", [32, 512, 2000])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_density_integrates_to_one_and_has_the_moments(name: str, points: int, dtype: Any) -> None:
    """Weights that are not those of the eigenvectors' first entries would lose this."""
    found = spectral_density(known(name, dtype), probes=6, steps=20, points=points, generator=draw(3))
    assert found.grid.shape == found.density.shape == found.stderr.shape == (points,)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0, atol=1e-12)
    assert np.all(found.weights >= 0)
    first, second = (found.trace(lambda x, p=p: x**p).value / SIZE for p in (1, 2))
    scale = np.abs(SPECTRA[name]).max()
    integral = [np.trapezoid(found.density * found.grid**power, found.grid) for power in range(3)]
    assert integral[0] == pytest.approx(1.0, abs=2e-6)
    assert integral[1] == pytest.approx(first, abs=1e-5 * scale)
    assert integral[2] == pytest.approx(second + found.width**2, abs=1e-5 * scale**2)


def test_the_density_and_its_error_where_quadrature_is_exact() -> None:
    """Three eigenvalues need three steps; what is left is the spread over probes, point by point."""
    exact = SPECTRA["clustered"]
    inside = []
    for seed in range(20):
        found = spectral_density(known("clustered"), probes=30, steps=4, generator=draw(seed))
        kernel = np.exp(-0.5 * ((found.grid[:, None] - exact) / found.width) ** 2).mean(axis=1)
        truth = kernel / (found.width * (2 * np.pi) ** 0.5)
        inside.append(np.mean(np.abs(found.density - truth) <= 3 * found.stderr + 1e-9))
    assert np.mean(inside) >= 0.95


def test_no_eigenvalue_is_found_twice() -> None:
    """Without reorthogonalisation, copies of the largest appear soon after it has converged."""
    found = spectral_density(known("steep"), probes=2, steps=60, generator=draw(4))
    for nodes in found.nodes:
        assert np.sum(np.abs(nodes - 1.0) < 1e-6) == 1


@pytest.mark.parametrize(("eigenvalues", "distinct"), [([2.0], 1), ([0.0], 1), ([3.0, 0.0], 2), ([5.0, 4.0, -1.0], 3)])
def test_an_invariant_subspace_ends_a_probe_early(eigenvalues: list[float], distinct: int, dtype: Any) -> None:
    """Steps that are not taken weigh nothing and lie on the spectrum, so that log and 1/x do not fail."""
    spectrum = np.resize(eigenvalues, SIZE)
    found = spectral_density(Counted(matrix(spectrum, dtype)), probes=3, steps=12, generator=draw(5))
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0, atol=1e-12)
    # A step on rounding alone is harmless: it weighs nothing.
    assert np.all((found.weights > 1e-6).sum(axis=1) == distinct)
    distance = np.abs(found.nodes[:, :, None] - np.unique(spectrum)).min(axis=2)
    assert distance[found.weights > 1e-6].max() < 100 * np.finfo(dtype).eps * 5
    assert found.nodes.min() >= spectrum.min() - 1e-5
    assert found.nodes.max() <= spectrum.max() + 1e-5
    assert found.trace(lambda x: x).value == pytest.approx(
        spectrum.sum(), abs=3 * found.trace(lambda x: x).stderr + 1e-3
    )
    assert np.isfinite(found.density).all()
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1.0, abs=2e-6)


@pytest.mark.parametrize("size", [1, 2, 30])
def test_a_budget_for_every_column_buys_the_eigenvalues(size: int, dtype: Any) -> None:
    eigenvalues = np.linspace(-1.0, 2.0, size)
    op = Counted(matrix(eigenvalues, dtype))
    found = spectral_density(op, probes=4, steps=10, generator=draw())
    np.testing.assert_allclose(found.nodes, eigenvalues[None], atol=100 * np.finfo(dtype).eps)
    assert found.products == op.products == size
    assert not found.stderr.any()
    trace = found.trace(np.exp)
    assert (trace.stderr, trace.products) == (0.0, size)
    assert trace.value == pytest.approx(np.exp(eigenvalues).sum(), rel=1e-5)


def test_the_trace_of_a_function() -> None:
    """Smooth ones need few steps: log det and the trace of the exponential."""
    spectrum = 1.0 + SPECTRA["decaying"]
    found = spectral_density(Counted(matrix(spectrum)), probes=12, steps=12, generator=draw(6))
    for function in (np.log, np.exp):
        estimate = found.trace(function)
        assert abs(estimate.value - function(spectrum).sum()) <= 3 * estimate.stderr
        assert 0 < estimate.stderr < 0.1 * estimate.value


def test_the_budget_is_spent_and_told() -> None:
    op, told = known("decaying"), []
    found = spectral_density(
        op, probes=18, steps=7, generator=draw(), progress=lambda done, total: told.append((done, total))
    )
    assert found.products == op.products == 18 * 7
    assert op.widest == 16
    assert told[-1] == (126, 126)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_probes_one_after_the_other_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """When memory has no room for more Lanczos vectors."""
    together = spectral_density(known("decaying"), probes=5, steps=9, generator=draw(7))
    monkeypatch.setattr("halrp_np.curvature.eigen.BASIS_BYTES", 1)
    op = known("decaying")
    alone = spectral_density(op, probes=5, steps=9, generator=draw(7))
    assert op.widest == 1
    np.testing.assert_allclose(alone.nodes, together.nodes, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(alone.density, together.density, rtol=1e-6, atol=1e-10)


def test_densities_of_scipy_operators_and_on_devices() -> None:
    A = matrix(SPECTRA["indefinite"])
    expected, again = (spectral_density(A, probes=3, steps=8, generator=draw(8)) for _ in range(2))
    np.testing.assert_array_equal(expected.density, again.density)
    for op in (aslinearoperator(A), OnDevice(A)):
        found = spectral_density(op, probes=3, steps=8, generator=draw(8))
        np.testing.assert_allclose(found.nodes, expected.nodes, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found.density, expected.density, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("wrong", [{"probes": 1}, {"steps": 0}, {"points": 31}, {"steps": 2.0}, {"probes": True}])
def test_budgets_that_cannot_answer(wrong: dict[str, Any]) -> None:
    budget = {"probes": 5, "steps": 5, **wrong}
    name = next(iter(wrong))
    with pytest.raises(ConfigError, match=f"^spectral_density: expected {name}, a whole number from"):
        spectral_density(known("decaying"), generator=draw(), **budget)
