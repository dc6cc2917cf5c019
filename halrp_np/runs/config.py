"""A configuration as a frozen dataclass, filled from layers of keys and values, with errors that name key and layer.

The schema's fields are of type int, float, bool, str, pathlib.Path, Literal[...], tuple[X, ...] of these, or X | None.
A field's metadata may hold `help` and the bounds `min`, `max` (inclusive) and `above` (exclusive).
"""

import dataclasses
import functools
import math
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union

from ..errors import ConfigError, nearest
from .plain_json import Json

Schema = TypeVar("Schema")

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NOTHING = {"none", "null", ""}
_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)  # a class never changes


class Row(NamedTuple):
    """One field of a schema as text, for the documentation and the command line."""

    key: str
    type: str
    default: str
    help: str


class _UnfitError(Exception):
    """A value does not fit its type or bounds; the text is what to do."""


def resolve(schema: type[Schema], *layers: tuple[str, Mapping[str, object]]) -> Schema:
    """Build a configuration from its defaults and layers (source name, mapping), a later layer winning.

    Values are checked and converted in every layer, the overridden too: int for float, and text by the field's type
    ('1e-3', 'yes', '0.1,0.2', 'none').

    Raises: ConfigError naming the key, the layer, what was expected and received, and for an unknown key the nearest.
    """
    fields = _fields(schema)
    hints = _hints(schema)
    values: dict[str, object] = {}
    for source, mapping in layers:
        for key, value in mapping.items():
            if key not in fields:
                raise _unknown(key, source, list(fields))
            values[key] = _checked(fields[key], hints[key], value, source)
    for key, field in fields.items():
        if key not in values and _is_required(field):
            raise ConfigError(
                f"key '{key}'",
                expected=_describe_type(hints[key], field.metadata),
                received="no value",
                next_step=f"Set it with --set {key}=VALUE or in the configuration file.",
            )
    return schema(**values)


def as_record(config: object) -> dict[str, Json]:
    """Return a configuration as plain JSON values that `resolve` reads back to an equal one."""
    return {key: _as_json(getattr(config, key)) for key in _fields(type(config))}


def describe(schema: type[object]) -> list[Row]:
    """List the fields of a schema in their order: key, type with bounds, default, help."""
    hints = _hints(schema)
    return [
        Row(key, _describe_type(hints[key], field.metadata), _default_text(field), field.metadata.get("help", ""))
        for key, field in _fields(schema).items()
    ]


def as_text(value: object) -> str:
    """A value as --set takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(as_text(item) for item in value) if isinstance(value, list | tuple) else str(value)


def parse_assignment(text: str) -> tuple[str, str]:
    """Split the `key=value` of a --set option; the value stays text until `resolve` gives it its type.

    Raises: ConfigError without '=' or without a key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError("--set", expected="key=value", received=repr(text), next_step="Write it like --set epochs=5.")
    return key.strip(), value.strip()


def load_toml(path: Path) -> dict[str, object]:
    """Read a flat TOML file of keys and values.

    Raises: ConfigError when it is missing, has a syntax error (with its line), or holds a table.
    """
    try:
        content = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise _bad_file(path, "a readable TOML file", f"'{reason}'", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise _bad_file(path, "UTF-8 text", str(error), "Save the file as UTF-8.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _bad_file(path, "TOML, like `epochs = 5` on a line", str(error), "Correct that line.") from error
    for key, value in content.items():
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value)):
            raise _bad_file(path, "keys and values only", f"the table [{key}]", f"Move the keys of [{key}] to the top.")
    return content


def _bad_file(path: Path, expected: str, received: str, next_step: str) -> ConfigError:
    return ConfigError(str(path), expected=expected, received=received, next_step=next_step)


def _fields(schema: type[object]) -> dict[str, "dataclasses.Field[Any]"]:
    """Return the fields that a configuration may set."""
    return {field.name: field for field in dataclasses.fields(schema) if field.init}  # type: ignore[arg-type]


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _unknown(key: object, source: str, known: list[str]) -> ConfigError:
    """Name the nearest key, or all of them when none is near."""
    near = nearest(str(key), known)
    next_step = f"Did you mean '{near}'?" if near else f"The keys are: {', '.join(sorted(known))}."
    return ConfigError(f"{source}: key {key!r}", expected="a known key", received=repr(key), next_step=next_step)


