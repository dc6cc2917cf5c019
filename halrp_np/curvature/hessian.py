"""The exact Hessian of the mean loss, and its Gauss-Newton part."""

from __future__ import annotations

from ..typing import Array
from .memory import divisible
from .operator import CurvatureOperator, Linearisation


class HessianOperator(CurvatureOperator):
    """H = ∂²L/∂θ² of the mean loss, exact: the tangent of the gradient, by the tangent of both passes.

    A block's product H_l v starts the tangent at layer l, runs it up to the loss and back down to l.

    Math: r(gθ) = Jᵀ ∂²L/∂y² J v + (∂J/∂θ v)ᵀ gy, the first term through the loss, the second through every layer whose
    derivative moves: bilinear in input and weight, or normalised by the batch's own statistics.
    In one parameter alone, with running statistics, ∂J/∂θ = 0: the second term is left out there, not computed as 0.
    Reference: Pearlmutter (1994), "Fast exact multiplication by the Hessian".
    """

    @property
    def linear(self) -> bool:
        """Whether the outputs are piecewise linear in the parameters: in each one alone, with running statistics.

        Every layer is linear in each of its parameters, and in its input but for the kinks. Then ∂²y/∂θ² = 0.
        """
        return len(self.names) == 1 and divisible(self.model, self.mode)

    def _between(self, point: Linearisation, ry: Array) -> Array:
        return self.loss.hess_vec(point.outputs, point.targets, ry)


class GaussNewtonOperator(HessianOperator):
    """G = Jᵀ (∂²L/∂y²) J: the Hessian of the loss over the network's linearisation, positive semi-definite.

    In evaluation mode the outputs are piecewise linear in each single weight, so a block of one weight equals the
    Hessian's; blocks between layers, and every block under batch statistics, differ.

    Reference: Schraudolph (2002), "Fast curvature matrix-vector products".
    """

    @property
    def linear(self) -> bool:
        """Always: that is the approximation."""
        return True
