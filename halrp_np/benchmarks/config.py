"""The whole configuration of a run: the algorithm's settings and where, on what and how long it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import ResumeError
from ..methods import PRESETS, HalrpSettings
from ..methods.settings import setting
from ..runs import RunFolder
from ..runs import config as resolver
from .catalog import BENCHMARKS, QUICK

Layer = tuple[str, Mapping[str, object]]


@dataclass(frozen=True)
class RunConfig(HalrpSettings):
    """HalrpSettings plus everything else that decides a run's result; config.json holds it, resolved."""

    benchmark: Literal["pmnist"] = setting("pmnist", "stream of tasks")
    method: Literal["halrp"] = setting("halrp", "continual-learning algorithm")
    preset: Literal["paper", "official"] = setting("paper", "set of switches: formulas as intended, or as released")
    model: Literal["lenet", "mlp"] = setting("lenet", "network")
    widths: tuple[int, ...] = setting((), "channels and features of its layers; empty for the paper's", min=1)
    device: str = setting("cpu", "cpu, gpu, gpu:N or auto")
    dtype: Literal["float32", "float64"] = setting("float32", "precision of every array")
    seed: int = setting(0, "of initial values, batch order and dropout", min=0)
    data: Literal["auto", "full", "sample"] = setting("auto", "full data set, embedded sample, or the best there is")
    data_dir: Path | None = setting(None, "folder with the data set's own files")
    tasks: int = setting(10, "tasks in the stream", min=1)
    order_seed: int = setting(0, "of the order of the tasks", min=0)
    permutation: Literal["joint", "spatial"] = setting(
        "joint", "permute the three equal channels as one vector (released), or the pixels alike in each channel"
    )
    train_images: int = setting(0, "first training images to use, validation included; 0 for all", min=0)
    test_images: int = setting(0, "first test images to use; 0 for all", min=0)
    validation_share: float = setting(0.2, "share of the training images held out, first in file order", above=0.0)
    evaluation_batch: int = setting(256, "images a forward pass in evaluation", min=1)
    checkpoint_seconds: float = setting(30.0, "longest time between two checkpoints", min=0.0)


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


def read_config(folder: RunFolder) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration of a run folder, and the protocol of its stream.

    Raises: ResumeError when config.json lacks either; ConfigError for a key or a value that is no configuration's.
    """
    recorded = folder.config()
    where = f"{folder.path}/config.json"
    for key in ("config", "protocol"):
        if not isinstance(recorded.get(key), dict):
            raise ResumeError(
                where,
                expected=f"an object under '{key}'",
                received="none" if key not in recorded else f"a {type(recorded[key]).__name__}",
                next_step="The file is damaged. Restore it from a copy, or start the run again in a new folder.",
            )
    return resolver.resolve(RunConfig, (where, recorded["config"])), recorded["protocol"]
