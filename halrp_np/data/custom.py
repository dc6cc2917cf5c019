"""A stream that a user describes in a small TOML file: own images, and which classes make a task.

name = "birds"
images = "photos"           # photos/CLASS/*.png, *.jpg, ...; or arrays.npz with the arrays images and labels
test = 0.2                  # the share of each class that is for testing; or test_images = "photos-test",
                            # or the arrays test_images and test_labels in the .npz file
size = [32, 32]             # height and width, to which images are stretched; not with .npz
channels = 3                # or 1; 3 is the default; not with .npz
classes_per_task = 5        # of the sorted class names; or tasks = [["crow", "owl"], ["duck", "gull"]]
mean = 0.5                  # the network sees (x/255 - mean) / std; these are the defaults, which need no look at
std = 0.5                   # the images, so nothing of later tasks leaks; or a list with one for each channel
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import nearest
from .custom_file import EXAMPLE, Description, read_description
from .images import CROP_AND_FLIP, Stream, whole_images
from .labelled import Labelled, class_folders, read_arrays, read_class_folders
from .orders import in_place_first, legacy_permutation, task_order
from .streams import check_seed, check_share, check_train_size, kept_and_held_out, make_stream, make_task

_TEST_SEED = 0  # never the split's: what tests once must not train another time

_Rows = list[NDArray[np.int64]]


def custom_stream(
    path: Path | str,
    *,
    order: str = "A",
    train_size: float = 1.0,
    split_seed: int = 0,
    validation_share: float = 0.2,
    augment: bool = False,
) -> Stream:
    """The stream that the TOML file at `path` describes, as this module's first lines say; paths are relative to it.

    The test share of each class, at least one image, is drawn with seed 0, whatever `split_seed` is. The others of each
    class are shuffled (a legacy generator with `split_seed`, class after class); the first ceil(train_size·n) are used,
    and of these the first floor(validation_share·n), at least one, are for validation. Order A is the tasks' order in
    the file, B to E are legacy permutations with the seeds 1 to 4. Classes that no task names are left out.

    Raises: ConfigError for a key, DataError for files that are not as they should be; both name the file.
    """
    description = read_description(Path(path))
    name = description.name
    check_train_size(name, train_size)
    check_seed(name, split_seed)
    check_share(name, validation_share)
    train_data, test_data, groups = _load(description)
    chosen = task_order(
        order, len(groups), in_place_first(len(groups)), lambda seed: legacy_permutation(len(groups), seed).tolist()
    )
    rows, test_rows = _test_share(train_data, test_data, description)
    local = np.zeros(len(train_data.classes), np.int64)
    for group in groups:
        local[group] = np.arange(len(group))
    mean, std = description.mean, description.std
    train_set = whole_images(train_data.images, local[train_data.labels], mean, std)
    test_set = train_set if test_data is None else whole_images(test_data.images, local[test_data.labels], mean, std)
    parts = _training_and_validation(rows, groups, train_size, validation_share, split_seed)
    tasks = []
    for position, identity in enumerate(chosen):
        train, validation = (train_set.select(part) for part in parts[identity])
        test = test_set.select(np.concatenate([test_rows[k] for k in groups[identity]]))
        train = train.augmented(CROP_AND_FLIP if augment else None)
        classes = len(groups[identity])
        tasks.append(make_task(position, identity, classes, train=train, validation=validation, test=test))
    return make_stream(
        name,
        tasks,
        [_title([train_data.classes[k] for k in groups[identity]]) for identity in chosen],
        data=f"{name}-custom",
        split=f"{_test_rule(description)}; the others of each class are shuffled (legacy generator, class by class); "
        f"of the first ceil({train_size:g} n), the first {validation_share:g}, at least one, are for validation, the "
        "rest for training",
        normalisation={"divide": 255, "mean": mean, "std": std},
        train_size=train_size,
        split_seed=split_seed,
        description=description.content,
        images_sha256=_digest(train_data, test_data),
    )


def _load(description: Description) -> tuple[Labelled, Labelled | None, list[list[int]]]:
    """Training images, test images if they lie apart, and for each task its classes by their places."""
    return _load_arrays(description) if description.images.suffix == ".npz" else _load_folders(description)


def _load_arrays(description: Description) -> tuple[Labelled, Labelled | None, list[list[int]]]:
    """From an .npz file."""
    for key in ("size", "channels", "test_images"):
        if key in description.content:
            raise description.wrong(key, "this key", "Leave it out.", "nothing: the arrays in the .npz file say it")
    if not description.images.is_file():
        raise description.absent("images", description.images)
    train, test = read_arrays(description.images)
    if (test is None) == (description.test is None):
        expected = "a share here, or else test_images and test_labels in the .npz file"
        raise description.wrong("test", "neither" if test is None else "both", "Give one of them.", expected)
    description.check_channels(train.images.shape[1])
    return train, test, _groups(description, train.classes)


def _load_folders(description: Description) -> tuple[Labelled, Labelled | None, list[list[int]]]:
    """From folders of images; only the classes of tasks are decoded."""
    description.one_of("test", "test_images")
    if description.size is None:
        raise description.wrong("size", "nothing", EXAMPLE)
    for key, folder in (("images", description.images), ("test_images", description.test_images)):
        if folder is not None and not folder.is_dir():
            raise description.absent(key, folder)
    channels = description.channels or 3
    description.check_channels(channels)
    classes = class_folders(description.images)
    groups = _groups(description, classes)
    used = [classes[k] for group in groups for k in group]
    train = read_class_folders(description.images, used, channels, description.size)
    test = None
    if description.test_images is not None:
        test = read_class_folders(description.test_images, used, channels, description.size)
    places = iter(range(len(used)))
    return train, test, [[next(places) for _ in group] for group in groups]


def _groups(description: Description, classes: Sequence[str]) -> list[list[int]]:
    """The places of each task's classes among all."""
    description.one_of("classes_per_task", "tasks")
    each = description.classes_per_task
    if each is not None:
        if len(classes) % each:
            next_step = f"Choose a divisor of {len(classes)}, or list the tasks: tasks = [[...], [...]]."
            expected = f"a number that divides the {len(classes)} classes there"
            raise description.wrong("classes_per_task", each, next_step, expected)
        return [list(range(first, first + each)) for first in range(0, len(classes), each)]
    place = {name: k for k, name in enumerate(classes)}
    listed = [name for group in description.tasks or [] for name in group]
    for name in listed:
        if name not in place:
            near = nearest(name, classes)
            advice = f"Did you mean {near!r}?" if near else f"The classes are: {', '.join(classes)}."
            raise description.wrong("tasks", repr(name), advice, "names of classes that have images")
        if listed.count(name) > 1:
            raise description.wrong("tasks", f"{name!r} twice", "Leave one out.", "each class in one task")
    return [[place[name] for name in group] for group in description.tasks or []]


