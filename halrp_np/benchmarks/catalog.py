"""The benchmarks: which data, what stream, and how the released code treats it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .. import data
from ..backend import Device, Streams
from ..data import Stream
from ..errors import ConfigError, nearest
from ..methods import Method, make_method
from ..models import Builder, build
from ..typing import Shape

STREAM_SETTINGS: dict[str, object] = {
    "tasks": 0,
    "permutation": "joint",
    "train_images": 0,
    "test_images": 0,
    "train_size": 1.0,
    "validation_share": 0.2,
    "split_seed": 0,
    "augment": False,
    "swap_test": False,
}
"""The settings that shape a stream and that not every stream has, with the value that changes nothing."""

CUSTOM = "*.toml"
"""The name under which tables keep what holds for a stream that a user has described in a file."""


@dataclass(frozen=True)
class Benchmark:
    """A named stream: its data sets, the function that makes it of them, and its own settings.

    `uses` are the STREAM_SETTINGS that `stream` takes; `tasks` is their number, 0 for as many as the data has.
    `official` is what the released code does differently, under the preset of that name.
    """

    name: str
    description: str
    data: tuple[str, ...]
    stream: Callable[..., Stream]
    tasks: int
    classes: int
    uses: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    official: Mapping[str, object] = field(default_factory=dict)
    quick: Mapping[str, object] = field(default_factory=dict)


_SMALL = {"data": "sample", "stop_after": 3, "epochs": 4, "warmup_epochs": 1, "batch_size": 16}
_CIFAR: dict[str, Any] = {
    "data": ("cifar100",),
    "uses": ("train_size", "validation_share", "split_seed", "augment"),
    "settings": {"drop_last": False, "split_seed": 7690},
    "official": {"shuffle": False},
    "quick": _SMALL,
}
_TINY: dict[str, Any] = {
    "data": ("tiny-imagenet",),
    "uses": ("validation_share", "split_seed", "augment", "swap_test"),
    "settings": {"drop_last": False, "augment": True, "validation_share": 0.1},
    "quick": {**_SMALL, "batch_size": 32, "epochs": 2},
}

BENCHMARKS: dict[str, Benchmark] = {
    row.name: row
    for row in (
        Benchmark(
            "pmnist",
            "Permuted MNIST: one fixed pixel permutation a task, 3x32x32",
            ("mnist",),
            data.permuted_mnist,
            tasks=10,
            classes=10,
            uses=("tasks", "permutation", "train_images", "test_images", "validation_share"),
            quick={"stop_after": 4, "epochs": 4, "train_images": 2000, "test_images": 500},
        ),
        Benchmark(
            "cifar100-split",
            "CIFAR-100 in ten groups of consecutive labels, 3x32x32",
            stream=data.cifar100_split,
            tasks=10,
            classes=10,
            **_CIFAR,
        ),
        Benchmark(
            "cifar100-superclass",
            "CIFAR-100 by its twenty superclasses, 3x32x32",
            stream=data.cifar100_superclass,
            tasks=20,
            classes=5,
            **_CIFAR,
        ),
        Benchmark(
            "omniglot-rotation",
            "Omniglot: twelve handwritten characters a task in four rotations, 1x32x32",
            ("omniglot",),
            data.omniglot_rotation,
            tasks=0,
            classes=12,
            uses=("tasks",),  # its drawers say who is for validation
            settings={"drop_last": False},
            quick={**_SMALL, "batch_size": 64, "model": "lenet"},
        ),
        Benchmark(
            "five-datasets",
            "CIFAR-10, MNIST, SVHN, Fashion-MNIST and notMNIST, 3x32x32",
            ("cifar10", "mnist", "svhn", "fashion-mnist", "notmnist"),
            data.five_datasets,
            tasks=5,
            classes=10,
            uses=("train_images", "test_images", "validation_share", "split_seed", "augment"),
            quick=_SMALL,
        ),
        Benchmark(
            "tinyimagenet-20",
            "TinyImageNet in twenty groups of consecutive classes, 3x64x64",
            stream=partial(data.tiny_imagenet_split, tasks=20),
            tasks=20,
            classes=10,
            **_TINY,
        ),
        Benchmark(
            "tinyimagenet-40",
            "TinyImageNet in forty groups of consecutive classes, 3x64x64",
            stream=partial(data.tiny_imagenet_split, tasks=40),
            tasks=40,
            classes=5,
            **_TINY,
        ),
    )
}

OFFICIAL: dict[str, dict[str, object]] = {"alexnet": {"norm": "batch"}}
"""What the released code does differently with a network, under the preset `official`: its AlexNet keeps no running
statistics."""

_OWN = Benchmark(
    CUSTOM,
    "a stream that you describe in a TOML file: folders of images, or arrays",
    (),
    data.custom_stream,
    tasks=0,
    classes=0,
    uses=("train_size", "validation_share", "split_seed", "augment"),
    settings={"drop_last": False},
    quick={"stop_after": 3, "epochs": 4, "warmup_epochs": 1},
)


def find_benchmark(name: str, where: str = "benchmark") -> Benchmark:
    """The benchmark of that name, or what serves for the file of a user's own stream; `where` it was named.

    Raises: ConfigError for an unknown name.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if name.endswith(".toml"):
        return _OWN
    near = nearest(name, BENCHMARKS)
    raise ConfigError(
        where,
        expected=f"one of {', '.join(BENCHMARKS)}, or a file ending in .toml that describes a stream",
        received=repr(name),
        next_step=f"Did you mean '{near}'?" if near else "See `halrp-np list benchmarks`.",
    )


def open_stream(config: Any, say: Callable[[str], None] | None = None) -> tuple[Stream, list[str]]:
    """The stream that a RunConfig names, and what the user should know of its data; `say` is told before a wait.

    Raises: DataError when the data cannot be had, ConfigError when the sizes make no sense.
    """
    benchmark = find_benchmark(config.benchmark)
    chosen = {key: getattr(config, key) for key in ("order", *benchmark.uses)}
    if benchmark is _OWN:
        return data.custom_stream(config.benchmark, **chosen), []
    sets = [data.load(name, config.data, config.data_dir, say) for name in benchmark.data]
    given = [dict(zip(benchmark.data, sets, strict=True))] if len(sets) > 1 else sets
    return benchmark.stream(*given, **chosen), [note for one in sets for note in one.notes]


def builder_of(config: Any, shape: Shape) -> Builder:
    """The builder of the network that a RunConfig names, for images of this shape.

    Raises: ConfigError when the network cannot be built for them.
    """
    return build(config.model, shape, config.widths, config.norm)


def new_method(config: Any, shape: Shape, device: Device) -> Method:
    """The method that a RunConfig names, ready for task 0, on images of this shape.

    Raises: ConfigError for settings that contradict each other.
    """
    streams, dtype = Streams(config.seed), np.dtype(config.dtype)
    return make_method(config.method, builder_of(config, shape), config, device=device, dtype=dtype, streams=streams)
