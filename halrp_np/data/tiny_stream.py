"""TinyImageNet as a stream: groups of consecutive classes, looked at where the images lie on disk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .dataset import DataSet
from .images import CROP_AND_FLIP, Stream, whole_images
from .orders import five_seeds, python_permutation, task_order
from .streams import check_seed, check_share, make_stream, make_task, other_data

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def tiny_imagenet_split(
    tiny: DataSet,
    *,
    tasks: int,
    order: str = "A",
    split_seed: int = 0,
    validation_share: float = 0.1,
    swap_test: bool = False,
    augment: bool = True,
) -> Stream:
    """TinyImageNet, its classes sorted by name, in `tasks` groups of equal size: 20 of 10 classes, or 40 of 5.

    Of each class int(validation_share·n) of its n training images are held out: the first of them after a legacy
    shuffle, one generator class after class. They are the validation set, and the official validation set, whose labels
    are public, is the test set. `swap_test` changes the two parts' roles, as the released code does. Orders A to E are
    Python's shuffles with the seeds 0 to 4.

    Raises: ConfigError when the classes do not fill the tasks, and for orders, shares or seeds that make no sense.
    Reference: HALRP (arXiv 2311.15161), released code, benchmark TinyImageNet.
    """
    name, classes = f"tinyimagenet-{tasks}", len(tiny.class_names)
    if not 1 <= tasks <= classes or classes % tasks:
        raise other_data(name, f"a number of classes that {tasks} tasks share evenly", f"{classes} classes")
    check_seed(name, split_seed)
    check_share(name, validation_share)
    each = classes // tasks
    named = five_seeds(lambda seed: python_permutation(tasks, seed))
    chosen = task_order(order, tasks, named, lambda seed: python_permutation(tasks, seed))
    train_set = whole_images(tiny.train_images, tiny.train_labels % each, MEAN, STD)
    official = whole_images(tiny.test_images, tiny.test_labels % each, MEAN, STD)
    out = held_out(tiny.train_labels, classes, validation_share, split_seed)
    stream = []
    for position, g in enumerate(chosen):
        own = tiny.train_labels // each == g
        train = train_set.select(own & ~out).augmented(CROP_AND_FLIP if augment else None)
        validation, test = train_set.select(own & out), official.select(tiny.test_labels // each == g)
        if swap_test:
            validation, test = test, validation
        stream.append(make_task(position, g, each, train=train, validation=validation, test=test))
    roles = ("validation", "testing") if swap_test else ("testing", "validation")
    return make_stream(
        name,
        stream,
        [f"classes {g * each} to {g * each + each - 1}" for g in chosen],
        data=tiny.provenance,
        split=f"of each class int({validation_share:g} n) of the n training images are held out (the first after a "
        f"legacy shuffle, one generator class after class) for {roles[1]}, the others are for training; the official "
        f"validation images are for {roles[0]}",
        normalisation={"divide": 255, "mean": list(MEAN), "std": list(STD)},
        split_seed=split_seed,
        swap_test=swap_test,
    )


def held_out(labels: NDArray[np.int64], classes: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Which training images do not train: of each class the first int(share·n) of its n images, shuffled.

    Shapes: labels (M,) -> (M,)
    """
    generator = np.random.RandomState(seed)
    out = np.zeros(len(labels), bool)
    for label in range(classes):
        indices = np.flatnonzero(labels == label)
        generator.shuffle(indices)
        out[indices[: int(share * len(indices))]] = True
    return out