def _test_share(train: Labelled, test: Labelled | None, description: Description) -> tuple[_Rows, _Rows]:
    """For each class the rows that are not for testing, and the rows that are."""
    rows = [np.flatnonzero(train.labels == k) for k in range(len(train.classes))]
    if test is not None:
        return rows, [np.flatnonzero(test.labels == k) for k in range(len(train.classes))]
    generator = np.random.RandomState(_TEST_SEED)
    tested = []
    for k, name in enumerate(train.classes):
        generator.shuffle(rows[k])
        count = max(1, round((description.test or 0.0) * len(rows[k])))
        if count >= len(rows[k]):
            received = f"{len(rows[k])} images of {name}, none left to train on"
            raise description.wrong("test", received, "Take a smaller share, or more images.", "enough of each class")
        tested.append(np.sort(rows[k][:count]))
        rows[k] = np.sort(rows[k][count:])
    return rows, tested


def _training_and_validation(
    rows: Sequence[NDArray[np.int64]], groups: Sequence[Sequence[int]], train_size: float, share: float, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each task the rows to train on, in a random order, and those for validation."""
    generator = np.random.RandomState(seed)
    parts = []
    for group in groups:
        train, validation = [], []
        for k in group:
            shuffled = generator.permutation(rows[k])
            kept, held_out = kept_and_held_out(len(shuffled), train_size, share)
            held_out = max(held_out, min(1, kept - 1))  # one at least, where one is left to train on
            validation.append(shuffled[:held_out])
            train.append(shuffled[held_out:kept])
        parts.append((generator.permutation(np.concatenate(train)), np.concatenate(validation)))
    return parts


def _test_rule(description: Description) -> str:
    """Which images are for testing, in words."""
    if description.test is None:
        return "the test images are for testing"
    return f"round({description.test:g} n) images of each class, drawn with seed {_TEST_SEED}, are for testing"


def _title(classes: Sequence[str]) -> str:
    """A task's name: its classes, or the first and the last of many."""
    text = ", ".join(classes)
    return text if len(text) <= 60 else f"{classes[0]} to {classes[-1]}, {len(classes)} classes"


def _digest(*parts: Labelled | None) -> str:
    """A checksum of all pixels and labels, so that a run can tell whether the images are still the same."""
    digest = hashlib.sha256()
    for part in parts:
        if part is not None:
            digest.update(part.images.data)
            digest.update(part.labels.astype("<i8").tobytes())
    return digest.hexdigest()
