"""Adam and SGD with the penalties of the objective, one update of the flat parameters a step, in place.

What changes from step to step (the rate, Adam's bias corrections) is worked out on the host and handed over as a few
`factors` on the device: `update` then looks at the device alone, and the same recorded work serves every step.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..backend import ops
from ..errors import ConfigError
from ..typing import Array
from .flat import Flat

HostArray = np.ndarray[Any, Any]


class Optimizer(Protocol):
    """What the loop asks of an optimizer: the kinds of its moments, the factors of a step, and the step in place."""

    moments: tuple[str, ...]

    def factors(self, lr: float, number: int) -> HostArray:
        """What update number 1, 2, ... needs besides arrays, in float64."""
        ...

    def update(self, flat: Flat, factors: Array) -> None:
        """Move `flat.theta` and its moments by `flat.grad`; `factors` are on the device, in the parameters' type."""
        ...


class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980), β = (0.9, 0.999), ε = 1e-8, on gradients times `scale`.

    The penalty's gradient l1 sign(θ) + l2 (θ - centre) joins before the scaling; sign(0) = 0.
    """

    moments: tuple[str, ...] = ("m", "v")

    def __init__(self, scale: float = 1.0, eps: float = 1e-8) -> None:
        self.scale, self.eps = scale, eps

    def factors(self, lr: float, number: int) -> HostArray:
        return adam_factors(lr, number, scale=self.scale, eps=self.eps)

    def update(self, flat: Flat, factors: Array) -> None:
        m, v = flat.moments["m"], flat.moments["v"]
        ops.adam_flat(flat.theta, flat.grad, m, v, factors, flat.ends, flat.l1, flat.l2, flat.centre)


def adam_factors(
    lr: float, number: int, *, scale: float = 1.0, eps: float = 1e-8, beta1: float = 0.9, beta2: float = 0.999
) -> HostArray:
    """The eight factors of Adam's update number 1, 2, ...: see reference.adam_flat."""
    rate, root = lr / (1 - beta1**number), (1 - beta2**number) ** -0.5
    return np.array([beta1, 1 - beta1, beta2, 1 - beta2, rate, root, eps, scale])


class SGD:
    """Stochastic gradient descent with momentum: v ← μ v + g, θ ← θ - lr v, on gradients times `scale`."""

    def __init__(self, scale: float = 1.0, momentum: float = 0.0) -> None:
        self.scale, self.momentum = scale, momentum
        self.moments: tuple[str, ...] = ("v",) if momentum else ()

    def factors(self, lr: float, number: int) -> HostArray:
        return np.array([lr, self.momentum, self.scale])

    def update(self, flat: Flat, factors: Array) -> None:
        lr, momentum, scale = (factors[k] for k in range(3))
        for k, part in enumerate(flat.slices):
            theta = flat.theta[part]
            penalty = flat.l1[k] * flat.xp.sign(theta) + flat.l2[k] * (theta - flat.centre[k])
            g = scale * (flat.grad[part] + penalty)
            if self.momentum:
                velocity = flat.moments["v"][part]
                velocity *= momentum
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
