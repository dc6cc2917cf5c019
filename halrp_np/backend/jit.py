"""The one way in which the CPU kernels are compiled."""

from typing import Any

from numba import njit


def compiled(**options: Any) -> Any:
    """numba.njit, kept on disk, with division as NumPy does it.

    No kernel asks for full `fastmath`: it assumes that NaN and infinity do not occur, and they must reach the loss.
    """
    return njit(cache=True, error_model="numpy", **options)
