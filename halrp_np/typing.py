"""Names for the few types that every room shares."""

from typing import Any, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""A NumPy or CuPy array; dimensions are stated in docstrings, batch last."""

Params: TypeAlias = dict[str, Array]
"""Parameters and buffers by name, e.g. `conv1.weight`."""

Shape: TypeAlias = tuple[int, ...]


class Examples(Protocol):
    """Labelled images that can be gathered onto the device, some rows at a time.

    Examples that look at the rows on the host say so with an attribute `on_host = True`: their batches cannot be part
    of a recording.
    """

    def __len__(self) -> int: ...

    def begin_epoch(self, generator: np.random.Generator) -> None:
        """An epoch of training begins: what varies from epoch to epoch is drawn now, for all rows."""
        ...

    def batch(self, rows: Array) -> tuple[Array, Array]:
        """Images (C, H, W, N) or features (D, N), and labels (N,), of these rows, given on the host or the device."""
        ...
