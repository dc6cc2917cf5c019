"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ..errors import ConfigError
from ..layers import Sequential
from ..typing import Shape
from .alexnet import alexnet
from .lenet import large_lenet, lenet
from .mlp import mlp
from .resnet import resnet18

Builder: TypeAlias = Callable[[int], Sequential]
"""From the number of classes of a task to its network; the head is the layer called `head`."""

MODELS: dict[str, Callable[..., Sequential]] = {
    "lenet": lenet,
    "mlp": mlp,
    "alexnet": alexnet,
    "resnet18": resnet18,
    "large-lenet": large_lenet,
}
NORMS = ("running", "batch")
"""By which statistics a network normalises in evaluation: the running ones, or the batch's own, always."""


def build(name: str, shape: Shape, widths: tuple[int, ...] = (), norm: str = "running") -> Builder:
    """The builder of a network for images of that shape; empty widths mean the network's own.

    Raises: ConfigError for an unknown name, or another `norm` than running or batch.
    """
    for setting, value, known in (("model", name, tuple(MODELS)), ("norm", norm, NORMS)):
        if value not in known:
            raise ConfigError(
                setting, expected=" or ".join(known), received=repr(value), next_step="Choose one of these."
            )
    options = {"widths": widths} if widths else {}
    return lambda classes: MODELS[name](shape, classes, norm=norm, **options)
