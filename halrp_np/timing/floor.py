"""What this machine can do at best: multiply-adds a second in registers, bytes a second through memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..backend import Device

COPY_BYTES = 2**27  # far more than a cache holds
MATRIX = 4096
TRIALS = 7


@dataclass(frozen=True)
class Floor:
    """The best rates measured: FLOP/s, and bytes/s read plus bytes/s written by a copy."""

    flops: float
    bytes: float

    def compute(self, flops: float) -> float:
        """The least milliseconds for so much arithmetic."""
        return 1e3 * flops / self.flops

    def memory(self, moved: float) -> float:
        """The least milliseconds for so many bytes read and written."""
        return 1e3 * moved / self.bytes

    def milliseconds(self, flops: float, moved: float) -> float:
        """The least milliseconds for both, side by side."""
        return max(self.compute(flops), self.memory(moved))


def measure_floor(device: Device, threads: int) -> Floor:
    """Measure both rates, with as many threads as the kernels use; on a GPU by a matrix product and a copy."""
    if device.name != "cpu":
        return _gpu_floor(device)
    from ..backend.peak import multiply_add_rate

    return Floor(multiply_add_rate(), _copy_rate(threads))


def _copy_rate(threads: int) -> float:
    """Copies of one large array by every thread its own part, the best of some trials."""
    source = np.ones(COPY_BYTES // 4, np.float32)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(TRIALS):
            begin = time.perf_counter()
            list(pool.map(lambda part: np.copyto(*part), parts))  # NumPy lets other threads run meanwhile
            seconds.append(time.perf_counter() - begin)
    return 2.0 * COPY_BYTES / min(seconds)


def _gpu_floor(device: Device) -> Floor:
    """The library's own matrix product and copy: what a kernel is measured against, not the data sheet's number."""
    xp = device.xp
    matrix, large = xp.ones((MATRIX, MATRIX), xp.float32), xp.ones(COPY_BYTES // 4, xp.float32)
    target = xp.empty_like(large)
    works: list[tuple[Callable[[], object], float]] = [
        (lambda: matrix @ matrix, 2.0 * MATRIX**3),
        (lambda: xp.copyto(target, large), 2.0 * COPY_BYTES),
    ]
    rates = []
    for work, amount in works:
        seconds = []
        for _ in range(TRIALS + 1):  # the first one loads the library
            device.synchronize()
            begin = time.perf_counter()
            work()
            device.synchronize()
            seconds.append(time.perf_counter() - begin)
        rates.append(amount / min(seconds[1:]))
    return Floor(*rates)
