"""Settings as text, and which of them are not the benchmark's and the preset's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import halrp_np


def text(value: object) -> str:
    """A value as --set takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(text(item) for item in value) if isinstance(value, list | tuple) else str(value)


def changes(config: Mapping[str, Any], *, quick: bool = False) -> dict[str, Any]:
    """The settings that differ from those of the benchmark, its network and the preset (and of --quick), in order."""
    named = {key: config[key] for key in ("benchmark", "preset", "model") if key in config}
    plain = halrp_np.resolve_config(("config.json", named), quick=quick)
    named.pop("model", None)
    usual = halrp_np.resolve_config(("config.json", named), quick=quick).model
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    return {key: v for key, v in own.items() if v != (usual if key == "model" else getattr(plain, key, None))}
