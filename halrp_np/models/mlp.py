"""A multilayer perceptron."""

from __future__ import annotations

import math

from ..errors import ConfigError
from ..layers import BatchNorm1d, Flatten, Layer, Linear, ReLU, Sequential
from ..typing import Shape


def mlp(shape: Shape, classes: int, widths: tuple[int, ...] = (256, 128), norm: str = "running") -> Sequential:
    """Linear layers with batch normalisation and ReLU, and a linear head.

    Shapes: shape = (C, H, W) of one image or (D,) of one feature vector; widths = hidden features.
    Raises: ConfigError without a hidden layer, or for a width below 1.
    """
    if not widths or min(widths) < 1:
        raise ConfigError("mlp", expected="at least one positive width", received=str(widths), next_step="Use 256,128.")
    layers: dict[str, Layer] = {"flatten": Flatten()} if len(shape) == 3 else {}
    features = math.prod(shape)
    for number, width in enumerate(widths, start=1):
        layers[f"fc{number}"] = Linear(features, width)
        layers[f"norm{number}"] = BatchNorm1d(width, track=norm == "running")
        layers[f"relu{number}"] = ReLU()
        features = width
    layers["head"] = Linear(features, classes)
    return Sequential(layers)
