"""The mean loss over some data as a function of the parameters, around the point where derivatives are checked."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..backend import Streams, array_module, to_host
from ..errors import ConfigError, DivergenceError
from ..layers import Mode, Sequential
from ..losses import Loss
from ..typing import Array, Params
from .data import Data, check_repeatable, walk


class Point:
    """The mean loss over the data as a function of the parameters, around one point in float64."""

    def __init__(self, model: Sequential, params: Params, loss: Loss, data: Data, mode: Mode) -> None:
        check_repeatable(data)
        self.model, self.params, self.loss, self.data, self.mode = model, params, loss, data, mode
        for name in model.names():
            check_numbers(name, params[name])
        self.samples = 0
        for x, targets in walk(data):
            check_numbers("data", x)
            if targets.dtype.kind not in "iub":
                check_numbers("targets", targets)
            self.samples += int(x.shape[-1])
        value, self.branches = self.value(params)
        if not np.isfinite(to_host(value)):
            raise DivergenceError(
                "loss", expected="a finite loss", received=str(value), next_step="Check the parameters and the data."
            )
        self.size = self._sizes()

    def _sizes(self) -> dict[str, float]:
        """Root mean square of each parameter's entries; a parameter near 0 is given a tenth of the whole network's."""
        entries = {name: self.params[name].size for name in self.model.trainable}
        norms = {name: norm(self.params[name]) for name in entries}
        whole = math.hypot(*norms.values()) / math.sqrt(max(sum(entries.values()), 1)) or 1.0
        return {name: max(norms[name] / math.sqrt(max(count, 1)), 0.1 * whole) for name, count in entries.items()}

    def direction(self, name: str, seed: int) -> Array:
        """Random entries of one parameter, as large (root mean square) as its own; drawn on the host."""
        value = self.params[name]
        v = Streams(seed).generator(f"direction {name}").normal(size=value.shape)
        v *= self.size[name] * math.sqrt(v.size) / max(float(np.linalg.norm(v)), 1e-300)
        return array_module(value).asarray(v)

    def directions(self, seed: int) -> Params:
        """A direction in every trainable parameter at once."""
        return {name: self.direction(name, seed) for name in self.model.trainable}

    def value(self, params: Params) -> tuple[Array, list[Array]]:
        """The mean loss and the branches taken."""
        total, branches = 0.0, []
        for outputs, targets, _, taken in self._forward(params):
            total = total + self.loss.value(outputs, targets) * (outputs.shape[-1] / self.samples)
            branches += taken
        return total, branches

    def gradient(self, params: Params) -> tuple[Array, list[Array]]:
        """The gradient of the mean loss, flat, and the branches taken."""
        total, branches = None, []
        for outputs, targets, cache, taken in self._forward(params):
            gy = self.loss.grad(outputs, targets) * (outputs.shape[-1] / self.samples)
            _, grads = self.model.backward(params, cache, gy, input_gradient=False)
            total = self.flat(grads) if total is None else total + self.flat(grads)
            branches += taken
        return total, branches

    def _forward(self, params: Params) -> Iterator[tuple[Array, Array, Any, list[Array]]]:
        """Outputs, targets, cache and branches of each batch; dropout draws the same masks every time."""
        mode = Mode(self.mode.train, copy.deepcopy(self.mode.dropout))
        for x, targets in walk(self.data):
            outputs, cache = self.model.forward(params, x, mode)
            yield outputs, targets, cache, self.model.branches(cache)

    def flat(self, parts: Params) -> Array:
        """One vector, in the order of `trainable`; what is missing is 0."""
        xp = array_module(next(iter(parts.values())))
        flat = [
            parts[name].reshape(-1) if name in parts else xp.zeros(self.params[name].size)
            for name in self.model.trainable
        ]
        return xp.concatenate(flat)

    def parts(self, flat: Array) -> Params:
        """The vector cut back into parameters."""
        parts, start = {}, 0
        for name in self.model.trainable:
            shape, count = self.params[name].shape, self.params[name].size
            parts[name] = flat[start : start + count].reshape(shape)
            start += count
        return parts


def check_numbers(where: str, array: Array) -> None:
    """Raise ConfigError unless the array is float64, and DivergenceError unless every entry is finite."""
    if array.dtype != np.float64:
        raise ConfigError(
            where,
            expected="float64 (in float32 rounding hides what a check looks for)",
            received=str(array.dtype),
            next_step="Cast parameters and data: array.astype(numpy.float64).",
        )
    if not to_host(array_module(array).isfinite(array).all()):
        raise DivergenceError(
            where,
            expected="finite numbers",
            received="NaN or infinity",
            next_step="Check parameters from before the divergence, or clean the data.",
        )


def norm(array: Array) -> float:
    """‖array‖₂ of all entries."""
    flat = array.reshape(-1)
    return math.sqrt(float(to_host(flat @ flat)))
