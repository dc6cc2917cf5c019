"""JSON that reads back as it was written: string keys only, no NaN, sorted, floats in their shortest exact form."""

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from ..errors import StorageError

Json: TypeAlias = Any
"""None, bool, int, float, str, list or dict of the same with string keys."""

NonFinite: TypeAlias = Literal["refuse", "explain"]


def plain(value: object, where: str, *, non_finite: NonFinite = "refuse") -> Json:
    """Return a value as plain JSON values, or say which part of it JSON cannot hold.

    NumPy scalars become Python's (float32 exactly), tuples become lists. With `non_finite="explain"`, NaN or infinity
    under a key is written as null, and `<key>_reason` beside it says which of them it was.

    Raises: StorageError for a key that is no string, a number that is not finite, an array, or any other object.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _refused(where, f"{value!r}", "Store null and a reason beside it.")
        return float(value)
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]", non_finite=non_finite) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return _plain_mapping(value, where, non_finite)
    advice = "Call .tolist() on it first." if hasattr(value, "tolist") else "Convert it to numbers, text, lists, dicts."
    raise _refused(where, f"a {type(value).__name__}", advice)


def _plain_mapping(mapping: Mapping[Any, object], where: str, non_finite: NonFinite) -> dict[str, Json]:
    """Convert a mapping, explaining its non-finite numbers if asked to."""
    result: dict[str, Json] = {}
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise _refused(where, f"the key {key!r} of type {type(key).__name__}", "Write the key as a string.")
        if non_finite == "explain" and isinstance(value, float | np.floating) and not math.isfinite(value):
            result[key] = None
            if f"{key}_reason" not in mapping:
                result[f"{key}_reason"] = f"not a finite number: {float(value)!r}"
        else:
            result[key] = plain(value, f"{where}.{key}", non_finite=non_finite)
    return result


def _refused(where: str, received: str, next_step: str) -> StorageError:
    return StorageError(where, expected="a value that JSON can hold", received=received, next_step=next_step)


def readable_text(value: Json) -> str:
    """Return plain values as indented JSON with sorted keys, a list of bare values on one line, and a final newline."""
    return _indented(value, "") + "\n"


def _indented(value: Json, indent: str) -> str:
    """Write one value; nested values are two blanks further in."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{inner}{json.dumps(key)}: {_indented(value[key], inner)}" for key in sorted(value)]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) and item for item in value):
        return "[\n" + ",\n".join(inner + _indented(item, inner) for item in value) + f"\n{indent}]"
    return line_text(value)


def line_text(value: Json) -> str:
    """Return plain values as JSON with sorted keys on one line, without the newline."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def parse(text: str | bytes) -> Json:
    """Read JSON, refusing NaN and infinity.

    Raises: ValueError with the reason and, where known, the line.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is not a JSON value")
