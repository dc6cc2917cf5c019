"""The diagonal of the Fisher matrix: the mean square of every parameter's gradient, each sample's on its own.

In evaluation mode with running statistics samples do not depend on one another. One forward pass and one pass of
cotangents then give what every layer needs: its input x_n and ∂L_n/∂y_n for each sample n, without 1/N. Of these
    linear layer     g_n = a_n x_nᵀ        Σ_n g_n² = (a²)(x²)ᵀ, a product of squares: no g_n is formed
    convolution      g_n = a_n ⋆ x_n       a sum over positions comes before the square: ops.conv2d_weight_squares
    normalisation    Σ over the pixels of a_n x̂_n and of a_n, squared
A gradient of a batch's mean, squared, is another matrix: cross terms of different samples would stay in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..backend import array_module, ops, to_host
from ..errors import ConfigError, nearest
from ..layers import EVALUATE, Conv2d, Layer, Linear, Sequential
from ..layers.norm import BatchNorm
from ..losses import CrossEntropy, sample_weight
from ..lowrank.decompose import check_finite
from ..typing import Array, Examples, Params
from .data import Batches, walk
from .factors import entry_of
from .memory import divisible
from .operator import MEMORY, check_parameters, checked_names

LABELS = ("true", "predicted", "sampled")
"""Whose gradients: of the labels given, of the likeliest ones, or of ones drawn from the network's own distribution."""


def fisher_diagonal(
    model: Sequential,
    params: Params,
    examples: Examples,
    *,
    names: Sequence[str] | None = None,
    labels: str = "true",
    batch: int,
    samples: int = 0,
    generator: np.random.Generator | None = None,
    memory: int = MEMORY,
) -> Params:
    """(1/N) Σ_n (∂L_n/∂θ)² of every entry of `names` (None: all that is trained), over the first N `samples` (0: all).

    L_n = -log softmax(output_n)[label_n] in evaluation mode. With sampled labels one draw a sample from `generator`
    estimates the diagonal of the Fisher matrix, without bias; with true ones it is that of the empirical Fisher matrix.
    Batches of `batch` run at once; `memory` bounds, in bytes, what a convolution takes besides.

    Shapes: each array as its parameter.
    Raises: ConfigError for unknown names, other labels, sampled ones without a generator, a layer whose gradients of
    single samples are not known, or batch statistics, which tie the samples together; DivergenceError for outputs or
    squares that are not finite.
    Reference: EWC (arXiv 1612.00796); sampled labels and why they matter: Kunstner et al. (arXiv 1905.12558).
    """
    names = checked_names(model, model.trainable if names is None else tuple(names))
    check_parameters(model, params)
    _check(model, labels, generator)
    layers = _layers_of(model, names)
    data, totals = Batches(examples, batch, samples or None), dict[str, Array]()
    for x, targets in walk(data):
        outputs, cache = model.forward(params, x, EVALUATE)
        check_finite("fisher_diagonal", "the outputs", outputs)
        chosen = _chosen(labels, outputs, targets, generator)
        gy = CrossEntropy().grad(outputs, chosen) / sample_weight(int(outputs.shape[1]))
        _, gys = model.cotangents(params, cache, gy, input_gradient=False, wanted=names)
        for path, (layer, entries) in layers.items():
            for entry, square in _squares(layer, entries, entry_of(cache, path), entry_of(gys, path), memory):
                name = f"{path}.{entry}"
                totals[name] = totals[name] + square if name in totals else square
    found = {name: totals[name] / data.samples for name in names}
    for name, value in found.items():
        check_finite("fisher_diagonal", f"the squared gradients of {name}", value)
    return found


