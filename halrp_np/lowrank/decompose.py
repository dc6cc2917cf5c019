"""What the scalings leave of the update, its singular values, and the low-rank factors built from them."""

from dataclasses import dataclass

import numpy as np

from ..backend import array_module, to_host
from ..errors import ConfigError, DivergenceError, ShapeError
from ..typing import Array
from .scaling import check_weight, check_weights, scaled_base


@dataclass(frozen=True)
class Decomposition:
    """The reduced singular value decomposition U diag(s) Vt: U (J, q), s (q,) descending, Vt (q, I), q = min(J, I)."""

    U: Array
    s: Array
    Vt: Array

    @property
    def size(self) -> int:
        """The number q of singular values."""
        return int(self.s.shape[0])


def residual(W: Array, F: Array, R: Array, S: Array) -> Array:
    """Return the part of the free weight that the scaled base does not reach.

    Shapes: W, F, result (J, I) or (J, I, kh, kw); R (J,); S (I,).
    Math:   E = F - R_j W_ji S_i.
    Raises: ShapeError when the shapes or dtypes do not fit.
    Reference: HALRP (arXiv 2311.15161), residual of the scaling fit.
    """
    check_weights("residual", W, F)
    return F - scaled_base(W, R, S)


def window_mean(E: Array) -> Array:
    """Return the mean of a residual over its kernel window; a linear layer's residual is returned as it is.

    Shapes: E (J, I) or (J, I, kh, kw); result (J, I).
    Math:   Ē_ji = (1/k) Σ_cd E_jicd, k = kh·kw. The low-rank part of a convolution is constant over the window, so Ē
            is the part it can carry: ‖E‖² = k ‖Ē‖² + ‖E - Ē‖², and the last term is lost at any rank.
    Raises: ShapeError when E is neither 2-D nor 4-D floats.
    Reference: HALRP (arXiv 2311.15161), low-rank part of a convolution.
    """
    check_weight("window_mean", "E", E)
    return E if E.ndim == 2 else array_module(E).mean(E, axis=(2, 3))


def decompose(Ebar: Array) -> Decomposition:
    """Return the reduced singular value decomposition of a mean residual.

    Shapes: Ebar (J, I); U (J, q), s (q,), Vt (q, I), q = min(J, I).
    Math:   Ē = U diag(s) Vᵀ, s descending. In single precision by eigenvectors of a Gram matrix, three times as fast,
            where these are exact enough. Signs, and bases of equal singular values, are free either way.
    Raises: ShapeError when Ebar is not a matrix of floats; DivergenceError when it is not finite.
    Reference: HALRP (arXiv 2311.15161), decomposition of the residual.
    """
    check_weight("decompose", "Ebar", Ebar)
    if Ebar.ndim != 2:
        raise ShapeError(
            "decompose",
            expected="a matrix (J, I)",
            received=f"shape {tuple(Ebar.shape)}",
            next_step="Take window_mean(E) of a convolution's residual first.",
        )
    check_finite("decompose", "the residual", Ebar)
    found = _by_gram_matrix(Ebar) if Ebar.dtype == np.float32 else None
    if found is not None:
        return found
    U, s, Vt = array_module(Ebar).linalg.svd(Ebar, full_matrices=False)
    return Decomposition(U, s, Vt)


def _by_gram_matrix(Ebar: Array) -> Decomposition | None:
    """The decomposition of a float32 matrix by the smaller of its two Gram matrices, in float64; None if not safe.

    Math: Ē Ēᵀ = U diag(s²) Uᵀ, Vᵀ = diag(1/s) Uᵀ Ē, or the same of Ēᵀ. With ε = 2⁻⁵³ rounding moves an eigenvalue by
    about ε s₁², so v_i and v_j are orthogonal to ε s₁²/(s_i s_j): 1e-9 where s_q² > 2⁻²³ s₁², and singular values are
    as exact as that. Smaller ones, zeros above all, are left to the decomposition of Ē itself.
    """
    xp, wide = array_module(Ebar), Ebar.shape[0] <= Ebar.shape[1]
    E = xp.ascontiguousarray(Ebar if wide else Ebar.T).astype(np.float64)
    squares, vectors = xp.linalg.eigh(E @ E.T)  # ascending
    ends = to_host(squares[:: max(1, squares.shape[0] - 1)])
    if not ends[0] > float(np.finfo(np.float32).eps) * ends[-1]:
        return None
    s, U = xp.sqrt(squares[::-1]), vectors[:, ::-1]
    Vt = (U.T @ E) / s[:, None]
    U, s, Vt = (part.astype(np.float32, order="C") for part in (U, s, Vt))
    return Decomposition(U, s, Vt) if wide else Decomposition(xp.ascontiguousarray(Vt.T), s, xp.ascontiguousarray(U.T))


def initial_factors(decomposition: Decomposition, rank: int) -> tuple[Array, Array]:
    """Return the factors A and B whose product is the best approximation of the residual at this rank.

    Shapes: A (r, I), B (J, r).
    Math:   A = diag(√s) Vᵀ and B = U diag(√s), first r components; so B A = Σ_{i≤r} s_i u_i v_iᵀ and
            ½(‖A‖² + ‖B‖²) = Σ_{i≤r} s_i, the least any factors of that product can have. At rank 0 they are empty.
    Raises: ConfigError when rank is not in 0..q.
    Reference: HALRP (arXiv 2311.15161), initialisation of the low-rank factors.
    """
    _check_rank("initial_factors", rank, decomposition.size, least=0)
    xp = array_module(decomposition.s)
    root = xp.sqrt(decomposition.s[:rank])
    A = root.reshape(-1, 1) * decomposition.Vt[:rank]
    B = decomposition.U[:, :rank] * root
    return xp.ascontiguousarray(A), xp.ascontiguousarray(B)


def truncated(decomposition: Decomposition, rank: int) -> Array:
    """Return the best approximation of the decomposed matrix at this rank.

    Shapes: result (J, I).
    Math:   Σ_{i≤r} s_i u_i v_iᵀ.
    Raises: ConfigError when rank is not in 1..q.
    Reference: Eckart and Young (1936).
    """
    _check_rank("truncated", rank, decomposition.size)
    kept = decomposition.U[:, :rank] * decomposition.s[:rank]
    return kept @ decomposition.Vt[:rank]


def check_finite(where: str, what: str, array: Array) -> None:
    """Refuse infinities and NaN; reads one number back from the device."""
    if not bool(to_host(array_module(array).isfinite(array).all(keepdims=True)).item()):
        raise DivergenceError(
            where,
            expected=f"{what} with finite entries only",
            received="NaN or infinity",
            next_step="Training has diverged: lower the learning rate, or look for NaN in the data.",
        )


def _check_rank(where: str, rank: int, size: int, least: int = 1) -> None:
    """Refuse a rank that the decomposition does not have."""
    if isinstance(rank, bool) or not isinstance(rank, int) or not least <= rank <= size:
        raise ConfigError(
            where,
            expected=f"a whole rank between {least} and {size}",
            received=repr(rank),
            next_step="Use a rank that allocate_ranks returned for this layer.",
        )
