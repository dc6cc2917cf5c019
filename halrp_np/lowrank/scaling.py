"""Row and column scalings that carry the base weight W towards the free weight F."""

from ..backend import array_module
from ..errors import ConfigError, ShapeError
from ..typing import Array

COLUMN_RULES = ("least-squares", "official")
"""How the column scaling is fitted: the exact minimiser, or the closed form of what the released code computes."""

TINY = 1e-20
"""A squared norm below this counts as this, so that an all-zero row or column gets scaling 0 and not NaN."""


def fit_row_scale(W: Array, F: Array) -> Array:
    """Return the row scaling R that brings R_j W_j closest to F_j.

    Shapes: W, F (J, I) or (J, I, kh, kw); R (J,).
    Math:   R_j = ⟨F_j, W_j⟩ / ‖W_j‖², over every axis but the first.
    Raises: ShapeError when W and F differ in shape or dtype, or are neither 2-D nor 4-D floats.
    Reference: HALRP (arXiv 2311.15161), row scaling.
    """
    check_weights("fit_row_scale", W, F)
    xp = array_module(W)
    axes = _axes_but(0, W.ndim)
    return xp.sum(F * W, axis=axes) / xp.maximum(xp.sum(W * W, axis=axes), TINY)


def fit_col_scale(W: Array, F: Array, R: Array, rule: str = "least-squares") -> Array:
    """Return the column scaling S that brings R_j W_ji S_i closest to F_ji; R is not fitted again.

    Shapes: W, F (J, I) or (J, I, kh, kw); R (J,); S (I,).
    Math:   least-squares  S_i = Σ_j R_j ⟨W_ji, F_ji⟩ / Σ_j R_j² ‖W_ji‖²
            official       S_i = (Σ_j R_j) Σ_j ⟨W_ji, F_ji⟩ / ((Σ_j R_j²) Σ_j ‖W_ji‖²)
    Raises: ConfigError for another rule; ShapeError when the shapes or dtypes do not fit.
    Reference: HALRP (arXiv 2311.15161), column scaling. `official` is what the released code's broadcast of R comes to;
        the two agree when every R_j is the same.
    """
    where = "fit_col_scale"
    check_weights(where, W, F)
    check_vector(where, "R", R, W.shape[0])
    if rule not in COLUMN_RULES:
        raise ConfigError(
            where,
            expected=f"a rule among {', '.join(COLUMN_RULES)}",
            received=repr(rule),
            next_step="Choose one of the named rules.",
        )
    xp = array_module(W)
    axes = _axes_but(1, W.ndim)
    if rule == "least-squares":
        RW = along_axis(R, 0, W.ndim) * W
        return xp.sum(RW * F, axis=axes) / xp.maximum(xp.sum(RW * RW, axis=axes), TINY)
    agreement = xp.sum(R) * xp.sum(F * W, axis=axes)
    return agreement / xp.maximum(xp.sum(R * R) * xp.sum(W * W, axis=axes), TINY)


def scaled_base(W: Array, R: Array, S: Array) -> Array:
    """Return the base weight with its rows and columns scaled.

    Shapes: W (J, I) or (J, I, kh, kw); R (J,); S (I,); result as W.
    Math:   (R W S)_ji = R_j W_ji S_i, at every kernel position.
    Raises: ShapeError when the shapes or dtypes do not fit.
    Reference: HALRP (arXiv 2311.15161), perturbed weight without its low-rank part.
    """
    check_weight("scaled_base", "W", W)
    check_vector("scaled_base", "R", R, W.shape[0])
    check_vector("scaled_base", "S", S, W.shape[1])
    return along_axis(R, 0, W.ndim) * W * along_axis(S, 1, W.ndim)


def along_axis(vector: Array, axis: int, ndim: int) -> Array:
    """View a vector so that it broadcasts along one axis of an array with `ndim` axes."""
    return vector.reshape(tuple(-1 if i == axis else 1 for i in range(ndim)))


def check_weight(where: str, name: str, weight: Array) -> None:
    """Refuse anything but a linear or convolution weight of floats."""
    if weight.ndim not in (2, 4) or weight.dtype.kind != "f" or 0 in weight.shape:
        raise ShapeError(
            where,
            expected=f"{name} of floats, non-empty, with shape (J, I) or (J, I, kh, kw)",
            received=f"shape {tuple(weight.shape)}, dtype {weight.dtype}",
            next_step="Pass the weight of a linear or convolution layer.",
        )


def check_weights(where: str, W: Array, F: Array) -> None:
    """Refuse a base and a free weight that are not two states of one layer."""
    check_weight(where, "W", W)
    if tuple(F.shape) != tuple(W.shape) or F.dtype != W.dtype:
        raise ShapeError(
            where,
            expected=f"F with W's shape {tuple(W.shape)} and dtype {W.dtype}",
            received=f"shape {tuple(F.shape)}, dtype {F.dtype}",
            next_step="Pass the base and the free weight of the same layer.",
        )


def check_vector(where: str, name: str, vector: Array, length: int) -> None:
    """Refuse a scaling that does not have one float per row or column."""
    if tuple(vector.shape) != (length,) or vector.dtype.kind != "f":
        raise ShapeError(
            where,
            expected=f"{name} of floats with shape ({length},)",
            received=f"shape {tuple(vector.shape)}, dtype {vector.dtype}",
            next_step="R has one entry per output of the weight, S one per input.",
        )


def _axes_but(kept: int, ndim: int) -> tuple[int, ...]:
    """Every axis except `kept`."""
    return tuple(axis for axis in range(ndim) if axis != kept)
