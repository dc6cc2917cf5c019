"""What is checked before anything is trained: that a run can work, and that a resume goes on with the same run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Device
from ..backend.ops import COLUMNS, kernels_in_use
from ..data import Stream, Task
from ..errors import ConfigError, DeviceError, ResumeError
from ..lowrank import pruning_plan
from ..methods import METHOD_SETTINGS, METHODS, HalrpSettings, settings_used
from ..runs import checkpoint
from ..runs.environment import environment
from ..runs.plain_json import plain
from ..runs.record import RunFolder
from ..training import PhasePlan
from .boundary import LEAST_PRODUCTS
from .catalog import STREAM_SETTINGS, builder_of, find_benchmark, new_method, open_stream
from .config import RunConfig, fingerprint
from .session import STATE, Reporter

ENVIRONMENT = "environment.json"
NEW_FOLDER = "Restore it from a copy of the run folder, or start the run again in a new folder."
COMPARED = ("python", "packages", "blas", "processor")
"""The parts of environment.json on which the last bits of a result may depend."""

# ---- before a run ---------------------------------------------------------------------------------------------------


def check_settings(config: RunConfig, device: Device) -> None:
    """Refuse settings that would fail later, or be ignored in silence, before any data is asked for.

    Raises: ConfigError for kernels of an unknown name, or settings that contradict each other.
    """
    kernels_in_use()
    check_config(config)
    check_fast_math(config, device)


def check_config(config: RunConfig) -> None:
    """Refuse settings that contradict each other wherever the run takes place.

    Raises: ConfigError naming them.
    """
    check_foreign(config)
    check_ignored(config)
    check_stream_settings(config)
    check_pruning(config)
    check_curvature(config)
    if config.method == "ewc" and config.norm == "batch":
        raise ConfigError(
            "norm",
            expected="running under method=ewc: batch statistics give samples no gradients of their own",
            received="batch",
            next_step="Add --set norm=running, or choose another method.",
        )


def check_stream(config: RunConfig, stream: Stream, device: Device) -> None:
    """Refuse what this stream would make fail later, before anything is on disk.

    Raises: ConfigError for a network that cannot be built, a method whose settings contradict each other, or batches
    that no training set fills or that hold one image.
    """
    new_method(config, stream.tasks[0].train.shape, device)
    together = sum(len(task.train) for task in stream.tasks[: config.stop_after or None])
    for task in stream.tasks:
        builder_of(config, task.train.shape)(task.classes)
        check_batches(config, task, together if config.method == "mtl" else len(task.train))


def check_fast_math(config: RunConfig, device: Device) -> None:
    """Refuse Winograd convolutions where there are none.

    Raises: ConfigError on a GPU, in float64 or under the reference kernels.
    """
    kernels = kernels_in_use()
    here = f"device={device.name}, dtype={config.dtype}, HALRP_NP_KERNELS={kernels}"
    serves = device.name == "cpu" and config.dtype == "float32" and kernels != "reference"
    if (config.fast_math or kernels == "winograd") and not serves:
        raise ConfigError(
            "fast_math",
            expected="device=cpu, dtype=float32 and the fast kernels",
            received=here,
            next_step="Leave --fast-math (or HALRP_NP_KERNELS=winograd) out, or change the others.",
        )


def check_foreign(config: RunConfig) -> None:
    """Refuse a value for a setting that belongs to other methods.

    Raises: ConfigError naming it.
    """
    defaults = {field.name: field.default for field in fields(RunConfig)}
    for key in sorted(METHOD_SETTINGS - settings_used(config.method)):
        if getattr(config, key) != defaults[key]:
            owners = [name for name in METHODS if key in settings_used(name)]
            raise ConfigError(
                key,
                expected=f"no value under method={config.method}, which does not read it",
                received=str(getattr(config, key)),
                next_step=f"Leave {key} out; it belongs to {' and '.join(owners) or 'another method'}.",
            )


def check_ignored(config: RunConfig) -> None:
    """Refuse a setting that another one switches off.

    Raises: ConfigError naming both.
    """
    for key, without_effect, switch, value in (
        ("momentum", 0, "optimizer", "sgd"),
        ("gamma", 1, "gamma_rule", "fixed"),
        ("ewc_decay", 1, "ewc_online", True),
        ("s_fit", "least-squares", "scalings", True),
    ):
        if getattr(config, key) != without_effect and getattr(config, switch) != value:
            raise ConfigError(
                key,
                expected=f"{without_effect} under {switch}={getattr(config, switch)}, which does not use it",
                received=str(getattr(config, key)),
                next_step=f"Add --set {switch}={value}, or leave {key} out.",
            )


def check_stream_settings(config: RunConfig) -> None:
    """Refuse a setting that the benchmark's stream does not have.

    Raises: ConfigError naming it.
    """
    benchmark = find_benchmark(config.benchmark)
    for key, without_effect in STREAM_SETTINGS.items():
        if key == "tasks":
            without_effect = benchmark.tasks
        if key not in benchmark.uses and getattr(config, key) != without_effect:
            raise ConfigError(
                key,
                expected=f"{without_effect}: {config.benchmark} has no other",
                received=str(getattr(config, key)),
                next_step=f"Leave {key} out."
                + (" To learn the first tasks only: stop_after." if key == "tasks" else ""),
            )


def check_pruning(config: HalrpSettings) -> None:
    """Refuse values that do not fit the pruning rule.

    Raises: ConfigError naming `prune_values`, with an example.
    """
    if config.prune_rule == "none":
        return
    try:
        pruning_plan(config.prune_rule, config.prune_values, bounded=config.prune_bounded)
    except ConfigError as error:
        floor = ["1e-5"] if config.prune_rule == "absolute" or config.prune_rule.startswith("mixAR") else []
        share = ["0.5"] if config.prune_rule != "absolute" else []
        raise ConfigError(
            "prune_values",
            expected=error.expected,
            received=error.received,
            next_step=f"For this pruning rule write, for example, --set prune_values={','.join(floor + share)}.",
        ) from error


def check_curvature(config: RunConfig) -> None:
    """Refuse a budget of Hessian products that no eigenvalue can be found with.

    Raises: ConfigError.
    """
    least = LEAST_PRODUCTS * (2 if config.norm == "batch" else 1)  # then half of them go to the trace
    if 0 < config.curvature_products < least:
        raise ConfigError(
            "curvature_products",
            expected=f"0, or at least {least}: the largest eigenvalue of a layer takes so many where it is not exact",
            received=str(config.curvature_products),
            next_step="Raise it, or set it to 0 to record no curvature.",
        )


def check_batches(config: RunConfig, task: Task, images: int) -> None:
    """Refuse batches of one image, in which batch normalisation would divide by a variance of zero.

    `images` is how many one epoch shows: the task's, or where tasks are learned together, those of all.

    Raises: ConfigError, also when dropping the last partial batch leaves none.
    """
    size = config.batch_size
    plan = PhasePlan(task.position, "check", 1, size, config.learning_rate, 1.0, drop_last=config.drop_last)
    plan.steps_per_epoch(images)
    asked = [("training", images)] if not config.drop_last else []
    if config.norm == "batch":  # then evaluation takes the batch's statistics too
        asked += [("validation", len(task.validation)), ("test", len(task.test))]
    lonely = [(part, count) for part, count in asked if count % size == 1]
    if size == 1 or lonely:
        part, count = lonely[0] if lonely else ("training", images)
        raise ConfigError(
            "batch_size",
            expected="at least two images in every batch, for batch normalisation needs a variance",
            received="1" if size == 1 else f"{size}, which leaves a last batch of 1 of {count:,} {part} images",
            next_step="Choose another batch_size" + (" of at least 2." if size == 1 else ", or drop_last=true."),
        )


# ---- before a resume ------------------------------------------------------------------------------------------------


def protocol_of(stream: Stream) -> dict[str, Any]:
    """The stream's protocol with a digest of its pixels and labels, so that a resume knows its data again."""
    sets = {id(part.images): part for task in stream.tasks for part in (task.train, task.validation, task.test)}
    digests = {
        "pixels_sha256": digest(*(part.images for part in sets.values())),
        "labels_sha256": digest(*(part.labels for part in sets.values())),
    }
    protocol: dict[str, Any] = plain({**stream.protocol, **digests}, "protocol")
    return protocol


