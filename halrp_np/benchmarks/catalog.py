"""The benchmarks: what stream, which network, and the paper's numbers for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import Device, Streams
from ..data import Stream, load_mnist, permuted_mnist
from ..methods import Method, make_method
from ..models import build
from ..typing import Shape


@dataclass(frozen=True)
class Benchmark:
    """A named stream with its default configuration."""

    name: str
    description: str
    defaults: Mapping[str, object]


BENCHMARKS: dict[str, Benchmark] = {
    "pmnist": Benchmark(
        "pmnist",
        "Permuted MNIST: 10 tasks of 10 classes, 3x32x32, one fixed pixel permutation a task",
        {
            "model": "lenet",
            "tasks": 10,
            "epochs": 12,
            "warmup_epochs": 1,
            "batch_size": 128,
            "learning_rate": 1e-3,
            "weight_decay": 1e-3,
            "l1": 1e-6,
            "rank_share": 0.9,
            "rank_cap": 100,
            "prune_rule": "mixAR_AllLayer",
            "prune_values": (1e-5, 0.4),
            "prune_bounded": True,
            "validation_share": 0.2,
        },
    ),
}

QUICK: dict[str, object] = {"stop_after": 4, "epochs": 4, "train_images": 2000, "test_images": 500}
"""What `--quick` changes: a minute on two cores, for a look and not for a result."""


def open_stream(config: Any, say: Callable[[str], None] | None = None) -> tuple[Stream, list[str]]:
    """The stream that a RunConfig names, and what the user should know of its data; `say` is told before a wait.

    Raises: DataError when the data cannot be had, ConfigError when the sizes make no sense.
    """
    mnist = load_mnist(config.data, config.data_dir, say)
    stream = permuted_mnist(
        mnist,
        tasks=config.tasks,
        order_seed=config.order_seed,
        permutation=config.permutation,
        train_images=config.train_images,
        test_images=config.test_images,
        validation_share=config.validation_share,
    )
    return stream, mnist.notes


def new_method(config: Any, shape: Shape, device: Device) -> Method:
    """The method that a RunConfig names, ready for task 0, on images of this shape.

    Raises: ConfigError for settings that contradict each other.
    """
    builder = build(config.model, shape, config.widths)
    streams, dtype = Streams(config.seed), np.dtype(config.dtype)
    return make_method(config.method, builder, config, device=device, dtype=dtype, streams=streams)
