"""Eigenvalues of a symmetric operator from its products: the extreme ones, and the density of all of them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from ..backend import to_host
from ..errors import ConfigError
from ..typing import Array
from .dense import BLOCK, LARGEST, Progress, SymmetricOperator, dense_matrix, namespace, report
from .estimators import Estimate, check_budget, check_products, estimate, signs

ENDS = {"largest": (1,), "smallest": (-1,), "both": (1, -1)}
"""The ends of the spectrum, and the side that each lies on."""

BASIS = 20
"""Lanczos vectors between two restarts of ARPACK, its own default for one eigenvalue."""

TOLERANCE = 1e-4
"""Residuals of eigenpairs beside the operator's norm: reached in float32 too, and by the crowded end of a Hessian."""

POWER_STEPS = 5
"""Products spent on the size of the operator, which the tolerance is measured by."""

BASIS_BYTES = 2**30
"""Lanczos vectors of several probes stay below it; one probe alone, of P x steps numbers, always runs."""


@dataclass(frozen=True, eq=False)
class Eigenpair(Estimate):
    """An eigenvalue, the norm of its residual ‖Hv - λv‖ as `stderr`, and its unit vector (P,) on the device."""

    vector: Array


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """The density of eigenvalues, as quadrature nodes of each probe and smoothed for the eye.

    Shapes: grid, density, stderr (points,); nodes, weights (probes, steps), the weights of a probe summing to 1; on the
            host.
    Math:   density(t) = mean over probes Σ_i w_i N(t; θ_i, width²), whose integral is 1; stderr is that mean's.
    """

    grid: np.ndarray[Any, Any]
    density: np.ndarray[Any, Any]
    stderr: np.ndarray[Any, Any]
    products: int
    nodes: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any]
    width: float
    size: int

    def trace(self, function: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Estimate:
        """Return the trace of a function of the operator; the function maps arrays of eigenvalues entry by entry.

        Math:   tr f(H) ≈ P · mean over probes Σ_i w_i f(θ_i); with m steps exact in each probe for polynomials up to
                degree 2m - 1.
        """
        samples = self.size * (self.weights * function(self.nodes)).sum(axis=1)
        return _mean("SpectralDensity.trace", samples, self.products)


def extreme_eigenvalues(
    op: SymmetricOperator,
    *,
    count: int = 1,
    which: str = "largest",
    products: int = 500,
    generator: np.random.Generator,
    progress: Progress | None = None,
) -> list[Eigenpair]:
    """Return the largest or the smallest eigenvalues, by sign, or `count` of each, by implicitly restarted Lanczos.

    At most `products` products are spent, about 25 for each pair that stands clear of the rest; each pair states what
    all cost together. The order is from the end inwards, for `both` the largest first, then the smallest. An operator
    so small that its columns cost no more is written out and solved exactly. Vectors are kept on the host in float64;
    the operator sees its own dtype.

    Pairs are found one by one, each in the complement of those before it: one Lanczos run sees a single vector of a
    multiple eigenvalue, and would go on to the next one in. Within `stderr` of each value lies an eigenvalue of H. That
    it is the extreme one rests on convergence: an unfinished value may lie far from the end with a residual that does
    not tell. So either all of them have residuals of at most 4e-4 ‖H‖ (isolated values are far better, by the square),
    or the call says that they have not, and returns none. The smallest eigenvalues of a semi-definite Hessian, crowded
    at 0, cost most.

    Math:   |λ - λ_i| ≤ ‖Hv - λv‖ for some eigenvalue λ_i, with λ = vᵀHv and ‖v‖ = 1.
    Raises: ConfigError for a budget within which ARPACK does not converge, or that is too small to start, and for a
            `which` or `count` that makes no sense; DivergenceError when a product is not finite.
    Reference: Lehoucq, Sorensen and Yang (1998), ARPACK Users' Guide; Parlett (1980), theorem 4.5.1, for the residual.
    """
    where = "extreme_eigenvalues"
    size = check_budget(where, op, "products", products, least=1, generator=generator)
    sides = _sides(where, which, count, size)
    wanted = count * len(sides)
    lanczos = POWER_STEPS + wanted * (BASIS + 2)
    small = size <= min(lanczos, LARGEST)
    check_budget(where, op, "products", products, least=size if small else lanczos, generator=generator)
    if small:
        matrix = to_host(dense_matrix(op, progress=progress)).astype(np.float64)
        check_products(where, matrix)
        found, spent = np.linalg.eigh((matrix + matrix.T) / 2)[1], size
        images = matrix @ found
    else:
        counted = _Counted(where, op, products - wanted, progress)
        found = _arpack(counted, sides, count, generator)
        images = to_host(op @ _to_device(op, found)).astype(np.float64)
        spent = counted.spent + wanted
    pairs = [_pair(op, v, image, spent) for v, image in zip(found.T, images.T, strict=True)]
    pairs.sort(key=lambda pair: pair.value)
    return [pairs[-1 - place if side > 0 else place] for side in sides for place in range(count)]


def spectral_density(
    op: SymmetricOperator,
    *,
    probes: int,
    steps: int,
    generator: np.random.Generator,
    points: int = 512,
    progress: Progress | None = None,
) -> SpectralDensity:
    """Return the density of eigenvalues by stochastic Lanczos quadrature, at the price of probes · steps products.

    Lanczos runs with full reorthogonalisation, so no eigenvalue comes twice; the probes run side by side, as many as
    have room. A budget that would pay for every column (of at most 5000) buys the exact eigenvalues instead, for P
    products. The smoothing is a hundredth of the spectrum wide, or what `points` can show: `nodes` and `weights` hold
    the rest. With 30 probes or more, 3 stderr hold the truth in about 95 of 100 cases even where one eigenvalue rules.

    Math:   T_z = VᵀHV of m Lanczos steps from z/‖z‖, z of random signs; θ_i its eigenvalues, w_i the squared first
            entries of its eigenvectors; Σ_i w_i f(θ_i) ≈ zᵀf(H)z/‖z‖², whose mean is tr f(H)/P.
    Raises: ConfigError for fewer than 2 probes, 1 step or 32 points; DivergenceError when a product is not finite.
    Reference: Ubaru, Chen and Saad (2017); Ghorbani, Krishnan and Xiao (arXiv 1901.10159), section 2.
    """
    where = "spectral_density"
    size = check_budget(where, op, "probes", probes, least=2, generator=generator)
    check_budget(where, op, "steps", steps, least=1, generator=generator)
    check_budget(where, op, "points", points, least=32, generator=generator)
    if size <= min(probes * steps, LARGEST):
        matrix = to_host(dense_matrix(op, progress=progress)).astype(np.float64)
        check_products(where, matrix)
        nodes = np.linalg.eigvalsh((matrix + matrix.T) / 2)[None]
        return _smoothed(nodes, np.full((1, size), 1 / size), size, points, size)
    nodes, weights = np.empty((probes, steps)), np.empty((probes, steps))
    together = max(1, min(BLOCK, BASIS_BYTES // (size * steps * np.dtype(op.dtype).itemsize)))
    for start in range(0, probes, together):
        stop = min(start + together, probes)

        def told(step: int, start: int = start, stop: int = stop) -> None:
            report(progress, start * steps + step * (stop - start), probes * steps)

        alpha, beta, taken = _lanczos(op, signs(op, stop - start, generator), steps, told)
        for probe in range(start, stop):
            column = probe - start
            nodes[probe], weights[probe] = _quadrature(alpha[:, column], beta[:, column], int(taken[column]))
    return _smoothed(nodes, weights, probes * steps, points, size)


# ---- extreme eigenvalues ------------------------------------------------------------------------------------------


class _Spent(Exception):  # noqa: N818 - it ends ARPACK's loop, and never leaves this module
    """The budget is spent."""


class _Counted(LinearOperator):  # type: ignore[misc]
    """H + shift·I on the complement of `found`, for ARPACK: float64 vectors on the host, at most `most` products."""

    def __init__(self, where: str, op: SymmetricOperator, most: int, progress: Progress | None) -> None:
        super().__init__(np.dtype(np.float64), op.shape)
        self.where, self.op, self.most, self.progress = where, op, most, progress
        self.spent, self.shift, self.found = 0, 0.0, np.empty((op.shape[0], 0))

    def _matvec(self, v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self.spent == self.most:
            raise _Spent
        self.spent += 1
        v = self.outside(v.reshape(-1))
        product = to_host(self.op @ _to_device(self.op, v)).astype(np.float64)
        check_products(self.where, product)
        report(self.progress, self.spent, self.most)
        return self.outside(product + self.shift * v)

    def outside(self, v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The part of a vector in the complement."""
        rest: np.ndarray[Any, Any] = v - self.found @ (self.found.T @ v)
        return rest


def _arpack(
    counted: _Counted, sides: tuple[int, ...], count: int, generator: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Unit vectors (P, wanted), converged. Each start is drawn here, and so is any new one that ARPACK needs.

    ARPACK asks for a residual small beside the eigenvalue: never reached at 0, where most of a Hessian's are. Shifted
    to one side by three times (a lower bound of) ‖H‖, which moves no vector, all are of that size, and so is what it
    asks; the wanted end is then the largest in size, and what was found before, at 0, is the smallest.
    """
    size = counted.shape[0]
    distance = 3 * _norm(counted, generator.standard_normal(size)) or 1.0
    options = {"rng": generator} if "rng" in inspect.signature(eigsh).parameters else {}  # older SciPy has its own seed
    ends = []
    try:
        for side in sides:
            counted.shift, counted.found = side * distance, np.empty((size, 0))
            for _ in range(count):
                start = counted.outside(generator.standard_normal(size))
                # Every product is counted, so the number of restarts need not be limited as well.
                _, v = eigsh(
                    counted, k=1, which="LM", ncv=BASIS, v0=start, tol=TOLERANCE, maxiter=counted.most, **options
                )
                counted.found = np.hstack([counted.found, v])
            ends.append(counted.found)
    except (_Spent, ArpackError) as stop:
        raise ConfigError(
            counted.where,
            expected=f"eigenvalues ({count * len(sides)}) with residuals near {TOLERANCE:.0e} of the norm",
            received=f"no convergence in {counted.spent} products" + (f" ({stop})" if str(stop) else ""),
            next_step="Raise products, ask for fewer eigenvalues, or look at spectral_density.",
        ) from None
    return np.hstack(ends)


def _norm(counted: _Counted, v: np.ndarray[Any, Any]) -> float:
    """A lower bound of the spectral norm, near it after some steps of the power method."""
    length = float(np.linalg.norm(v))
    for _ in range(POWER_STEPS):
        v = counted.matvec(v / (length or 1.0))
        length = float(np.linalg.norm(v))
    return length


def _sides(where: str, which: str, count: int, size: int) -> tuple[int, ...]:
    """The sides of the ends that are asked for, after a look at whether so many exist."""
    if which not in ENDS:
        raise ConfigError(where, expected=f"which: {', '.join(ENDS)}", received=repr(which), next_step="Choose one.")
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= size:
        raise ConfigError(
            where,
            expected=f"count, a whole number from 1 to {size}",
            received=repr(count),
            next_step=f"The operator has {size} eigenvalues in all.",
        )
    return ENDS[which]


def _pair(op: SymmetricOperator, v: np.ndarray[Any, Any], image: np.ndarray[Any, Any], products: int) -> Eigenpair:
    """The Rayleigh quotient of a vector, which has the smallest residual."""
    value = float(v @ image)
    return Eigenpair(value, float(np.linalg.norm(image - value * v)), products, _to_device(op, v))


def _to_device(op: SymmetricOperator, vectors: np.ndarray[Any, Any]) -> Array:
    """Host vectors where and as the operator wants them."""
    return namespace(op).asarray(vectors.astype(op.dtype))


# ---- stochastic Lanczos quadrature --------------------------------------------------------------------------------


def _lanczos(
    op: SymmetricOperator, Z: Array, steps: int, told: Callable[[int], None]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Diagonal (steps, K) and off-diagonal (steps, K) of a tridiagonal matrix for each column of Z, and their orders.

    A column whose vectors span an invariant subspace has nothing left to find: it goes on as zeros beside the others,
    and its matrix ends there.
    """
    xp, (size, width) = namespace(op), Z.shape
    V = xp.zeros((width, steps, size), dtype=op.dtype)
    alpha, beta = np.zeros((steps, width)), np.zeros((steps, width))
    taken, scale = np.zeros(width, int), np.zeros(width)
    negligible = float(np.finfo(op.dtype).eps) * size**0.5
    v, alive = Z.T / size**0.5, np.ones(width, bool)
    for step in range(steps):
        V[:, step] = v
        w = (op @ v.T).T
        taken += alive
        alpha[step] = _row_dots(v, w)
        for _ in range(2):  # once is not enough when w almost vanishes: "twice is enough" (Parlett, after Kahan)
            basis = V[:, : step + 1]
            w = w - (w[:, None] @ basis.transpose(0, 2, 1) @ basis)[:, 0]
        beta[step] = np.sqrt(_row_dots(w, w))
        check_products("spectral_density", alpha[step] + beta[step])
        scale = np.maximum(scale, np.abs(alpha[step]) + beta[step])
        alive = alive & (beta[step] > negligible * scale)
        factor = np.divide(1.0, beta[step], out=np.zeros(width), where=alive)
        v = w * xp.asarray(factor[:, None].astype(op.dtype))
        told(step + 1)
    return alpha, beta, taken


def _quadrature(
    alpha: np.ndarray[Any, Any], beta: np.ndarray[Any, Any], taken: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Nodes and weights of one probe; steps not taken repeat the last node with weight 0."""
    steps = len(alpha)
    nodes, vectors = eigh_tridiagonal(alpha[:taken], beta[: taken - 1])
    missing = (0, steps - taken)
    return np.pad(nodes, missing, mode="edge"), np.pad(vectors[0] ** 2, missing)


def _smoothed(
    nodes: np.ndarray[Any, Any], weights: np.ndarray[Any, Any], products: int, points: int, size: int
) -> SpectralDensity:
    """The density on a grid that reaches five widths beyond the outermost nodes, where nothing of it is left."""
    low, high = float(nodes.min()), float(nodes.max())
    span = max(high - low, 1e-6 * max(abs(low), abs(high))) or 1.0  # one eigenvalue alone still needs a width
    width = span * max(0.01, 1 / (points - 11))  # at least the grid's spacing: the sum over the grid is then 1
    grid = np.linspace(low - 5 * width, high + 5 * width, points)
    curves = np.zeros((len(nodes), points))
    for curve, theta, weight in zip(curves, nodes, weights, strict=True):
        kernel = np.exp(-0.5 * ((grid[:, None] - theta) / width) ** 2) / (width * (2 * np.pi) ** 0.5)
        curve[:] = kernel @ weight
    spread = curves.std(axis=0, ddof=1) / len(curves) ** 0.5 if len(curves) > 1 else np.zeros(points)
    return SpectralDensity(grid, curves.mean(axis=0), spread, products, nodes, weights, width, size)


def _mean(where: str, samples: np.ndarray[Any, Any], products: int) -> Estimate:
    """The mean over probes; a single, exact set of nodes has no error."""
    return estimate(where, samples if len(samples) > 1 else np.repeat(samples, 2), products)


def _row_dots(a: Array, b: Array) -> np.ndarray[Any, Any]:
    """Row by row inner products, summed in float64, on the host."""
    return to_host((a * b).sum(axis=1, dtype=np.float64))
