"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ..errors import ConfigError
from ..layers import Sequential
from ..typing import Shape
from .lenet import lenet
from .mlp import mlp

Builder: TypeAlias = Callable[[int], Sequential]
"""From the number of classes of a task to its network; the head is the layer called `head`."""

MODELS: dict[str, Callable[..., Sequential]] = {"lenet": lenet, "mlp": mlp}


def build(name: str, shape: Shape, widths: tuple[int, ...] = ()) -> Builder:
    """The builder of a network for images of that shape; empty widths mean the network's own.

    Raises: ConfigError for an unknown name.
    """
    if name not in MODELS:
        raise ConfigError("model", expected=" or ".join(MODELS), received=repr(name), next_step="Choose one of these.")
    options = {"widths": widths} if widths else {}
    return lambda classes: MODELS[name](shape, classes, **options)
