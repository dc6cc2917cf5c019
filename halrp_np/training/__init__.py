"""Floor 3: optimizers, schedules, the training loop and the measures of a finished matrix."""

from . import metrics, robustness
from .loop import Hooks, PhasePlan, evaluate, train_phase
from .optimizer import SGD, Adam, Optimizer, make_optimizer
from .penalty import Penalty, Pull, penalty_value
from .schedule import exponential_gamma
from .together import Together

__all__ = [
    "SGD",
    "Adam",
    "Hooks",
    "Optimizer",
    "Penalty",
    "PhasePlan",
    "Pull",
    "Together",
    "evaluate",
    "exponential_gamma",
    "make_optimizer",
    "metrics",
    "penalty_value",
    "robustness",
    "train_phase",
]
