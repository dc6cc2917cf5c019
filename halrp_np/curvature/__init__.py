"""Floor 3: how the loss bends along each layer's weight."""

from .importance import batch_gradient_importance

__all__ = ["batch_gradient_importance"]
