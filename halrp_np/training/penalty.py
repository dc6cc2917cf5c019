"""What the objective asks of parameters beside the loss: penalties by a number, pulls entry by entry.

The optimizers add the gradients of penalties, and `Flat.pull` those of pulls, both before any scaling.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..typing import Array, Params


@dataclass(frozen=True)
class Penalty:
    """l1 |θ|₁ + l2/2 ‖θ - centre‖² on one parameter."""

    l1: float = 0.0
    l2: float = 0.0
    centre: float = 0.0


NO_PENALTY = Penalty()


@dataclass(frozen=True, eq=False)
class Pull:
    """½ Σ strength ⊙ (θ - centre)² on one parameter.

    Shapes: both as the parameter.
    """

    strength: Array
    centre: Array


def penalty_value(params: Params, penalties: dict[str, Penalty]) -> Array:
    """Σ l1 |θ|₁ + l2/2 ‖θ - centre‖² over the penalised parameters, on the device; 0.0 when there are none."""
    total: Array = 0.0
    for name, penalty in penalties.items():
        theta = params[name]
        offset = theta - penalty.centre
        total = total + penalty.l1 * abs(theta).sum() + 0.5 * penalty.l2 * (offset * offset).sum()
    return total
