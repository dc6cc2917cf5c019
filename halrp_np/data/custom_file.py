"""The TOML file that describes a user's own stream, read with every check that needs no images."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, nearest

_KEYS = {
    "name": "a name of letters, digits, '.', '_' and '-'",
    "images": "a folder with a folder of images for each class, or an .npz file",
    "test_images": "a folder like images, with the test images",
    "test": "a number between 0 and 1, both excluded: the share of each class that is for testing",
    "size": "[height, width] in pixels, each from 1 to 1024",
    "channels": "1 for grey or 3 for RGB",
    "classes_per_task": "an integer of at least 2",
    "tasks": "a list of tasks, each a list of at least 2 class names",
    "mean": "a number from 0 to 1, or a list of one for each channel",
    "std": "a number from 0.000001 to 1, or a list of one for each channel",
}
EXAMPLE = 'For example: name = "birds", images = "photos", test = 0.2, size = [32, 32], classes_per_task = 5.'


@dataclass(frozen=True)
class Description:
    """The content of the file, each value checked by itself; None is what is not there."""

    path: Path
    content: dict[str, Any]
    name: str
    images: Path
    test_images: Path | None
    test: float | None
    size: tuple[int, int] | None
    channels: int | None
    classes_per_task: int | None
    tasks: list[list[str]] | None
    mean: list[float]
    std: list[float]

    def wrong(self, key: str, received: object, next_step: str, expected: str = "") -> ConfigError:
        """The error of a key; it names the file."""
        where = f"{self.path}, {key}"
        return ConfigError(where, expected=expected or _KEYS[key], received=str(received), next_step=next_step)

    def absent(self, key: str, path: Path) -> ConfigError:
        """The error of a key that names a file or folder that is not there."""
        return self.wrong(key, f"{path}, which is not there", f"Correct {key}: a path is relative to this file.")

    def one_of(self, first: str, second: str) -> None:
        """Refuse a description that has both keys or neither. Raises: ConfigError."""
        given = [key for key in (first, second) if key in self.content]
        if len(given) != 1:
            raise self.wrong(first, "both" if given else "neither", EXAMPLE, f"{first}, or else {second}")

    def check_channels(self, channels: int) -> None:
        """Refuse a mean or std that is not one number or one a channel. Raises: ConfigError."""
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                expected = f"one number, or {channels} of them"
                raise self.wrong(key, f"{len(values)} numbers", f"Correct {key}, or channels.", expected)


def read_description(path: Path) -> Description:
    """Read the file and check every key by itself; paths in it are relative to it.

    Raises: ConfigError naming the file and the key.
    """
    content = _parse(path)
    for key in content:
        if key not in _KEYS:
            near = nearest(key, _KEYS)
            advice = f"Did you mean {near}?" if near else "Leave it out."
            raise _wrong(path, key, f"one of the keys {', '.join(_KEYS)}", f"the key {key!r}", advice)
    for key in ("name", "images"):
        if key not in content:
            raise _wrong(path, key, _KEYS[key], "nothing", EXAMPLE)
    read = {key: _CHECKS[key](value) for key, value in content.items()}
    for key, value in read.items():
        if value is None:
            raise _wrong(path, key, _KEYS[key], _shown(content[key]), f"Correct {key}.")
    places: dict[str, Any] = {
        key: path.parent / os.path.expanduser(read[key]) for key in ("images", "test_images") if key in read
    }
    values: dict[str, Any] = {**dict.fromkeys(_KEYS), "mean": [0.5], "std": [0.5], **read, **places}
    return Description(path=path, content=content, **values)


def _parse(path: Path) -> dict[str, Any]:
    """The keys and values of a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = f"'{error.strerror or error}'"
        raise _wrong(path, "", "a TOML file that describes a stream", reason, "Check the path.") from error
    except (ValueError, RecursionError) as error:  # no TOML or no text, a number of too many digits, too deep a list
        raise _wrong(path, "", "a file in the TOML format", f"'{error}'", f"Correct that line. {EXAMPLE}") from error


def _name(value: object) -> str | None:
    """A name that is safe in the name of a folder."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value) else None


def _text(value: object) -> str | None:
    """A path."""
    return value if isinstance(value, str) and value and "\0" not in value else None


def _integer(value: object, low: int, high: int) -> int | None:
    """An integer in a range; True is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high else None


def _share(value: object) -> float | None:
    """A number between 0 and 1, both excluded."""
    return value if isinstance(value, float) and 0 < value < 1 else None


def _size(value: object) -> tuple[int, int] | None:
    """Two integers."""
    sides = [_integer(side, 1, 1024) for side in value] if isinstance(value, list) else []
    return (sides[0], sides[1]) if len(sides) == 2 and sides[0] and sides[1] else None


def _channels(value: object) -> int | None:
    """1 or 3."""
    return value if _integer(value, 1, 3) in (1, 3) and isinstance(value, int) else None


def _tasks(value: object) -> list[list[str]] | None:
    """Lists of names; numbers are the names of labels."""
    if not isinstance(value, list) or not value:
        return None
    tasks = []
    for group in value:
        if not isinstance(group, list) or len(group) < 2:
            return None
        if any(isinstance(name, bool) or not isinstance(name, str | int) for name in group):
            return None
        tasks.append([str(name) for name in group])
    return tasks


def _numbers(low: float) -> Callable[[object], list[float] | None]:
    """A check for a number from `low` to 1, or a list of some."""

    def check(value: object) -> list[float] | None:
        values = value if isinstance(value, list) else [value]
        good = [float(x) for x in values if isinstance(x, int | float) and not isinstance(x, bool) and low <= x <= 1]
        return good if good and len(good) == len(values) else None

    return check


_CHECKS: dict[str, Callable[[object], Any]] = {
    "name": _name,
    "images": _text,
    "test_images": _text,
    "test": _share,
    "size": _size,
    "channels": _channels,
    "classes_per_task": lambda value: _integer(value, 2, 1_000_000),
    "tasks": _tasks,
    "mean": _numbers(0.0),
    "std": _numbers(1e-6),
}


def _shown(value: object) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _wrong(path: Path, key: str, expected: str, received: str, next_step: str) -> ConfigError:
    """The error of a key, or of the whole file."""
    where = f"{path}, {key}" if key else str(path)
    return ConfigError(where, expected=expected, received=received, next_step=next_step)
