"""CIFAR-100 as a stream: ten groups of consecutive labels, or its twenty superclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .dataset import DataSet
from .images import CROP_AND_FLIP, Stream, whole_images
from .orders import legacy_permutation, task_order
from .streams import (
    check_seed,
    check_share,
    check_train_size,
    kept_and_held_out,
    make_stream,
    make_task,
    other_data,
)

CLASSES = 100
MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)
RELEASED_SPLIT_SEED = 7690
"""Of the first repetition of the released runs."""

SUPERCLASSES: dict[str, tuple[int, ...]] = {
    "aquatic mammals": (4, 30, 55, 72, 95),
    "fish": (1, 32, 67, 73, 91),
    "flowers": (54, 62, 70, 82, 92),
    "food containers": (9, 10, 16, 28, 61),
    "fruit and vegetables": (0, 51, 53, 57, 83),
    "household electrical devices": (22, 39, 40, 86, 87),
    "household furniture": (5, 20, 25, 84, 94),
    "insects": (6, 7, 14, 18, 24),
    "large carnivores": (3, 42, 43, 88, 97),
    "large man-made outdoor things": (12, 17, 37, 68, 76),
    "large natural outdoor scenes": (23, 33, 49, 60, 71),
    "large omnivores and herbivores": (15, 19, 21, 31, 38),
    "medium-sized mammals": (34, 63, 64, 66, 75),
    "non-insect invertebrates": (26, 45, 77, 79, 99),
    "people": (2, 11, 35, 46, 98),
    "reptiles": (27, 29, 44, 78, 93),
    "small mammals": (36, 50, 65, 74, 80),
    "trees": (47, 52, 56, 59, 96),
    "vehicles 1": (8, 13, 48, 58, 90),
    "vehicles 2": (41, 69, 81, 85, 89),
}
"""The labels of each superclass; a label's place in its list is the label within the task."""

SPLIT_ORDERS: dict[str, tuple[int, ...]] = {
    "A": tuple(range(10)),
    "B": (1, 7, 4, 5, 2, 0, 8, 6, 9, 3),
    "C": (7, 0, 5, 1, 8, 4, 3, 6, 2, 9),
    "D": (5, 8, 2, 9, 0, 4, 3, 7, 6, 1),
    "E": (2, 9, 5, 4, 8, 0, 6, 1, 3, 7),
}
SUPERCLASS_ORDERS: dict[str, tuple[int, ...]] = {
    "A": tuple(range(20)),
    "B": (15, 12, 5, 9, 7, 16, 18, 17, 1, 0, 3, 8, 11, 14, 10, 6, 2, 4, 13, 19),
    "C": (17, 1, 19, 18, 12, 7, 6, 0, 11, 15, 10, 5, 13, 3, 9, 16, 4, 14, 2, 8),
    "D": (11, 9, 6, 5, 12, 4, 0, 10, 13, 7, 14, 3, 15, 16, 8, 1, 2, 19, 18, 17),
    "E": (6, 14, 0, 11, 12, 17, 13, 4, 9, 1, 7, 19, 8, 10, 3, 15, 18, 5, 2, 16),
}


def cifar100_split(
    cifar100: DataSet,
    *,
    order: str = "A",
    train_size: float = 1.0,
    split_seed: int = RELEASED_SPLIT_SEED,
    validation_share: float = 0.2,
    augment: bool = False,
) -> Stream:
    """CIFAR-100 in ten tasks: group g has the labels 10g to 10g + 9.

    `train_size` is the share of the training images that is used at all, for training and validation together. Which
    ones, and which of them are for validation, `split_seed` says, the same for every order.

    Raises: ConfigError for other data, an unknown order, and shares or seeds that make no sense.
    Reference: HALRP (arXiv 2311.15161), released code, benchmark CIFAR100-Split.
    """
    groups = {f"labels {first} to {first + 9}": range(first, first + 10) for first in range(0, CLASSES, 10)}
    return _stream(
        "cifar100-split", cifar100, groups, SPLIT_ORDERS, order, train_size, split_seed, validation_share, augment
    )


def cifar100_superclass(
    cifar100: DataSet,
    *,
    order: str = "A",
    train_size: float = 1.0,
    split_seed: int = RELEASED_SPLIT_SEED,
    validation_share: float = 0.2,
    augment: bool = False,
) -> Stream:
    """CIFAR-100 in twenty tasks: five classes of one superclass each; otherwise as cifar100_split.

    Raises: ConfigError for other data, an unknown order, and shares or seeds that make no sense.
    Reference: HALRP (arXiv 2311.15161), released code, benchmark CIFAR100-SuperClass.
    """
    return _stream(
        "cifar100-superclass",
        cifar100,
        SUPERCLASSES,
        SUPERCLASS_ORDERS,
        order,
        train_size,
        split_seed,
        validation_share,
        augment,
    )


def shuffled_groups(labels: NDArray[np.int64], groups: Sequence[Sequence[int]], seed: int) -> list[NDArray[np.int64]]:
    """The images of each group of labels in a random order: one generator shuffles group after group.

    Before that they stand class by class in the order of the list, each class in file order.
    """
    generator = np.random.RandomState(seed)  # the legacy generator, as the released split has it
    found = []
    for group in groups:
        indices = np.concatenate([np.flatnonzero(labels == label) for label in group])
        generator.shuffle(indices)
        found.append(indices)
    return found


def _stream(
    name: str,
    cifar100: DataSet,
    groups: Mapping[str, Sequence[int]],
    named: Mapping[str, Sequence[int]],
    order: str,
    train_size: float,
    split_seed: int,
    validation_share: float,
    augment: bool,
) -> Stream:
    """The stream whose task g has the labels of group g, renumbered by their place in it."""
    if len(cifar100.class_names) != CLASSES:
        raise other_data(name, f"{CLASSES} classes", len(cifar100.class_names))
    check_train_size(name, train_size)
    check_seed(name, split_seed)
    check_share(name, validation_share)
    members, titles = list(groups.values()), list(groups)
    count = len(members)
    chosen = task_order(order, count, named, lambda seed: legacy_permutation(count, seed).tolist())
    local = np.empty(CLASSES, np.int64)  # the label within the task; every label is in one group
    for labels in members:
        local[list(labels)] = np.arange(len(labels))
    train_set = whole_images(cifar100.train_images, local[cifar100.train_labels], MEAN, STD)
    test_set = whole_images(cifar100.test_images, local[cifar100.test_labels], MEAN, STD)
    rows = shuffled_groups(cifar100.train_labels, members, split_seed)
    tasks = []
    for position, g in enumerate(chosen):
        kept, held_out = kept_and_held_out(len(rows[g]), train_size, validation_share)
        train = train_set.select(rows[g][held_out:kept]).augmented(CROP_AND_FLIP if augment else None)
        validation = train_set.select(rows[g][:held_out])
        test = test_set.select(np.isin(cifar100.test_labels, list(members[g])))
        tasks.append(make_task(position, g, len(members[g]), train=train, validation=validation, test=test))
    return make_stream(
        name,
        tasks,
        [titles[g] for g in chosen],
        data=cifar100.provenance,
        split="the training images of each group, class by class, are shuffled (one legacy generator, group after "
        f"group); of the first ceil({train_size:g} n), the first {validation_share:g} are for validation, the others "
        "for training in this order; all test images of the classes are for testing",
        normalisation={"divide": 255, "mean": list(MEAN), "std": list(STD)},
        train_size=train_size,
        split_seed=split_seed,
    )
