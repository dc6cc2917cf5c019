"""A run folder: config.json, environment.json, metrics.jsonl, CSV tables, summary.json and the checkpoints."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import HalrpError, ResumeError, StorageError
from ..files import exclusive_lock, is_leftover, storage_error, write_whole
from . import checkpoint
from .environment import environment
from .plain_json import Json, line_text, parse, plain, readable_text
from .tables import Cell, parse_table, table_text

__all__ = ["CONFIG", "FORMAT", "FORMAT_VERSION", "METRICS", "RunFolder", "environment"]

FORMAT = "halrp-np run"
FORMAT_VERSION = 1
CONFIG, METRICS = "config.json", "metrics.jsonl"
_LOCK, _CHECKPOINTS = ".lock", "checkpoints"
_NEW_FOLDER = "Restore it from a copy, or start the run again in a new folder."


@dataclass(frozen=True)
class RunFolder:
    """The files of one run; JSON and tables are written whole, metrics are appended line by line.

    Files hold what the caller gives and nothing of the moment: equal runs leave equal bytes.
    """

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Make a new folder, or take one that holds nothing but the traces of a run killed before its config.json.

        Raises: StorageError when the folder holds something, is a file, or cannot be made.
        """
        folder = Path(path)
        cls.check_new(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(folder, error, expected="to create this run folder") from error
        return cls(folder)

    @classmethod
    def check_new(cls, path: str | os.PathLike[str]) -> None:
        """Refuse a path where `create` would refuse what is there; nothing is made.

        Raises: StorageError when the folder holds something, or is or lies under a file.
        """
        folder = Path(path)
        try:
            held = sorted(entry.name for entry in folder.iterdir() if not _is_trace(entry))
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(folder, error, expected="to create this run folder") from error
        if held:
            resumable = CONFIG in held
            raise StorageError(
                str(folder),
                expected="a new or empty folder for the run",
                received="a folder that holds a run" if resumable else f"a folder that holds {', '.join(held[:3])}",
                next_step=(f"Continue it with `halrp-np resume {folder}`, or c" if resumable else "C")
                + "hoose another folder with --out.",
            )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Open the folder of a run that was started.

        Raises: ResumeError when it is no run folder or was written in another format version.
        """
        folder = cls(Path(path))
        if not (folder.path / CONFIG).is_file():
            raise ResumeError(
                str(path),
                expected=f"a run folder (one with a {CONFIG})",
                received="a folder without it" if folder.path.is_dir() else "no such folder",
                next_step="Check the path, or start a run with `halrp-np run --out`.",
            )
        folder.config()
        return folder

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; `checkpoint.save` makes it."""
        return self.path / _CHECKPOINTS

    @contextlib.contextmanager
    def lock(self, doing: str = "halrp-np run") -> Iterator[None]:
        """Keep other processes from writing here, and delete what a killed writer left.

        Raises: StorageError at once when another process holds the folder.
        """
        with exclusive_lock(self.path / _LOCK, wait_seconds=0, holder=doing):
            for folder in (self.path, self.checkpoints):
                checkpoint.clean(folder)
            yield

    def write_json(self, name: str, value: Mapping[str, Json]) -> None:
        """Write a JSON file whole: sorted keys, indented; NaN becomes null with `<key>_reason` beside it.

        `config.json` also gets the name and version of this format.

        Raises: StorageError (disk full, read-only, a value JSON cannot hold).
        """
        path = self._file(name)
        stamped = {**value, "format": FORMAT, "format_version": FORMAT_VERSION} if name == CONFIG else value
        write_whole(path, readable_text(plain(stamped, f"{path}: value", non_finite="explain")))

    def write_csv(self, name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Write a table whole; None becomes an empty cell.

        Raises: StorageError (disk full, read-only, a row of another length, a cell that is no finite number or text).
        """
        path = self._file(name)
        write_whole(path, table_text(header, rows, str(path)))

    def append_metric(self, value: Mapping[str, Json]) -> None:
        """Add one line to metrics.jsonl and hand it to the system at once; NaN as in `write_json`.

        Raises: StorageError (disk full, read-only); the file then ends where it did before.
        """
        path = self.path / METRICS
        line = line_text(plain(value, f"{path}: value", non_finite="explain")).encode() + b"\n"
        try:
            with open(path, "ab", buffering=0) as file:
                before = file.tell()
                try:
                    _write_all(file.fileno(), line)
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(before)
                    raise
        except OSError as error:
            raise storage_error(path, error, expected="to append a line") from error

    def metrics_bytes(self) -> int:
        """Return the length of metrics.jsonl once the disk has all of it, for a checkpoint and `rewind_metrics`."""
        path = self.path / METRICS
        try:
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
                return file.seek(0, os.SEEK_END)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise storage_error(path, error, expected="to flush it") from error

    def rewind_metrics(self, n_bytes: int) -> None:
        """Cut metrics.jsonl back to the length that a checkpoint noted.

        Raises: ResumeError when the file is shorter or no line ends there; StorageError when it cannot be written.
        """
        path = self.path / METRICS
        try:
            content = path.read_bytes() if path.exists() else b""
            if len(content) < n_bytes or (n_bytes and content[n_bytes - 1 : n_bytes] != b"\n"):
                raise ResumeError(
                    str(path),
                    expected=f"a line that ends at byte {n_bytes}, where the checkpoint was saved",
                    received=f"a file of {len(content)} bytes that has none there",
                    next_step=_NEW_FOLDER,
                )
            if len(content) > n_bytes:
                os.truncate(path, n_bytes)
        except OSError as error:
            raise storage_error(path, error, expected="to cut it back") from error

    def config(self) -> dict[str, Json]:
        """Read config.json without its format stamp.

        Raises: ResumeError when it is damaged or of another format version.
        """
        path = self.path / CONFIG
        config = self.read_json(CONFIG)
        if config.pop("format", None) != FORMAT:
            raise _unreadable(path, f"the configuration of a run (format '{FORMAT}')", "another kind of JSON file")
        version = config.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ResumeError(
                str(path),
                expected=f"run format version {FORMAT_VERSION}",
                received=f"version {version!r}",
                next_step="It was written by another version of halrp-np: use that version to read it.",
            )
        return config

    def read_json(self, name: str) -> dict[str, Json]:
        """Read a JSON file.

        Raises: ResumeError when it is missing or damaged.
        """
        path = self._file(name)
        try:
            value = parse(_text(path))
        except ValueError as error:
            raise _unreadable(path, "JSON", str(error)) from error
        if not isinstance(value, dict):
            raise _unreadable(path, "a JSON object", f"a {type(value).__name__}")
        return value

    def read_csv(self, name: str) -> tuple[list[str], list[dict[str, Cell]]]:
        """Read a table: its header, and each row as a dict of typed cells (see `tables.parse_table`).

        Raises: ResumeError when it is missing or damaged.
        """
        path = self._file(name)
        return parse_table(_text(path), str(path))

    def read_metrics(self) -> list[dict[str, Json]]:
        """Read metrics.jsonl, leaving out a last line that a kill cut off; an absent file has no lines.

        Raises: ResumeError naming a damaged line.
        """
        path = self.path / METRICS
        lines = _text(path).split("\n")[:-1] if path.exists() else []  # the rest after the last newline is torn
        values = []
        for number, line in enumerate(lines, start=1):
            try:
                value = parse(line)
            except ValueError as error:
                raise _unreadable(path, f"JSON in line {number}", str(error)) from error
            if not isinstance(value, dict):
                raise _unreadable(path, f"a JSON object in line {number}", f"a {type(value).__name__}")
            values.append(value)
        return values

    def _file(self, name: str) -> Path:
        """Return the path of one file of the folder, refusing names that would leave it."""
        if Path(name).name != name or name in ("", ".."):
            raise StorageError(
                str(self.path), expected="a file name", received=repr(name), next_step="Leave out the folder."
            )
        return self.path / name


def _is_trace(entry: Path) -> bool:
    """Say whether an entry is what a run leaves when it is killed before its config.json is whole."""
    return entry.name == _LOCK or is_leftover(entry)


def _write_all(descriptor: int, content: bytes) -> None:
    """Write until everything is written; one call is the rule, so that a kill seldom tears a line."""
    while content:
        content = content[os.write(descriptor, content) :]


def _text(path: Path) -> str:
    """Read a text file or say why not."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ResumeError(str(path), expected="to read it", received=f"'{reason}'", next_step=_NEW_FOLDER) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "UTF-8 text", str(error)) from error


def _unreadable(path: Path, expected: str, received: str) -> HalrpError:
    return ResumeError(str(path), expected=expected, received=received, next_step=f"The file is damaged. {_NEW_FOLDER}")
