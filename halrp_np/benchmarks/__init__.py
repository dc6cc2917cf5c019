"""Floor 5: a stream, a network and a method put together, and run."""

from .catalog import BENCHMARKS, QUICK, open_stream
from .config import RunConfig, resolve_config
from .predict import TrainedRun
from .runner import resume, run
from .session import Reporter, RunInterruptedError

__all__ = [
    "BENCHMARKS",
    "QUICK",
    "Reporter",
    "RunConfig",
    "RunInterruptedError",
    "TrainedRun",
    "open_stream",
    "resolve_config",
    "resume",
    "run",
]
