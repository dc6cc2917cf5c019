"""The whole configuration of a run: the algorithm's settings and where, on what and how long it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import ResumeError
from ..methods import PRESETS, HalrpSettings
from ..methods.settings import setting
from ..runs import RunFolder
from ..runs import config as resolver
from ..runs.plain_json import line_text, plain
from .catalog import BENCHMARKS, QUICK

Layer = tuple[str, Mapping[str, object]]

PROTOCOL: dict[str, type] = {
    "benchmark": str,
    "data": str,
    "tasks": int,
    "classes": int,
    "image_shape": list,
    "train": int,
    "validation": int,
    "test": int,
    "pixels_sha256": str,
    "labels_sha256": str,
}
"""What the protocol of every stream says, whatever else it says."""


@dataclass(frozen=True)
class RunConfig(HalrpSettings):
    """HalrpSettings plus everything else that decides a run's result; config.json holds it, resolved."""

    benchmark: Literal["pmnist"] = setting("pmnist", "stream of tasks")
    method: Literal["halrp"] = setting("halrp", "continual-learning algorithm")
    preset: Literal["paper", "official", "hessian"] = setting(
        "paper", "set of switches: formulas as intended, as released, or with the exact curvature"
    )
    model: Literal["lenet", "mlp"] = setting("lenet", "network")
    widths: tuple[int, ...] = setting((), "channels and features of its layers; empty for the paper's", min=1)
    device: str = setting("cpu", "cpu, gpu, gpu:N or auto")
    dtype: Literal["float32", "float64"] = setting("float32", "precision of every array")
    fast_math: bool = setting(False, "convolutions by Winograd on the CPU: faster, 6 to 18 times the rounding error")
    seed: int = setting(0, "of initial values, batch order and dropout", min=0)
    data: Literal["auto", "full", "sample"] = setting("auto", "full data set, embedded sample, or the best there is")
    data_dir: Path | None = setting(None, "folder with the data set's own files")
    tasks: int = setting(
        10, "a stream of so many tasks, with its own order and released rate decay: not the first ones of ten", min=1
    )
    stop_after: int = setting(0, "learn only the first n tasks of the stream, which stays as it is; 0 for all", min=0)
    order_seed: int = setting(0, "of the order of the tasks", min=0)
    permutation: Literal["joint", "spatial"] = setting(
        "joint", "permute the three equal channels as one vector (released), or the pixels alike in each channel"
    )
    train_images: int = setting(0, "first training images to use, validation included; 0 for all", min=0)
    test_images: int = setting(0, "first test images to use; 0 for all", min=0)
    validation_share: float = setting(0.2, "share of the training images held out, first in file order", above=0.0)
    evaluation_batch: int = setting(256, "images a forward pass in evaluation", min=1)
    checkpoint_seconds: float = setting(30.0, "longest time between two checkpoints", min=0.0)

    def __post_init__(self) -> None:
        """Make the data's path absolute: a resume may be called from another folder."""
        if self.data_dir is not None:
            object.__setattr__(self, "data_dir", Path(self.data_dir).absolute())

    @property
    def tasks_to_learn(self) -> int:
        """How many tasks of the stream a finished run has learned."""
        return min(self.stop_after or self.tasks, self.tasks)


def resolve_config(*layers: Layer, quick: bool = False) -> RunConfig:
    """Defaults, then the benchmark's, the preset's, `quick`'s and the caller's layers, a later one winning.

    Raises: ConfigError naming key and layer for anything unknown or out of range.
    """
    chosen = resolver.resolve(RunConfig, *layers)  # checks the caller's values, and says which benchmark and preset
    shortened: list[Layer] = [("--quick", QUICK)] if quick else []
    return resolver.resolve(
        RunConfig,
        ("benchmark", BENCHMARKS[chosen.benchmark].defaults),
        ("preset", PRESETS[chosen.preset]),
        *shortened,
        *layers,
    )


def settled(config: RunConfig, device: str) -> RunConfig:
    """The configuration as config.json holds it and a resume reads it: with the device by its own name.

    Raises: ConfigError for a value out of range, in a RunConfig that was not made by resolve_config.
    """
    record = resolver.as_record(replace(config, device=device))
    return resolver.resolve(RunConfig, ("RunConfig", plain(record, "RunConfig")))


def fingerprint(config: RunConfig, protocol: dict[str, Any]) -> str:
    """SHA-256 of configuration and protocol, which every checkpoint carries."""
    record = plain({"config": resolver.as_record(config), "protocol": protocol}, "config.json")
    return hashlib.sha256(line_text(record).encode()).hexdigest()


def read_config(folder: RunFolder) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration of a run folder, and the protocol of its stream.

    Raises: ResumeError when config.json lacks either or a part of the protocol; ConfigError for a key or a value that
    is no configuration's.
    """
    recorded = folder.config()
    where = f"{folder.path}/config.json"
    _check_kinds(where, recorded, {"config": dict, "protocol": dict})
    _check_kinds(f"{where}: protocol", recorded["protocol"], PROTOCOL)
    return resolver.resolve(RunConfig, (where, recorded["config"])), recorded["protocol"]


def _check_kinds(where: str, found: dict[str, Any], kinds: Mapping[str, type]) -> None:
    """Refuse an object that lacks one of these keys, or holds something else under it."""
    words = {dict: "an object", list: "a list", str: "text", int: "a number"}
    for key, kind in kinds.items():
        if not isinstance(found.get(key), kind):
            raise ResumeError(
                where,
                expected=f"{words[kind]} under '{key}'",
                received="none" if key not in found else f"a {type(found[key]).__name__}",
                next_step="The file is damaged. Restore it from a copy, or start the run again in a new folder.",
            )
