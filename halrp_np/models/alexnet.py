"""The paper's AlexNet: three small convolutions and two wide linear layers, with dropout."""

from __future__ import annotations

from ..errors import ConfigError
from ..layers import BatchNorm1d, BatchNorm2d, Conv2d, Dropout, Flatten, Layer, Linear, MaxPool2d, ReLU, Sequential
from ..typing import Shape

KERNELS = (4, 3, 2)
RATES = (0.2, 0.2, 0.5, 0.5, 0.5)
"""Of dropout, after each of the five layers."""


def alexnet(
    shape: Shape, classes: int, widths: tuple[int, ...] = (64, 128, 256, 2048, 2048), norm: str = "running"
) -> Sequential:
    """Convolutions of 4, 3 and 2 without padding, each with batch normalisation, ReLU, dropout and pooling; two linear.

    Shapes: shape = (C, H, W) of one image; widths = channels of the convolutions, features of both linear layers.
    `norm="batch"` keeps no running statistics, as released: evaluation then depends on the batch that is asked.

    Raises: ConfigError for images below 19 x 19, of which nothing is left, or another number of widths than 5.
    Reference: HALRP (arXiv 2311.15161), network AlexNet.
    """
    channels, height, width = shape
    if len(widths) != 5 or min(widths) < 1:
        raise ConfigError(
            "alexnet", expected="5 positive widths", received=str(widths), next_step="Use 64,128,256,2048,2048."
        )
    track = norm == "running"
    layers: dict[str, Layer] = {}
    for number, (kernel, outputs) in enumerate(zip(KERNELS, widths, strict=False), start=1):
        layers[f"conv{number}"] = Conv2d(channels, outputs, kernel=kernel)
        layers[f"norm{number}"] = BatchNorm2d(outputs, track=track)
        layers[f"relu{number}"] = ReLU()
        layers[f"drop{number}"] = Dropout(RATES[number - 1])
        layers[f"pool{number}"] = MaxPool2d(2)
        channels, height, width = outputs, (height - kernel + 1) // 2, (width - kernel + 1) // 2
    if min(height, width) < 1:
        raise ConfigError(
            "alexnet",
            expected="images of at least 19 x 19",
            received=f"{shape[1]} x {shape[2]}",
            next_step="Resize or pad the images, or choose lenet.",
        )
    layers["flatten"] = Flatten()
    features = channels * height * width
    for number, outputs in enumerate(widths[3:], start=1):
        layers[f"fc{number}"] = Linear(features, outputs)
        layers[f"norm{number + 3}"] = BatchNorm1d(outputs, track=track)
        layers[f"relu{number + 3}"] = ReLU()
        layers[f"drop{number + 3}"] = Dropout(RATES[number + 2])
        features = outputs
    layers["head"] = Linear(features, classes)
    return Sequential(layers)
