"""The methods by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..backend import Device, Streams
from ..errors import ConfigError, nearest
from .base import Method
from .be import BatchEnsemble
from .bn import TaskBatchNorm
from .ewc import Ewc
from .finetune import Finetune
from .halrp import Halrp
from .l2 import L2
from .mtl import MultiTask
from .settings import PRESETS, EwcSettings, HalrpSettings, L2Settings, Preset, TrainingSettings
from .stl import SingleTask

METHODS: dict[str, type[Any]] = {
    "halrp": Halrp,
    "stl": SingleTask,
    "mtl": MultiTask,
    "finetune": Finetune,
    "l2": L2,
    "ewc": Ewc,
    "bn": TaskBatchNorm,
    "be": BatchEnsemble,
}
"""The class of each method; its `settings_class` names the settings that it reads."""

METHOD_SETTINGS = frozenset(field.name for kind in (HalrpSettings, L2Settings, EwcSettings) for field in fields(kind))
"""Every setting that belongs to a method, and not to the run around it."""


def make_method(
    name: str, build: Any, settings: TrainingSettings, *, device: Device, dtype: Any, streams: Streams
) -> Method:
    """The named method, ready for task 0; `build` maps a number of classes to a network.

    Raises: ConfigError for an unknown name.
    """
    method: Method = METHODS[known(name)](build, settings, device=device, dtype=dtype, streams=streams)
    return method


def known(name: str) -> str:
    """The name, if it is a method's.

    Raises: ConfigError for an unknown one.
    """
    if name in METHODS:
        return name
    near = nearest(name, METHODS)
    raise ConfigError(
        "method",
        expected=f"one of {', '.join(METHODS)}",
        received=repr(name),
        next_step=f"Did you mean '{near}'?" if near else "See `halrp-np list methods`.",
    )


def settings_used(name: str) -> frozenset[str]:
    """The names of the settings that this method reads."""
    return frozenset(field.name for field in fields(METHODS[known(name)].settings_class))


def preset_of(name: str, preset: str) -> Preset:
    """What a preset sets for this method.

    Raises: ConfigError where it is another's: one of the presets of this method, but with nothing left to set.
    """
    used = settings_used(name)
    left = {key: value for key, value in PRESETS[preset].items() if key in used}
    if PRESETS[preset] and not left:
        own = [other for other, values in PRESETS.items() if not values or used & values.keys()]
        raise ConfigError(
            "preset",
            expected=f"{' or '.join(own)} for the method {name}",
            received=preset,
            next_step="Leave --preset out: it has nothing to set for this method.",
        )
    return left
