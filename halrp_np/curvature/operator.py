"""A symmetric matrix that is never formed: products with the curvature of chosen parameters, within a memory budget.

One linearisation of the network on a batch (the caches of its forward pass, the cotangents of its backward pass) serves
every product on that batch. K vectors travel together, as K tangents. Subclasses say what lies between the tangent of
the outputs and the way back: see hessian.py and fisher.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from ..backend import array_module, to_host
from ..backend.matrix_free import linear_operator
from ..errors import ConfigError, DivergenceError, ShapeError, nearest
from ..layers import EVALUATE, Mode, Sequential
from ..losses import Loss
from ..typing import Array, Params, Shape
from .data import Batch, Data, check_repeatable, walk
from .memory import Budget, array_sizes, divisible, sample_bytes

MEMORY = 2**30
"""Bytes, unless told otherwise."""


@dataclass(frozen=True)
class Linearisation:
    """A network on one batch: outputs and targets, the caches, and ∂L/∂y of every layer down to the lowest needed."""

    outputs: Array
    targets: Array
    cache: Any
    gy: Array
    gys: Any
    size: int
    """Bytes of the caches and cotangents."""
    layers: list[int]
    """Bytes of each array kept by the layers that a tangent passes."""

    @property
    def samples(self) -> int:
        """The size N of the batch."""
        return int(self.outputs.shape[-1])


class CurvatureOperator:
    """A symmetric (P, P) matrix over the entries of `names`, one after the other; the mean over all samples.

    `data` is one batch (x, targets) or a collection of batches, which is walked through for every product; batches
    count by their samples. `memory` bounds, in bytes, the linearisations that are kept and the tangents that run at
    once: above it linearisations are computed again, vectors go one group after the other, and, where samples do not
    depend on one another, batches are taken in pieces. The vectors and their products come on top. Parameters and data
    must not be changed in place while the operator is in use.

    Shapes: `operator @ v` for v (P,) or (P, K), on the parameters' device.
    Raises: ConfigError for unknown names, data that cannot be repeated, a gradient that is not the same twice, or a
    budget below one sample's need; ShapeError for arrays that do not fit; DivergenceError when the gradient is not
    finite. All but the first two are raised at the first product.
    """

    def __init__(
        self,
        model: Sequential,
        params: Params,
        loss: Loss,
        data: Data,
        *,
        names: Sequence[str] | None = None,
        mode: Mode = EVALUATE,
        memory: int = MEMORY,
    ) -> None:
        self.model, self.params, self.loss, self.data, self.mode = model, params, loss, data, mode
        self._check_mode()
        check_repeatable(data)
        self.names = checked_names(model, model.trainable if names is None else names)
        check_parameters(model, params)
        self.budget = Budget(memory)
        self.products = 0
        self._kept: list[Linearisation] | None = None
        self._sample_bytes = 0.0
        self._probed = False

    __array_ufunc__ = None  # so that NumPy leaves `v @ operator` to __rmatmul__

    # ---- what it is --------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        size = sum(math.prod(shape) for shape in self.shapes.values())
        return size, size

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of each parameter, in the order of the rows."""
        return {name: tuple(self.params[name].shape) for name in self.names}

    @property
    def dtype(self) -> Any:
        """Of the parameters, and so of vectors and products."""
        return self.params[self.names[0]].dtype

    @property
    def xp(self) -> Any:
        """The array module of the parameters."""
        return array_module(self.params[self.names[0]])

    def block(self, *names: str) -> Self:
        """The same curvature restricted to these parameters, sharing what has been linearised so far.

        Raises: ConfigError for a name that is not among this operator's.
        """
        part = copy(self)
        part.names, part.products = checked_names(self, names), 0
        return part

    # ---- vectors -----------------------------------------------------------------------------------------------------

    def flatten(self, parts: Params) -> Array:
        """One vector (P,) from arrays by name, or (P, K) from arrays with a leading axis K.

        Raises: ShapeError when an array is missing or has another shape than its parameter.
        """
        for name, shape in self.shapes.items():
            found = tuple(parts[name].shape) if name in parts else None
            if found is None or found not in (shape, (*found[:1], *shape)):
                raise ShapeError(
                    f"{type(self).__name__}.flatten",
                    expected=f"{name} of shape {shape}, or with an axis K before it",
                    received="nothing of that name" if found is None else f"shape {found}",
                    next_step="Give an array for every one of the operator's names.",
                )
        first = parts[self.names[0]]
        if first.ndim == len(self.shapes[self.names[0]]):
            return self._joined({name: part[None] for name, part in parts.items()})[0]
        return self._joined(parts).T

    def _joined(self, parts: Params) -> Array:
        """Rows (K, P) from arrays (K, ...) by name."""
        rows = [parts[name].reshape(parts[name].shape[0], math.prod(shape)) for name, shape in self.shapes.items()]
        return rows[0] if len(rows) == 1 else self.xp.concatenate(rows, axis=1)

    def unflatten(self, v: Array) -> Params:
        """Arrays by name from a vector (P,), or with a leading axis K from (P, K).

        Raises: ShapeError when it has another length.
        """
        parts = self._parts(self._rows(v))
        return parts if v.ndim == 2 else {name: part[0] for name, part in parts.items()}

    def _parts(self, rows: Array) -> Params:
        """Arrays (K, ...) by name, views of the rows (K, P)."""
        parts, start = {}, 0
        for name, shape in self.shapes.items():
            end = start + math.prod(shape)
            parts[name] = rows[:, start:end].reshape(rows.shape[0], *shape)
            start = end
        return parts

    def _rows(self, v: Array) -> Array:
        """A vector as (1, P), or the columns of (P, K) as (K, P): no copy where each column lies contiguous."""
        if v.ndim not in (1, 2) or v.shape[0] != self.shape[0] or v.dtype != self.dtype:
            raise ShapeError(
                type(self).__name__,
                expected=f"a vector ({self.shape[0]},) or columns ({self.shape[0]}, K) of {self.dtype}",
                received=f"shape {tuple(v.shape)}, {v.dtype}",
                next_step="Make vectors with `flatten`, and give them the parameters' dtype.",
            )
        return self.xp.ascontiguousarray(v.T if v.ndim == 2 else v[None])

    # ---- products ----------------------------------------------------------------------------------------------------

    def __matmul__(self, v: Array) -> Array:
        """The product with one vector (P,), or with K at once (P, K)."""
        rows = self._rows(v)
        self.probe()
        product = averaged((point.samples, self._on_batch(point, rows)) for point in self._linearisations())
        self.products += rows.shape[0]
        return product[0] if v.ndim == 1 else product.T

    def __rmatmul__(self, v: Array) -> Array:
        """vᵀ times the matrix, for v (P,) or (K, P): the matrix is symmetric."""
        return (self @ v.T).T

    def _on_batch(self, point: Linearisation, rows: Array) -> Array:
        """Rows (K, P) of products with the mean over one batch, as many at once as the budget allows."""
        group = self.budget.tangents(point.layers, self.shape[0] * self.dtype.itemsize, host=self.xp is np)
        products = self.xp.zeros(rows.shape, dtype=self.dtype)
        for first in range(0, rows.shape[0], group):
            some = slice(first, first + group)
            product = self._joined(self._tangent(point, self._parts(rows[some])))
            if group >= rows.shape[0]:
                return product
            products[some] = product
        return products

    def _tangent(self, point: Linearisation, rparams: Params) -> Params:
        """How the gradient moves with the parameters: up to the outputs, across the loss, and back down."""
        ry, rcache = self.model.r_forward(self.params, point.cache, rparams, None)
        rcache, gys = (None, None) if self.linear else (rcache, point.gys)
        rgy = self._between(point, ry)
        _, rgrads = self.model.r_backward(
            self.params, point.cache, rcache, gys, rgy, input_gradient=False, wanted=self.names
        )
        return rgrads

    @property
    def linear(self) -> bool:
        """Whether the outputs are taken as linear in the parameters: the way back is then plain `backward`."""
        raise NotImplementedError

    def _between(self, point: Linearisation, ry: Array) -> Array:
        """From the tangent of the outputs to that of their gradient, where the way back begins."""
        raise NotImplementedError

    def _check_mode(self) -> None:
        """Refuse a mode in which this curvature is not defined."""

    def value(self) -> float:
        """The mean loss over all samples."""
        return self._first_order()[0]

    def gradient(self) -> Array:
        """The gradient (P,) of the mean loss."""
        return self._first_order()[1]

    def to_scipy(self) -> Any:
        """As `scipy.sparse.linalg.LinearOperator`, or cupyx's on a GPU."""
        return linear_operator(self.shape[0], self.dtype, self.__matmul__, self.xp)

    # ---- passes over the data ----------------------------------------------------------------------------------------

    def probe(self) -> None:
        """Once, before the first product: two gradients are finite and agree, so all products are of one matrix."""
        if self._probed:
            return
        first, second = (to_host(self.gradient()) for _ in range(2))
        if not np.isfinite(first).all():
            raise DivergenceError(
                type(self).__name__,
                expected="a finite gradient",
                received="NaN or infinity",
                next_step="Look for NaN in the parameters and the data.",
            )
        difference = float(np.abs(first - second).max(initial=0.0))
        if difference > 1e3 * np.finfo(first.dtype).eps * float(np.abs(first).max(initial=0.0)):
            raise ConfigError(
                type(self).__name__,
                expected="the same gradient twice",
                received=f"gradients that differ by {difference:.1e}",
                next_step="Give the same batches in every pass over the data: no shuffling, no augmentation.",
            )
        self._probed = True

    def _first_order(self) -> tuple[float, Array]:
        """The mean loss and its gradient, from passes of their own."""
        mode, values, gradients = self._fresh_mode(), [], []
        for x, targets in self._pieces():
            outputs, cache = self.model.forward(self.params, x, mode)
            value, gy = self.loss.value_and_grad(outputs, targets)
            _, grads = self.model.backward(self.params, cache, gy, input_gradient=False, wanted=self.names)
            values.append((int(x.shape[-1]), float(to_host(value))))
            gradients.append((int(x.shape[-1]), self.flatten(grads)))
        return averaged(values), averaged(gradients)

    def _linearisations(self) -> Iterator[Linearisation]:
        """The network at every batch: kept from the first pass where all of them fit, else made again."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Linearisation] | None = []
        size, mode = 0, self._fresh_mode()
        for x, targets in self._pieces():
            point = self._linearised(x, targets, mode)
            size += point.size
            kept = [*kept, point] if kept is not None and self.budget.holds(size) else None
            yield point
        self._kept = kept

    def _linearised(self, x: Array, targets: Array, mode: Mode) -> Linearisation:
        """One batch; second-order terms need the cotangents of the layers between the outputs and the lowest name."""
        outputs, cache = self.model.forward(self.params, x, mode)
        gy = self.loss.grad(outputs, targets)
        gys = None
        if not self.linear:
            _, gys = self.model.cotangents(self.params, cache, gy, input_gradient=False, wanted=self.names)
        return Linearisation(
            outputs, targets, cache, gy, gys, sum(array_sizes((cache, gys))), array_sizes(self._passed(cache))
        )

    def _passed(self, cache: dict[str, Any]) -> list[Any]:
        """The caches that a tangent passes: from the first layer with one of the names up."""
        first = {name.partition(".")[0] for name in self.names}
        lowest = next(place for place, name in enumerate(self.model.layers) if name in first)
        return list(cache.values())[lowest:]

    def _pieces(self) -> Iterator[Batch]:
        """The batches, in pieces that the budget holds; batch statistics and dropout forbid pieces."""
        for x, targets in walk(self.data):
            labels = targets.ndim == 1 or targets.dtype.kind != "f"  # the loss says what these must be
            if x.dtype != self.dtype or not (labels or targets.dtype == self.dtype):
                raise ShapeError(
                    "data",
                    expected=f"inputs of the parameters' dtype, {self.dtype}, and targets unless they are labels",
                    received=f"inputs of {x.dtype}, targets of {targets.dtype}",
                    next_step="Cast the one or the other.",
                )
            size = self._piece(x)
            for first in range(0, x.shape[-1], size):
                yield x[..., first : first + size], targets[..., first : first + size]

    def _piece(self, x: Array) -> int:
        """How many samples of a batch to take at once."""
        self._sample_bytes = self._sample_bytes or sample_bytes(self.model, self.params, x)
        vector, together = self.shape[0] * self.dtype.itemsize, divisible(self.model, self.mode)
        return self.budget.samples(self._sample_bytes, vector, int(x.shape[-1]), divisible=together)

    def _fresh_mode(self) -> Mode:
        """The mode with dropout's stream where it stood, so that every pass draws the same masks."""
        return replace(self.mode, dropout=deepcopy(self.mode.dropout))


