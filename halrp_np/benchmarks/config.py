"""The whole configuration of a run: the algorithm's settings and where, on what and how long it runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import ResumeError
from ..methods import METHOD_SETTINGS, EwcSettings, HalrpSettings, L2Settings, preset_of, settings_used
from ..methods.settings import setting
from ..runs import RunFolder
from ..runs import config as resolver
from ..runs.plain_json import line_text, plain
from . import table
from .catalog import OFFICIAL, find_benchmark

Layer = tuple[str, Mapping[str, object]]

PROTOCOL: dict[str, type] = {
    "benchmark": str,
    "data": str,
    "tasks": int,
    "image_shape": list,
    "order": list,
    "sizes": list,
    "split": str,
    "normalisation": dict,
    "augmentation": str,
    "pixels_sha256": str,
    "labels_sha256": str,
}
"""What the protocol of every stream says, whatever else it says."""


@dataclass(frozen=True)
class RunConfig(HalrpSettings, L2Settings, EwcSettings):
    """The settings of all methods and everything else that decides a run's result; config.json holds it, resolved.

    Those that belong to other methods than the run's stay at their defaults.
    """

    benchmark: str = setting("pmnist", "stream of tasks: a name, or a TOML file that describes one")
    method: Literal["halrp", "stl", "mtl", "finetune", "l2", "ewc", "bn", "be"] = setting(
        "halrp", "algorithm of continual learning"
    )
    preset: Literal["paper", "official", "hessian"] = setting(
        "paper", "set of switches: formulas as intended, as released, or with the exact curvature"
    )
    model: Literal["lenet", "mlp", "alexnet", "resnet18", "large-lenet"] = setting("lenet", "network")
    widths: tuple[int, ...] = setting((), "channels and features of its layers; empty for the paper's", min=1)
    norm: Literal["running", "batch"] = setting(
        "running", "evaluate by running statistics, or by each batch's own (the released AlexNet)"
    )
    device: str = setting("cpu", "cpu, gpu, gpu:N or auto")
    dtype: Literal["float32", "float64"] = setting("float32", "precision of every array")
    fast_math: bool = setting(False, "convolutions by Winograd on the CPU: faster, 6 to 18 times the rounding error")
    seed: int = setting(0, "of initial values, batch order and dropout", min=0)
    data: Literal["auto", "full", "sample"] = setting(
        "auto", "official files only, a small stand-in that needs none (real digits for pmnist), or the best there is"
    )
    data_dir: Path | None = setting(None, "folder with the data sets' own files")
    tasks: int = setting(
        0, "a stream of so many tasks, with its own order and released rate decay; 0 for the benchmark's number", min=0
    )
    stop_after: int = setting(0, "learn only the first n tasks of the stream, which stays as it is; 0 for all", min=0)
    order: str = setting("A", "of the tasks: A to E, random:SEED, or their numbers with commas")
    permutation: Literal["joint", "spatial"] = setting(
        "joint", "permute the three equal channels as one vector (released), or the pixels alike in each channel"
    )
    train_images: int = setting(0, "first training images to use, validation included; 0 for all", min=0)
    test_images: int = setting(0, "first test images to use; 0 for all", min=0)
    train_size: float = setting(1.0, "share of each task's training images to use", above=0.0, max=1.0)
    validation_share: float = setting(0.2, "share of the training images held out", above=0.0)
    split_seed: int = setting(0, "of the choice of the images held out, and of those used", min=0, max=2**32 - 1)
    swap_test: bool = setting(False, "TinyImageNet: test on the held-out training images, as the released code does")
    augment: bool = setting(False, "training images cropped at random after padding, and mirrored")
    evaluation_batch: int = setting(256, "images a forward pass in evaluation", min=1)
    checkpoint_seconds: float = setting(30.0, "longest time between two checkpoints", min=0.0)
    curvature_products: int = setting(
        0, "Hessian products a layer for its curvature after each task, where it is not exact; 0 records none", min=0
    )
    curvature_images: int = setting(64, "first validation images for that curvature", min=1)

    def __post_init__(self) -> None:
        """Make the data's paths absolute: a resume may be called from another folder."""
        if self.data_dir is not None:
            object.__setattr__(self, "data_dir", Path(self.data_dir).absolute())
        if self.benchmark.endswith(".toml"):
            object.__setattr__(self, "benchmark", str(Path(os.path.expanduser(self.benchmark)).absolute()))

    @property
    def tasks_to_learn(self) -> int:
        """How many tasks of the stream a finished run has learned; 0 when only the data knows."""
        return min(self.stop_after or self.tasks, self.tasks)

    @property
    def images_asked(self) -> int:
        """Images a forward pass in evaluation: the training batch where normalisation asks the batch itself."""
        return self.batch_size if self.norm == "batch" else self.evaluation_batch


def resolve_config(*layers: Layer, quick: bool = False) -> RunConfig:
    """Defaults, then the benchmark's with its network, the preset's, `quick`'s and the caller's, a later one winning.

    Of the first three only what the method reads.

    Raises: ConfigError naming key and layer for anything unknown or out of range, or a preset of another method.
    """
    chosen = resolver.resolve(RunConfig, *layers)  # checks the caller's values, and says what else to look up
    where = next((f"{source}: key 'benchmark'" for source, layer in reversed(layers) if "benchmark" in layer), "")
    benchmark = find_benchmark(chosen.benchmark, where)
    shortened = dict(benchmark.quick) if quick else {}
    if chosen.data_dir is not None:
        shortened.pop("data", None)  # a quick look at the user's own files
    named = {key: value for _, layer in layers for key, value in layer.items() if key == "model"}
    model = str(named.get("model") or shortened.get("model") or table.models_of(benchmark.name)[0])
    official = {**benchmark.official, **OFFICIAL.get(model, {})} if chosen.preset == "official" else {}
    usual = {**benchmark.settings, "tasks": benchmark.tasks, **table.settings_of(benchmark.name, model)}
    foreign = METHOD_SETTINGS - settings_used(chosen.method)
    own: list[Layer] = [
        (source, {key: value for key, value in layer.items() if key not in foreign})
        for source, layer in (
            ("benchmark", usual),
            ("preset", {**preset_of(chosen.method, chosen.preset), **official}),
            ("--quick", shortened),
        )
    ]
    return resolver.resolve(RunConfig, *own, *layers)


def settled(config: RunConfig, device: str) -> RunConfig:
    """The configuration as config.json holds it and a resume reads it: with the device by its own name.

    Raises: ConfigError for a value out of range, in a RunConfig that was not made by resolve_config.
    """
    record = resolver.as_record(replace(config, device=device))
    return resolver.resolve(RunConfig, ("RunConfig", plain(record, "RunConfig")))


def fingerprint(folder: RunFolder) -> str:
    """SHA-256 of what config.json holds, which every checkpoint carries.

    Of its own keys, not of all that there are: a setting that a later version adds has its default there.

    Raises: ResumeError when the file is damaged.
    """
    return hashlib.sha256(line_text(folder.config()).encode()).hexdigest()


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
