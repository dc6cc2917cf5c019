"""What a symmetric operator sums to, from a stated number of its products, each estimate with its standard error.

The operators are Hessians, Gauss-Newton matrices and Fishers: symmetric, far too large to write down, a few gradients
per product. When the products given would pay for every column, the answer is exact, costs P and has a stderr of 0.
Otherwise `stderr` is one standard error of the sampling, s/√n with n - 1 in s; rounding in the operator's dtype is not
part of it. Probes are drawn on the host in float64, so an estimate depends on the generator alone, not on the device.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import to_host
from ..errors import ConfigError, DivergenceError, ShapeError
from ..typing import Array
from .dense import Progress, SymmetricOperator, blocks, namespace, order, report, unit_products

PRODUCTS = 60
"""Default budget: what Hutch++ leaves to chance then has 20 samples, and 3 stderr held the truth in 97 of 100 seeds or
more on every spectrum tried; with 10 samples in 94, because s is then uncertain itself."""


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error, and the products it cost."""

    value: float
    stderr: float
    products: int


def hutchinson_trace(
    op: SymmetricOperator,
    *,
    products: int = PRODUCTS,
    generator: np.random.Generator,
    progress: Progress | None = None,
) -> Estimate:
    """Return the trace as a mean over random signs.

    Math:   E zᵀHz = tr H for z of independent signs ±1; Var zᵀHz = 2 Σ_{i≠j} H_ij², so a diagonal H costs no variance.
    Raises: ConfigError for fewer than 2 products; DivergenceError when a product is not finite.
    Reference: Hutchinson (1989).
    """
    where = "hutchinson_trace"
    size = check_budget(where, op, "products", products, least=2, generator=generator)
    if products >= size:
        return _exact(where, op, progress)[0]
    samples = np.empty(products)
    for columns in blocks(products):
        Z = signs(op, columns.stop - columns.start, generator)
        samples[columns] = _dots(Z, op @ Z)
        report(progress, columns.stop, products)
    return estimate(where, samples, products)


def hutch_pp_trace(
    op: SymmetricOperator,
    *,
    products: int = PRODUCTS,
    generator: np.random.Generator,
    progress: Progress | None = None,
) -> Estimate:
    """Return the trace, its largest part exactly and only the remainder as a mean: Hutch++.

    Math and Raises: see `trace_and_frobenius`, which this is the first half of.
    Reference: Meyer, Musco, Musco and Woodruff (arXiv 2010.09649), algorithm 1.
    """
    return _deflated("hutch_pp_trace", op, products, generator, progress)[0]


def frobenius_squared(
    op: SymmetricOperator,
    *,
    products: int = PRODUCTS,
    generator: np.random.Generator,
    progress: Progress | None = None,
) -> Estimate:
    """Return the squared Frobenius norm, its largest part exactly and only the remainder as a mean.

    Math and Raises: see `trace_and_frobenius`, which this is the second half of.
    """
    return _deflated("frobenius_squared", op, products, generator, progress)[1]


def frobenius_norm(
    op: SymmetricOperator,
    *,
    products: int = PRODUCTS,
    generator: np.random.Generator,
    progress: Progress | None = None,
) -> Estimate:
    """Return the Frobenius norm, as the root of the estimate of its square.

    Math:   with F an estimate of ‖H‖_F² and σ its stderr: √F ± σ/(2√F), to first order in σ/F (the delta method).
            √F is too small by about σ²/(8 F^{3/2}) on average, which is second order.
    Raises: as `trace_and_frobenius`.
    """
    return square_root(_deflated("frobenius_norm", op, products, generator, progress)[1])


def trace_and_frobenius(
    op: SymmetricOperator,
    *,
    products: int = PRODUCTS,
    generator: np.random.Generator,
    progress: Progress | None = None,
) -> tuple[Estimate, Estimate]:
    """Return the trace and the squared Frobenius norm from the same products; each says what both cost together.

    A third of the products finds the subspace where H is largest, a third measures H on it, the rest samples what is
    left. Hessians have few large eigenvalues, so little is left to chance: beside the plain mean of ‖Hz‖², 60 products
    had an error of ‖H‖_F² 35 times smaller for eigenvalues 1/i, and at worst, for flat spectra, 1.8 times larger.

    Math:   Q = orth(H Z), Z random signs; g uniform on the sphere of radius √(P - k) in the complement of Q (P, k).
            tr H   = tr QᵀHQ + E gᵀHg                                    (Hutch++, with g of fixed length)
            ‖H‖_F² = 2‖HQ‖² - ‖QᵀHQ‖² + E‖(I - QQᵀ)Hg‖²                 (H = Hᵀ: the blocks off the diagonal are equal)
            Given Q both are unbiased, whatever Q is.
    Raises: ConfigError for fewer than 4 products; ShapeError when the operator is not square or not of floats;
            DivergenceError when a product is not finite.
    Reference: Meyer, Musco, Musco and Woodruff (arXiv 2010.09649), algorithm 1; Epperly, Tropp and Webber
            (arXiv 2301.07825), section 2.3, for the length of g.
    """
    return _deflated("trace_and_frobenius", op, products, generator, progress)


def directional_curvature(
    op: SymmetricOperator, directions: Array, *, progress: Progress | None = None
) -> np.ndarray[Any, Any]:
    """Return the curvature along each direction as it is given, not normalised: exact, one product each.

    Shapes: directions (P, K) on the operator's device; result (K,) on the host, float64.
    Math:   vᵀHv.
    Raises: ShapeError when the directions are not columns of the operator's height; DivergenceError when a product is
            not finite.
    """
    size = order("directional_curvature", op)
    if len(directions.shape) != 2 or directions.shape[0] != size:
        raise ShapeError(
            "directional_curvature",
            expected=f"directions as columns, shape ({size}, K)",
            received=f"shape {tuple(directions.shape)}",
            next_step="Flatten each direction with the operator's flatten, and give them as columns.",
        )
    count = directions.shape[1]
    values = np.empty(count)
    for columns in blocks(count):
        V = directions[:, columns]
        values[columns] = _dots(V, op @ V)
        report(progress, columns.stop, count)
    check_products("directional_curvature", values)
    return values