def _checked(field: "dataclasses.Field[Any]", hint: Any, value: object, source: str) -> object:
    """Convert one value and check its bounds, or raise the error that names it."""
    try:
        return _convert(value, hint, field.metadata)
    except _UnfitError as unfit:
        near = nearest(str(value), [str(choice) for choice in _choices(hint)])
        raise ConfigError(
            f"{source}: key '{field.name}'",
            expected=_describe_type(hint, field.metadata),
            received=f"a table with {len(value)} keys" if isinstance(value, Mapping) else repr(value),
            next_step=f"Did you mean {near!r}?" if near else str(unfit),
        ) from unfit


def _convert(value: object, hint: Any, bounds: Mapping[str, Any]) -> object:
    """Return a value in the type of its field, or raise _UnfitError with advice."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_optional(value, hint, bounds)
    if origin is Literal:
        return _convert_choice(value, hint)
    if origin is tuple:
        return _convert_tuple(value, hint, bounds)
    if hint is bool:
        return _convert_bool(value)
    if hint in (int, float):
        return _within(_convert_number(value, hint), bounds)
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, str | Path) and str(value):
        return Path(value).expanduser()
    if hint in (str, Path):
        raise _UnfitError("Write it in quotes in a TOML file.")
    raise TypeError(f"a configuration field cannot be of type {hint}")


def _convert_optional(value: object, hint: Any, bounds: Mapping[str, Any]) -> object:
    """Convert to X | None; text can say none."""
    if value is None or (isinstance(value, str) and value.lower() in _NOTHING):
        return None
    return _convert(value, _without_none(hint), bounds)


def _without_none(hint: Any) -> Any:
    """Return the X of X | None."""
    inner = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
    if len(inner) != 1:
        raise TypeError(f"a configuration field cannot be of type {hint}")
    return inner[0]


def _convert_choice(value: object, hint: Any) -> object:
    """Find a value among the choices, by its text when it came as text."""
    for choice in _choices(hint):
        if (type(value) is type(choice) and value == choice) or (isinstance(value, str) and value == str(choice)):
            return choice
    raise _UnfitError("Choose one of these.")


def _convert_tuple(value: object, hint: Any, bounds: Mapping[str, Any]) -> object:
    """Convert a list, or text with commas, item by item."""
    if isinstance(value, str):
        value = [item.strip() for item in value.split(",")] if value.strip() else []
    if not isinstance(value, list | tuple):
        raise _UnfitError("Write several values with commas, or as a list in a TOML file.")
    return tuple(_convert(item, typing.get_args(hint)[0], bounds) for item in value)


def _convert_bool(value: object) -> bool:
    text = str(value).lower() if isinstance(value, bool | int | str) else ""
    if text not in _TRUTH:
        raise _UnfitError("Write true or false.")
    return _TRUTH[text]


def _convert_number(value: object, kind: type[int] | type[float]) -> int | float:
    """Convert a whole or a real number, or its text; a bool is neither, a whole number is also real."""
    if isinstance(value, bool) or not isinstance(value, str | int if kind is int else str | int | float):
        raise _UnfitError("Write a number.")
    try:
        number = kind(value)
    except (ValueError, OverflowError) as error:
        raise _UnfitError("Write a number.") from error
    if isinstance(number, float) and not math.isfinite(number):
        raise _UnfitError("Write a finite number.")
    return number


def _within(number: int | float, bounds: Mapping[str, Any]) -> int | float:
    """Check a number against the bounds of its field."""
    below = number < bounds.get("min", number) or ("above" in bounds and number <= bounds["above"])
    if below or number > bounds.get("max", number):
        raise _UnfitError("Choose a number in this range.")
    return number


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the choices of a Literal, also inside X | None and tuples."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return tuple(choice for inner in typing.get_args(hint) for choice in _choices(inner))


def _describe_type(hint: Any, bounds: Mapping[str, Any]) -> str:
    """Say in words what a field takes."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return f"{_describe_type(_without_none(hint), bounds)}, or none"
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(hint))
    if origin is tuple:
        return f"a list of: {_describe_type(typing.get_args(hint)[0], bounds)}"
    if hint in (int, float):
        words = {"above": "above {}", "min": "at least {}", "max": "at most {}"}
        limits = [text.format(bounds[key]) for key, text in words.items() if key in bounds]
        return " ".join(["a whole number" if hint is int else "a number", " and ".join(limits)]).strip()
    return {bool: "true or false", str: "text", Path: "a path"}.get(hint, str(hint))


def _default_text(field: "dataclasses.Field[Any]") -> str:
    """Write a default as --set would take it."""
    if _is_required(field):
        return "required"
    made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return _as_text(made)


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(_as_text(item) for item in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _as_json(value: object) -> Json:
    """Return one value as JSON holds it."""
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value
