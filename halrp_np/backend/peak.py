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
from numba.extending import intrinsic as numba_intrinsic

from .jit import compiled
from .simd import LANES

CHAINS = 20
"""Vectors at work: more than the latency of a multiply-add times the number of units."""
_ROUNDS = 2_000_000

intrinsic: Any = numba_intrinsic  # its own annotations describe the Python function, not the compiled one


@intrinsic
def _chains(typing_context: Any, rounds: Any, a: Any, b: Any) -> Any:
    """CHAINS vectors, `rounds` times v ← a v + b, then their sum in the first lane."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rounds, a, b = arguments
        vector = ir.VectorType(ir.FloatType(), LANES)
        kind = ir.FunctionType(vector, [vector] * 3)
        name = f"llvm.fmuladd.v{LANES}f32"
        multiply_add = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
        zero = ir.Constant(ir.IntType(32), 0)
        spread = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        empty = ir.Constant(vector, ir.Undefined)
        wide_a, wide_b = (
            builder.shuffle_vector(builder.insert_element(empty, scalar, zero), empty, spread) for scalar in (a, b)
        )
        slots = []
        for chain in range(CHAINS):
            start = builder.fadd(wide_a, ir.Constant(vector, [float(chain)] * LANES))
            slots.append(cgutils.alloca_once_value(builder, start))  # type: ignore[no-untyped-call]
        with cgutils.for_range(builder, rounds):
            for slot in slots:
                builder.store(builder.call(multiply_add, [builder.load(slot, typ=vector), wide_a, wide_b]), slot)
        total = ir.Constant(vector, [0.0] * LANES)
        for slot in slots:
            total = builder.fadd(total, builder.load(slot, typ=vector))
        return builder.extract_element(total, zero)

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
