"""Floor 2: layers as pure functions of (params, x), each derivative written under its formula."""

from .activations import ReLU
from .base import EVALUATE, Layer, Mode
from .container import Residual, Sequential
from .conv import Conv2d
from .dropout import Dropout
from .fused import fuse, inference
from .linear import Linear
from .norm import BatchNorm1d, BatchNorm2d
from .perturbed import (
    PerturbedConv2d,
    PerturbedLinear,
    decomposed_layers,
    effective_weight,
    merged_params,
    perturb,
    perturbed_twin,
    project_gradient,
)
from .pool import AvgPool2d, MaxPool2d
from .shape import Flatten

__all__ = [
    "EVALUATE",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "Dropout",
    "Flatten",
    "Layer",
    "Linear",
    "MaxPool2d",
    "Mode",
    "PerturbedConv2d",
    "PerturbedLinear",
    "ReLU",
    "Residual",
    "Sequential",
    "decomposed_layers",
    "effective_weight",
    "fuse",
    "inference",
    "merged_params",
    "perturb",
    "perturbed_twin",
    "project_gradient",
]
