"""Permuted MNIST: every task the same images, and a table of which pixel goes where."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .images import Images, Stream, Task
from .mnist import Mnist

Permutation = Literal["joint", "spatial"]
SIDE, CHANNELS, CLASSES = 32, 3, 10
MEAN, STD = 0.1307, 0.3081
MOST_TASKS = 10_000
_CHUNK = 1000  # images resized at once: the working memory stays at a few MB


def legacy_permutation(n: int, seed: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1 by NumPy's legacy generator, which scikit-learn's `shuffle` uses.

    Reference: HALRP (arXiv 2311.15161), released code, task order and pixel permutations.
    """
    indices = np.arange(n)
    np.random.RandomState(seed).shuffle(indices)  # the published permutations come from it
    return indices


def normalisation_table() -> NDArray[np.float64]:
    """What the network sees for each pixel value, in the single precision of the released loader.

    Shapes: -> (1, 256)
    Math: (x/255 - 0.1307) / 0.3081, each step rounded to float32; kept as float64, which holds it exactly
    """
    scaled = np.arange(256, dtype=np.float32) / np.float32(255)
    return ((scaled - np.float32(MEAN)) / np.float32(STD)).astype(np.float64)[None]


def resize_28_to_32(images: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Resize each image as Pillow's bilinear filter does, writing to `out`.

    Pillow resizes each row and then each column, rounding to uint8 between. So a whole chunk goes through as one tall
    image whose rows are resized, then is transposed and goes through again: the same bytes as one call an image.

    Shapes: images (M, 28, 28) -> out (M, 1024)
    """
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        columns_done = _resize_rows(chunk).swapaxes(1, 2)  # (m, 32, 28): image columns as rows
        rows_done = _resize_rows(columns_done).swapaxes(1, 2)
        out[start : start + _CHUNK] = rows_done.reshape(len(chunk), SIDE * SIDE)


def _resize_rows(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize along the last axis. Shapes: (m, rows, 28) -> (m, rows, 32)."""
    from PIL import Image  # here and not above: `--help` must not wait for it

    count, height, width = images.shape
    tall = Image.fromarray(np.ascontiguousarray(images).reshape(count * height, width))
    resized = tall.resize((SIDE, count * height), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(count, height, SIDE)


def permuted_mnist(
    mnist: Mnist,
    *,
    tasks: int = 10,
    order_seed: int = 0,
    permutation: Permutation = "joint",
    train_images: int = 0,
    test_images: int = 0,
    validation_share: float = 0.2,
) -> Stream:
    """Permuted MNIST: each task is the same images with the pixels of its own fixed permutation.

    Task i of the order shows permutation identity r = order[i], drawn with the seed 100·r + i. `joint` permutes the
    3·32·32 values of an image with its three equal channels as one vector, as the released code does; `spatial`
    permutes the 32·32 places and gives all channels the same. The first `validation_share` of the training images
    are the validation set. 0 images means all, n the first n.

    Raises: ConfigError for sizes, shares, seeds or kinds that make no sense.
    Reference: HALRP (arXiv 2311.15161), released code, benchmark PMNIST.
    """
    _check_choices(tasks, order_seed, permutation)
    n_train = _count("train_images", train_images, len(mnist.train_images))
    n_test = _count("test_images", test_images, len(mnist.test_images))
    n_validation = _validation_count(n_train, validation_share)

    store = np.empty((n_train + n_test, SIDE * SIDE), np.uint8)
    resize_28_to_32(mnist.train_images[:n_train], store[:n_train])
    resize_28_to_32(mnist.test_images[:n_test], store[n_train:])
    labels = np.concatenate([mnist.train_labels[:n_train], mnist.test_labels[:n_test]]).astype(np.int64)
    table, rows = normalisation_table(), np.arange(n_train + n_test)
    table_row = np.zeros(CHANNELS * SIDE * SIDE, np.uint8)

    order = legacy_permutation(tasks, order_seed).tolist()
    seeds = [100 * identity + position for position, identity in enumerate(order)]
    stream = []
    for position, (identity, seed) in enumerate(zip(order, seeds, strict=True)):
        source = _source(permutation, seed)
        everything = Images(store, labels, (CHANNELS, SIDE, SIDE), source, table, table_row, rows)
        train, validation = everything.select(slice(n_validation, n_train)), everything.select(slice(n_validation))
        test = everything.select(slice(n_train, None))
        stream.append(Task(position, identity, CLASSES, train, validation, test))
    protocol = {
        "benchmark": "pmnist",
        "data": mnist.provenance,
        "tasks": tasks,
        "classes": CLASSES,
        "image_shape": [CHANNELS, SIDE, SIDE],
        "train": n_train - n_validation,
        "validation": n_validation,
        "test": n_test,
        "split": f"validation is the first {validation_share:g} of the training images in file order",
        "normalisation": {"resize": "28 to 32, bilinear, uint8", "divide": 255, "mean": MEAN, "std": STD},
        "permutation": permutation,
        "order_seed": order_seed,
        "order": order,
        "permutation_seeds": seeds,
    }
    return Stream("pmnist", tuple(stream), protocol)


def _source(permutation: Permutation, seed: int) -> NDArray[np.int32]:
    """The stored pixel behind each of the 3072 values; the channels are equal, so 1024 pixels are stored."""
    if permutation == "joint":
        return (legacy_permutation(CHANNELS * SIDE * SIDE, seed) % (SIDE * SIDE)).astype(np.int32)
    return np.tile(legacy_permutation(SIDE * SIDE, seed), CHANNELS).astype(np.int32)


def _check_choices(tasks: int, order_seed: int, permutation: str) -> None:
    """Refuse a number of tasks, a seed or a permutation kind that cannot be."""
    if not 1 <= tasks <= MOST_TASKS:
        raise _wrong("tasks", f"1 to {MOST_TASKS:,}", tasks)
    if not 0 <= order_seed < 2**32:
        raise _wrong("order_seed", "an integer from 0 to 4294967295", order_seed)
    if permutation not in ("joint", "spatial"):
        raise _wrong("permutation", "joint or spatial", repr(permutation))


def _count(name: str, wanted: int, available: int) -> int:
    """How many images to take: all for 0, else the number wanted."""
    if not 0 <= wanted <= available:
        raise _wrong(name, f"0 for all, or 1 to the {available:,} available", wanted)
    return wanted or available


def _validation_count(n_train: int, share: float) -> int:
    """How many of the training images are for validation; both parts keep at least one."""
    if not 0 < share < 1:
        raise _wrong("validation_share", "a number between 0 and 1, both excluded", share)
    count = round(n_train * share)
    if not 0 < count < n_train:
        raise _wrong("train_images", "enough for one validation and one training image", f"{n_train}, share {share:g}")
    return count


def _wrong(name: str, expected: str, received: object) -> ConfigError:
    """The error of a setting of this benchmark."""
    next_step = f"Change {name}."
    return ConfigError(f"pmnist, {name}", expected=expected, received=str(received), next_step=next_step)
