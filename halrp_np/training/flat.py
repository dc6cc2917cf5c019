"""The trained parameters of a phase one after the other in one array, and beside it their gradients and moments.

One pass over four arrays then updates everything, however many parameters there are. By name each parameter is a view
of its segment, so layers, hooks and checkpoints go on as if it were alone. A segment starts on a cache line (and where
cuBLAS likes its matrices to start); the few spare entries before the next one have no gradient and nobody reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..backend import array_module, buffers, ops
from ..errors import ConfigError, ShapeError
from ..typing import Array, Params
from .penalty import NO_PENALTY, Penalty, Pull

_LINE = 16  # entries: 64 bytes of float32


class Flat:
    """Parameters, gradients and moments of the named parameters, each flat, with the penalty of every segment.

    Attributes: `theta`, `grad`, `moments[kind]` (P,); `params`, `grads` and `moment_params` are their views by name;
    `slices` the segments in order, `ends`, `l1`, `l2`, `centre` (S,) where each ends and its penalty, on the device;
    `pulled` the strengths and centres (P,) of the pulls, None without any.
    Raises: ConfigError when there is nothing to train, or a pull is on something else; ShapeError when its shape is
    not its parameter's.
    """

    def __init__(
        self,
        params: Params,
        names: tuple[str, ...],
        kinds: tuple[str, ...],
        moments: Params,
        penalties: dict[str, Penalty],
        pulls: Mapping[str, Pull] = {},
    ) -> None:
        """Copy `params` and those `moments` (named `kind/parameter`) that there are; the others start at zero."""
        if not names:
            raise ConfigError(
                "training",
                expected="a network with trainable parameters",
                received="none",
                next_step="Give it a layer that has some.",
            )
        self.xp = array_module(params[names[0]])
        self.shapes = {name: tuple(params[name].shape) for name in names}
        self.slices = _segments([int(np.prod(shape)) for shape in self.shapes.values()])
        dtype = np.result_type(*(params[name].dtype for name in names))
        self.theta, self.grad = self._zeros(dtype), self._zeros(dtype)
        self.moments = {kind: self._zeros(dtype) for kind in kinds}
        self.params, self.grads = self.by_name(self.theta), self.by_name(self.grad)
        self.moment_params = {
            f"{kind}/{name}": view for kind, whole in self.moments.items() for name, view in self.by_name(whole).items()
        }
        _copy({name: params[name] for name in names}, self.params)
        _copy(moments, self.moment_params)
        chosen = [penalties.get(name, NO_PENALTY) for name in names]
        self.ends = self.xp.asarray(np.array([part.stop for part in self.slices], dtype=np.int64))
        self.l1, self.l2, self.centre = (
            self.on_device([getattr(penalty, field) for penalty in chosen]) for field in ("l1", "l2", "centre")
        )
        self.pulled = self._pulled(pulls, dtype) if pulls else None

    def by_name(self, whole: Array) -> Params:
        """Views of the segments of a flat array, in the shapes of the parameters."""
        return {
            name: whole[part.start : part.start + int(np.prod(shape))].reshape(shape)
            for (name, shape), part in zip(self.shapes.items(), self.slices, strict=True)
        }

    def set_gradients(self, grads: Params) -> None:
        """Copy gradients to their segments; a parameter without one has the gradient 0."""
        _copy(grads, self.grads)
        for name in self.grads.keys() - grads.keys():
            self.grads[name][...] = 0

    def pull(self) -> None:
        """Add the gradient of the pulls, strength ⊙ (θ - centre), to `grad`; to be done once a step."""
        if self.pulled is not None:
            ops.pull(self.grad, self.theta, *self.pulled)

    def _pulled(self, pulls: Mapping[str, Pull], dtype: Any) -> tuple[Array, Array]:
        """The pulls side by side as the parameters are, 0 where there is none."""
        for name, pull in pulls.items():
            if name not in self.shapes:
                raise ConfigError(
                    f"pull on {name}",
                    expected="a parameter that is trained",
                    received="one that is not",
                    next_step="Pull parameters that move only.",
                )
            for array in (pull.strength, pull.centre):
                if tuple(array.shape) != self.shapes[name]:
                    raise ShapeError(
                        f"pull on {name}",
                        expected=f"strength and centre of the parameter's shape {self.shapes[name]}",
                        received=f"shape {tuple(array.shape)}",
                        next_step="Give every entry a strength and a centre.",
                    )
        strength, centre = self._zeros(dtype), self._zeros(dtype)
        _copy({name: pull.strength for name, pull in pulls.items()}, self.by_name(strength))
        _copy({name: pull.centre for name, pull in pulls.items()}, self.by_name(centre))
        return strength, centre

    def on_device(self, values: Any) -> Array:
        """Host numbers beside the parameters, in their type."""
        return self.xp.asarray(np.asarray(values, dtype=np.float64).astype(self.theta.dtype))

    def _zeros(self, dtype: Any) -> Array:
        """One more flat array."""
        size = self.slices[-1].stop
        return buffers.zeros(size, dtype) if self.xp is np else self.xp.zeros(size, dtype=dtype)


def _segments(sizes: list[int]) -> list[slice]:
    """Neighbouring ranges that hold `sizes` entries each, all of them starting on a cache line."""
    ends = np.cumsum([-(-size // _LINE) * _LINE for size in sizes]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _copy(values: Params, views: Params) -> None:
    """Write each array over the view of its name."""
    for name, value in values.items():
        views[name][...] = value
