"""How long things take, beside the floor of the machine and beside the same in PyTorch; what a benchmark will cost."""

from .estimate import Estimate, StepTimes, estimates
from .rates import step_times
from .report import measure
from .settings import STEPS, WHAT, WHOLE, TimeSettings

__all__ = ["STEPS", "WHAT", "WHOLE", "Estimate", "StepTimes", "TimeSettings", "estimates", "measure", "step_times"]
