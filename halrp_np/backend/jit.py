"""The one way in which the CPU kernels are compiled, and the number of threads they run on."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from numba import get_num_threads, njit, set_num_threads

_WORTH_SHARING = 2**15  # elements; some 10 µs on one core, as long as it takes to wake the others

PER_ELEMENT = 16
"""Multiply-adds of a blocked kernel in the time of one element of an elementwise op, roughly."""

REASSOCIATE = {"reassoc", "contract", "nsz"}
"""Fast-math flags that let sums use vectors; NaN and infinity keep their meaning."""


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit on first call, kept on disk where a disk takes it, with division as NumPy does it.

    No kernel asks for full `fastmath`: it assumes that NaN and infinity do not occur, and they must reach the loss.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            kernel = njit(cache=True, error_model="numpy", **options)(function)
            kernel._cache._cache_file._source_stamp = sources()
            return kernel
        except RuntimeError:  # neither the package's folder nor the user's cache can be written
            return njit(error_model="numpy", **options)(function)

    return decorate


@cache
def sources() -> str:
    """A digest of every source file of this room.

    Numba holds what it keeps on disk against the file of the kernel alone, but a kernel is made of several: without
    this, an edit of a function that it calls would leave it as it was.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@contextmanager
def threads_for(elements: int) -> Iterator[None]:
    """Run small work on the calling thread: on a busy machine, waiting for a second one can take milliseconds."""
    threads = get_num_threads()
    if elements >= _WORTH_SHARING or threads == 1:
        yield
        return
    set_num_threads(1)
    try:
        yield
    finally:
        set_num_threads(threads)
