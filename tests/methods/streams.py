"""A small HALRP on a small stream, for tests."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from halrp_np.backend import Device, Streams
from halrp_np.layers import Sequential
from halrp_np.methods import METHODS, PRESETS, Halrp, HalrpSettings, MethodTask, make_method, settings_used
from halrp_np.models import lenet, mlp
from halrp_np.training import Hooks
from training.blobs import Blobs

SHAPE, CLASSES = (3, 8, 8), 3
WIDTHS = (3, 4, 10, 8)
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "rank_cap": 6}


def small_lenet(classes: int) -> Sequential:
    return lenet(SHAPE, classes, WIDTHS)


def small_mlp(classes: int) -> Sequential:
    return mlp(SHAPE, classes, (7, 5))


def make(
    build: Callable[[int], Sequential] = small_lenet,
    *,
    preset: str = "paper",
    kind: type[Halrp] = Halrp,
    dtype: Any = np.float64,
    seed: int = 0,
    **changes: Any,
) -> Halrp:
    """The method with small settings; later ones win."""
    settings = HalrpSettings(**{**PRESETS[preset], **SETTINGS, **changes})
    return kind(build, settings, device=Device("cpu"), dtype=dtype, streams=Streams(seed))


def make_any(
    name: str,
    build: Callable[[int], Sequential] = small_lenet,
    *,
    dtype: Any = np.float64,
    seed: int = 0,
    **changes: Any,
) -> Any:
    """The named method with small settings, those that it reads; later ones win."""
    used = settings_used(name)
    settings = {key: value for key, value in {**SETTINGS, **changes}.items() if key in used}
    chosen = METHODS[name].settings_class(**settings)
    return make_method(name, build, chosen, device=Device("cpu"), dtype=dtype, streams=Streams(seed))


def stream(tasks: int = 3, dtype: Any = np.float64) -> list[MethodTask]:
    """The tasks of a stream, each of which knows all of them."""
    plain = tuple(task(position, tasks=tasks, dtype=dtype) for position in range(tasks))
    return [replace(one, stream=plain) for one in plain]


def task(position: int, *, tasks: int = 3, dtype: Any = np.float64) -> MethodTask:
    """Task number `position` of the stream: 26 training and 12 validation images of three classes."""
    train, validation = (
        Blobs(10 * (position + 1) + part, count, SHAPE, CLASSES, dtype) for part, count in enumerate((26, 12))
    )
    return MethodTask(position, CLASSES, tasks, 0.2, train, validation)


def learned(method: Halrp, count: int = 3, hooks: Hooks | None = None, dtype: Any = np.float64) -> Halrp:
    """The same method after that many tasks."""
    for position in range(len(method.classes), count):
        method.learn(task(position, tasks=count, dtype=dtype), hooks or Hooks())
    return method
