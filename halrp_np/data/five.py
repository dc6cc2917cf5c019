"""Five data sets as a stream: CIFAR-10, MNIST, SVHN, Fashion-MNIST and notMNIST, each a task of ten classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dataset import DataSet
from .images import Augmentation, Images, Stream, Task, whole_images
from .orders import five_seeds, legacy_permutation, task_order
from .streams import check_seed, check_share, make_stream, make_task, other_data, wrong

SIDE, CHANNELS, CLASSES = 32, 3, 10


@dataclass(frozen=True)
class Part:
    """One of the five: its mean and standard deviation, per channel, and whether a mirror image shows the same."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirrors: bool = False


PARTS = (
    Part("cifar10", (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255), mirrors=True),
    Part("mnist", (0.1,), (0.2752,)),
    Part("svhn", (0.4377, 0.4438, 0.4728), (0.198, 0.201, 0.197)),
    Part("fashion-mnist", (0.2190,), (0.3318,), mirrors=True),
    Part("notmnist", (0.4254,), (0.4501,)),
)
"""By identity, 0 to 4."""


def five_datasets(
    parts: Mapping[str, DataSet],
    *,
    order: str = "A",
    split_seed: int = 0,
    validation_share: float = 0.2,
    train_images: int = 0,
    test_images: int = 0,
    augment: bool = False,
) -> Stream:
    """Five data sets by the names in PARTS, as 3x32x32: grey images are padded with zeros and copied to 3 channels.

    Of each set's n training images the first int(validation_share·n) of a legacy permutation with `split_seed` are the
    validation set. `train_images` and `test_images`, where not 0, take the first so many of each set, or all there are.
    `augment` mirrors only the sets in which a mirror image shows the same.

    Raises: ConfigError for a missing set, other images or labels, and orders, shares or seeds that make no sense.
    Reference: HALRP (arXiv 2311.15161), released code, benchmark Five-datasets.
    """
    name = "five-datasets"
    missing = [part.name for part in PARTS if part.name not in parts]
    if missing:
        raise other_data(name, ", ".join(part.name for part in PARTS), f"none called {', '.join(missing)}")
    check_seed(name, split_seed)
    check_share(name, validation_share)
    for setting, images in (("train_images", train_images), ("test_images", test_images)):
        if images < 0:
            raise wrong(name, setting, "0 for all, or the number of images to take of each set", images)
    count = len(PARTS)
    named = five_seeds(lambda seed: legacy_permutation(count, seed))
    chosen = task_order(order, count, named, lambda seed: legacy_permutation(count, seed).tolist())
    tasks = [
        _task(position, identity, parts[PARTS[identity].name], train_images, test_images, split_seed,
              validation_share, augment)
        for position, identity in enumerate(chosen)
    ]  # fmt: skip
    limits = {
        what: f"the first {limit:,} images in file order, or all where there are fewer" if limit else "all images"
        for what, limit in (("training part", train_images), ("test part", test_images))
    }
    return make_stream(
        name,
        tasks,
        [PARTS[identity].name for identity in chosen],
        data=", ".join(parts[part.name].provenance for part in PARTS),
        split="of each training part: "
        f"{limits['training part']}, in the order of a legacy permutation; the first {validation_share:g} are for "
        f"validation, the others for training; of each test part: {limits['test part']}",
        normalisation={
            "pad": "grey images with zeros to 32x32, then copied to 3 channels",
            "divide": 255,
            "mean": {part.name: list(part.mean) for part in PARTS},
            "std": {part.name: list(part.std) for part in PARTS},
        },
        split_seed=split_seed,
    )


def _task(
    position: int,
    identity: int,
    data: DataSet,
    train_images: int,
    test_images: int,
    split_seed: int,
    validation_share: float,
    augment: bool,
) -> Task:
    """The task that one data set is."""
    part = PARTS[identity]
    everything = _images(part, data.train_images, data.train_labels, train_images)
    test = _images(part, data.test_images, data.test_labels, test_images)
    indices = legacy_permutation(len(everything), split_seed)
    held_out = int(validation_share * len(indices))
    train = everything.select(indices[held_out:])
    if augment:
        train = train.augmented(Augmentation(4, part.mirrors))
    validation = everything.select(indices[:held_out])
    return make_task(position, identity, CLASSES, train=train, validation=validation, test=test)


def _images(part: Part, images: NDArray[np.uint8], labels: NDArray[np.int64], limit: int) -> Images:
    """The first `limit` images, or all, as 3x32x32; grey ones are stored once, with their border."""
    images, labels = images[: limit or None], labels[: limit or None]
    channels, height, width = images.shape[1:]
    where = f"data {part.name}"
    if channels != len(part.mean) or (height, width) not in ((SIDE, SIDE), (28, 28)):
        expected = f"images of {len(part.mean)}x32x32, or 28x28 to be padded"
        raise other_data("five-datasets", expected, f"images of {channels}x{height}x{width}", where)
    if len(labels) and labels.max() >= CLASSES:
        raise other_data("five-datasets", f"labels 0 to {CLASSES - 1}", f"the label {labels.max()}", where)
    border = (SIDE - height) // 2
    if border:
        images = np.pad(images, ((0, 0), (0, 0), (border, border), (border, border)))
    return whole_images(images, labels, part.mean, part.std, CHANNELS)
