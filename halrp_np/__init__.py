"""HALRP, Hessian-aware low-rank perturbation for continual learning, in NumPy with every derivative written by hand."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "BENCHMARKS",
    "Device",
    "HalrpError",
    "RunConfig",
    "Streams",
    "TrainedRun",
    "benchmarks",
    "curvature",
    "data",
    "fresh_subject",
    "layers",
    "losses",
    "lowrank",
    "methods",
    "models",
    "reports",
    "resolve_config",
    "resume",
    "run",
    "run_subject",
    "runs",
    "sweeps",
    "timing",
    "training",
    "use_threads",
]

_HOMES = {
    "BENCHMARKS": "benchmarks",
    "Device": "backend",
    "HalrpError": "errors",
    "RunConfig": "benchmarks",
    "Streams": "backend",
    "TrainedRun": "benchmarks",
    "fresh_subject": "benchmarks",
    "resolve_config": "benchmarks",
    "resume": "benchmarks",
    "run": "benchmarks",
    "run_subject": "benchmarks",
    "use_threads": "backend",
}
"""Where each public object lives; the other public names are rooms of the package."""

if TYPE_CHECKING:
    from . import (
        benchmarks,
        curvature,
        data,
        layers,
        losses,
        lowrank,
        methods,
        models,
        reports,
        runs,
        sweeps,
        timing,
        training,
    )
    from .backend import Device, Streams, use_threads
    from .benchmarks import (
        BENCHMARKS,
        RunConfig,
        TrainedRun,
        fresh_subject,
        resolve_config,
        resume,
        run,
        run_subject,
    )
    from .errors import HalrpError


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that `halrp-np --help` waits for none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'halrp_np' has no public name {name!r}")
    if name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    else:
        value = importlib.import_module(f".{name}", __name__)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
