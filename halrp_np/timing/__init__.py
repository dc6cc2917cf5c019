"""How long things take, beside the floor of the machine and beside the same in PyTorch."""

from .report import measure
from .settings import STEPS, WHAT, WHOLE, TimeSettings

__all__ = ["STEPS", "WHAT", "WHOLE", "TimeSettings", "measure"]
