"""Names for the few types that every room shares."""

from typing import Any, TypeAlias

Array: TypeAlias = Any
"""A NumPy or CuPy array; dimensions are stated in docstrings, batch last."""

Params: TypeAlias = dict[str, Array]
"""Parameters and buffers by name, e.g. `conv1.weight`."""

Shape: TypeAlias = tuple[int, ...]
