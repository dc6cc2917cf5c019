"""The curvature of every layer of a learned task's loss, at the boundary between two tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..curvature import (
    Batches,
    Estimate,
    HessianOperator,
    extreme_eigenvalues,
    hutch_pp_trace,
    layer_curvatures,
)
from ..curvature.eigen import BASIS, POWER_STEPS
from ..curvature.memory import divisible
from ..errors import ConfigError
from ..layers import EVALUATE, Sequential, decomposed_layers
from ..losses import CrossEntropy
from ..lowrank import Decomposition
from ..typing import Array, Examples, Params

HEADER = ("after_task", "task", "identity", "layer", "trace", "trace_stderr", "top", "top_stderr", "products")

LEAST_PRODUCTS = POWER_STEPS + BASIS + 2
"""What the largest eigenvalue of a large matrix takes at least."""

Found = tuple[Estimate, Estimate | None, int]
"""Trace, largest eigenvalue (None where the products did not suffice), and the products spent."""


def cost_note(model: Sequential, products: int) -> str:
    """What the curvature may cost, in words."""
    layers = len(decomposed_layers(model, head=""))
    return (
        f"curvature: about {layers * products} Hessian products after each task for each task that changed, "
        f"{products} for each of {layers} layers; none for a layer where it is exact"
    )


def curvature_rows(
    model: Sequential,
    params: Params,
    validation: Examples,
    *,
    images: int,
    batch: int,
    products: int,
    generator: np.random.Generator,
    warn: Callable[[str], None],
) -> list[list[Any]]:
    """A row for each layer, the head included: its name, tr H and λ_max(H) with their errors, and the products spent.

    H is the Hessian of the mean loss on the first `images` images in one layer's weight, in evaluation mode. What the
    samples' own factors give is exact: it has an error of 0 and costs no products. Else at most `products` are spent a
    layer: on λ_max alone, or, where batch statistics tie samples together, half of them on the trace. An eigenvalue
    that they do not suffice for is left out, and `warn` is told.
    """
    layers = list(decomposed_layers(model, head=""))
    operator = HessianOperator(model, params, CrossEntropy(), Batches(validation, batch, images))
    exact = {}
    if divisible(model, EVALUATE):
        nothing = {name: _no_component(params[f"{name}.weight"]) for name in layers}
        options: dict[str, Any] = {"samples": images, "batch": batch, "products": products, "generator": generator}
        exact = layer_curvatures(model, params, operator.loss, validation, nothing, norms="exact", **options)
    rows: list[list[Any]] = []
    for name in layers:
        known = exact.get(name)
        if known and known.top:
            found: Found = (known.trace, known.top, 0)
        else:
            block = operator.block(f"{name}.weight")
            found = _estimated(block, known.trace if known else None, products, generator)
        rows.append([name, *_cells(found[0]), *_cells(found[1]), found[2]])
    missing = [row[0] for row in rows if row[3] is None]
    if missing:
        warn(f"curvature: no largest eigenvalue of {', '.join(missing)} within curvature_products={products}")
    return rows


def _estimated(block: HessianOperator, trace: Estimate | None, products: int, generator: np.random.Generator) -> Found:
    """What products with the Hessian give, the trace too where it is not known."""
    left = products
    if trace is None:
        left = products - products // 2
        trace = hutch_pp_trace(block, products=products // 2, generator=generator)
    try:
        top = extreme_eigenvalues(block, products=left, generator=generator)[0]
    except ConfigError:  # it has not converged
        top = None
    return trace, top, block.products


def _no_component(weight: Array) -> Decomposition:
    """A residual of rank 0, whose removal costs nothing."""
    flat = weight.reshape(*weight.shape[:2], -1)[:, :, 0]
    return Decomposition(flat[:, :0], flat[0, :0], flat[:0])


def _cells(found: Estimate | None) -> tuple[float | None, float | None]:
    """A number and its standard error."""
    return (None, None) if found is None else (found.value, found.stderr)
