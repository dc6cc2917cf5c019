"""The paper's ResNet18: eight residual blocks of two 3x3 convolutions, for any image size divisible by 16."""

from __future__ import annotations

from ..errors import ConfigError
from ..layers import AvgPool2d, BatchNorm2d, Conv2d, Flatten, Layer, Linear, ReLU, Residual, Sequential
from ..typing import Shape


def resnet18(
    shape: Shape, classes: int, widths: tuple[int, ...] = (32, 64, 128, 256), norm: str = "running"
) -> Sequential:
    """A 3x3 convolution, four stages of two residual blocks, average pooling, and a linear head.

    The first block of the stages 2 to 4 halves the image; its shortcut is a 1x1 convolution, and a low-rank perturbed
    layer of its own like the other nineteen. Every convolution has a bias, though normalisation follows it.

    Shapes: shape = (C, H, W) of one image; widths = channels of the four stages.
    Raises: ConfigError when H or W is not divisible by 16, or the number of widths is not 4.
    Reference: HALRP (arXiv 2311.15161), network ResNet18.
    """
    channels, height, width = shape
    if height % 16 or width % 16 or min(height, width) < 16:
        raise ConfigError(
            "resnet18",
            expected="an image height and width divisible by 16",
            received=f"{height} x {width}",
            next_step="Resize or pad the images.",
        )
    if len(widths) != 4 or min(widths) < 1:
        raise ConfigError(
            "resnet18", expected="4 positive widths", received=str(widths), next_step="Use 32,64,128,256."
        )
    layers: dict[str, Layer] = {
        "conv0": Conv2d(channels, widths[0], kernel=3, padding=1),
        "norm0": BatchNorm2d(widths[0], track=norm == "running"),
        "relu0": ReLU(),
    }
    inputs, number = widths[0], 0
    for stage, outputs in enumerate(widths):
        for stride in (2 if stage else 1, 1):
            number += 1
            layers[f"block{number}"] = residual_block(inputs, outputs, stride, norm)
            layers[f"relu{number}"] = ReLU()
            inputs = outputs
    layers["pool"] = AvgPool2d(2)
    layers["flatten"] = Flatten()
    layers["head"] = Linear(inputs * (height // 16) * (width // 16), classes)
    return Sequential(layers)


def residual_block(inputs: int, outputs: int, stride: int, norm: str) -> Residual:
    """Two convolutions with normalisation beside the identity, or beside a 1x1 convolution where the shape changes."""
    track = norm == "running"
    body = Sequential(
        {
            "conv1": Conv2d(inputs, outputs, kernel=3, stride=stride, padding=1),
            "norm1": BatchNorm2d(outputs, track=track),
            "relu1": ReLU(),
            "conv2": Conv2d(outputs, outputs, kernel=3, padding=1),
            "norm2": BatchNorm2d(outputs, track=track),
        }
    )
    if stride == 1 and inputs == outputs:
        return Residual(body)
    shortcut = Sequential(
        {"conv": Conv2d(inputs, outputs, kernel=1, stride=stride), "norm": BatchNorm2d(outputs, track=track)}
    )
    return Residual(body, shortcut)