def square_root(square: Estimate) -> Estimate:
    """The square root of an estimate of a sum of squares, by the delta method (see `frobenius_norm`)."""
    value = max(square.value, 0.0) ** 0.5
    return Estimate(value, square.stderr / (2 * value) if value else 0.0, square.products)


def estimate(where: str, samples: np.ndarray[Any, Any], products: int, known: float = 0.0) -> Estimate:
    """The mean of independent samples beside a part that is known, with the mean's standard error; refuses NaN."""
    value = known + float(samples.mean())
    if not np.isfinite(value):
        raise DivergenceError(
            where,
            expected="products with finite entries only",
            received=f"an estimate of {value}",
            next_step="Look for NaN or infinity in the parameters and the data.",
        )
    return Estimate(value, float(samples.std(ddof=1)) / len(samples) ** 0.5, products)


def check_products(where: str, values: np.ndarray[Any, Any]) -> None:
    """Refuse NaN and infinity."""
    if not np.isfinite(values).all():
        raise DivergenceError(
            where,
            expected="products with finite entries only",
            received="NaN or infinity",
            next_step="Look for NaN or infinity in the parameters and the data.",
        )


def signs(op: SymmetricOperator, count: int, generator: np.random.Generator) -> Array:
    """Probes (P, count) of independent signs ±1, drawn one after the other: blocks of any width see the same ones."""
    rows = np.stack([generator.integers(0, 2, size=op.shape[0], dtype=np.int8) for _ in range(count)])
    return namespace(op).asarray((2 * rows - 1).astype(op.dtype)).T


def check_budget(
    where: str, op: SymmetricOperator, name: str, value: int, *, least: int, generator: np.random.Generator
) -> int:
    """P, after the refusal of a budget that cannot answer and of a seed where a generator belongs."""
    size = order(where, op)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ConfigError(
            where,
            expected=f"{name}, a whole number from {least} up",
            received=repr(value),
            next_step=f"Pass a larger whole number as {name}.",
        )
    if not isinstance(generator, np.random.Generator):
        raise ConfigError(
            where,
            expected="a numpy.random.Generator",
            received=type(generator).__name__,
            next_step="Pass numpy.random.default_rng(seed).",
        )
    return size


def _exact(where: str, op: SymmetricOperator, progress: Progress | None) -> tuple[Estimate, Estimate]:
    """Trace and squared Frobenius norm from every column."""
    size = op.shape[0]
    diagonal, squares = np.empty(size), np.empty(size)
    for columns, unit, product in unit_products(op, progress):
        diagonal[columns], squares[columns] = _dots(unit, product), _dots(product, product)
    trace, square = (estimate(where, np.zeros(2), size, known=float(part.sum())) for part in (diagonal, squares))
    return trace, square


def _deflated(
    where: str, op: SymmetricOperator, products: int, generator: np.random.Generator, progress: Progress | None
) -> tuple[Estimate, Estimate]:
    """Trace and squared Frobenius norm: see `trace_and_frobenius`."""
    size = check_budget(where, op, "products", products, least=4, generator=generator)
    if products >= size:
        return _exact(where, op, progress)
    xp, third = namespace(op), products // 3
    Q = xp.linalg.qr(_times(op, signs(op, third, generator), 0, products, progress))[0]
    HQ = _times(op, Q, third, products, progress)
    QHQ = Q.T @ HQ
    known_trace = float(_dots(Q, HQ).sum())
    known_square = float(2 * _dots(HQ, HQ).sum() - _dots(QHQ, QHQ).sum())
    traces, squares = np.empty(products - 2 * third), np.empty(products - 2 * third)
    for columns in blocks(len(traces)):
        g = _sphere(op, Q, columns.stop - columns.start, generator)
        Hg = op @ g
        rest = Hg - Q @ (Q.T @ Hg)
        traces[columns], squares[columns] = _dots(g, Hg), _dots(rest, rest)
        report(progress, 2 * third + columns.stop, products)
    return estimate(where, traces, products, known_trace), estimate(where, squares, products, known_square)


def _sphere(op: SymmetricOperator, Q: Array, count: int, generator: np.random.Generator) -> Array:
    """Probes (P, count), uniform on the sphere of radius √(P - k) in the complement of the k columns of Q."""
    xp, size = namespace(op), op.shape[0]
    g = xp.asarray(generator.standard_normal((count, size)).astype(op.dtype)).T
    g = g - Q @ (Q.T @ g)
    lengths = np.sqrt(_dots(g, g) / (size - Q.shape[1]))
    return g / xp.asarray(lengths.astype(op.dtype))


def _times(op: SymmetricOperator, V: Array, done: int, total: int, progress: Progress | None) -> Array:
    """H V, some columns at a time, in an array of its own."""
    result = namespace(op).zeros(tuple(V.shape), dtype=op.dtype)
    for columns in blocks(V.shape[1]):
        result[:, columns] = op @ V[:, columns]
        report(progress, done + columns.stop, total)
    return result


def _dots(a: Array, b: Array) -> np.ndarray[Any, Any]:
    """aᵀb column by column, summed in float64, on the host."""
    return to_host((a * b).sum(axis=0, dtype=np.float64))
