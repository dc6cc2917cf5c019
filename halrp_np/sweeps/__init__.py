"""Floor 6: many runs from one file, on this machine or on a cluster."""

from .execute import execute
from .expected import expected_seconds
from .folders import standing
from .outcome import Outcome, Row, Watcher
from .plan import Job, Sweep, expand, load, shipped

__all__ = [
    "Job",
    "Outcome",
    "Row",
    "Sweep",
    "Watcher",
    "execute",
    "expand",
    "expected_seconds",
    "load",
    "shipped",
    "standing",
]
