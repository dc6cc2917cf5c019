"""Losses: value, gradient and curvature in the outputs, with one named reduction (the mean over samples)."""

from __future__ import annotations

from .backend import array_module, ops
from .errors import ShapeError
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
        _check_batch("CrossEntropy", logits, labels, 1)
        if labels.dtype.kind not in "iu":
            raise ShapeError(
                "CrossEntropy",
                expected="integer labels",
                received=f"dtype {labels.dtype}",
                next_step="Give each sample its class number, not scores or one-hot columns.",
            )
        xp = array_module(logits)
        losses, probabilities = ops.softmax_cross_entropy(logits, labels)
        weight = sample_weight(logits.shape[1])
        one_hot = (xp.arange(logits.shape[0])[:, None] == labels).astype(logits.dtype)
        return losses.sum() * weight, (probabilities - one_hot) * weight

    def hess_vec(self, logits: Array, labels: Array, r: Array) -> Array:
        """∂²L/∂logits² r of each of K tangents: (p ⊙ r - p ⟨p, r⟩)/N, at the logits of the forward pass.

        Shapes: r (C, K, N), result (C, K, N).
        """
        _check_batch("CrossEntropy", logits, labels, 1)
        _check_tangents("CrossEntropy", logits, r)
        _, probabilities = ops.softmax_cross_entropy(logits, labels)
        p = probabilities[:, None, :]
        moved = p * r
        return (moved - p * moved.sum(axis=0)) * sample_weight(logits.shape[1])


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
