"""Floor 5: a stream, a network and a method put together, and run."""

from .catalog import BENCHMARKS, open_stream
from .config import RunConfig, resolve_config
from .naming import changes, run_name
from .predict import TrainedRun
from .runner import resume, run
from .session import Reporter, RunInterruptedError
from .subject import Subject, fresh_subject, run_subject

__all__ = [
    "BENCHMARKS",
    "Reporter",
    "RunConfig",
    "RunInterruptedError",
    "Subject",
    "TrainedRun",
    "changes",
    "fresh_subject",
    "open_stream",
    "resolve_config",
    "resume",
    "run",
    "run_name",
    "run_subject",
]
