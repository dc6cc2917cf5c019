"""The methods by name."""

from __future__ import annotations

from typing import Any

from ..backend import Device, Streams
from ..errors import ConfigError
from .base import Method
from .halrp import Halrp
from .settings import HalrpSettings

METHODS: dict[str, type[Halrp]] = {"halrp": Halrp}


def make_method(
    name: str, build: Any, settings: HalrpSettings, *, device: Device, dtype: Any, streams: Streams
) -> Method:
    """The named method, ready for task 0; `build` maps a number of classes to a network.

    Raises: ConfigError for an unknown name.
    """
    if name not in METHODS:
        raise ConfigError("method", expected=" or ".join(METHODS), received=repr(name), next_step="Choose another.")
    return METHODS[name](build, settings, device=device, dtype=dtype, streams=streams)
