"""Layers in sequence and in parallel; parameters carry the path of their layer, e.g. `conv1.weight`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, Self

import numpy as np

from ..backend import ops
from ..errors import ConfigError, ShapeError
from ..typing import Array, Params
from .base import EVALUATE, Cache, Layer, Mode, Names
from .tangents import total


class Container(Layer):
    """Named layers side by side; subclasses say how they are connected."""

    def __init__(self, layers: dict[str, Layer]) -> None:
        self.layers = dict(layers)
        self.trainable = tuple(f"{name}.{entry}" for name, layer in layers.items() for entry in layer.trainable)
        self.buffers = tuple(f"{name}.{entry}" for name, layer in layers.items() for entry in layer.buffers)

    def init(self, generator: np.random.Generator, dtype: Any) -> Params:
        return _joined((name, layer.init(generator, dtype)) for name, layer in self.layers.items())

    def new_buffers(self, params: Params, cache: Cache) -> Params:
        return _joined(
            (name, layer.new_buffers(_entries(params, name, layer), cache[name])) for name, layer in self.layers.items()
        )

    def branches(self, cache: Cache) -> list[Array]:
        return [choice for name, layer in self.layers.items() for choice in layer.branches(cache[name])]

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Every layer inside, with its path, in network order; containers are entered."""
        for name, layer in self.layers.items():
            if isinstance(layer, Container):
                yield from layer.walk(f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", layer

    def replaced(self, twin: Callable[[str, Layer], Layer], prefix: str = "") -> Self:
        """The same structure with `twin(path, layer)` in place of every layer."""
        same = copy(self)
        Container.__init__(
            same,
            {
                name: layer.replaced(twin, f"{prefix}{name}.")
                if isinstance(layer, Container)
                else twin(f"{prefix}{name}", layer)
                for name, layer in self.layers.items()
            },
        )
        return same


class Sequential(Container):
    """The composition of named layers, first to last.

    Raises: ConfigError when a parameter that a layer reads is missing.
    """

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        caches: dict[str, Cache] = {}
        for name, layer in self.layers.items():
            x, caches[name] = layer.forward(_entries(params, name, layer), x, mode)
        return x, caches

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        """Chain rule, last layer to first; without `input_gradient` it ends at the first layer with a wanted name."""
        grads: dict[str, Params] = {}
        g: Array | None = gy
        for name, layer, last in self._downwards(wanted, input_gradient):
            below = _below(wanted, name)
            own = _entries(params, name, layer)
            g, grads[name] = layer.backward(own, cache[name], g, input_gradient=not last, wanted=below)
        return (g if input_gradient else None), _joined(grads.items())

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        """Chain rule, first to last; it begins at the first layer with a tangent of its own, unless x has one."""
        r, rcaches = rx, {}
        for name, layer in self.layers.items():
            own = _entries_of(rparams, name)
            if own or r is not None:
                r, rcaches[name] = layer.r_forward(_entries(params, name, layer), cache[name], own, r)
        return r, rcaches

    def r_backward(
        self,
        params: Params,
        cache: Cache,
        rcache: Cache,
        gy: Cache,
        rgy: Array,
        *,
        input_gradient: bool = True,
        wanted: Names = None,
    ) -> tuple[Array | None, Params]:
        """Chain rule, last to first, ending as `backward` does; gy holds the cotangent of every layer."""
        rgrads: dict[str, Params] = {}
        r: Array | None = rgy
        for name, layer, last in self._downwards(wanted, input_gradient):
            r, rgrads[name] = layer.r_backward(
                _entries(params, name, layer),
                cache[name],
                _at(rcache, name),
                _at(gy, name),
                r,
                input_gradient=not last,
                wanted=_below(wanted, name),
            )
        return (r if input_gradient else None), _joined(rgrads.items())

    def cotangents(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Cache]:
        """The cotangent of every layer down to the first with a wanted name."""
        found: dict[str, Cache] = {}
        g: Array | None = gy
        for name, layer, last in self._downwards(wanted, input_gradient):
            own = _entries(params, name, layer)
            g, found[name] = layer.cotangents(own, cache[name], g, input_gradient=not last, wanted=_below(wanted, name))
        return (g if input_gradient else None), found

    def _downwards(self, wanted: Names, input_gradient: bool) -> Iterator[tuple[str, Layer, bool]]:
        """The layers, last to first, and whether the way ends there since nothing below is asked for."""
        asked = self.trainable if wanted is None else wanted
        first = next((name for name in self.layers if _below(asked, name)), None)
        if first is None and not input_gradient:
            return
        for name, layer in reversed(self.layers.items()):
            last = name == first and not input_gradient
            yield name, layer, last
            if last:
                return


class Residual(Container):
    """y = body(x) + shortcut(x), or body(x) + x without a shortcut, as in residual networks.

    Shapes: body and shortcut map x to arrays of one shape; without a shortcut that is the shape of x.
    Raises: ShapeError when the two shapes differ.
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        super().__init__({"body": body} if shortcut is None else {"body": body, "shortcut": shortcut})

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        return self.met(params, x, mode, rectify=False)

    def met(self, params: Params, x: Array, mode: Mode, *, rectify: bool) -> tuple[Array, Cache]:
        """`forward`, or in the same pass max(forward, 0): most residual blocks are followed by ReLU."""
        caches: dict[str, Cache] = {}
        parts: list[Array] = [] if "shortcut" in self.layers else [x]
        for name, layer in self.layers.items():
            y, caches[name] = layer.forward(_entries(params, name, layer), x, mode)
            parts.append(y)
        if parts[0].shape != parts[1].shape:
            raise ShapeError(
                "Residual",
                expected=f"two branches of one shape, {tuple(parts[0].shape)}",
                received=f"also {tuple(parts[1].shape)}",
                next_step="Give the shortcut a 1x1 convolution of the body's stride and outputs.",
            )
        return ops.add(parts[0], parts[1], rectify=rectify), caches

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        """Both branches receive gy; their input gradients add up."""
        parts: list[Array | None] = [] if "shortcut" in self.layers else [gy]
        grads: dict[str, Params] = {}
        for name, layer in self.layers.items():
            own, below = _entries(params, name, layer), _below(wanted, name)
            gx, grads[name] = layer.backward(own, cache[name], gy, input_gradient=input_gradient, wanted=below)
            parts.append(gx)
        return (ops.add(parts[0], parts[1]) if input_gradient else None), _joined(grads.items())

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        """The tangents of both branches add up; a branch without any is left out."""
        parts: list[Array | None] = [] if "shortcut" in self.layers else [rx]
        rcaches: dict[str, Cache] = {}
        for name, layer in self.layers.items():
            own = _entries_of(rparams, name)
            if own or rx is not None:
                ry, rcaches[name] = layer.r_forward(_entries(params, name, layer), cache[name], own, rx)
                parts.append(ry)
        return total(*parts), rcaches

    def r_backward(
        self,
        params: Params,
        cache: Cache,
        rcache: Cache,
        gy: Cache,
        rgy: Array,
        *,
        input_gradient: bool = True,
        wanted: Names = None,
    ) -> tuple[Array | None, Params]:
        """As `backward`, of the tangents."""
        parts: list[Array | None] = [] if "shortcut" in self.layers else [rgy]
        rgrads: dict[str, Params] = {}
        for name, layer in self.layers.items():
            rgx, rgrads[name] = layer.r_backward(
                _entries(params, name, layer),
                cache[name],
                _at(rcache, name),
                _at(gy, name),
                rgy,
                input_gradient=input_gradient,
                wanted=_below(wanted, name),
            )
            parts.append(rgx)
        return (total(*parts) if input_gradient else None), _joined(rgrads.items())

    def cotangents(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Cache]:
        """Both branches receive gy."""
        parts: list[Array | None] = [] if "shortcut" in self.layers else [gy]
        found: dict[str, Cache] = {}
        for name, layer in self.layers.items():
            own, below = _entries(params, name, layer), _below(wanted, name)
            gx, found[name] = layer.cotangents(own, cache[name], gy, input_gradient=input_gradient, wanted=below)
            parts.append(gx)
        return (total(*parts) if input_gradient else None), found


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


def _entries_of(rparams: Params, name: str) -> Params:
    """The tangents of one layer's parameters, by their short names."""
    return {entry.removeprefix(f"{name}."): r for entry, r in rparams.items() if entry.startswith(f"{name}.")}


def _below(wanted: Names, name: str) -> Names:
    """The wanted names of one layer, by their short names."""
    if wanted is None:
        return None
    return [entry.removeprefix(f"{name}.") for entry in wanted if entry.startswith(f"{name}.")]


def _at(caches: Cache, name: str) -> Cache:
    """What a container's cache holds for one layer; None where it holds nothing."""
    return None if caches is None else caches.get(name)


def _joined(parts: Any) -> Params:
    """One flat dict from (layer name, dict) pairs."""
    return {f"{name}.{entry}": value for name, values in parts for entry, value in values.items()}
