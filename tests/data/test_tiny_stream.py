"""TinyImageNet as a stream: orders, groups, the held-out images, and a store on disk that is never copied."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.made_up import made_up
from halrp_np.data import tiny_imagenet_split
from halrp_np.data.dataset import DataSet
from halrp_np.data.orders import python_permutation
from halrp_np.errors import ConfigError


@pytest.fixture(scope="module")
def official_size() -> DataSet:
    """500 and 50 images of 200 classes, one pixel each, in any order."""
    return made_up("tiny-imagenet", (3, 1, 1), 200, 500, 50, mixed=True)


@pytest.fixture(scope="module")
def small() -> DataSet:
    """20 and 5 images of 40 classes."""
    return made_up("tiny-imagenet", (3, 4, 4), 40, 20, 5, mixed=True)


@pytest.mark.parametrize(("tasks", "sizes"), [(20, (4500, 500, 500)), (40, (2250, 250, 250))])
@pytest.mark.parametrize("swap", [False, True])
def test_published_sizes_and_orders(official_size: DataSet, tasks: int, sizes: tuple[int, ...], swap: bool) -> None:
    stream = tiny_imagenet_split(official_size, tasks=tasks, swap_test=swap)
    assert stream.name == stream.protocol["benchmark"] == f"tinyimagenet-{tasks}"
    assert stream.protocol["order"] == python_permutation(tasks, 0)
    for task in stream.tasks:
        assert (len(task.train), len(task.validation), len(task.test)) == sizes
        assert task.classes == 200 // tasks


@pytest.mark.parametrize("swap", [False, True])
def test_parts(small: DataSet, swap: bool) -> None:
    stream = tiny_imagenet_split(small, tasks=20, order="C", swap_test=swap, split_seed=5)
    assert stream.protocol["order"] == python_permutation(20, 2)
    for task in stream.tasks:
        held_out, official = (task.test, task.validation) if swap else (task.validation, task.test)
        classes = [2 * task.identity, 2 * task.identity + 1]
        for part, labels in ((task.train, small.train_labels), (held_out, small.train_labels),
                             (official, small.test_labels)):  # fmt: skip
            np.testing.assert_array_equal(labels[part.rows], 2 * task.identity + part.labels_of())
        for label in classes:
            assert (small.train_labels[held_out.rows] == label).sum() == 2
            assert (small.train_labels[task.train.rows] == label).sum() == 18
        assert not np.intersect1d(task.train.rows, held_out.rows).size
        np.testing.assert_array_equal(official.rows, np.flatnonzero(np.isin(small.test_labels, classes)))


def test_the_held_out_images_belong_to_the_seed_alone(small: DataSet) -> None:
    """One legacy generator, class after class."""
    generator = np.random.RandomState(3)
    expected = []
    for label in range(40):
        indices = np.flatnonzero(small.train_labels == label)
        generator.shuffle(indices)
        expected.extend(indices[:2])
    found = {
        (tasks, order): sorted(
            row for task in tiny_imagenet_split(small, tasks=tasks, order=order, split_seed=3).tasks
            for row in task.validation.rows
        )
        for tasks, order in ((20, "A"), (40, "B"))
    }  # fmt: skip
    assert all(rows == sorted(expected) for rows in found.values())


def test_the_loader_of_the_released_code(small: DataSet) -> None:
    task = tiny_imagenet_split(small, tasks=20).tasks[0]
    scaled = small.test_images[task.test.rows].astype(np.float32) / np.float32(255)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    np.testing.assert_array_equal(task.test.arrays(), (scaled - mean) / std)


def test_a_read_only_memory_map_is_not_copied(small: DataSet, tmp_path: Path) -> None:
    mapped = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, small.train_images.shape)
    mapped[...] = small.train_images
    mapped.flush()
    store = np.load(tmp_path / "a.npy", mmap_mode="r")
    own = DataSet(
        "tiny-imagenet", store, small.train_labels, small.test_images, small.test_labels, small.class_names, "t", ""
    )
    tasks, same = tiny_imagenet_split(own, tasks=20).tasks, tiny_imagenet_split(small, tasks=20).tasks
    assert np.shares_memory(tasks[0].train.images, store)
    assert not tasks[0].train.images.flags.writeable
    assert len({id(task.train.images) for task in tasks}) == 1
    np.testing.assert_array_equal(tasks[3].train.arrays(), same[3].train.arrays())


def test_protocol_is_json(small: DataSet) -> None:
    protocol = tiny_imagenet_split(small, tasks=20).protocol
    assert json.loads(json.dumps(protocol)) == protocol
    assert protocol["sizes"][0] == {
        "identity": 10, "name": "classes 20 to 21", "classes": 2, "train": 36, "validation": 4, "test": 10,
    }  # fmt: skip
    assert "cropped at random after zero padding by 4, then mirrored" in protocol["augmentation"]
    assert protocol["split"].endswith("the official validation images are for testing")
    swapped = tiny_imagenet_split(small, tasks=20, swap_test=True, augment=False).protocol
    assert swapped["augmentation"] == "none"
    assert swapped["split"].endswith("the official validation images are for validation")


NONSENSE = [
    ({"tasks": 3}, "data: expected a number of classes that 3 tasks share evenly, received 40 classes"),
    ({"tasks": 80}, "80 tasks share evenly"),
    ({"validation_share": 0.0}, "validation_share"),
    ({"validation_share": 0.01}, "task 10: expected at least one validation image"),
    ({"split_seed": -1}, "split_seed"),
    ({"order": "random:-1"}, "order: expected A, B, C, D, E"),
]


@pytest.mark.parametrize(("choice", "message"), NONSENSE)
def test_nonsense_is_refused(small: DataSet, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_imagenet_split(small, **{"tasks": 20, **choice})
