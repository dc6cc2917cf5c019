"""Checkpoints: arrays in a safetensors file, everything else in a JSON manifest that names it and holds its checksum.

The payload `<name>-<first 12 digits of its SHA-256>.safetensors` is written first, then the manifest `<name>.json`
takes its place in one step, then the old payload is deleted. So a kill at any moment leaves a manifest and the payload
it names: the old pair or the new one.
"""

import contextlib
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from ..errors import ResumeError, ShapeError, StorageError
from ..files import remove_leftovers, storage_error, write_whole
from .plain_json import Json, line_text, parse, plain, readable_text

FORMAT = "halrp-np checkpoint"
FORMAT_VERSION = 1

_DTYPES = {"bool", "float16", "float32", "float64"} | {
    f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PAYLOAD = re.compile(r"(.+)-[0-9a-f]{12}\.safetensors")
_RESTORE = "Restore it from a copy of the run folder, resume from another checkpoint, or start the run again."


def save(folder: Path, name: str, arrays: Mapping[str, np.ndarray[Any, Any]], meta: Mapping[str, Json]) -> None:
    """Write a checkpoint, replacing the one of the same name.

    Shapes: any, 0-d and empty arrays included; dtypes float16-64, int8-64, uint8-64 and bool, in any memory layout.
    `meta` is plain JSON with string keys and finite numbers; tuples come back as lists.

    Raises: ShapeError (not a host array, another dtype); StorageError (disk full, read-only, meta is not JSON).
    """
    manifest_path = _manifest_path(folder, name)
    host = {key: _dense(key, array, manifest_path) for key, array in arrays.items()}
    plain_meta = plain(meta, f"{manifest_path}: meta")
    payload = save_safetensors(host)
    digest = hashlib.sha256(payload).hexdigest()
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "payload": f"{name}-{digest[:12]}.safetensors",
        "bytes": len(payload),
        "sha256": digest,
        "arrays": {key: {"dtype": array.dtype.name, "shape": list(array.shape)} for key, array in host.items()},
        "meta": plain_meta,
        "meta_sha256": _meta_digest(plain_meta),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error, expected="to create this folder") from error
    try:
        write_whole(folder / manifest["payload"], payload)
        write_whole(manifest_path, readable_text(manifest))
    finally:  # after a success the old payload goes, after a failure the new one
        _remove_unnamed_payloads(folder, name)


def load(folder: Path, name: str) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Json]]:
    """Read a checkpoint: writable C-ordered arrays, bit for bit as saved, and its meta.

    Raises: ResumeError naming the file that is missing, damaged or of another format version.
    """
    path = _manifest_path(folder, name)
    manifest = _read_manifest(path)
    payload_path = folder / manifest["payload"]
    payload = _read(payload_path, f"the arrays that {path.name} names")
    if len(payload) != manifest["bytes"]:
        raise _damaged(payload_path, f"{manifest['bytes']} bytes", f"{len(payload)} bytes")
    digest = hashlib.sha256(payload).hexdigest()
    if digest != manifest["sha256"]:
        raise _damaged(payload_path, f"SHA-256 {manifest['sha256']}", f"{digest}: the file has changed")
    try:
        arrays = {key: np.array(value) for key, value in load_safetensors(payload).items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damaged(payload_path, "a safetensors file", str(error)) from error
    table = {key: {"dtype": array.dtype.name, "shape": list(array.shape)} for key, array in arrays.items()}
    if table != manifest["arrays"]:
        odd = sorted(key for key in table.keys() | manifest["arrays"] if table.get(key) != manifest["arrays"].get(key))
        expected, received = manifest["arrays"].get(odd[0], "no such array"), table.get(odd[0], "no such array")
        raise _damaged(payload_path, f"'{odd[0]}' as {path.name} lists it: {expected}", str(received))
    return arrays, manifest["meta"]


def load_meta(folder: Path, name: str) -> dict[str, Json]:
    """Read a checkpoint's meta without its arrays.

    Raises: ResumeError when the manifest is missing, damaged or of another format version.
    """
    meta: dict[str, Json] = _read_manifest(_manifest_path(folder, name))["meta"]
    return meta


def names(folder: Path) -> list[str]:
    """List the checkpoints of a folder, those too of which a kill left only the manifest or only the payload."""
    manifests = {path.name.removesuffix(".json") for path in folder.glob("*.json")}
    payloads = {match[1] for path in folder.glob("*.safetensors") if (match := _PAYLOAD.fullmatch(path.name))}
    return sorted(name for name in manifests | payloads if _NAME.fullmatch(name))


def exists(folder: Path, name: str) -> bool:
    """Say whether a checkpoint of this name was saved (not whether it is intact)."""
    return _manifest_path(folder, name).is_file()


def remove(folder: Path, name: str) -> None:
    """Delete a checkpoint, if there is one: the manifest first, so that a kill leaves no manifest without its payload.

    Raises: StorageError if it cannot be deleted.
    """
    path = _manifest_path(folder, name)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error, expected="to delete it") from error
    _remove_unnamed_payloads(folder, name)


