"""The exact Hessian of the mean loss, and its Gauss-Newton part."""

from __future__ import annotations

from typing import Any

from ..typing import Array, Params
from .operator import CurvatureOperator, Linearisation


class HessianOperator(CurvatureOperator):
    """H = ∂²L/∂θ² of the mean loss, exact: the tangent of the gradient, by the tangent of both passes.

    A block's product H_l v starts the tangent at layer l, runs it up to the loss and back down to l.

    Math: r(gθ) = Jᵀ ∂²L/∂y² J v + (∂J/∂θ v)ᵀ gy, the first term through the loss, the second through every layer whose
    derivative moves: bilinear in input and weight, or normalised by the batch's own statistics.
    In one parameter alone, with running statistics, ∂J/∂θ = 0: the second term is left out there, not computed as 0.
    Reference: Pearlmutter (1994), "Fast exact multiplication by the Hessian".
    """

    def _back(self, point: Linearisation, ry: Array, rcache: Any) -> Params:
        rgy = self.loss.hess_vec(point.outputs, point.targets, ry)
        if self.linear:
            return self._r_backward(point, None, None, rgy)
        return self._r_backward(point, rcache, point.gys, rgy)

    def _r_backward(self, point: Linearisation, rcache: Any, gys: Any, rgy: Array) -> Params:
        """The tangent of the backward pass, for the wanted parameters."""
        _, rgrads = self.model.r_backward(
            self.params, point.cache, rcache, gys, rgy, input_gradient=False, wanted=self.names
        )
        return rgrads


class GaussNewtonOperator(HessianOperator):
    """G = Jᵀ (∂²L/∂y²) J: the Hessian of the loss over the network's linearisation, positive semi-definite.

    In evaluation mode the outputs are piecewise linear in each single weight, so a block of one weight equals the
    Hessian's; blocks between layers, and every block under batch statistics, differ.

    Reference: Schraudolph (2002), "Fast curvature matrix-vector products".
    """

    def _back(self, point: Linearisation, ry: Array, rcache: Any) -> Params:
        rgy = self.loss.hess_vec(point.outputs, point.targets, ry)
        return self._r_backward(point, None, None, rgy)  # nothing moved on the way: the plain backward pass of rgy
