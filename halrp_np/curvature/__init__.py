"""Floor 3: how the loss bends along chosen parameters: exact products, estimates, checks, and the importance of layers."""

from .data import Batches
from .fisher import EmpiricalFisherOperator
from .hessian import GaussNewtonOperator, HessianOperator
from .importance import batch_gradient_importance

__all__ = [
    "Batches",
    "EmpiricalFisherOperator",
    "GaussNewtonOperator",
    "HessianOperator",
    "batch_gradient_importance",
]