def digest(*arrays: np.ndarray[Any, Any]) -> str:
    """SHA-256 of the values of some arrays, one after the other."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def same_device(config: RunConfig, path: Path) -> Device:
    """The device that the run began on.

    Raises: DeviceError when it is not here.
    """
    try:
        return Device(config.device)
    except DeviceError as error:
        raise DeviceError(
            f"{path}: device {config.device}",
            expected=error.expected,
            received=error.received,
            next_step="A run ends on the device it began on: resume it on a machine with that device and CuPy, "
            "or start a new run on another device in a new folder.",
        ) from error


def same_config(folder: RunFolder, names: Iterable[str]) -> None:
    """Refuse a config.json that is not the one these checkpoints were saved under.

    Raises: ResumeError, also for a damaged manifest.
    """
    now = fingerprint(folder)
    for name in names:
        saved = checkpoint.load_meta(folder.checkpoints, name).get("config_sha256")
        if saved != now:
            raise ResumeError(
                f"{folder.path}/config.json",
                expected=f"the configuration that the checkpoint '{name}' was saved under (SHA-256 {saved})",
                received=f"another one ({now})",
                next_step="Undo the change of config.json, or start a new run with the other settings.",
            )


def state_not_lost(folder: RunFolder) -> None:
    """Refuse a folder that has learned tasks while the checkpoint that holds them has no manifest.

    Tables or the phase of a later task tell of them, or a payload alone: a kill can leave the first one without its
    manifest, but then with the phase of task 0.

    Raises: ResumeError.
    """
    if checkpoint.exists(folder.checkpoints, STATE):
        return
    names = checkpoint.names(folder.checkpoints)
    phases = [name for name in names if checkpoint.exists(folder.checkpoints, name)]
    later = any(checkpoint.load_meta(folder.checkpoints, name).get("task") != 0 for name in phases)
    if later or names == [STATE] or (folder.path / "accuracy.csv").exists():
        raise ResumeError(
            str(folder.checkpoints / f"{STATE}.json"),
            expected="the manifest of the learned tasks, of which other files here tell",
            received="no such file",
            next_step=NEW_FOLDER,
        )


def same_environment(folder: RunFolder, device: Device, reporter: Reporter) -> None:
    """Tell in which versions and processor this machine differs from where the run began.

    Raises: ResumeError under other kernels than the run's; ConfigError when HALRP_NP_KERNELS names none.
    """
    now: dict[str, Any] = plain(environment(device.name, kernels_in_use()), ENVIRONMENT)
    if not (folder.path / ENVIRONMENT).exists():  # killed before it was written
        folder.write_json(ENVIRONMENT, now)
        return
    began = folder.read_json(ENVIRONMENT)
    kernels = began.get("kernels")
    if kernels != now["kernels"]:
        known = kernels in COLUMNS
        raise ResumeError(
            f"{folder.path}/{ENVIRONMENT}: kernels",
            expected=f"HALRP_NP_KERNELS={kernels}, under which the run began" if known else " or ".join(COLUMNS),
            received=now["kernels"] if known else repr(kernels),
            next_step=f"Set HALRP_NP_KERNELS={kernels} and resume again." if known else NEW_FOLDER,
        )
    before, here = (_entries({part: found.get(part) for part in COMPARED}) for found in (began, now))
    names = [name for name in sorted(before.keys() | here.keys()) if before.get(name) != here.get(name)]
    if names:
        changes = ", ".join(f"{name} {before.get(name)} then and {here.get(name)} now" for name in names)
        reporter.note(f"not where the run began: {changes}; bytes may differ from an uninterrupted run")


def _entries(value: Any, name: str = "") -> dict[str, Any]:
    """The bare values of nested objects by dotted name."""
    if not isinstance(value, dict):
        return {name: value}
    parts = [_entries(inner, f"{name}.{key}" if name else key) for key, inner in value.items()]
    return {key: inner for part in parts for key, inner in part.items()}


def same_stream(config: RunConfig, protocol: dict[str, Any], path: Path, reporter: Reporter) -> Stream:
    """The stream of a stopped run, made of the same data.

    Raises: ResumeError naming what differs now.
    """
    stream, _ = open_stream(replace(config, data=source_of(protocol["data"]) or config.data), reporter.note)
    found = protocol_of(stream)
    for key in sorted(found.keys() | protocol.keys()):
        if found.get(key) != protocol.get(key):
            raise ResumeError(
                f"{path}: {key}",
                expected=f"the data of the run, {protocol.get(key)}",
                received=str(found.get(key)),
                next_step="Put the data set back where it was, or start a new run.",
            )
    return stream


def source_of(provenance: str) -> Any:
    """Where data of this provenance must come from: the stand-in, official files, or None for where the run had it."""
    parts = provenance.split(", ")
    if all(part == "mnist-5k" or part.endswith("-synthetic") for part in parts):
        return "sample"
    return "full" if provenance == "mnist-60k" else None  # only MNIST has a stand-in that `auto` would take instead
