"""The three matrices of a Winograd convolution F(m, r): m outputs of an r-tap correlation from n = m + r - 1 products.

A polynomial of degree n - 1 is known by its values at n points. The product s(x) = g(x) d(x) of polynomials with r and
m coefficients is such a one, so its coefficients, the convolution of those of g and d, can be had in three steps:

    evaluate g and d at n points,   multiply the n pairs of values,   interpolate s through them.

All three are matrices: values G g and A d, coefficients s = B [(G g) ⊙ (A d)]. That is Cook and Toom's convolution. A
correlation is its transpose in d, that is, of the map from d to s for a fixed g:

    y = Aᵀ [(G g) ⊙ (Bᵀ x)],   x of n inputs, y of m outputs.

In two dimensions each matrix works along the rows and along the columns: y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ x B)] A with n²
products for m² outputs of r² taps. The adjoints in x and in g follow from the same three matrices.

One point is infinity, where the value of a polynomial is its leading coefficient. The others are 0 and pairs ±p: there
the even powers agree and the odd ones differ in sign, so half the work serves both (`butterfly`). Small points keep
rounding errors small, powers of two make A and B exact in binary; only G, which is applied once to each weight in
float64, has other denominators. Reference: A. Lavin, S. Gray, Fast algorithms for convolutional neural networks, 2016.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

Matrix = tuple[tuple[Fraction, ...], ...]
OUTPUT = 4
"""m: rows and columns of outputs that one tile gives."""
POINTS = (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))
"""Where polynomials are evaluated, besides infinity; the first n - 1 serve a tile of n."""
KERNELS = (3, 5)
"""r: sizes of the kernels that have a tile."""


class Tables(NamedTuple):
    """The exact matrices of one F(m, r): At (m, n), G (n, r) and Bt (n, n)."""

    At: Matrix
    G: Matrix
    Bt: Matrix


def _times_root(polynomial: list[Fraction], root: Fraction) -> list[Fraction]:
    """The coefficients, lowest power first, of polynomial times (x - root)."""
    shifted, scaled = [Fraction(0), *polynomial], [*(root * a for a in polynomial), Fraction(0)]
    return [a - b for a, b in zip(shifted, scaled, strict=True)]


def _evaluation(points: list[Fraction], size: int) -> list[list[Fraction]]:
    """Row i takes `size` coefficients to their polynomial's value at point i, the last row to that at infinity."""
    powers = [[point**k for k in range(size)] for point in points]
    return [*powers, [Fraction(k == size - 1) for k in range(size)]]


def transpose(matrix: Matrix) -> Matrix:
    """Rows for columns."""
    return tuple(zip(*matrix, strict=True))


@lru_cache
def tables(r: int) -> Tables:
    """The matrices of F(OUTPUT, r).

    Math: with M(x) = Π (x - p_i) over the finite points and N_i = Π_{q ≠ p_i} (p_i - q), Lagrange gives
    s(x) = Σ_i s(p_i) M(x) / ((x - p_i) N_i) + s(∞) M(x). The factors 1 / N_i go to the rows of G.
    """
    points = [Fraction(point) for point in POINTS[: OUTPUT + r - 2]]
    A, G, Bt = _evaluation(points, OUTPUT), _evaluation(points, r), []
    whole = [Fraction(1)]
    for i, point in enumerate(points):
        numerator, denominator = [Fraction(1)], Fraction(1)
        for other in points[:i] + points[i + 1 :]:
            numerator, denominator = _times_root(numerator, other), denominator * (point - other)
        Bt.append([*numerator, Fraction(0)])
        G[i] = [value / denominator for value in G[i]]
        whole = _times_root(whole, point)
    Bt.append(whole)
    At = transpose(tuple(map(tuple, A)))
    return Tables(At, tuple(map(tuple, G)), tuple(map(tuple, Bt)))


def butterfly(matrix: Matrix) -> Matrix:
    """S with matrix = P S, where P adds and subtracts the rows of each pair.

    Math: y_i = s_i + s_{i+1} and y_{i+1} = s_i - s_{i+1}, for i = 1, 3, 5.
    Row 0 and the last are points 0 and infinity and stay; the others come in pairs ±p. Half of each pair of S is zero.
    """
    rows = [matrix[0]]
    for plus, minus in zip(matrix[1:-1:2], matrix[2:-1:2], strict=True):
        rows.append(tuple((a + b) / 2 for a, b in zip(plus, minus, strict=True)))
        rows.append(tuple((a - b) / 2 for a, b in zip(plus, minus, strict=True)))
    return (*rows, matrix[-1])
