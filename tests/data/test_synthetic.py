"""The stand-ins: real shapes, few images, the same everywhere, learnable, and never taken for the real thing."""

import hashlib

import numpy as np
import pytest

from halrp_np.data import (
    cifar100_split,
    five_datasets,
    load_mnist,
    load_omniglot,
    load_tiny_imagenet,
    omniglot_rotation,
    synthetic,
    tiny_imagenet_split,
)
from halrp_np.errors import ConfigError

SHAPES = {
    "cifar10": (10, (3, 32, 32), 200, 100),
    "cifar100": (100, (3, 32, 32), 2000, 1000),
    "svhn": (10, (3, 32, 32), 200, 100),
    "fashion-mnist": (10, (1, 28, 28), 200, 100),
    "notmnist": (10, (1, 28, 28), 200, 100),
    "omniglot": (60, (1, 32, 32), 1200, 0),
    "tiny-imagenet": (200, (3, 64, 64), 4800, 1600),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_names_and_the_loud_note(name: str) -> None:
    classes, shape, train, test = SHAPES[name]
    data = synthetic(name)
    assert (data.train_images.shape, data.test_images.shape) == ((train, *shape), (test, *shape))
    assert data.train_images.dtype == data.test_images.dtype == np.uint8
    assert np.bincount(data.train_labels).tolist() == [train // classes] * classes
    assert len(data.class_names) == classes
    assert (data.name, data.provenance) == (name, f"{name}-synthetic")
    assert "NOT REAL" in data.notes[0]
    assert "mean nothing" in data.notes[0]


@pytest.mark.parametrize("name", SHAPES.keys() - {"omniglot"})
def test_classes_can_be_told_apart_and_none_is_alike(name: str) -> None:
    data = synthetic(name)
    few = max(1, data.train_images[0].size // 1000)
    train, test = (images.reshape(len(images), -1)[:, ::few] / 255 for images in (data.train_images, data.test_images))
    means = np.stack([train[data.train_labels == k].mean(0) for k in range(len(data.class_names))])
    distances = (means**2).sum(1) - 2 * test @ means.T
    assert (distances.argmin(1) == data.test_labels).mean() > 0.95
    assert len(np.unique(train[:300, :50], axis=0)) == min(300, len(train))


def test_pixels_are_the_same_on_every_platform() -> None:
    data = synthetic("cifar10")
    digest = hashlib.sha256(data.train_images.tobytes() + data.test_images.tobytes()).hexdigest()
    assert digest == "3c484c90b58b2f214537ee9fcc8cfbd904e8e386a5418a1ae0eab822db3edf5c"
    assert np.array_equal(synthetic("cifar10").train_images, data.train_images)
    assert not np.array_equal(synthetic("svhn").train_images, data.train_images)


def test_streams_can_be_made_of_them() -> None:
    assert len(cifar100_split(synthetic("cifar100")).tasks) == 10
    assert len(tiny_imagenet_split(synthetic("tiny-imagenet"), tasks=40).tasks) == 40
    assert len(omniglot_rotation(synthetic("omniglot")).tasks) == 5
    parts = {name: synthetic(name) for name in ("cifar10", "svhn", "fashion-mnist", "notmnist")}
    assert len(five_datasets({**parts, "mnist": load_mnist("sample")}).tasks) == 5


def test_readers_give_them_when_asked() -> None:
    for load in (load_omniglot, load_tiny_imagenet):
        assert load("sample").provenance.endswith("-synthetic")


def test_others_have_none() -> None:
    with pytest.raises(ConfigError, match=r"expected cifar10, .* received 'mnist'"):
        synthetic("mnist")
