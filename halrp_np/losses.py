"""Losses: value, gradient and curvature in the outputs, with one named reduction (the mean over samples)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .backend import array_module, ops
from .errors import ConfigError, ShapeError
from .typing import Array


def sample_weight(samples: int) -> float:
    """The weight of one sample in every loss of this package: 1/N, the mean."""
    return 1.0 / samples


class CrossEntropy:
    """Mean over samples of -log softmax(logits)[label].

    Shapes: logits (C, N), labels (N,) integers in 0..C-1.
    Raises: ShapeError when the batch sizes differ, or labels are no integers.
    """

    def value(self, logits: Array, labels: Array) -> Array:
        """The loss, a 0-d array on the device."""
        return self.value_and_grad(logits, labels)[0]

    def grad(self, logits: Array, labels: Array) -> Array:
        """∂L/∂logits = (p - e_label)/N, (C, N)."""
        return self.value_and_grad(logits, labels)[1]

    def value_and_grad(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        """Both at once, from one softmax."""
        xp = array_module(logits)
        losses, probabilities = ops.softmax_cross_entropy(self._compared(logits, labels), labels)
        weight = sample_weight(logits.shape[1])
        one_hot = (xp.arange(logits.shape[0])[:, None] == labels).astype(logits.dtype)
        return losses.sum() * weight, (probabilities - one_hot) * weight

    def hess_vec(self, logits: Array, labels: Array, r: Array) -> Array:
        """∂²L/∂logits² r of each of K tangents: (p ⊙ r - p ⟨p, r⟩)/N, at the logits of the forward pass.

        Shapes: r (C, K, N), result (C, K, N).
        """
        compared = self._compared(logits, labels)
        _check_tangents(type(self).__name__, logits, r)
        _, probabilities = ops.softmax_cross_entropy(compared, labels)
        p = probabilities[:, None, :]
        moved = p * r
        return (moved - p * moved.sum(axis=0)) * sample_weight(logits.shape[1])

    def _compared(self, logits: Array, labels: Array) -> Array:
        """The logits that the softmax runs over, once shapes and labels are known to fit."""
        _check_batch(type(self).__name__, logits, labels, 1)
        if labels.dtype.kind not in "iu":
            raise ShapeError(
                type(self).__name__,
                expected="integer labels",
                received=f"dtype {labels.dtype}",
                next_step="Give each sample its class number, not scores or one-hot columns.",
            )
        return logits


class GroupedCrossEntropy(CrossEntropy):
    """Cross-entropy over the classes of a sample's own group: one head over all classes, of which a sample sees a few.

    Math: mean over samples of -log (exp z_label / Σ_{k: groups[k] = groups[label]} exp z_k). Logits of other groups
    have no part in it, whatever they are: their gradient is 0.
    Shapes: groups (C,) integers on the host, logits (C, N), labels (N,) integers in 0..C-1.
    Raises: ConfigError for groups that are no row of integers; ShapeError as CrossEntropy, for logits of another number
    of classes, and on the host for labels out of range.
    """

    def __init__(self, groups: Any) -> None:
        self.groups = np.asarray(groups)
        if self.groups.ndim != 1 or self.groups.size == 0 or self.groups.dtype.kind not in "iu":
            raise ConfigError(
                "GroupedCrossEntropy",
                expected="the number of its group for every class, (C,) integers",
                received=f"{self.groups.dtype} {self.groups.shape}",
                next_step="Give one group a class, for example [0, 0, 1, 1].",
            )
        self._placed: dict[str, Array] = {}  # on each device that has asked: recorded steps read one and the same

    def _compared(self, logits: Array, labels: Array) -> Array:
        """The logits, -∞ outside of each sample's group."""
        super()._compared(logits, labels)
        classes = self.groups.size
        if logits.shape[0] != classes:
            raise ShapeError(
                "GroupedCrossEntropy",
                expected=f"logits ({classes}, N), a row a class",
                received=f"shape {tuple(logits.shape)}",
                next_step="Give the loss the groups of this network's classes.",
            )
        xp = array_module(logits)
        if xp is np and (labels.min() < 0 or labels.max() >= classes):
            raise ShapeError(
                "GroupedCrossEntropy",
                expected=f"labels in 0..{classes - 1}",
                received=f"{labels.min()}..{labels.max()}",
                next_step="Shift each group's labels to its first class.",
            )
        if xp.__name__ not in self._placed:
            self._placed[xp.__name__] = xp.asarray(self.groups)
        groups = self._placed[xp.__name__]
        outside = xp.full((1,), -np.inf, dtype=logits.dtype)
        return xp.where(groups[:, None] == groups[labels], logits, outside)


class SquaredError:
    """Mean over samples of ½ ‖output - target‖².

    Shapes: outputs and targets (C, N).
    Raises: ShapeError when the shapes differ.
    """

    def value(self, outputs: Array, targets: Array) -> Array:
        """The loss, a 0-d array on the device."""
        return self.value_and_grad(outputs, targets)[0]

    def grad(self, outputs: Array, targets: Array) -> Array:
        """∂L/∂outputs = (output - target)/N, (C, N)."""
        return self.value_and_grad(outputs, targets)[1]

    def value_and_grad(self, outputs: Array, targets: Array) -> tuple[Array, Array]:
        """Both at once."""
        _check_batch("SquaredError", outputs, targets, 2)
        if outputs.shape != targets.shape:
            raise ShapeError(
                "SquaredError",
                expected=f"targets {tuple(outputs.shape)}",
                received=f"shape {tuple(targets.shape)}",
                next_step="Give one target column a sample, batch last.",
            )
        difference = outputs - targets
        weight = sample_weight(outputs.shape[1])
        return 0.5 * weight * (difference * difference).sum(), difference * weight

    def hess_vec(self, outputs: Array, targets: Array, r: Array) -> Array:
        """∂²L/∂outputs² r = r/N of each of K tangents.

        Shapes: r (C, K, N), result (C, K, N).
        """
        _check_batch("SquaredError", outputs, targets, 2)
        _check_tangents("SquaredError", outputs, r)
        return r * sample_weight(outputs.shape[1])


Loss = CrossEntropy | SquaredError


def _check_batch(where: str, outputs: Array, targets: Array, ndim: int) -> None:
    """Raise ShapeError unless outputs are (C, N) and targets have `ndim` axes, the last of length N ≥ 1."""
    fits = outputs.ndim == 2 and targets.ndim == ndim and outputs.shape[1] > 0
    if not fits or targets.shape[-1] != outputs.shape[1]:
        raise ShapeError(
            where,
            expected=f"outputs (C, N) and targets {'(N,)' if ndim == 1 else '(C, N)'}, N ≥ 1",
            received=f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}",
            next_step="Batch is the last axis; check the labels' length.",
        )


def _check_tangents(where: str, outputs: Array, r: Array) -> None:
    """Raise ShapeError unless r is (C, K, N) for outputs (C, N)."""
    if r.ndim != 3 or (r.shape[0], r.shape[2]) != tuple(outputs.shape):
        raise ShapeError(
            where,
            expected=f"tangents ({outputs.shape[0]}, K, {outputs.shape[1]})",
            received=f"shape {tuple(r.shape)}",
            next_step="Put the axis of the K tangents before the batch.",
        )
