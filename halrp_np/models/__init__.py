"""Floor 3: builders of the networks; no training here."""

from .lenet import lenet
from .mlp import mlp
from .zoo import MODELS, Builder, build

__all__ = ["MODELS", "Builder", "build", "lenet", "mlp"]
