"""Writing the IDX format, for files that the tests then read or damage."""

import struct

import numpy as np


def idx_bytes(array: np.ndarray) -> bytes:
    """An array as the content of an IDX file."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()
