"""Results as one JSON document, for a program to read."""

from __future__ import annotations

from collections.abc import Mapping

from ..runs.environment import environment
from ..runs.plain_json import plain, readable_text

FORMAT_VERSION = 1


def document(kind: str, content: Mapping[str, object]) -> str:
    """The content with the name and version of this format and the versions of what computed it, as JSON.

    A number that is not finite becomes null, with the reason beside it under `<key>_reason`.

    Raises: StorageError for a value that JSON cannot hold.
    """
    here = environment()
    versions = {"python": here["python"]["version"], **here["packages"]}
    stamp = {"format": f"halrp-np {kind}", "format_version": FORMAT_VERSION, "versions": versions}
    return readable_text(plain({**content, **stamp}, kind, non_finite="explain"))
