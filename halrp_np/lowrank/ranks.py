"""The global choice of ranks: every layer's components compete for one share of the estimated loss increase.

The scores lie on the host: singular values are small vectors, and the caller brings them over.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..backend import array_module
from ..errors import ConfigError, DivergenceError, ShapeError
from .decompose import Decomposition

RANK_RULES = ("importance", "flat")
"""Ranks from the global threshold, or the same cap for every layer."""

FULL_SHARE_RULES = ("all", "one")
"""What a share of 1 or more means: everything (as intended), or one component overall (the released code's argmax)."""

HostVector: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RankDecision:
    """One layer's rank and the reason for it; the last three fields are read at the component numbered `rank`."""

    layer: str
    rank: int
    size: int
    """The number q of components the layer has."""
    kept: int
    """Components above the global threshold, before the clamp to 1..cap (all of them under the flat rule)."""
    clamp: str
    """`none`, `raised` (to 1) or `capped` (to the cap)."""
    score_sum: float
    last_score: float
    cumulative_share: float
    """Share of all layers' scores held by this component and every higher one in the network."""
    kept_fraction: float
    """Share of this layer's own scores held by the components it keeps."""


def component_scores(s: HostVector, window: int, importance: float) -> HostVector:
    """Return each component's estimated increase of the loss when it is dropped.

    Shapes: s (q,) descending on the host; result (q,) float64.
    Math:   c_i = k · imp · s_i². The dense kernel repeats over k = kh·kw positions; k = 1 for a linear layer.
    Raises: ShapeError when s is no vector or window is not a positive whole number; DivergenceError when the
        importance or a singular value is negative or not finite.
    Reference: HALRP (arXiv 2311.15161), importance-weighted singular values; the bound's ½ cancels.
    """
    values = _host_vector("component_scores", "the singular values", s)
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ShapeError(
            "component_scores",
            expected="window = kh·kw as a positive whole number",
            received=repr(window),
            next_step="Pass 1 for a linear layer.",
        )
    if not math.isfinite(importance) or importance < 0:
        raise DivergenceError(
            "component_scores",
            expected="a finite importance of at least 0",
            received=repr(importance),
            next_step="Training has diverged: lower the learning rate, or look for NaN in the data.",
        )
    return window * importance * values**2


def allocate_ranks(
    scores: Mapping[str, HostVector],
    *,
    share: float,
    cap: int,
    rule: str = "importance",
    at_full_share: str = "all",
) -> list[RankDecision]:
    """Return one rank per layer: the fewest components in the whole network that hold more than `share` of the scores.

    Shapes: scores[layer] (q,) descending on the host, layers in network order.
    Math:   sort all c descending; keep 0..k*, k* the first index whose cumulative share is strictly above `share`;
            r_l = clamp(kept of layer l, 1, cap). What a clamp adds or takes is not made up for elsewhere.
            `flat`: r_l = min(cap, q_l). Equal scores are taken in network order. With a cap of 0 every rank is 0.
    Raises: ConfigError for an unknown rule, a cap or a share below 0; ShapeError or DivergenceError for scores
        that are not finite descending vectors.
    Reference: HALRP (arXiv 2311.15161), rank estimation.
    """
    _check_options(scores, share, cap, rule, at_full_share)
    vectors = {layer: _host_vector("allocate_ranks", f"the scores of layer {layer}", c) for layer, c in scores.items()}
    pooled = np.concatenate(list(vectors.values()))
    owner = np.repeat(np.arange(len(vectors)), [len(c) for c in vectors.values()])
    order = np.argsort(-pooled, kind="stable")
    cumulative = _cumulative_share(pooled[order])
    n_kept = _kept_count(cumulative, share, at_full_share)
    decisions = []
    for index, (layer, c) in enumerate(vectors.items()):
        mine = owner[order] == index
        kept = int(mine[:n_kept].sum()) if rule == "importance" else len(c)
        decisions.append(_decision(layer, c, cumulative[mine], kept, cap))
    return decisions


def best_first(parts: Decomposition, scores: HostVector) -> Decomposition:
    """Return the decomposition with its components by falling score, equal ones in their order.

    Math:   U diag(s) Vᵀ is the same matrix for any order; with scores k · imp · s² nothing moves. Otherwise s falls no
            more, and the first r components are not the best approximation at rank r but the one that costs least.
    Shapes: scores (q,) on the host.
    Raises: ShapeError for another number of scores.
    """
    if scores.shape != (parts.size,):
        raise ShapeError(
            "best_first",
            expected=f"scores ({parts.size},), one for each component",
            received=f"shape {scores.shape}",
            next_step="Score the components of this decomposition.",
        )
    order = np.argsort(-scores, kind="stable")
    if (order == np.arange(parts.size)).all():
        return parts
    chosen = array_module(parts.s).asarray(order)
    return Decomposition(parts.U[:, chosen], parts.s[chosen], parts.Vt[chosen])


def _decision(layer: str, c: HostVector, shares: HostVector, kept: int, cap: int) -> RankDecision:
    """Clamp one layer's count to 1..cap and note why; the cap wins, so that a cap of 0 leaves nothing."""
    rank = min(max(kept, 1), cap)
    total = float(c.sum())
    return RankDecision(
        layer=layer,
        rank=rank,
        size=len(c),
        kept=kept,
        clamp="raised" if rank > kept else "capped" if rank < kept else "none",
        score_sum=total,
        last_score=float(c[rank - 1]) if rank else 0.0,
        cumulative_share=float(shares[rank - 1]) if rank else 0.0,
        kept_fraction=float(c[:rank].sum()) / total if total > 0 else 1.0,
    )


def _cumulative_share(ordered: HostVector) -> HostVector:
    """Running sum over its last entry; all ones when every score is 0, since nothing is then left to keep."""
    running = np.cumsum(ordered)
    return running / running[-1] if running[-1] > 0 else np.ones_like(running)


def _kept_count(cumulative: HostVector, share: float, at_full_share: str) -> int:
    """How many of the sorted components are kept in all."""
    if share >= 1:
        return len(cumulative) if at_full_share == "all" else 1
    return int(np.argmax(cumulative > share)) + 1


def _host_vector(where: str, what: str, values: HostVector) -> HostVector:
    """Check a descending, finite, non-negative host vector and return it in float64."""
    vector = np.asarray(values)
    if vector.ndim != 1 or vector.size == 0 or vector.dtype.kind != "f":
        raise ShapeError(
            where,
            expected=f"{what} as a non-empty vector of floats",
            received=f"shape {vector.shape}, dtype {vector.dtype}",
            next_step="Pass one value per component.",
        )
    if not np.isfinite(vector).all():
        raise DivergenceError(
            where,
            expected=f"{what} finite",
            received="NaN or infinity",
            next_step="Training has diverged: lower the learning rate, or look for NaN in the data.",
        )
    if vector[-1] < 0 or (np.diff(vector) > 0).any():
        raise ShapeError(
            where,
            expected=f"{what} descending and at least 0",
            received="values that rise or fall below 0",
            next_step="Pass them in the order that decompose returns.",
        )
    return vector.astype(np.float64)


def _check_options(scores: Mapping[str, HostVector], share: float, cap: int, rule: str, at_full_share: str) -> None:
    """Refuse options that no rule can follow."""
    for name, value, choices in (("rule", rule, RANK_RULES), ("at_full_share", at_full_share, FULL_SHARE_RULES)):
        if value not in choices:
            _refuse(f"{name} among {', '.join(choices)}", repr(value))
    if not scores:
        _refuse("at least one layer", "none")
    if not share >= 0:  # also catches NaN
        _refuse("share of at least 0", repr(share))
    if isinstance(cap, bool) or not isinstance(cap, int) or cap < 0:
        _refuse("cap as a whole number of at least 0", repr(cap))


def _refuse(expected: str, received: str) -> None:
    """Raise the configuration error of allocate_ranks."""
    raise ConfigError("allocate_ranks", expected=expected, received=received, next_step="Correct the option.")
