"""Five data sets: the published order and split positions, and pixels as the released preprocessing makes them."""

import json
from typing import Any

import numpy as np
import pytest

from data.made_up import made_up
from halrp_np.data import five_datasets
from halrp_np.data.dataset import DataSet
from halrp_np.data.five import PARTS
from halrp_np.data.orders import legacy_permutation
from halrp_np.errors import ConfigError

Parts = dict[str, DataSet]
GREY = ("mnist", "fashion-mnist", "notmnist")


def five(side: int = 28, **counts: int) -> Parts:
    """A few images of each; grey ones have that side."""
    return {
        part.name: made_up(
            part.name, (1, side, side) if part.name in GREY else (3, 32, 32), 10, counts.get(part.name, 3), 2, seed
        )
        for seed, part in enumerate(PARTS)
    }


@pytest.fixture(scope="module")
def parts() -> Parts:
    return five(svhn=4)


def test_the_released_order(parts: Parts) -> None:
    stream = five_datasets(parts)
    assert stream.protocol["order"] == [2, 0, 1, 3, 4]
    names = ["svhn", "cifar10", "mnist", "fashion-mnist", "notmnist"]
    assert [size["name"] for size in stream.protocol["sizes"]] == names
    assert stream.protocol["data"] == ", ".join(
        f"{name}-other" for name in ("cifar10", "mnist", "svhn", "fashion-mnist", "notmnist")
    )
    assert five_datasets(parts, order="D").protocol["order"] == [3, 4, 1, 0, 2]


@pytest.mark.parametrize(
    ("count", "first"),
    [(50000, [11841, 19602, 45519]), (60000, [3048, 19563, 58303]), (73257, [6325, 30413, 47620])],
)
def test_validation_positions(count: int, first: list[int]) -> None:
    assert legacy_permutation(count, 0)[:3].tolist() == first


def test_split(parts: Parts) -> None:
    stream = five_datasets(parts, split_seed=2)
    for task in stream.tasks:
        data = parts[PARTS[task.identity].name]
        n = len(data.train_labels)
        indices = legacy_permutation(n, 2)
        np.testing.assert_array_equal(task.validation.rows, indices[: int(0.2 * n)])
        np.testing.assert_array_equal(task.train.rows, indices[int(0.2 * n) :])
        np.testing.assert_array_equal(task.test.labels_of(), data.test_labels)
        np.testing.assert_array_equal(task.train.labels_of(), data.train_labels[task.train.rows])
        assert stream.protocol["sizes"][task.position]["train"] == n - int(0.2 * n)


@pytest.mark.parametrize("side", [28, 32])
def test_the_released_preprocessing(side: int) -> None:
    parts = five(side)
    for task in five_datasets(parts).tasks:
        part, data = PARTS[task.identity], parts[PARTS[task.identity].name]
        border = (32 - data.test_images.shape[2]) // 2
        padded = np.pad(data.test_images, ((0, 0), (0, 0), (border, border), (border, border)))
        scaled = padded.astype(np.float32) / np.float32(255)
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (part.mean, part.std))
        expected = np.broadcast_to((scaled - mean) / std, (len(padded), 3, 32, 32))
        np.testing.assert_array_equal(task.test.arrays(), expected)
        assert task.test.shape == (3, 32, 32)
        assert task.test.images.shape[1] == (1024 if part.name in GREY else 3072), "one channel is stored once"


def test_the_first_so_many(parts: Parts) -> None:
    stream = five_datasets(parts, train_images=35, test_images=5)
    for task in stream.tasks:
        data = parts[PARTS[task.identity].name]
        n = min(35, len(data.train_labels))
        assert n == (35 if data.name == "svhn" else 30)
        assert len(task.train) + len(task.validation) == n
        assert np.concatenate([task.train.rows, task.validation.rows]).max() < n
        np.testing.assert_array_equal(task.test.labels_of(), data.test_labels[:5])
    assert "the first 35 images in file order, or all where there are fewer" in stream.protocol["split"]
    assert "the first 5 images" in stream.protocol["split"]
    assert json.loads(json.dumps(stream.protocol)) == stream.protocol


def test_only_what_may_be_mirrored_is(parts: Parts) -> None:
    stream = five_datasets(parts, augment=True)
    for task in stream.tasks:
        assert task.train.augmentation is not None
        assert (task.train.augmentation.pad, task.train.augmentation.flip) == (4, task.identity in (0, 3))
        assert task.test.augmentation is None
    crop = "training images are cropped at random after zero padding by 4"
    assert stream.protocol["augmentation"] == (
        f"svhn, mnist, notmnist: {crop}; cifar10, fashion-mnist: {crop}, then mirrored with probability 1/2"
    )


NONSENSE = [
    ({"train_images": -1}, "train_images.*received -1"),
    ({"test_images": -1}, "test_images.*received -1"),
    ({"train_images": 4}, "expected at least one validation image"),
    ({"validation_share": 0}, "validation_share.*between 0 and 1"),
    ({"split_seed": 2**32}, "split_seed.*received 4294967296"),
    ({"order": "0,1,2,3"}, "the numbers 0 to 4"),
]


@pytest.mark.parametrize(("choice", "message"), NONSENSE)
def test_nonsense_is_refused(parts: Parts, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        five_datasets(parts, **choice)


def test_other_data_is_refused(parts: Parts) -> None:
    with pytest.raises(ConfigError, match="received none called svhn"):
        five_datasets({name: data for name, data in parts.items() if name != "svhn"})
    for name, shape, message in (
        ("mnist", (1, 27, 27), "data mnist: expected images of 1x32x32, or 28x28 to be padded, received .* 1x27x27"),
        ("svhn", (1, 32, 32), "data svhn: expected images of 3x32x32.* received images of 1x32x32"),
    ):
        with pytest.raises(ConfigError, match=message):
            five_datasets({**parts, name: made_up(name, shape, 10, 3, 2)})
    with pytest.raises(ConfigError, match="expected labels 0 to 9, received the label 11"):
        five_datasets({**parts, "notmnist": made_up("notmnist", (1, 28, 28), 12, 3, 2)})
