"""CIFAR-10 and CIFAR-100, in the authors' Python or binary version, unpacked or in their archives."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .archives import tar_members
from .cache import RemoteFile
from .dataset import DataSet, FileRow
from .safe_pickle import read_pickle
from .sources import Published, Say, Source, damaged_row, data_note, load_published, nothing_there, wrong_file

SIDE, PIXELS = 32, 3 * 32 * 32
MIRRORS = ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/")


@dataclass(frozen=True)
class Version:
    """One of the two forms of a set: its folder, its archive, and the digest of each file with images.

    `names` is the file with the names of the classes; in the binary version, `label_bytes` are the bytes before each
    image, the last of them the label.
    """

    folder: str
    archive: RemoteFile
    train: Mapping[str, str]
    test: Mapping[str, str]
    names: str
    label_bytes: int = 0

    @property
    def digests(self) -> Mapping[str, str]:
        """The digest of every file with images, training files first."""
        return {**self.train, **self.test}


@dataclass(frozen=True)
class Cifar:
    """One of the two sets; the keys are those of the Python version's dicts."""

    published: Published
    classes: int
    label_key: str
    names_key: str
    versions: tuple[Version, Version]


def _published(name: str, title: str, archives: tuple[RemoteFile, RemoteFile], folder: str) -> Published:
    """What is said of one of the sets; of the archives the first is downloaded."""
    place = f"Put {archives[0].name} (or {archives[1].name}, or the folder {folder} of it) into FOLDER"
    images = "50,000 + 10,000 images"
    return Published(name, title, images, name, archives[:1], f"{place} and name it: --data-dir FOLDER")


def _archive(name: str, size: int, sha256: str) -> RemoteFile:
    """One of the authors' archives."""
    return RemoteFile(name, size, f"sha256:{sha256}", MIRRORS)