def averaged(parts: Iterable[tuple[int, Any]]) -> Any:
    """The mean over all samples, from (number of samples, mean over these) of each batch."""
    total, samples = None, 0
    for count, mean in parts:
        if total is None:
            total, samples = mean, count
        else:
            samples += count
            total = total + (mean - total) * (count / samples)
    return total


def check_parameters(model: Sequential, params: Params) -> None:
    """Refuse parameters that lack one of the network's, or are of several dtypes or none of the two."""
    missing = [name for name in model.names() if name not in params]
    kinds = sorted({str(params[name].dtype) for name in model.names() if name in params})
    if missing or len(kinds) != 1 or kinds[0] not in ("float32", "float64"):
        raise ConfigError(
            "parameters",
            expected="all of the network's, all float32 or all float64",
            received=f"none called {missing[0]}" if missing else ", ".join(kinds),
            next_step="Start from model.init, or cast every one of them.",
        )


def checked_names(owner: Any, names: Sequence[str]) -> tuple[str, ...]:
    """The names, each known and given once."""
    known = owner.names if isinstance(owner, CurvatureOperator) else owner.trainable
    for number, name in enumerate(names):
        if name not in known or name in names[:number]:
            near = nearest(name, known)
            raise ConfigError(
                "names",
                expected="parameters of the network, each once",
                received=repr(name) + (" twice" if name in known else ""),
                next_step=f"Did you mean {near!r}?" if near else f"Choose among {', '.join(known)}.",
            )
    if not names:
        raise ConfigError("names", expected="at least one parameter", received="none", next_step="Name one.")
    return tuple(names)
