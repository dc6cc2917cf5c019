"""What the streams have in common: the protocol, checked settings, and the split of a shuffled group of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from .images import Images, Stream, Task


def make_stream(
    name: str,
    tasks: Sequence[Task],
    names: Sequence[str],
    *,
    data: str,
    split: str,
    normalisation: dict[str, Any],
    **seeds: Any,
) -> Stream:
    """A stream with its protocol: tasks and their names in the order of learning, and in words how they were made.

    `seeds` are what else a repetition needs: the seed of the split, the share of the training images, and the like.
    """
    sizes = [
        {
            "identity": task.identity,
            "name": title,
            "classes": task.classes,
            "train": len(task.train),
            "validation": len(task.validation),
            "test": len(task.test),
        }
        for task, title in zip(tasks, names, strict=True)
    ]
    protocol = {
        "benchmark": name,
        "data": data,
        "tasks": len(tasks),
        "image_shape": list(tasks[0].train.shape),
        "order": [task.identity for task in tasks],
        "sizes": sizes,
        "split": split,
        "normalisation": normalisation,
        "augmentation": _augmentation(tasks, names),
        **seeds,
    }
    return Stream(name, tuple(tasks), protocol)


def _augmentation(tasks: Sequence[Task], names: Sequence[str]) -> str:
    """`none`, a sentence, or one for each kind of tasks."""
    kinds: dict[str, list[str]] = {}
    for task, name in zip(tasks, names, strict=True):
        kinds.setdefault(str(task.train.augmentation or "none"), []).append(name)
    if len(kinds) == 1:
        return next(iter(kinds))
    return "; ".join(f"{', '.join(members)}: {kind}" for kind, members in kinds.items())


def make_task(position: int, identity: int, classes: int, *, train: Images, validation: Images, test: Images) -> Task:
    """A task none of whose parts is empty.

    Raises: ConfigError naming the part that is.
    """
    for part, images in (("training", train), ("validation", validation), ("test", test)):
        if not len(images):
            sizes = f"{len(train)} training, {len(validation)} validation and {len(test)} test images"
            raise ConfigError(
                f"task {identity}",
                expected=f"at least one {part} image",
                received=sizes,
                next_step="Take more images, or another train_size or validation_share.",
            )
    return Task(position, identity, classes, train, validation, test)


def check_share(benchmark: str, share: float) -> None:
    """Refuse a share of the images for validation that leaves none of one kind."""
    if not 0 < share < 1:
        raise wrong(benchmark, "validation_share", "a number between 0 and 1, both excluded", share)


def check_seed(benchmark: str, seed: int) -> None:
    """Refuse a seed that NumPy's legacy generator does not take."""
    if not 0 <= seed < 2**32:
        raise wrong(benchmark, "split_seed", "an integer from 0 to 4294967295", seed)


def check_train_size(benchmark: str, train_size: float) -> None:
    """Refuse a share of the training images outside (0, 1]."""
    if not 0 < train_size <= 1:
        raise wrong(benchmark, "train_size", "a number above 0 and at most 1", train_size)


def kept_and_held_out(count: int, train_size: float, validation_share: float) -> tuple[int, int]:
    """How many of `count` shuffled images are kept, ceil(train_size·count), and held out of those, floor(share·kept).

    Reference: HALRP (arXiv 2311.15161), released code, CIFAR-100.
    """
    kept = math.ceil(train_size * count)
    return kept, math.floor(validation_share * kept)


def wrong(benchmark: str, name: str, expected: str, received: object) -> ConfigError:
    """The error of a setting of a benchmark."""
    next_step = f"Change {name}."
    return ConfigError(f"{benchmark}, {name}", expected=expected, received=str(received), next_step=next_step)


def other_data(benchmark: str, expected: str, received: object, data: str = "data") -> ConfigError:
    """The error of data of which this benchmark cannot be made."""
    next_step = "Name a folder that holds the data set itself: --data-dir (see `halrp-np data list`)."
    return ConfigError(f"{benchmark}, {data}", expected=expected, received=str(received), next_step=next_step)
