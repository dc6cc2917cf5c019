"""CIFAR-100 as a stream: the published groups, orders and split positions, and the pixels a network sees."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data.made_up import made_up
from halrp_np.data import cifar100_split, cifar100_superclass
from halrp_np.data.cifar_streams import SUPERCLASSES, shuffled_groups
from halrp_np.data.dataset import DataSet
from halrp_np.errors import ConfigError

SPLIT_GROUPS = [list(range(first, first + 10)) for first in range(0, 100, 10)]
STREAMS = {"split": (cifar100_split, SPLIT_GROUPS), "superclass": (cifar100_superclass, list(SUPERCLASSES.values()))}


@pytest.fixture(scope="module")
def official_size() -> DataSet:
    """500 and 100 images of each class, one pixel each, in any order."""
    return made_up("cifar100", (3, 1, 1), 100, 500, 100, mixed=True)


@pytest.fixture(scope="module")
def subset() -> DataSet:
    """25 and 10 images of each class."""
    return made_up("cifar100", (3, 4, 4), 100, 25, 10, mixed=True)


@pytest.fixture(params=STREAMS)
def kind(request: pytest.FixtureRequest) -> Any:
    return STREAMS[request.param]


# ---- published numbers ----------------------------------------------------------------------------------------------


def test_the_superclasses_share_out_the_labels() -> None:
    assert len(SUPERCLASSES) == 20
    assert sorted(label for labels in SUPERCLASSES.values() for label in labels) == list(range(100))
    for labels in SUPERCLASSES.values():
        assert len(labels) == 5
        assert list(labels) == sorted(labels)


@pytest.mark.parametrize(
    ("groups", "group", "starts"),
    [
        (SPLIT_GROUPS, 0, [3510, 388, 3168, 2470, 3363, 764]),
        (SPLIT_GROUPS, 1, [742, 3348, 8, 432, 2717, 2469]),
        (list(SUPERCLASSES.values()), 0, [30, 2195, 1740, 445, 1272, 1293]),
    ],
)
def test_split_positions(official_size: DataSet, groups: Any, group: int, starts: list[int]) -> None:
    in_order = np.concatenate([np.flatnonzero(official_size.train_labels == label) for label in groups[group]])
    found = shuffled_groups(official_size.train_labels, groups, 7690)[group]
    np.testing.assert_array_equal(found[:6], in_order[starts])


@pytest.mark.parametrize("order", ["A", "C"])
def test_the_split_is_the_same_in_every_order(official_size: DataSet, order: str) -> None:
    stream = cifar100_split(official_size, order=order)
    for g, starts in ((0, [3510, 388, 3168, 2470, 3363, 764]), (1, [742, 3348, 8, 432, 2717, 2469])):
        (task,) = (task for task in stream.tasks if task.identity == g)
        in_order = np.concatenate([np.flatnonzero(official_size.train_labels == 10 * g + k) for k in range(10)])
        np.testing.assert_array_equal(task.validation.rows[:6], in_order[starts])
        assert not np.intersect1d(task.train.rows, task.validation.rows).size
        everything = np.concatenate([task.validation.rows, task.train.rows])
        np.testing.assert_array_equal(np.sort(everything), np.sort(in_order))


@pytest.mark.parametrize(
    ("train_size", "split", "superclass"),
    [
        (1.0, (4000, 1000), (2000, 500)),
        (0.5, (2000, 500), (1000, 250)),
        (0.25, (1000, 250), (500, 125)),
        (0.05, (200, 50), (100, 25)),
    ],
)
def test_published_sizes(
    official_size: DataSet, train_size: float, split: tuple[int, int], superclass: tuple[int, int]
) -> None:
    for make, expected, test in ((cifar100_split, split, 1000), (cifar100_superclass, superclass, 500)):
        for task in make(official_size, train_size=train_size).tasks:
            assert (len(task.train), len(task.validation), len(task.test)) == (*expected, test)


@pytest.mark.parametrize(("order", "first"), [("A", [0, 1, 2]), ("B", [15, 12, 5]), ("E", [6, 14, 0])])
def test_superclass_orders(subset: DataSet, order: str, first: list[int]) -> None:
    stream = cifar100_superclass(subset, order=order)
    assert [task.identity for task in stream.tasks][:3] == stream.protocol["order"][:3] == first
    assert [size["name"] for size in stream.protocol["sizes"]] == [
        list(SUPERCLASSES)[task.identity] for task in stream.tasks
    ]


def test_the_loader_of_the_released_code(subset: DataSet) -> None:
    """Scale, subtract, divide, each in float32, channel by channel."""
    task = cifar100_split(subset).tasks[3]
    scaled = subset.test_images[subset.test_labels // 10 == 3].astype(np.float32) / np.float32(255)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276)))
    np.testing.assert_array_equal(task.test.arrays(), (scaled - mean) / std)


# ---- sizes of any kind ----------------------------------------------------------------------------------------------


def test_a_subset_of_the_data(subset: DataSet, kind: Any) -> None:
    make, groups = kind
    stream = make(subset, order="D", train_size=0.3, validation_share=0.25, split_seed=3)
    for task in stream.tasks:
        labels = groups[task.identity]
        kept = math.ceil(0.3 * 25 * len(labels))
        sizes = (len(task.train), len(task.validation), len(task.test))
        assert sizes == (kept - kept // 4, kept // 4, 10 * len(labels))
        assert task.classes == len(labels)
        for part, whole in ((task.train, subset.train_labels), (task.validation, subset.train_labels),
                            (task.test, subset.test_labels)):  # fmt: skip
            np.testing.assert_array_equal(np.array(labels)[part.labels_of()], whole[part.rows])
    other = make(subset, order="D", train_size=0.3, validation_share=0.25, split_seed=4)
    assert not np.array_equal(other.tasks[0].train.rows, stream.tasks[0].train.rows)


def test_nothing_is_copied(subset: DataSet, kind: Any) -> None:
    tasks = kind[0](subset).tasks
    for part, store in (("train", subset.train_images), ("validation", subset.train_images),
                        ("test", subset.test_images)):  # fmt: skip
        assert len({id(getattr(task, part).images) for task in tasks}) == 1
        assert np.shares_memory(getattr(tasks[0], part).images, store)


def test_protocol_is_json(subset: DataSet, kind: Any) -> None:
    protocol = kind[0](subset, augment=True, train_size=0.5).protocol
    assert json.loads(json.dumps(protocol)) == protocol
    assert protocol["data"] == "cifar100-other"
    assert protocol["image_shape"] == [3, 4, 4]
    assert (protocol["split_seed"], protocol["train_size"]) == (7690, 0.5)
    assert protocol["augmentation"] == (
        "training images are cropped at random after zero padding by 4, then mirrored with probability 1/2"
    )
    assert kind[0](subset).protocol["augmentation"] == "none"


def test_only_training_images_are_augmented(subset: DataSet) -> None:
    task = cifar100_split(subset, augment=True).tasks[0]
    assert [part.augmentation is None for part in (task.train, task.validation, task.test)] == [False, True, True]
    assert cifar100_split(subset).tasks[0].train.augmentation is None


NONSENSE = [
    ({"train_size": 0.0}, "train_size: expected a number above 0 and at most 1, received 0.0"),
    ({"train_size": 1.01}, "train_size.*received 1.01"),
    ({"train_size": float("nan")}, "train_size.*received nan"),
    ({"validation_share": 1.0}, "validation_share.*received 1.0"),
    ({"validation_share": 0.001}, "task 0: expected at least one validation image, received .* 0 validation"),
    ({"train_size": 0.001}, "task 0: expected at least one validation image, received 1 training"),
    ({"split_seed": -1}, "split_seed.*received -1"),
    ({"order": "Z"}, "order: expected A, B, C, D, E, random:SEED"),
]


@pytest.mark.parametrize(("choice", "message"), NONSENSE)
def test_nonsense_is_refused(subset: DataSet, kind: Any, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind[0](subset, **choice)


def test_other_data_is_refused(kind: Any) -> None:
    with pytest.raises(ConfigError, match="data: expected 100 classes, received 10"):
        kind[0](made_up("cifar10", (3, 4, 4), 10, 5, 5))


def test_a_class_group_without_test_images_is_refused(subset: DataSet) -> None:
    some = subset.test_labels // 10 != 7
    images, labels = subset.test_images[some], subset.test_labels[some]
    parts = (subset.train_images, subset.train_labels, images, labels)
    with pytest.raises(ConfigError, match="task 7: expected at least one test image"):
        cifar100_split(DataSet("cifar100", *parts, subset.class_names, "cifar100-other", ""))


def test_images_read_from_between_other_bytes_are_stored_without_them(subset: DataSet) -> None:
    """As the binary version's are, its labels between them: a gather would copy the whole store for each batch."""
    count, pixels = len(subset.train_images), subset.train_images[0].size
    records = np.hstack([np.zeros((count, 2), np.uint8), subset.train_images.reshape(count, -1)])
    images = records[:, 2:].reshape(subset.train_images.shape)
    assert np.shares_memory(images, records)
    assert not images.flags.c_contiguous
    train = cifar100_split(replace(subset, train_images=images)).tasks[3].train
    assert train.images.flags.c_contiguous
    assert train.images.shape == (count, pixels)
    whole = cifar100_split(subset).tasks[3].train
    np.testing.assert_array_equal(train.arrays(), whole.arrays())
    assert np.shares_memory(whole.images, subset.train_images)
