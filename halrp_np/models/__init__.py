"""Floor 3: builders of the networks; no training here."""

from .alexnet import alexnet
from .lenet import large_lenet, lenet
from .mlp import mlp
from .resnet import resnet18
from .zoo import MODELS, Builder, build

__all__ = ["MODELS", "Builder", "alexnet", "build", "large_lenet", "lenet", "mlp", "resnet18"]
