"""Writing small image files and zip archives, for files that the tests then read or damage."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """An image, or an array (H, W) or (H, W, 3), as the content of a file."""
    content = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(content, kind, **options)
    return content.getvalue()


def write_tree(root: Path, files: Mapping[str, bytes]) -> Path:
    """Files below a folder, which is returned."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_zip(path: Path, files: Mapping[str, bytes], packed: bool = False) -> Path:
    """The same files in an archive, which is returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path
