"""The empirical Fisher matrix, from the gradient of every sample on its own."""

from __future__ import annotations

from ..errors import ConfigError
from ..losses import sample_weight
from ..typing import Array
from .hessian import GaussNewtonOperator
from .memory import divisible
from .operator import Linearisation


class EmpiricalFisherOperator(GaussNewtonOperator):
    """F = (1/N) Σ_n g_n g_nᵀ with g_n the gradient of sample n's own loss at its true label; positive semi-definite.

    Per sample: squaring the gradient of a batch's mean instead, as is often done, is another matrix. No g_n is formed:
    ⟨g_n, v⟩ is the tangent of the sample's loss, and it weighs the sample on the way back.

    Raises: ConfigError under batch statistics, where a sample has no gradient of its own.
    """

    def _check_mode(self) -> None:
        if not divisible(self.model, self.mode):
            raise ConfigError(
                "EmpiricalFisherOperator",
                expected="evaluation mode and running statistics",
                received="batch statistics or train mode, which tie the samples of a batch together",
                next_step="Use Mode(train=False), or the Gauss-Newton matrix.",
            )

    def _between(self, point: Linearisation, ry: Array) -> Array:
        """Math: gy_n = (1/N) ∂L_n/∂y, ⟨g_n, v⟩ = N ⟨gy_n, ry_n⟩, and F v is the backward pass of gy_n ⟨g_n, v⟩."""
        gy = point.gy[:, None, :]
        slopes = (gy * ry).sum(axis=0) / sample_weight(point.samples)  # ⟨g_n, v_k⟩, (K, N)
        return gy * slopes
