"""Permuted MNIST: every task the same images, and a table of which pixel goes where."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .dataset import DataSet
from .images import Images, Stream, normalisation_table
from .orders import five_seeds, legacy_permutation, task_order
from .streams import check_share, make_stream, make_task, other_data, wrong

Permutation = Literal["joint", "spatial"]
SIDE, CHANNELS, CLASSES = 32, 3, 10
MEAN, STD = 0.1307, 0.3081  # of MNIST, in the released loader's digits
MOST_TASKS = 10_000
_CHUNK = 1000  # images resized at once: the working memory stays at a few MB


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
    mnist: DataSet,
    *,
    tasks: int = 10,
    order: str = "A",
    permutation: Permutation = "joint",
    train_images: int = 0,
    test_images: int = 0,
    validation_share: float = 0.2,
) -> Stream:
    """Permuted MNIST: each task is the same images with the pixels of its own fixed permutation.

    Orders A to E are the legacy permutations with the seeds 0 to 4. Identity r is drawn with the seed 100·r + i, where
    i is its place in order A: it shows the same permutation in every order, and order A the published ones. `joint`
    permutes the 3·32·32 values of an image with its three equal channels as one vector, as the released code does;
    `spatial` permutes the 32·32 places and gives all channels the same. The first `validation_share` of the training
    images are the validation set. 0 images means all, n the first n.

    Raises: ConfigError for sizes, shares, orders or kinds that make no sense.
    Reference: HALRP (arXiv 2311.15161), released code, benchmark PMNIST.
    """
    _check_choices(mnist, tasks, permutation)
    n_train = _count("train_images", train_images, len(mnist.train_images))
    n_test = _count("test_images", test_images, len(mnist.test_images))
    n_validation = _validation_count(n_train, validation_share)
    named = five_seeds(lambda seed: legacy_permutation(tasks, seed))
    chosen = task_order(order, tasks, named, lambda seed: legacy_permutation(tasks, seed).tolist())
    seeds = [100 * identity + named["A"].index(identity) for identity in chosen]

    store = np.empty((n_train + n_test, SIDE * SIDE), np.uint8)
    resize_28_to_32(mnist.train_images[:n_train, 0], store[:n_train])
    resize_28_to_32(mnist.test_images[:n_test, 0], store[n_train:])
    labels = np.concatenate([mnist.train_labels[:n_train], mnist.test_labels[:n_test]])
    table, rows = normalisation_table([MEAN], [STD]), np.arange(n_train + n_test)
    table_row = np.zeros(CHANNELS * SIDE * SIDE, np.uint8)
    stream = []
    for position, (identity, seed) in enumerate(zip(chosen, seeds, strict=True)):
        source = _source(permutation, seed)
        everything = Images(store, labels, (CHANNELS, SIDE, SIDE), source, table, table_row, rows)
        train, validation = everything.select(slice(n_validation, n_train)), everything.select(slice(n_validation))
        test = everything.select(slice(n_train, None))
        stream.append(make_task(position, identity, CLASSES, train=train, validation=validation, test=test))
    return make_stream(
        "pmnist",
        stream,
        [f"permutation {seed}" for seed in seeds],
        data=mnist.provenance,
        split=f"validation is the first {validation_share:g} of the training images in file order",
        normalisation={"resize": "28 to 32, bilinear, uint8", "divide": 255, "mean": [MEAN], "std": [STD]},
        permutation=permutation,
        permutation_seeds=seeds,
    )


def _source(permutation: Permutation, seed: int) -> NDArray[np.int32]:
    """The stored pixel behind each of the 3072 values; the channels are equal, so 1024 pixels are stored."""
    if permutation == "joint":
        return (legacy_permutation(CHANNELS * SIDE * SIDE, seed) % (SIDE * SIDE)).astype(np.int32)
    return np.tile(legacy_permutation(SIDE * SIDE, seed), CHANNELS).astype(np.int32)


def _check_choices(mnist: DataSet, tasks: int, permutation: str) -> None:
    """Refuse images, a number of tasks or a permutation kind that cannot be."""
    for images in (mnist.train_images, mnist.test_images):
        if images.shape[1:] != (1, 28, 28):
            raise other_data("pmnist", "images of 1x28x28", "images of " + "x".join(map(str, images.shape[1:])))
    if not 1 <= tasks <= MOST_TASKS:
        raise wrong("pmnist", "tasks", f"1 to {MOST_TASKS:,}", tasks)
    if permutation not in ("joint", "spatial"):
        raise wrong("pmnist", "permutation", "joint or spatial", repr(permutation))


def _count(name: str, wanted: int, available: int) -> int:
    """How many images to take: all for 0, else the number wanted."""
    if not 0 <= wanted <= available:
        raise wrong("pmnist", name, f"0 for all, or 1 to the {available:,} available", wanted)
    return wanted or available


def _validation_count(n_train: int, share: float) -> int:
    """How many of the training images are for validation; both parts keep at least one."""
    check_share("pmnist", share)
    count = round(n_train * share)
    if not 0 < count < n_train:
        received = f"{n_train}, share {share:g}"
        raise wrong("pmnist", "train_images", "enough for one validation and one training image", received)
    return count
