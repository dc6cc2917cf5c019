"""Adam and SGD with the penalties of the objective, one call a step, updating the trained arrays in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..backend import array_module, ops
from ..errors import ConfigError
from ..typing import Array, Params


@dataclass(frozen=True)
class Penalty:
    """l1 |θ|₁ + l2/2 ‖θ - centre‖² on one parameter."""

    l1: float = 0.0
    l2: float = 0.0
    centre: float = 0.0


NO_PENALTY = Penalty()


def penalty_value(params: Params, penalties: dict[str, Penalty]) -> Array:
    """Σ l1 |θ|₁ + l2/2 ‖θ - centre‖² over the penalised parameters, on the device; 0.0 when there are none."""
    total: Array = 0.0
    for name, penalty in penalties.items():
        theta = params[name]
        offset = theta - penalty.centre
        total = total + penalty.l1 * abs(theta).sum() + 0.5 * penalty.l2 * (offset * offset).sum()
    return total


class Optimizer(Protocol):
    """What the loop asks of an optimizer: moments to start with, and a step in place."""

    def start(self, params: Params, names: tuple[str, ...]) -> Params:
        """Zero state arrays for the named parameters, under names of their own."""
        ...

    def step(
        self, params: Params, grads: Params, state: Params, lr: float, number: int, penalties: dict[str, Penalty]
    ) -> None:
        """Update number 1, 2, ... of `params` and `state`, in place."""
        ...


class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980), β = (0.9, 0.999), ε = 1e-8, on gradients times `scale`.

    The penalty's gradient l1 sign(θ) + l2 (θ - centre) joins before the scaling; sign(0) = 0.
    """

    def __init__(self, scale: float = 1.0, eps: float = 1e-8) -> None:
        self.scale, self.eps = scale, eps

    def start(self, params: Params, names: tuple[str, ...]) -> Params:
        return {
            f"{moment}/{name}": array_module(params[name]).zeros_like(params[name])
            for name in names
            for moment in ("m", "v")
        }

    def step(
        self, params: Params, grads: Params, state: Params, lr: float, number: int, penalties: dict[str, Penalty]
    ) -> None:
        for name, grad in grads.items():
            penalty = penalties.get(name, NO_PENALTY)
            ops.adam_step(
                params[name],
                grad,
                state[f"m/{name}"],
                state[f"v/{name}"],
                lr=lr,
                beta1=0.9,
                beta2=0.999,
                eps=self.eps,
                step=number,
                l1=penalty.l1,
                l2=penalty.l2,
                centre=penalty.centre,
                scale=self.scale,
            )


class SGD:
    """Stochastic gradient descent with momentum: v ← μ v + g, θ ← θ - lr v, on gradients times `scale`."""

    def __init__(self, scale: float = 1.0, momentum: float = 0.0) -> None:
        self.scale, self.momentum = scale, momentum

    def start(self, params: Params, names: tuple[str, ...]) -> Params:
        if not self.momentum:
            return {}
        return {f"v/{name}": array_module(params[name]).zeros_like(params[name]) for name in names}

    def step(
        self, params: Params, grads: Params, state: Params, lr: float, number: int, penalties: dict[str, Penalty]
    ) -> None:
        for name, grad in grads.items():
            theta, penalty = params[name], penalties.get(name, NO_PENALTY)
            sign = array_module(theta).sign(theta)
            g = self.scale * (grad + penalty.l1 * sign + penalty.l2 * (theta - penalty.centre))
            if self.momentum:
                velocity = state[f"v/{name}"]
                velocity *= self.momentum
                velocity += g
                g = velocity
            theta -= lr * g


def make_optimizer(name: str, *, scale: float, momentum: float) -> Optimizer:
    """Adam or SGD by name.

    Raises: ConfigError for another name.
    """
    if name == "adam":
        return Adam(scale)
    if name == "sgd":
        return SGD(scale, momentum)
    raise ConfigError("optimizer", expected="adam or sgd", received=repr(name), next_step="Choose one of these.")