def _chosen(labels: str, outputs: Array, targets: Array, generator: np.random.Generator | None) -> Array:
    """Each sample's label; one is drawn by where a number from [0, 1) falls among the sums of the probabilities."""
    if labels == "true":
        return targets
    if labels == "predicted":
        return outputs.argmax(axis=0)
    assert generator is not None
    z = to_host(outputs).astype(np.float64)
    sums = np.exp(z - z.max(axis=0)).cumsum(axis=0)
    drawn = (sums < generator.random(z.shape[1]) * sums[-1]).sum(axis=0)
    return array_module(outputs).asarray(drawn)


def _squares(layer: Layer, entries: list[str], cache: Any, gy: Array, memory: int) -> Iterator[tuple[str, Array]]:
    """Σ_n g_n² of a layer's entries, from its cache and the cotangent of its output."""
    for entry in entries:
        if isinstance(layer, BatchNorm):
            yield entry, _square_sum(gy if entry == "beta" else gy * _normal(layer, cache))
        elif entry == "bias":
            yield entry, _square_sum(gy)
        elif isinstance(layer, Linear):
            yield entry, ops.matmul(gy * gy, (cache * cache).T)
        else:
            assert isinstance(layer, Conv2d)
            yield entry, _conv_squares(layer, cache, gy, memory)


def _square_sum(terms: Array) -> Array:
    """Σ_n (Σ over the pixels)², for terms (C, ..., N)."""
    by_sample = terms if terms.ndim == 2 else terms.reshape(terms.shape[0], -1, terms.shape[-1]).sum(axis=1)
    return (by_sample * by_sample).sum(axis=1)


def _normal(layer: BatchNorm, cache: Any) -> Array:
    """x̂ in the shape of x, by the running statistics."""
    return layer.normal(cache).reshape(cache[0].shape)


def _conv_squares(layer: Conv2d, x: Array, gy: Array, memory: int) -> Array:
    """Σ_n (Σ over positions of a_n windowᵀ)²: as many samples at once as the budget holds."""
    shape = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
    one = x.itemsize * (layer.outputs * layer.inputs + 3 * (math.prod(x.shape[:-1]) + math.prod(gy.shape[:-1])))
    size = max(1, memory // one)  # a sample's gradient at one kernel position, copies of its input and cotangent
    total: Array = None
    for first in range(0, x.shape[-1], size):
        part = slice(first, first + size)
        squares = ops.conv2d_weight_squares(gy[..., part], x[..., part], shape, layer.stride, layer.padding)
        total = squares if total is None else total + squares
    return total


def _layers_of(model: Sequential, names: Sequence[str]) -> dict[str, tuple[Layer, list[str]]]:
    """The layers that own the names, by path, each with its own names of them."""
    found: dict[str, tuple[Layer, list[str]]] = {}
    for path, layer in model.walk():
        entries = [entry for entry in layer.trainable if f"{path}.{entry}" in names]
        if entries and not isinstance(layer, Linear | Conv2d | BatchNorm):
            raise ConfigError(
                "fisher_diagonal",
                expected="linear layers, convolutions and normalisations",
                received=f"{path}, a {type(layer).__name__}",
                next_step="Give the plain network of the same outputs.",
            )
        if entries:
            found[path] = layer, entries
    return found


def _check(model: Sequential, labels: str, generator: np.random.Generator | None) -> None:
    """Refuse labels of no kind, draws without a generator, and samples that are not independent."""
    if labels not in LABELS:
        near = nearest(str(labels), LABELS)
        raise ConfigError(
            "labels",
            expected=", ".join(LABELS),
            received=repr(labels),
            next_step=f"Did you mean {near!r}?" if near else "Choose one of these.",
        )
    if labels == "sampled" and generator is None:
        raise ConfigError(
            "generator",
            expected="a random generator to draw labels from",
            received="none",
            next_step="Pass generator=numpy.random.default_rng(seed).",
        )
    if not divisible(model, EVALUATE):
        raise ConfigError(
            "fisher_diagonal",
            expected="running statistics",
            received="batch statistics, which tie the samples of a batch together",
            next_step="Build the network with norm='running'.",
        )
