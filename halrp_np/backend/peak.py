"""The most multiply-adds a second that this machine's cores do: the floor under every kernel that computes.

Each thread repeats v ← a v + b on 20 vectors that stay in registers; they do not wait for one another, so the
multiply-add units are never idle, and no memory is touched.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from llvmlite import ir
from numba import get_num_threads, prange
from numba.core import cgutils, types

from .jit import compiled
from .simd import LANES, VECTOR, broadcast, intrinsic, multiply_add

CHAINS = 20
"""Vectors at work: more than the latency of a multiply-add times the number of units."""
_ROUNDS = 2_000_000


@intrinsic
def _chains(typing_context: Any, rounds: Any, a: Any, b: Any) -> Any:
    """CHAINS vectors, `rounds` times v ← a v + b, then their sum in the first lane."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rounds, a, b = arguments
        wide_a, wide_b = broadcast(builder, a), broadcast(builder, b)
        slots = []
        for chain in range(CHAINS):
            start = builder.fadd(wide_a, ir.Constant(VECTOR, [float(chain)] * LANES))
            slots.append(cgutils.alloca_once_value(builder, start))  # type: ignore[no-untyped-call]
        with cgutils.for_range(builder, rounds):
            for slot in slots:
                builder.store(multiply_add(builder, builder.load(slot, typ=VECTOR), wide_a, wide_b), slot)
        total = ir.Constant(VECTOR, None)
        for slot in slots:
            total = builder.fadd(total, builder.load(slot, typ=VECTOR))
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return types.float32(types.int64, types.float32, types.float32), emit


@compiled(parallel=True)
def _run(rounds: int, sums: Any, a: Any, b: Any) -> None:
    """The chains on every thread."""
    for thread in prange(len(sums)):
        sums[thread] = _chains(rounds, a, b)


def multiply_add_rate(trials: int = 7) -> float:
    """The best of some trials, in FLOP a second; a multiply-add counts as two."""
    sums = np.zeros(get_num_threads(), np.float32)
    a, b = np.float32(0.5), np.float32(1.0)
    _run(1, sums, a, b)
    seconds = []
    for _ in range(trials):
        begin = time.perf_counter()
        _run(_ROUNDS, sums, a, b)
        seconds.append(time.perf_counter() - begin)
    return 2.0 * CHAINS * LANES * _ROUNDS * len(sums) / min(seconds)
