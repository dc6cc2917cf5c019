"""Layers in sequence; parameters carry the path of their layer, e.g. `conv1.weight`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..typing import Array, Params
from .base import EVALUATE, Cache, Layer, Mode


class Sequential(Layer):
    """The composition of named layers, first to last.

    Raises: ConfigError when a parameter that a layer reads is missing.
    """

    def __init__(self, layers: dict[str, Layer]) -> None:
        self.layers = dict(layers)
        self.trainable = tuple(f"{name}.{entry}" for name, layer in layers.items() for entry in layer.trainable)
        self.buffers = tuple(f"{name}.{entry}" for name, layer in layers.items() for entry in layer.buffers)

    def init(self, generator: np.random.Generator, dtype: Any) -> Params:
        return _joined((name, layer.init(generator, dtype)) for name, layer in self.layers.items())

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        caches: dict[str, Cache] = {}
        for name, layer in self.layers.items():
            x, caches[name] = layer.forward(_entries(params, name, layer), x, mode)
        return x, caches

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, Params]:
        """Chain rule, last layer to first; without `input_gradient` it ends at the first layer with parameters."""
        grads: dict[str, Params] = {}
        g: Array | None = gy
        first = next((name for name, layer in self.layers.items() if layer.trainable), None)
        for name, layer in reversed(self.layers.items()):
            last = name == first and not input_gradient
            g, grads[name] = layer.backward(_entries(params, name, layer), cache[name], g, input_gradient=not last)
            if last:
                break
        return (g if input_gradient else None), _joined(grads.items())

    def new_buffers(self, params: Params, cache: Cache) -> Params:
        return _joined(
            (name, layer.new_buffers(_entries(params, name, layer), cache[name])) for name, layer in self.layers.items()
        )

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Every layer inside, with its path, in network order; containers are entered."""
        for name, layer in self.layers.items():
            if isinstance(layer, Sequential):
                yield from layer.walk(f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", layer

    def replaced(self, twin: Callable[[str, Layer], Layer], prefix: str = "") -> Sequential:
        """The same structure with `twin(path, layer)` in place of every layer."""
        return Sequential(
            {
                name: layer.replaced(twin, f"{prefix}{name}.")
                if isinstance(layer, Sequential)
                else twin(f"{prefix}{name}", layer)
                for name, layer in self.layers.items()
            }
        )


def _entries(params: Params, name: str, layer: Layer) -> Params:
    """The layer's own parameters, by their short names."""
    try:
        return {entry: params[f"{name}.{entry}"] for entry in layer.names()}
    except KeyError as missing:
        raise ConfigError(
            f"parameters of {name}",
            expected=", ".join(layer.names()),
            received=f"none called {missing.args[0]}",
            next_step="Start from model.init, or load the parameters of this network.",
        ) from None


def _joined(parts: Any) -> Params:
    """One flat dict from (layer name, dict) pairs."""
    return {f"{name}.{entry}": value for name, values in parts for entry, value in values.items()}
