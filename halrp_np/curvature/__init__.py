"""Floor 3: how the loss bends along chosen parameters: exact products, estimates, checks, bounds, importance."""

from .bound_check import check_bound
from .bounds import BoundRow, bound_report
from .data import Batches
from .dense import dense_matrix
from .diagonal import fisher_diagonal
from .eigen import Eigenpair, SpectralDensity, extreme_eigenvalues, spectral_density
from .estimators import (
    Estimate,
    directional_curvature,
    frobenius_norm,
    frobenius_squared,
    hutch_pp_trace,
    hutchinson_trace,
    square_root,
    trace_and_frobenius,
)
from .finite_difference import CheckResult, Rung, check_gradient, check_hvp, check_symmetry
from .fisher import EmpiricalFisherOperator
from .hessian import GaussNewtonOperator, HessianOperator
from .importance import batch_gradient_importance
from .measures import LayerCurvature, layer_curvatures

__all__ = [
    "Batches",
    "BoundRow",
    "CheckResult",
    "Eigenpair",
    "EmpiricalFisherOperator",
    "Estimate",
    "GaussNewtonOperator",
    "HessianOperator",
    "LayerCurvature",
    "Rung",
    "SpectralDensity",
    "batch_gradient_importance",
    "bound_report",
    "check_bound",
    "check_gradient",
    "check_hvp",
    "check_symmetry",
    "dense_matrix",
    "directional_curvature",
    "extreme_eigenvalues",
    "fisher_diagonal",
    "frobenius_norm",
    "frobenius_squared",
    "hutch_pp_trace",
    "hutchinson_trace",
    "layer_curvatures",
    "spectral_density",
    "square_root",
    "trace_and_frobenius",
]
