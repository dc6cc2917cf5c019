"""What the readers share: where a data set may come from, in which order, and what is said when it cannot be had."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..errors import ConfigError, DataError, StorageError
from .cache import RemoteFile, cache_dir, fetch, is_whole
from .dataset import DataSet, FileRow

Source = Literal["auto", "full", "sample"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Published:
    """A data set as its authors published it.

    `provenance` is what results call it when its content was checked by digest; `place` is a sentence that says which
    files to put where, for those who have them already; without `remote_files` nobody can download it here.
    """

    name: str
    title: str
    images: str
    provenance: str
    remote_files: tuple[RemoteFile, ...]
    place: str

    @property
    def other(self) -> str:
        """What results call files of the same format and other content."""
        return f"{self.name}-other"


def load_published(
    published: Published,
    read: Callable[[Path], DataSet],
    source: Source,
    data_dir: Path | str | None,
    say: Say | None,
    stand_in: Callable[[str], DataSet] | None = None,
) -> DataSet:
    """Load a data set with `read`: from `data_dir` if given, else from the cache, else from a mirror into the cache.

    `full` refuses content that is not the published one; `sample` takes the stand-in at once, which is told why: the
    synthetic one unless there is a better.
    Nothing is printed; `say` is told a line before a download and before a wait for another process.

    Raises: ConfigError for another source; DataError if what was asked for is absent or damaged.
    """
    if source not in ("auto", "full", "sample"):
        raise ConfigError(
            "data", expected="auto, full or sample", received=repr(source), next_step="Choose one of the three."
        )
    if source == "sample":
        why = "it was asked for" + (f" (so {data_dir} is not read)" if data_dir is not None else "")
        return stand_in(why) if stand_in else _made_up(published, why)
    if data_dir is not None:
        data = read(Path(data_dir))
        return official(published, data) if source == "full" else data
    return _from_cache(published, read, say)


def _made_up(published: Published, why: str) -> DataSet:
    """The synthetic stand-in, with the reason why it is taken."""
    from .synthetic import synthetic

    data = synthetic(published.name)
    return replace(data, notes=[*data.notes, f"data: the stand-in of {published.title} is taken because {why}"])


def _from_cache(published: Published, read: Callable[[Path], DataSet], say: Say | None) -> DataSet:
    """The data set from the cache if it is whole there, else after a download."""
    folder, damage = cache_dir() / published.name, ""
    if os.path.isdir(folder):
        try:
            return official(published, read(folder))
        except DataError as error:  # a download replaces what has a wrong checksum
            if all(os.path.isfile(folder / file.name) for file in published.remote_files):
                damage = f"; in the cache, {error.where} is {error.received} where {error.expected} was expected"
    try:
        return official(published, read(fetch_published(published, say)))
    except (DataError, StorageError) as error:
        raise type(error)(
            error.where,
            expected=error.expected,
            received=error.received + damage,
            next_step=f"{error.next_step} Or without a network: {published.place}.",
        ) from error


def fetch_published(published: Published, say: Say | None = None) -> Path:
    """Download what the cache lacks of a data set's files; the folder that holds them.

    Raises: DataError or StorageError, from the first file that fails.
    """
    folder = cache_dir() / published.name
    missing = [file for file in published.remote_files if not is_whole(folder / file.name, file)]
    if missing and say:
        size = sum(file.size for file in missing) / 1e6
        host = urllib.parse.urlsplit(missing[0].mirrors[0]).hostname
        say(f"downloading {published.name}, {size:.1f} MB, from {host} into {folder}")
    for file in missing:
        fetch(file, folder, say)
    return folder


def official(published: Published, data: DataSet) -> DataSet:
    """Pass the published data set on, refuse any other content.

    Raises: DataError for other content.
    """
    if data.provenance == published.provenance:
        return data
    raise DataError(
        data.origin,
        expected=f"the {published.images} of {published.title} (content checked by SHA-256 or MD5)",
        received=f"other content, {len(data.train_images):,} + {len(data.test_images):,} images",
        next_step=f"{published.place}.",
    )


def data_note(published: Published, provenance: str, train: int, test: int, origin: Path) -> str:
    """The sentence that says what was loaded, loud when it is not what results are compared on."""
    note = f"data: {provenance}, {train:,} training and {test:,} test images from {origin}"
    if provenance != published.provenance:
        note += f"; their checksums are NOT those of {published.title}, so results do not compare with published ones"
    return note


def wrong_file(where: Path | str, expected: str, received: str) -> DataError:
    """The error of a file that is not what its name says."""
    return DataError(
        str(where),
        expected=expected,
        received=received,
        next_step="Delete this file and copy or download it again.",
    )


def nothing_there(published: Published, data_dir: Path, expected: str) -> DataError:
    """The error of a folder in which none of the files lies."""
    return DataError(
        f"data folder {data_dir}",
        expected=expected,
        received="none of them there" if os.path.isdir(data_dir) else "no such folder",
        next_step=f"{published.place}.",
    )


def damaged_row(where: Path | str, error: DataError) -> FileRow:
    """The row of a file that cannot be read."""
    return FileRow(str(where), False, f"damaged: expected {error.expected}, received {error.received}")
