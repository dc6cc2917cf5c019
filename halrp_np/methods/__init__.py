"""Floor 4: one file a method, one contract."""

from .base import Method, MethodTask
from .halrp import Halrp
from .importance import IMPORTANCES
from .networks import rank_column
from .registry import METHODS, make_method
from .settings import PRESET_NOTES, PRESETS, HalrpSettings

__all__ = [
    "IMPORTANCES",
    "METHODS",
    "PRESETS",
    "PRESET_NOTES",
    "Halrp",
    "HalrpSettings",
    "Method",
    "MethodTask",
    "make_method",
    "rank_column",
]
