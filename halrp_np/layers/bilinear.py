"""A bilinear map with its two adjoints, and the tangents of all three by the product rule: linear layers, convolutions.

y = f(x, W) is linear in x and linear in W. Its derivatives are two more bilinear maps, gx = f*(gy, W) and
gW = f°(gy, x), and the tangent of each of the three is a sum of two of them: no pass needs a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..typing import Array, Shape
from .tangents import (
    fold,
    from_channels,
    from_inputs,
    from_outputs,
    to_channels,
    to_inputs,
    to_outputs,
    total,
    unfold,
)


@dataclass(frozen=True)
class Bilinear:
    """The map y = f(x, W) and its adjoints in x and in W; the shapes are those of what is returned."""

    apply: Callable[[Array, Array], Array]
    grad_input: Callable[[Array, Array, Shape], Array]
    grad_weight: Callable[[Array, Array, Shape], Array]

    def r_apply(self, x: Array, W: Array, rx: Array | None, rW: Array | None) -> Array | None:
        """The tangent of y = f(x, W).

        Shapes: x (I, ..., N), W (J, I, ...), rx (I, ..., K, N), rW (K, J, I, ...), result (J, ..., K, N).
        Math: ry_k = f(rx_k, W) + f(x, rW_k).
        """
        moved_x = None if rx is None else unfold(self.apply(fold(rx), W), rx.shape[-2])
        moved_W = None if rW is None else from_channels(self.apply(x, to_outputs(rW)), rW.shape[0])
        return total(moved_x, moved_W)

    def r_grad_input(self, gy: Array, W: Array, rgy: Array | None, rW: Array | None, x_shape: Shape) -> Array | None:
        """The tangent of gx = f*(gy, W).

        Shapes: gy (J, ..., N), rgy (J, ..., K, N), x_shape (I, ..., N), result (I, ..., K, N).
        Math: rgx_k = f*(rgy_k, W) + f*(gy, rW_k).
        """
        moved_gy = moved_W = None
        if rgy is not None:
            count = rgy.shape[-2]
            moved_gy = unfold(self.grad_input(fold(rgy), W, (*x_shape[:-1], count * x_shape[-1])), count)
        if rW is not None:
            count = rW.shape[0]
            moved_W = from_channels(self.grad_input(gy, to_inputs(rW), (count * x_shape[0], *x_shape[1:])), count)
        return total(moved_gy, moved_W)

    def r_grad_weight(self, gy: Array, x: Array, rgy: Array | None, rx: Array | None, w_shape: Shape) -> Array | None:
        """The tangent of gW = f°(gy, x).

        Shapes: gy (J, ..., N), x (I, ..., N), rgy (J, ..., K, N), rx (I, ..., K, N), result (K, *w_shape).
        Math: rgW_k = f°(rgy_k, x) + f°(gy, rx_k).
        """
        J, I, *window = w_shape
        moved_gy = moved_x = None
        if rgy is not None:
            count = rgy.shape[-2]
            moved_gy = from_outputs(self.grad_weight(to_channels(rgy), x, (count * J, I, *window)), count)
        if rx is not None:
            count = rx.shape[-2]
            moved_x = from_inputs(self.grad_weight(gy, to_channels(rx), (J, count * I, *window)), count)
        return total(moved_gy, moved_x)
