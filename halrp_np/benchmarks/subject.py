"""What derivatives are checked on: a network, its parameters, a loss and one batch, fresh or learned."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from ..backend import Device, Streams
from ..data import Images
from ..errors import ConfigError
from ..layers import Sequential
from ..losses import CrossEntropy, Loss
from ..models import build
from ..runs.record import RunFolder
from ..typing import Array, Params
from .checks import same_stream
from .config import read_config
from .feed import Feeds
from .predict import TrainedRun
from .session import Reporter

IMAGE, CLASSES = (3, 32, 32), 10
"""Of a fresh subject: what every benchmark shows its networks so far."""

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Subject:
    """A point at which a loss is differentiated.

    Shapes: data = images (C, H, W, N) and labels (N,), both on the device of `params`.
    """

    title: str
    model: Sequential = field(repr=False)
    params: Params = field(repr=False)
    loss: Loss = field(repr=False)
    data: tuple[Array, Array] = field(repr=False)


def fresh_subject(
    model_name: str, *, device: str = "cpu", batch: int = 16, seed: int = 0, dtype: str = "float64"
) -> Subject:
    """The network of that name at random parameters, on random images with random labels.

    What a fresh network leaves at 0 or 1 (normalisation and its running statistics) is drawn too, so that no term of
    a derivative vanishes by chance.

    Raises: ConfigError for an unknown name, a batch below 1, or a seed below 0; DeviceError for an absent device.
    """
    place, streams, kind = Device(device), Streams(_at_least("seed", seed, 0)), _floating(dtype)
    model = build(model_name, IMAGE)(CLASSES)
    draw = streams.generator("constants")
    host = {name: _unlevelled(value, draw) for name, value in model.init(streams.generator("init"), kind).items()}
    images = streams.generator("images").normal(size=(*IMAGE, _at_least("batch", batch, 1))).astype(kind)
    labels = streams.generator("labels").integers(CLASSES, size=batch)
    return Subject(
        f"fresh {model_name}, seed {seed}, {_count(batch)} of noise",
        model,
        {name: place.to_device(value) for name, value in host.items()},
        CrossEntropy(),
        (place.to_device(images), place.to_device(labels)),
    )


def run_subject(
    folder: str | os.PathLike[str],
    task: int,
    *,
    device: str = "cpu",
    batch: int = 16,
    dtype: str = "float64",
    split: Split = "validation",
) -> Subject:
    """The network that a run has learned for a task, as one dense weight a layer, on the task's first images.

    Raises: ResumeError for no run, a damaged one or other data than the run's; ConfigError for a task that was not
    learned, an unknown split, or more images than there are; DataError for absent data; DeviceError for an absent
    device.
    """
    kind = _floating(dtype)
    if split not in get_args(Split):
        names = " or ".join(get_args(Split))
        raise ConfigError("split", expected=names, received=repr(split), next_step="Choose one of these.")
    trained, (config, protocol) = TrainedRun(folder, device), read_config(RunFolder.open(folder))
    model, learned = trained.method.network(task)
    stream = same_stream(config, protocol, RunFolder.open(folder).path, Reporter())
    images: Images = getattr(stream.tasks[task], split)
    if _at_least("batch", batch, 1) > len(images):
        raise ConfigError(
            "batch",
            expected=f"at most the {len(images):,} {split} images of the run",
            received=f"{batch:,}",
            next_step="Take fewer images.",
        )
    return Subject(
        f"task {task} of {os.fspath(folder)}, {_count(batch)} of {split}",
        model,
        {name: value.astype(kind) for name, value in learned.items()},
        CrossEntropy(),
        Feeds(trained.device, kind).open(images).batch(np.arange(batch)),
    )


def _unlevelled(value: Array, draw: np.random.Generator) -> Array:
    """An array whose entries are all alike, with entries that are not; a positive one stays so. Others as they are."""
    if value.min() != value.max():
        return value
    spread = value * draw.uniform(0.5, 1.5, value.shape) if value.flat[0] else draw.normal(0.0, 0.2, value.shape)
    return spread.astype(value.dtype)


def _floating(name: str) -> Any:
    """The dtype of that name, if networks can have it."""
    if name not in ("float32", "float64"):
        raise ConfigError("dtype", expected="float32 or float64", received=repr(name), next_step="Choose one of these.")
    return np.dtype(name)


def _at_least(name: str, number: int, least: int) -> int:
    """The number, unless it is too small."""
    if number < least:
        raise ConfigError(name, expected=f"at least {least}", received=str(number), next_step=f"Raise {name}.")
    return number


def _count(images: int) -> str:
    """A number of images in words."""
    return "1 image" if images == 1 else f"{images:,} images"
