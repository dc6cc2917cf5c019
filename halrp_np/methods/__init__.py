"""Floor 4: one file a method, one contract."""

from .base import Method, MethodTask
from .halrp import Halrp
from .importance import IMPORTANCES
from .networks import rank_column
from .registry import METHOD_SETTINGS, METHODS, make_method, preset_of, settings_used
from .settings import PRESET_NOTES, PRESETS, EwcSettings, HalrpSettings, L2Settings, TrainingSettings

__all__ = [
    "IMPORTANCES",
    "METHODS",
    "METHOD_SETTINGS",
    "PRESETS",
    "PRESET_NOTES",
    "EwcSettings",
    "Halrp",
    "HalrpSettings",
    "L2Settings",
    "Method",
    "MethodTask",
    "TrainingSettings",
    "make_method",
    "preset_of",
    "rank_column",
    "settings_used",
]
