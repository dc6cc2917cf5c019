"""The importance of each layer: what stands for its curvature when ranks are shared out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..backend import array_module, to_host
from ..errors import ConfigError
from ..layers import EVALUATE, Sequential
from ..losses import Loss
from ..typing import Array, Examples, Params
from .data import Batches
from .truncation import chosen_layers


def batch_gradient_importance(
    model: Sequential,
    params: Params,
    examples: Examples,
    layers: Sequence[str],
    *,
    loss: Loss,
    batch: int,
    reduction: str,
    samples: int | None = None,
) -> dict[str, float]:
    """imp_l = 1/M Σ_m n_m r(g_m²), with g_m the gradient of the mean loss of batch m in the weight of layer l.

    `reduction` r is `sum` (the trace of the empirical Fisher's outer product, which bounds its Frobenius norm, as the
    paper's bound asks) or `mean` over entries (the released code: smaller by the number of entries, so ranks move to
    small layers). Evaluation mode, true labels, no penalty; nothing is changed. `samples` takes the first ones only. In
    batches of one sample the sum is the trace of the empirical Fisher matrix, (1/N) Σ_n ‖g_n‖².

    Shapes: a host float for each name of `layers`.
    Raises: ConfigError for a name of no linear layer or convolution.
    Reference: HALRP (arXiv 2311.15161), the empirical Fisher in place of the layer's Hessian.
    """
    chosen_layers(model, layers, None)
    batches = Batches(examples, batch, samples)
    parts = (_weight_gradients(model, params, part, layers, loss) for part in batches)
    return averaged_square(parts, layers, reduction)


def averaged_square(
    gradients: Iterable[tuple[int, Sequence[Array]]], layers: Sequence[str], reduction: str
) -> dict[str, float]:
    """1/M Σ_m n_m r(g_m²) from (n_m, gradients in the order of `layers`) of each batch m.

    Raises: ConfigError for another reduction than mean or sum.
    """
    if reduction not in ("mean", "sum"):
        raise ConfigError("importance", expected="mean or sum", received=repr(reduction), next_step="Choose one.")
    totals: list[Array] = [0.0] * len(layers)
    count = 0
    for samples, parts in gradients:
        count += 1
        for number, g in enumerate(parts):
            square = _squared(g)
            totals[number] = totals[number] + samples * (square / g.size if reduction == "mean" else square)
    return {name: float(to_host(total)) / count for name, total in zip(layers, totals, strict=True)}


def _weight_gradients(
    model: Sequential, params: Params, batch: tuple[Array, Array], layers: Sequence[str], loss: Loss
) -> tuple[int, list[Array]]:
    """The batch's size and the gradient of its mean loss in the weight of each layer."""
    x, labels = batch
    outputs, cache = model.forward(params, x, EVALUATE)
    names = [f"{name}.weight" for name in layers]
    _, grads = model.backward(params, cache, loss.grad(outputs, labels), input_gradient=False, wanted=names)
    return x.shape[-1], [grads[name] for name in names]


def _squared(g: Array) -> Array:
    """‖g‖², row by row, and so without an array of all squares."""
    rows = g.reshape(g.shape[0], -1)
    return array_module(g).einsum("jp,jp->j", rows, rows).sum()
