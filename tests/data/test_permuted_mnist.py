"""PMNIST: the published order, permutations and split; pixels as the released preprocessing makes them."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image

from halrp_np.data import Images, Stream, permuted_mnist
from halrp_np.data.dataset import DataSet
from halrp_np.data.images import CROP_AND_FLIP, normalisation_table
from halrp_np.data.orders import legacy_permutation
from halrp_np.data.permuted_mnist import resize_28_to_32
from halrp_np.errors import ConfigError


def digits(train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> DataSet:
    """MNIST of these images (M, 28, 28)."""
    names = tuple(map(str, range(10)))
    return DataSet("mnist", train[:, None], labels, test[:, None], test_labels, names, "mnist-5k", "made up")


@pytest.fixture(scope="module")
def data() -> DataSet:
    """Random images with smooth and extreme parts, so that rounding in the resize matters."""
    rng = np.random.default_rng(11)
    images = rng.integers(0, 256, (1070, 28, 28), dtype=np.uint8)
    images[::3, 5:20, 5:20] = 255
    images[1::3, :, 10:] = 0
    labels = rng.integers(0, 10, 1070)
    return digits(images[:1050], labels[:1050], images[1050:], labels[1050:])


@pytest.fixture(scope="module")
def stream(data: DataSet) -> Stream:
    return permuted_mnist(data)


def released_images(images: np.ndarray) -> np.ndarray:
    """Resize with Pillow one by one, scale, copy to three channels, normalise: all in float32. -> (N, 3, 32, 32)"""
    resized = np.stack([np.asarray(Image.fromarray(a).resize((32, 32), Image.Resampling.BILINEAR)) for a in images])
    scaled = resized.astype(np.float32) / np.float32(255)
    channels = np.repeat(scaled[:, None], 3, axis=1)
    return (channels - np.float32(0.1307)) / np.float32(0.3081)


# ---- published numbers --------------------------------------------------------------------------------------------


def test_order_and_permutation_seeds(stream: Stream) -> None:
    assert [task.identity for task in stream.tasks] == [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]
    assert stream.protocol["permutation_seeds"] == [200, 801, 402, 903, 104, 605, 706, 307, 8, 509]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("A", [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]),
        ("B", [2, 9, 6, 4, 0, 3, 1, 7, 8, 5]),
        ("C", [4, 1, 5, 0, 7, 2, 3, 6, 9, 8]),
        ("random:2", [4, 1, 5, 0, 7, 2, 3, 6, 9, 8]),
        ("9,8,7,6,5,4,3,2,1,0", [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
    ],
)
def test_an_identity_keeps_its_permutation_in_every_order(
    data: DataSet, stream: Stream, order: str, expected: list[int]
) -> None:
    other = permuted_mnist(data, order=order)
    assert [task.identity for task in other.tasks] == other.protocol["order"] == expected
    published = dict(zip(stream.protocol["order"], stream.protocol["permutation_seeds"], strict=True))
    assert other.protocol["permutation_seeds"] == [published[identity] for identity in expected]
    for task in other.tasks:
        same = next(known for known in stream.tasks if known.identity == task.identity)
        np.testing.assert_array_equal(task.train.source, same.train.source)


def test_first_permutation(stream: Stream) -> None:
    permutation = legacy_permutation(3072, 200)
    assert permutation[:8].tolist() == [1974, 1988, 2694, 1308, 1819, 1067, 561, 2790]
    assert int(np.dot(np.arange(3072), permutation)) == 7303342609
    np.testing.assert_array_equal(stream.tasks[0].train.source, permutation % 1024)


def test_official_split_and_its_memory() -> None:
    blank = np.zeros((60000, 28, 28), np.uint8)
    labels = np.arange(60000)
    tracemalloc.start()
    whole = permuted_mnist(digits(blank, labels, blank[:10000], labels[:10000]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6, "70,000 stored images are 72 MB, and nothing else is large"
    task = whole.tasks[0]
    np.testing.assert_array_equal(task.validation.labels_of(), labels[:12000])
    np.testing.assert_array_equal(task.train.labels_of(), labels[12000:])
    np.testing.assert_array_equal(task.test.labels_of(), labels[:10000])


# ---- pixels -------------------------------------------------------------------------------------------------------


def test_resize_is_pillows(data: DataSet) -> None:
    before = data.train_images.copy()
    out = np.empty((len(before), 1024), np.uint8)
    resize_28_to_32(data.train_images[:, 0], out)  # 1050 images: more than one chunk
    np.testing.assert_array_equal(data.train_images, before)
    one_by_one = [np.asarray(Image.fromarray(a).resize((32, 32), Image.Resampling.BILINEAR)) for a in before[:, 0]]
    np.testing.assert_array_equal(out.reshape(-1, 32, 32), one_by_one)


@pytest.mark.parametrize("permutation", ["joint", "spatial"])
@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_images_are_the_released_ones_bit_for_bit(data: DataSet, permutation: Any, part: str) -> None:
    stream = permuted_mnist(data, permutation=permutation, train_images=50, test_images=15, order="D")
    raw = {"validation": data.train_images[:10], "train": data.train_images[10:50], "test": data.test_images[:15]}[part]
    plain = released_images(raw[:, 0])
    for task, seed in zip(stream.tasks, stream.protocol["permutation_seeds"], strict=True):
        if permutation == "joint":
            expected = plain.reshape(len(raw), 3072)[:, legacy_permutation(3072, seed)].reshape(plain.shape)
        else:
            expected = plain.reshape(len(raw), 3, 1024)[:, :, legacy_permutation(1024, seed)].reshape(plain.shape)
        images: Images = getattr(task, part)
        received = images.arrays()
        assert received.dtype == np.float32
        np.testing.assert_array_equal(received, expected)
        np.testing.assert_array_equal(images.arrays(dtype=np.float64), expected.astype(np.float64))


def test_joint_mixes_channels_and_spatial_does_not(data: DataSet) -> None:
    for permutation, same in [("joint", False), ("spatial", True)]:
        x = permuted_mnist(data, tasks=1, permutation=permutation).tasks[0].test.arrays([4])  # type: ignore[arg-type]
        assert bool((x[0, 0] == x[0, 1]).all() and (x[0, 0] == x[0, 2]).all()) is same


def test_table_is_single_precision() -> None:
    table = normalisation_table([0.1307], [0.3081])
    assert (table.shape, table.dtype) == ((1, 256), np.float64)
    np.testing.assert_array_equal(table, table.astype(np.float32))
    np.testing.assert_allclose(table[0], (np.arange(256) / 255 - 0.1307) / 0.3081, rtol=2e-6)


# ---- subsets ------------------------------------------------------------------------------------------------------


def test_subsets(data: DataSet, stream: Stream) -> None:
    train = stream.tasks[3].train
    assert [len(part) for part in (train, stream.tasks[3].validation, stream.tasks[3].test)] == [840, 210, 20]
    rows = np.array([7, 7, 0, 839])
    np.testing.assert_array_equal(train.labels_of(rows), data.train_labels[210:][rows])
    chosen = train.select(rows)
    assert len(chosen) == 4
    np.testing.assert_array_equal(chosen.arrays(), train.arrays(rows))
    np.testing.assert_array_equal(chosen.select(slice(2, None)).labels_of(), train.labels_of([0, 839]))
    mask = np.arange(840) % 100 == 3
    np.testing.assert_array_equal(train.select(mask).rows, train.rows[3::100])
    with pytest.raises(IndexError):
        train.select([840])


def test_one_store_for_all_tasks(stream: Stream) -> None:
    first = stream.tasks[0].train
    assert first.images.nbytes == 1070 * 1024
    for task in stream.tasks:
        for part in (task.train, task.validation, task.test):
            assert part.images is first.images
            assert part.labels is first.labels
    dtypes = [getattr(first, name).dtype.name for name in ("images", "labels", "source", "table", "table_row", "rows")]
    assert dtypes == ["uint8", "int64", "int32", "float64", "uint8", "int64"]


def test_sizes_and_other_numbers_of_tasks(data: DataSet) -> None:
    stream = permuted_mnist(data, tasks=13, order="random:5", train_images=100, test_images=7, validation_share=0.29)
    assert [task.identity for task in stream.tasks] == legacy_permutation(13, 5).tolist()
    assert [task.position for task in stream.tasks] == list(range(13))
    task = stream.tasks[-1]
    assert (len(task.train), len(task.validation), len(task.test)) == (71, 29, 7), (
        "29 % of 100 is 29, whatever 0.29·100 is in binary"
    )
    np.testing.assert_array_equal(task.test.labels_of(), data.test_labels[:7])
    assert len(permuted_mnist(data, train_images=2, validation_share=0.5).tasks[0].train) == 1


def test_protocol_is_json(stream: Stream) -> None:
    protocol = json.loads(json.dumps(stream.protocol))
    assert protocol == stream.protocol
    first = {"identity": 2, "name": "permutation 200", "classes": 10, "train": 840, "validation": 210, "test": 20}
    assert protocol["sizes"][0] == first
    assert len(protocol["sizes"]) == protocol["tasks"] == 10
    assert (protocol["benchmark"], protocol["data"], protocol["image_shape"]) == ("pmnist", "mnist-5k", [3, 32, 32])
    assert (protocol["permutation"], protocol["augmentation"]) == ("joint", "none")


def test_permuted_pixels_are_not_cropped(stream: Stream) -> None:
    with pytest.raises(ConfigError, match=r"augment: expected images whose pixels lie .*permuted"):
        stream.tasks[0].train.augmented(CROP_AND_FLIP)


def test_other_images_are_refused(data: DataSet) -> None:
    with pytest.raises(ConfigError, match="expected images of 1x28x28, received images of 1x27x28"):
        permuted_mnist(digits(data.train_images[:, 0, 1:], data.train_labels, data.test_images[:, 0], data.test_labels))


NONSENSE = [
    ({"tasks": 0}, "tasks.*1 to"),
    ({"order": "F"}, "order: expected A, B, C, D, E, random:SEED .* the numbers 0 to 9, .*received 'F'"),
    ({"permutation": "both"}, "joint or spatial, received 'both'"),
    ({"train_images": 1051}, "train_images.*1,050 available, received 1051"),
    ({"train_images": -5}, "train_images.*received -5"),
    ({"test_images": 21}, "test_images.*20 available"),
    ({"train_images": 1}, "train_images.*one validation and one training image, received 1"),
    ({"train_images": 2}, "train_images.*received 2, share 0.2"),
    ({"validation_share": 0.0}, "validation_share.*between 0 and 1"),
    ({"validation_share": 1.0}, "validation_share.*between 0 and 1"),
    ({"validation_share": float("nan")}, "validation_share.*received nan"),
]


@pytest.mark.parametrize(("choice", "message"), NONSENSE)
def test_nonsense_is_refused(data: DataSet, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        permuted_mnist(data, **choice)
