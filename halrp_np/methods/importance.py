"""Every importance by its name: what it says of each layer, and what it says dropping each component costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import lowrank
from ..backend import to_host
from ..curvature import Estimate, LayerCurvature, batch_gradient_importance, layer_curvatures
from ..curvature.measures import Norms
from ..curvature.memory import divisible
from ..errors import ConfigError
from ..layers import EVALUATE, Sequential
from ..losses import CrossEntropy
from ..lowrank import Decomposition
from ..typing import Examples, Params
from .settings import HalrpSettings

IMPORTANCES = {
    "official": "mean of the squared gradient of a batch over a layer's entries, as released",
    "batch-gradient": "the same summed over the entries",
    "fisher": "(1/N) Σ_n ‖g_n‖², the trace of the empirical Fisher matrix: the gradient of each sample on its own",
    "hessian-frobenius": "‖H_l‖_F, as the paper's bound has it",
    "hessian-trace": "tr H_l, floored at 0",
    "hessian-top": "the largest eigenvalue of H_l, floored at 0",
    "directional": "for each component the exact change of the loss, to second order, when it is dropped; floored at 0",
}
"""The names, in the order of ranks.csv, and what each measures; H_l is the Hessian of one layer's weight."""

OF_BATCHES = ("official", "batch-gradient")
"""Those from gradients of whole batches, on all validation images; the others take the first ones."""

NORMS = ("hessian-frobenius", "hessian-top")
"""Those that do not add up over samples, and so cost most."""

HostVector = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Importance:
    """How much the loss minds: `layers` a change of each layer, `scores` the loss of each of its components.

    scores[layer] is (q,) on the host, at least 0, in the order of the residual's components. For `directional` a
    layer's number is what its scores sum to over k Σ s², so that it reads like the others.
    """

    layers: dict[str, float]
    scores: dict[str, HostVector]


def importances(
    settings: HalrpSettings,
    model: Sequential,
    free: Params,
    residuals: Mapping[str, Decomposition],
    windows: Mapping[str, int],
    validation: Examples,
    generator: np.random.Generator,
) -> dict[str, Importance]:
    """Return the chosen importance at F by its name, and to compare with, those that are exact at little cost.

    What only many Hessian products could estimate (norms of layers whose factors do not fit into memory, anything under
    batch statistics) is measured when it is chosen, and left out of the comparison otherwise.

    Shapes: residuals and windows (kernel positions) by layer.
    Raises: ConfigError for `fisher` where batch statistics tie samples together.
    """
    chosen, layers = settings.importance, list(residuals)
    found: dict[str, dict[str, float]] = {}
    if settings.compare_importances or chosen in OF_BATCHES:
        found |= _of_batches(settings, model, free, layers, validation)
    removal = None
    if chosen not in OF_BATCHES or (settings.compare_importances and divisible(model, EVALUATE)):
        compared: Norms = "exact" if settings.compare_importances else "never"
        curvatures = layer_curvatures(
            model,
            free,
            CrossEntropy(),
            validation,
            residuals,
            samples=settings.importance_images,
            batch=settings.batch_size,
            products=settings.importance_products,
            generator=generator,
            norms="always" if chosen in NORMS else compared,
        )
        found |= of_curvature(curvatures)
        removal = {name: np.maximum(curvature.removal, 0.0) for name, curvature in curvatures.items()}
    spectra = {name: to_host(parts.s) for name, parts in residuals.items()}
    scored = {name: _scored(layers, spectra, windows) for name, layers in found.items()}
    if removal is not None:
        scored["directional"] = _summed_up(removal, spectra, windows)
    if chosen not in scored:
        raise ConfigError(
            "importance",
            expected="an importance that this network has",
            received=f"{chosen}, but its batch statistics give samples no gradients of their own",
            next_step="Choose hessian-trace, or BatchNorm with running statistics.",
        )
    return {name: scored[name] for name in IMPORTANCES if name in scored}


def _of_batches(
    settings: HalrpSettings, model: Sequential, free: Params, layers: list[str], validation: Examples
) -> dict[str, dict[str, float]]:
    """The chosen one as it is defined, the other from it: they differ by the number of entries."""
    reduction = "mean" if settings.importance == "official" else "sum"
    found = batch_gradient_importance(
        model, free, validation, layers, loss=CrossEntropy(), batch=settings.batch_size, reduction=reduction
    )
    entries = {name: int(free[f"{name}.weight"].size) for name in layers}
    if reduction == "mean":
        return {"official": found, "batch-gradient": {name: value * entries[name] for name, value in found.items()}}
    return {"official": {name: value / entries[name] for name, value in found.items()}, "batch-gradient": found}


def of_curvature(curvatures: Mapping[str, LayerCurvature]) -> dict[str, dict[str, float]]:
    """The numbers that were measured; an estimate, or a trace under batch statistics, may fall below 0."""
    columns: dict[str, dict[str, float | None]] = {
        "fisher": {name: c.fisher for name, c in curvatures.items()},
        "hessian-frobenius": {name: _value(c.frobenius) for name, c in curvatures.items()},
        "hessian-trace": {name: c.trace.value for name, c in curvatures.items()},
        "hessian-top": {name: _value(c.top) for name, c in curvatures.items()},
    }
    return {
        importance: {name: max(value, 0.0) for name, value in values.items() if value is not None}
        for importance, values in columns.items()
        if None not in values.values()
    }


def _value(estimate: Estimate | None) -> float | None:
    """The number of an estimate, if there is one."""
    return None if estimate is None else estimate.value


def _scored(layers: dict[str, float], spectra: Mapping[str, HostVector], windows: Mapping[str, int]) -> Importance:
    """One number a layer, weighing its squared singular values."""
    scores = {name: lowrank.component_scores(s, windows[name], layers[name]) for name, s in spectra.items()}
    return Importance(layers, scores)


def _summed_up(
    scores: dict[str, HostVector], spectra: Mapping[str, HostVector], windows: Mapping[str, int]
) -> Importance:
    """Scores of components, and the one number that would give their sum."""
    squares = {name: windows[name] * float((s.astype(np.float64) ** 2).sum()) for name, s in spectra.items()}
    layers = {name: float(c.sum()) / squares[name] if squares[name] > 0 else 0.0 for name, c in scores.items()}
    return Importance(layers, scores)