_TEN = (
    Version(
        "cifar-10-batches-py",
        _archive(
            "cifar-10-python.tar.gz",
            170_498_071,
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
        {
            "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
            "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
            "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
        },
        {"test_batch": "md5:40351d587109b95175f43aff81a1287e"},
        "batches.meta",
    ),
    Version(
        "cifar-10-batches-bin",
        _archive(
            "cifar-10-binary.tar.gz",
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
        {
            "data_batch_1.bin": "sha256:cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "sha256:a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "sha256:bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "sha256:014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "sha256:755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        },
        {"test_batch.bin": "sha256:8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"},
        "batches.meta.txt",
        label_bytes=1,
    ),
)
_HUNDRED = (
    Version(
        "cifar-100-python",
        _archive(
            "cifar-100-python.tar.gz",
            169_001_437,
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        ),
        {"train": "md5:16019d7e3df5f24257cddd939b257f8d"},
        {"test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc"},
        "meta",
    ),
    Version(
        "cifar-100-binary",
        _archive(
            "cifar-100-binary.tar.gz",
            168_513_733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
        {"train.bin": "sha256:f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"},
        {"test.bin": "sha256:d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"},
        "fine_label_names.txt",
        label_bytes=2,
    ),
)
CIFAR10 = Cifar(
    _published("cifar10", "CIFAR-10", (_TEN[0].archive, _TEN[1].archive), _TEN[0].folder),
    10,
    "labels",
    "label_names",
    _TEN,
)
CIFAR100 = Cifar(
    _published("cifar100", "CIFAR-100", (_HUNDRED[0].archive, _HUNDRED[1].archive), _HUNDRED[0].folder),
    100,
    "fine_labels",
    "fine_label_names",
    _HUNDRED,
)


def load_cifar10(source: Source = "auto", data_dir: Path | str | None = None, say: Say | None = None) -> DataSet:
    """Load CIFAR-10, 3x32x32: from `data_dir` if given, else from the cache, else from a mirror.

    `data_dir` holds cifar-10-batches-py, cifar-10-batches-bin or one of the authors' archives, which is read in place.
    `auto` accepts any number of the five training files, and other content; `full` only the whole of CIFAR-10; `sample`
    is the synthetic stand-in. `say` is told a line before a download.

    Raises: ConfigError for another source; DataError if what was asked for is absent or damaged.
    """
    return load_published(CIFAR10.published, lambda folder: read(CIFAR10, folder), source, data_dir, say)


def load_cifar100(source: Source = "auto", data_dir: Path | str | None = None, say: Say | None = None) -> DataSet:
    """Load CIFAR-100 with its 100 fine labels, 3x32x32: from `data_dir` if given, else from the cache, else a mirror.

    `data_dir` holds cifar-100-python, cifar-100-binary or one of the authors' archives, which is read in place. `full`
    refuses other content; `sample` is the synthetic stand-in. `say` is told a line before a download.

    Raises: ConfigError for another source; DataError if what was asked for is absent or damaged.
    """
    return load_published(CIFAR100.published, lambda folder: read(CIFAR100, folder), source, data_dir, say)


class _Batch(NamedTuple):
    """The images and labels of one file, and whether it is the authors' by its digest."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    known: bool


class _Place(NamedTuple):
    """Where a version lies: a folder, or its archive."""

    version: Version
    path: Path

    @property
    def is_archive(self) -> bool:
        """Whether it is the archive."""
        return self.path.name == self.version.archive.name

    def where(self, name: str) -> str:
        """How an error names one of the files."""
        return f"{self.path}: {name}" if self.is_archive else str(self.path / name)

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of each file of the version that is there."""
        wanted = {*self.version.digests, self.version.names}
        if self.is_archive:
            inside = f"{self.version.folder}/"
            for name, content in tar_members(self.path, lambda name: name in {inside + one for one in wanted}):
                yield name.removeprefix(inside), content
            return
        for name in sorted(wanted):
            path = self.path / name
            if os.path.isfile(path):
                try:
                    yield name, path.read_bytes()
                except OSError as error:
                    received = f"'{error.strerror or error}'"
                    raise wrong_file(path, "a readable file", received) from error


def find(cifar: Cifar, data_dir: Path) -> _Place:
    """The first of: the unpacked versions in their folders, in `data_dir` itself, and the archives.

    Raises: DataError if there is none of them.
    """
    for inside in (True, False):
        for version in cifar.versions:
            folder = data_dir / version.folder if inside else data_dir
            if any(os.path.isfile(folder / name) for name in version.digests):
                return _Place(version, folder)
    for version in cifar.versions:
        if os.path.isfile(data_dir / version.archive.name):
            return _Place(version, data_dir / version.archive.name)
    one, two = cifar.versions
    expected = f"{one.folder}, {two.folder}, {one.archive.name} or {two.archive.name} in it"
    raise nothing_there(cifar.published, data_dir, expected)


def read(cifar: Cifar, data_dir: Path) -> DataSet:
    """Read the set below a data folder: the test file, and the training files as far as they are there.

    Shapes: images (M, 3, 32, 32).
    Raises: DataError if one is damaged, or the test file or all training files are absent.
    """
    place, published = find(cifar, data_dir), cifar.published
    version = place.version
    batches: dict[str, _Batch] = {}
    names = tuple(str(label) for label in range(cifar.classes))
    for name, content in place.contents():
        if name == version.names:
            names = _class_names(cifar, version, content, place.where(name))
        else:
            batches[name] = _batch(cifar, version, name, content, place.where(name))
    train = [batches[name] for name in version.train if name in batches]
    test = [batches[name] for name in version.test if name in batches]
    if not train or not test:
        missing = next(iter(version.test if train else version.train))
        raise DataError(
            str(place.path), expected=f"{missing} in it", received="no such file", next_step=f"{published.place}."
        )
    known = len(train) == len(version.train) and all(batch.known for batch in (*train, *test))
    provenance = published.provenance if known else published.other
    (train_images, train_labels), (test_images, test_labels) = _joined(train), _joined(test)
    note = data_note(published, provenance, len(train_labels), len(test_labels), place.path)
    if len(train) < len(version.train):
        absent = ", ".join(name for name in version.train if name not in batches)
        note += f"; without the training files {absent}, which are not there"
    return DataSet(
        published.name,
        train_images,
        train_labels,
        test_images,
        test_labels,
        names,
        provenance,
        str(place.path),
        [note],
    )


def _joined(batches: list[_Batch]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images and labels of several files, one after the other."""
    images = batches[0].images if len(batches) == 1 else np.concatenate([batch.images for batch in batches])
    return images.reshape(-1, 3, SIDE, SIDE), np.concatenate([batch.labels for batch in batches])


def _batch(cifar: Cifar, version: Version, name: str, content: bytes, where: str) -> _Batch:
    """Read one file of images with every check."""
    read_one = _binary if version.label_bytes else _pickled
    images, labels = read_one(cifar, version, content, where)
    wrong = np.flatnonzero((labels < 0) | (labels >= cifar.classes))
    if len(wrong):
        received = f"the label {labels[wrong[0]]} at position {wrong[0]}"
        raise wrong_file(where, f"labels from 0 to {cifar.classes - 1}", received)
    algorithm, _, digits = version.digests[name].partition(":")
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    return _Batch(images, labels, found == digits)


def _pickled(cifar: Cifar, version: Version, content: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images (N, 3072) and labels of a file of the Python version."""
    value = read_pickle(content, where)
    images, labels = _field(value, "data", where), _field(value, cifar.label_key, where)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (PIXELS,):
        kind = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise wrong_file(where, f"in 'data' an array of uint8 of the shape (N, {PIXELS})", kind)
    if isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu":
        labels = labels.tolist()
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise wrong_file(where, f"in '{cifar.label_key}' a list of integers", "something else")
    if len(labels) != len(images) or not labels:
        raise wrong_file(where, "as many labels as images, at least one", f"{len(images)} images, {len(labels)} labels")
    if any(abs(label) > cifar.classes for label in labels):  # before NumPy meets a number too large for it
        raise wrong_file(where, f"labels from 0 to {cifar.classes - 1}", "another")
    return images, np.array(labels, np.int64)


def _field(value: Any, key: str, where: str) -> Any:
    """An entry of a pickled dict; its keys are bytes when Python 2 has written it."""
    if isinstance(value, dict):
        for spelled in (key.encode(), key):
            if spelled in value:
                return value[spelled]
    raise wrong_file(where, f"a dict with the key '{key}'", "none")


def _binary(cifar: Cifar, version: Version, content: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images (N, 3072) and labels of a file of the binary version: records of label bytes and pixels."""
    record = version.label_bytes + PIXELS
    if not content or len(content) % record:
        raise wrong_file(where, f"whole records of {record:,} bytes, at least one", f"{len(content):,} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, version.label_bytes :], records[:, version.label_bytes - 1].astype(np.int64)


def _class_names(cifar: Cifar, version: Version, content: bytes, where: str) -> tuple[str, ...]:
    """The names of the classes, by label."""
    try:
        if version.label_bytes:
            names = [line.strip() for line in content.decode().splitlines() if line.strip()]
        else:
            found = _field(read_pickle(content, where), cifar.names_key, where)
            names = [name.decode() if isinstance(name, bytes) else str(name) for name in found]
    except (UnicodeDecodeError, TypeError) as error:
        raise wrong_file(where, "names of classes", "something else") from error
    if len(names) != cifar.classes:
        raise wrong_file(where, f"{cifar.classes} names of classes", f"{len(names)}")
    return tuple(names)


def verify(cifar: Cifar, data_dir: Path) -> list[FileRow]:
    """Read every file of the set with every check; one row a file.

    Raises: DataError if none of them is there.
    """
    place = find(cifar, data_dir)
    version, rows = place.version, {}
    try:
        for name, content in place.contents():
            where = place.where(name)
            try:
                rows[name] = _row(cifar, version, name, content, where)
            except DataError as error:
                rows[name] = damaged_row(where, error)
    except DataError as error:
        return [*rows.values(), damaged_row(error.where, error)]
    missing = {name: FileRow(place.where(name), False, "missing") for name in version.digests if name not in rows}
    return [(rows | missing)[name] for name in (*version.digests, version.names) if name in rows | missing]


def _row(cifar: Cifar, version: Version, name: str, content: bytes, where: str) -> FileRow:
    """What is said of one file."""
    if name == version.names:
        return FileRow(where, True, f"{len(_class_names(cifar, version, content, where))} names of classes")
    batch = _batch(cifar, version, name, content, where)
    algorithm = version.digests[name].partition(":")[0].upper().replace("SHA256", "SHA-256")
    if batch.known:
        return FileRow(where, True, f"{len(batch.labels):,} images, {algorithm} agrees")
    detail = f"{len(batch.labels):,} images, well formed, but not {cifar.published.title}'s content ({algorithm})"
    return FileRow(where, False, detail)
