"""What distinguishes a run from others, and the name of its folder, which follows from its settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..methods import METHOD_SETTINGS, settings_used
from ..runs import as_text
from ..runs import config as resolver
from .config import RunConfig, resolve_config

NAMED = ("benchmark", "method", "preset", "seed")
"""The settings that a folder's name always spells out."""


def changes(record: Mapping[str, Any], *, quick: bool = False) -> dict[str, Any]:
    """The settings of a run, as config.json holds them, that differ from those of its benchmark, network and preset.

    `quick` takes those of --quick for usual too. What the method does not read is no change: another version of this
    package may have written another usual value there.

    Raises: ConfigError when the record names no benchmark, method, preset or network that there is.
    """
    named = {key: record[key] for key in ("benchmark", "method", "preset", "model") if key in record}
    plain = resolve_config(("config.json", named), quick=quick)
    named.pop("model", None)
    usual = resolve_config(("config.json", named), quick=quick).model
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    foreign = METHOD_SETTINGS - settings_used(plain.method)
    read = {key: value for key, value in own.items() if key not in foreign}
    return {key: v for key, v in read.items() if v != (usual if key == "model" else getattr(plain, key, None))}


def run_name(config: RunConfig, *, quick: bool = False) -> str:
    """The name of the folder of a run: `pmnist-halrp-paper-seed0`, then what is not usual, the rest as a digest."""
    other = changes({key: getattr(config, key) for key in resolver.as_record(config)}, quick=quick)
    for key in NAMED:
        other.pop(key, None)
    benchmark = config.benchmark
    if benchmark.endswith(".toml"):
        benchmark, other["benchmark"] = Path(benchmark).stem, benchmark
    parts = [f"{benchmark}-{config.method}-{config.preset}-seed{config.seed}", *(["quick"] if quick else [])]
    if "," not in config.order:
        parts += [f"order-{other.pop('order').replace(':', '-')}"] if "order" in other else []
    parts += [as_text(other.pop(key)) for key in ("model", "dtype") if key in other]
    if other:
        listed = "\n".join(f"{key}={as_text(value)}" for key, value in sorted(other.items()))
        parts.append("x" + hashlib.sha256(listed.encode()).hexdigest()[:6])
    return "-".join(parts)