def clean(folder: Path) -> None:
    """Delete what killed writers left in a folder: temporary files, and payloads that their manifest does not name.

    Call it only while holding the run's lock. A payload whose manifest is damaged or missing stays: it may be all that
    is left of a run; the next `save` or `remove` of its name deletes it.
    """
    remove_leftovers(folder)
    for name in names(folder):
        if exists(folder, name):
            _remove_unnamed_payloads(folder, name)


def _manifest_path(folder: Path, name: str) -> Path:
    """Return where a checkpoint's manifest is, refusing names that would leave the folder."""
    if not _NAME.fullmatch(name):
        raise ResumeError(
            f"checkpoint name {name!r}",
            expected="letters, digits, '_', '-' and '.', no '.' or '-' in front",
            received=repr(name),
            next_step="Choose another name.",
        )
    return folder / f"{name}.json"


def _dense(key: object, array: object, path: Path) -> np.ndarray[Any, Any]:
    """Check one array and bring it to C order, the only layout the file format knows."""
    where = f"{path}: array {key!r}"
    if not isinstance(key, str) or key == "__metadata__":
        raise StorageError(
            where, expected="a string other than '__metadata__'", received=repr(key), next_step="Rename the array."
        )
    if not isinstance(array, np.ndarray):
        received = f"a {type(array).__module__}.{type(array).__name__}"
        raise ShapeError(where, expected="a NumPy array", received=received, next_step="Call device.to_host on it.")
    if array.dtype.name not in _DTYPES or not array.dtype.isnative:
        raise ShapeError(
            where,
            expected=f"one of the dtypes {', '.join(sorted(_DTYPES))}",
            received=array.dtype.str,
            next_step="Convert it with .astype first.",
        )
    return np.asarray(array, order="C")  # ascontiguousarray would turn 0-d into 1-d


def _read(path: Path, what: str) -> bytes:
    """Read a whole file or say which one is missing."""
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ResumeError(str(path), expected=what, received=f"'{reason}'", next_step=_RESTORE) from error


def _read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest and check everything in it that does not need the payload."""
    try:
        manifest = parse(_read(path, "the manifest of a checkpoint"))
    except ValueError as error:
        raise _damaged(path, "JSON", str(error)) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _damaged(path, f"a manifest with format '{FORMAT}'", "another kind of file")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise ResumeError(
            str(path),
            expected=f"checkpoint format version {FORMAT_VERSION}",
            received=f"version {version!r}",
            next_step="It was written by another version of halrp-np: use that version to read it.",
        )
    fields = {"payload": str, "bytes": int, "sha256": str, "arrays": dict, "meta": dict, "meta_sha256": str}
    for key, kind in fields.items():
        if not isinstance(manifest.get(key), kind):
            raise _damaged(path, f"a {kind.__name__} under '{key}'", repr(manifest.get(key)))
    match = _PAYLOAD.fullmatch(manifest["payload"])
    if not match or match[1] != path.name.removesuffix(".json"):
        expected = f"a payload named {path.name.removesuffix('.json')}-<12 digits>.safetensors in the same folder"
        raise _damaged(path, expected, repr(manifest["payload"]))
    if (digest := _meta_digest(manifest["meta"])) != manifest["meta_sha256"]:
        raise _damaged(path, f"a meta with SHA-256 {manifest['meta_sha256']}", f"{digest}: the file has changed")
    return manifest


def _meta_digest(meta: Json) -> str:
    """SHA-256 of a manifest's plain meta, whatever its layout in the file."""
    return hashlib.sha256(line_text(meta).encode()).hexdigest()


def _damaged(path: Path, expected: str, received: str) -> ResumeError:
    return ResumeError(str(path), expected=expected, received=received, next_step=f"The file is damaged. {_RESTORE}")


def _remove_unnamed_payloads(folder: Path, name: str) -> None:
    """Delete the payloads of one checkpoint that its manifest does not name."""
    path = _manifest_path(folder, name)
    with contextlib.suppress(ResumeError, OSError):  # keep what a damaged manifest may name; the next save tries again
        keep = _read_manifest(path)["payload"] if path.exists() else None
        for payload in folder.glob("*.safetensors"):
            match = _PAYLOAD.fullmatch(payload.name)
            if match and match[1] == name and payload.name != keep:
                payload.unlink(missing_ok=True)
