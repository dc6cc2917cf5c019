"""Errors a user may meet: each names the place, what was expected, what came, and what to do next."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was most likely meant, however cases, - and _ are written; None when none is near."""
    plain = {name.lower().replace("-", "_"): name for name in known}
    near = difflib.get_close_matches(word.lower().replace("-", "_"), plain, n=1, cutoff=0.5)
    return plain[near[0]] if near else None


class HalrpError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is the command line's answer to it."""

    exit_code = 1

    def __init__(self, where: str, *, expected: str, received: str, next_step: str) -> None:
        self.where, self.expected, self.received, self.next_step = where, expected, received, next_step
        super().__init__(f"{where}: expected {expected}, received {received}. {next_step}")

    def __reduce__(self) -> tuple[object, ...]:  # keyword-only arguments need help to cross a process boundary
        return _rebuild, (type(self), self.where, self.expected, self.received, self.next_step)


def _rebuild(kind: type[HalrpError], where: str, expected: str, received: str, next_step: str) -> HalrpError:
    return kind(where, expected=expected, received=received, next_step=next_step)


class ShapeError(HalrpError):
    """An array's shape or dtype does not fit the operation."""


class DeviceError(HalrpError):
    """A device is absent, or arrays of two devices meet."""

    exit_code = 2


class ConfigError(HalrpError):
    """A flag, a key or a value of the configuration is wrong."""

    exit_code = 2


class DataError(HalrpError):
    """A data set is absent, damaged or not what it should be."""


class ResumeError(HalrpError):
    """A run folder or a checkpoint cannot be continued or read."""


class StorageError(HalrpError):
    """A file or folder cannot be written, or another process holds it."""


class DivergenceError(HalrpError):
    """The loss is no longer a finite number."""
