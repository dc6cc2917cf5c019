"""Omniglot as a stream: twelve characters a task, each drawing in four rotations, split by who drew it."""

from __future__ import annotations

import numpy as np

from .dataset import DataSet
from .images import Stream, whole_images
from .orders import in_place_first, legacy_permutation, task_order
from .streams import make_stream, make_task, other_data, wrong

NAME = "omniglot-rotation"
CLASSES, MOST_TASKS = 12, 100
DRAWERS = 20
TRAIN_DRAWERS, VALIDATION_DRAWERS = range(12), range(12, 15)
"""The others are for testing."""
QUARTERS = 4


def omniglot_rotation(omniglot: DataSet, *, order: str = "A", tasks: int = 0) -> Stream:
    """The characters 12i to 12i + 11, sorted by alphabet and character, are task i; 0 tasks means as many as there are.

    Every drawing is there upright and turned by 90, 180 and 270 degrees counter-clockwise, with the same label. Of the
    20 drawers of a character, 0 to 11 are for training, 12 to 14 for validation and 15 to 19 for testing, so that no
    drawing is in two parts: 576, 144 and 240 images a task.

    Shapes: `omniglot` has all drawings as its training images, (20·K, 1, H, W), drawing 20·character + drawer.
    Raises: ConfigError for other data, more tasks than there are characters for, or an unknown order.
    """
    characters = len(omniglot.class_names)
    _check(omniglot, characters, tasks)
    count = tasks or min(characters // CLASSES, MOST_TASKS)
    chosen = task_order(order, count, in_place_first(count), lambda seed: legacy_permutation(count, seed).tolist())
    drawings = omniglot.train_images[: count * CLASSES * DRAWERS]
    turned = np.concatenate([np.rot90(drawings, quarter, axes=(2, 3)) for quarter in range(QUARTERS)])
    labels = np.tile(omniglot.train_labels[: len(drawings)] % CLASSES, QUARTERS)
    store = whole_images(turned, labels, [0.0], [1.0])
    number = np.arange(len(turned)).reshape(QUARTERS, count, CLASSES, DRAWERS)
    stream = []
    for position, identity in enumerate(chosen):
        own = number[:, identity].swapaxes(0, 1)  # (character, rotation, drawer)
        train, validation, test = np.split(own, [TRAIN_DRAWERS.stop, VALIDATION_DRAWERS.stop], axis=2)
        parts = {"train": train, "validation": validation, "test": test}
        images = {part: store.select(rows.ravel()) for part, rows in parts.items()}
        stream.append(make_task(position, identity, CLASSES, **images))
    return make_stream(
        NAME,
        stream,
        [f"characters {CLASSES * identity} to {CLASSES * identity + CLASSES - 1}" for identity in chosen],
        data=omniglot.provenance,
        split="by drawer, for every character and rotation: 0 to 11 are for training, 12 to 14 for validation, "
        "15 to 19 for testing",
        normalisation={"divide": 255, "mean": [0.0], "std": [1.0]},
        rotations=[0, 90, 180, 270],
    )


def _check(omniglot: DataSet, characters: int, tasks: int) -> None:
    """Refuse data of another kind or too few characters."""
    shape, in_order = omniglot.train_images.shape, np.arange(characters).repeat(DRAWERS)
    if shape[1] != 1 or shape[2] != shape[3] or not np.array_equal(omniglot.train_labels, in_order):
        expected = f"square grey images, {DRAWERS} drawings of each character in order"
        raise other_data(NAME, expected, f"{characters} classes, images of shape {shape}")
    most = min(characters // CLASSES, MOST_TASKS)
    if most == 0:
        raise other_data(NAME, f"at least {CLASSES} characters", characters)
    if not 0 <= tasks <= most:
        raise wrong(NAME, "tasks", f"0 for as many as the data has, or 1 to {most}", tasks)
