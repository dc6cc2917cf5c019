"""The paper's LeNet with batch normalisation, for any image size divisible by 4, and its wide form for Omniglot."""

from __future__ import annotations

from ..errors import ConfigError
from ..layers import BatchNorm1d, BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential
from ..typing import Shape

WIDTHS = {"lenet": (20, 50, 800, 500), "large-lenet": (64, 128, 2500, 1500)}


def lenet(shape: Shape, classes: int, widths: tuple[int, ...] = WIDTHS["lenet"], norm: str = "running") -> Sequential:
    """Two 5x5 convolutions and two linear layers, each followed by batch normalisation and ReLU, and a linear head.

    Shapes: shape = (C, H, W) of one image; widths = channels of both convolutions, features of both linear layers.
    Raises: ConfigError when H or W is not divisible by 4, or the number of widths is not 4.
    Reference: HALRP (arXiv 2311.15161), network LeNet.
    """
    return _network("lenet", shape, classes, widths, norm)


def large_lenet(
    shape: Shape, classes: int, widths: tuple[int, ...] = WIDTHS["large-lenet"], norm: str = "running"
) -> Sequential:
    """LeNet of 64 and 128 channels, 2500 and 1500 features, for Omniglot; shapes and errors as `lenet`.

    The released file cannot run (a normalisation and a flattening of the small network's size were left in it); these
    are the sizes that its convolutions and linear layers have.

    Reference: HALRP (arXiv 2311.15161), network LargeLeNet, corrected.
    """
    return _network("large-lenet", shape, classes, widths, norm)


def _network(name: str, shape: Shape, classes: int, widths: tuple[int, ...], norm: str) -> Sequential:
    """LeNet of any widths; `name` is what errors call it."""
    channels, height, width = shape
    if height % 4 or width % 4 or min(height, width) < 4:
        raise ConfigError(
            name,
            expected="an image height and width divisible by 4",
            received=f"{height} x {width}",
            next_step="Resize or pad the images (28 x 28 digits are resized to 32 x 32).",
        )
    if len(widths) != 4 or min(widths) < 1:
        usual = ",".join(map(str, WIDTHS[name]))
        raise ConfigError(name, expected="4 positive widths", received=str(widths), next_step=f"Use {usual}.")
    conv1, conv2, fc1, fc2 = widths
    track = norm == "running"
    return Sequential(
        {
            "conv1": Conv2d(channels, conv1, kernel=5, padding=2),
            "norm1": BatchNorm2d(conv1, track=track),
            "relu1": ReLU(),
            "pool1": MaxPool2d(2),
            "conv2": Conv2d(conv1, conv2, kernel=5, padding=2),
            "norm2": BatchNorm2d(conv2, track=track),
            "relu2": ReLU(),
            "pool2": MaxPool2d(2),
            "flatten": Flatten(),
            "fc1": Linear(conv2 * (height // 4) * (width // 4), fc1),
            "norm3": BatchNorm1d(fc1, track=track),
            "relu3": ReLU(),
            "fc2": Linear(fc1, fc2),
            "norm4": BatchNorm1d(fc2, track=track),
            "relu4": ReLU(),
            "head": Linear(fc2, classes),
        }
    )
