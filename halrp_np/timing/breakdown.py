"""Where the time of a step goes: every op of it, how often it ran, how long, and how near to the floor."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import ops
from .floor import Floor

Key = tuple[str, str]
OUTSIDE = "outside ops"


class Work:
    """Arithmetic and memory traffic of ops, from the shapes that went in and came out.

    A multiply-add counts as two; padding counts as work, and a convolution counts as a direct one however it is done.
    Bytes are those of all arguments and results once, as if no cache held anything between two ops. Ops that only pass
    over arrays count no arithmetic: memory bounds them. So a rate may be above the floor's: by caches, by Winograd.
    """

    def __init__(self) -> None:
        self._forward: dict[int, tuple[Any, float, float, tuple[int, ...]]] = {}
        """A fused pass by what it saved: that, FLOPs, bytes, the kernel's shape."""

    def of(self, name: str, arrays: tuple[Any, ...], options: dict[str, Any], result: Any) -> tuple[float, float, str]:
        """FLOPs and bytes of one call, and the shape that tells it from another call of the same op."""
        results = result if isinstance(result, tuple) else (result,)
        passed = [array for array in (*arrays, *results) if hasattr(array, "nbytes")]
        moved = float(sum(array.nbytes for array in passed))
        if name == "adam_flat":  # parameters and moments are written, too
            moved += float(sum(arrays[at].nbytes for at in (0, 2, 3)))
        if name == "pull":  # the gradient is written, too
            moved += float(arrays[0].nbytes)
        if name == "conv_block_backward":  # what it saved is read: inputs and outputs of the convolution
            moved += self._forward[id(options["saved"])][2]
        flops, shape = self._arithmetic(name, arrays, options, results)
        return flops, moved, "x".join(str(n) for n in shape)

    def _arithmetic(
        self, name: str, arrays: tuple[Any, ...], options: dict[str, Any], results: tuple[Any, ...]
    ) -> tuple[float, tuple[int, ...]]:
        """FLOPs, and a shape: the kernel's where there is one."""
        first = tuple(arrays[0].shape)
        if name in ("matmul", "linear", "linear_add"):
            rows, inner, columns = _product(name, arrays)
            return 2.0 * rows * inner * columns, (rows, inner, columns)
        if name == "row_dots":
            return 2.0 * arrays[0].size, first
        if name in ("conv_block", "conv_block_apply"):
            x, kernel = arrays[:2]
            positions = _positions(x, kernel, options)
            flops = 2.0 * math.prod(kernel.shape) * positions
            if name == "conv_block":  # what was saved is kept alive: its id stays its own
                read = x.nbytes + kernel.shape[0] * positions * x.itemsize
                self._forward[id(results[3])] = (results[3], flops, read, tuple(kernel.shape))
            return flops, tuple(kernel.shape)
        if name == "conv_block_backward":
            _, flops, _, kernel = self._forward[id(options["saved"])]
            return flops * sum(gradient is not None for gradient in results[:2]), kernel
        if name.startswith("conv2d"):
            kernel = tuple(options["w_shape"]) if "w_shape" in options else tuple(arrays[1].shape)
            output = results[0] if name == "conv2d" else arrays[0]
            return 2.0 * math.prod(kernel) * math.prod(output.shape[1:]), kernel
        return 0.0, first


def _product(name: str, arrays: tuple[Any, ...]) -> tuple[int, int, int]:
    """Rows, inner size and columns of a matrix product, from where each op has its two factors."""
    first, second = {"matmul": (0, 1), "linear": (1, 0), "linear_add": (3, 2)}[name]
    a, b = arrays[first], arrays[second]
    return int(np.prod(a.shape[:-1])), int(a.shape[-1]), int(np.prod(b.shape[1:]))


def _positions(x: Any, w: Any, options: dict[str, Any]) -> float:
    """Pixels of a convolution's output, over all images."""
    stride, padding = options["stride"], options["padding"]
    sizes = [(n + 2 * padding - k) // stride + 1 for n, k in zip(x.shape[1:3], w.shape[2:], strict=True)]
    return float(math.prod(sizes) * x.shape[-1])


def breakdown(
    call: Callable[[], object], floor: Floor | None, repeats: int, synchronize: Callable[[], None]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The whole call's arithmetic, traffic and floor, and a row for each op by falling time, with what is outside them.

    Times are medians over the repeats; waiting for a GPU after each op makes the sum larger than the step.
    """
    call()
    runs: list[dict[Key, list[float]]] = []
    totals: list[float] = []
    for _ in range(repeats):
        found: dict[Key, list[float]] = {}
        begin = time.perf_counter()
        with ops.observed(_watch(found, Work(), synchronize)):
            call()
            synchronize()
        totals.append(time.perf_counter() - begin)
        runs.append(found)
    total = 1e3 * float(np.median(totals))
    rows = [_row(key, [run[key] for run in runs], total, floor) for key in runs[0]]
    rows.sort(key=lambda row: -row["ms"])
    inside = sum(row["ms"] for row in rows)
    rows.append({"op": OUTSIDE, "shape": "", "calls": 0, "ms": total - inside, "share": (total - inside) / total})
    flops, moved = (sum(run[at] for run in runs[0].values()) for at in (2, 3))
    whole = {"gflop": flops / 1e9, "mb": moved / 1e6}
    if floor is not None:
        floors = {"compute_floor_ms": floor.compute(flops), "memory_floor_ms": floor.memory(moved)}
        whole |= {**floors, "floor_ms": floor.milliseconds(flops, moved)}
    return whole, rows


def _watch(found: dict[Key, list[float]], work: Work, synchronize: Callable[[], None]) -> ops.Observer:
    """An observer that adds calls, seconds, FLOPs and bytes to `found`, by op and shape."""

    def around(name: str, function: Callable[..., Any], arrays: tuple[Any, ...], options: dict[str, Any]) -> Any:
        begin = time.perf_counter()
        result = function(*arrays, **options)
        synchronize()
        seconds = time.perf_counter() - begin
        flops, moved, shape = work.of(name, arrays, options, result)
        sums = found.setdefault((name, shape), [0.0, 0.0, 0.0, 0.0])
        for at, value in enumerate((1.0, seconds, flops, moved)):
            sums[at] += value
        return result

    return around


def _row(key: Key, runs: list[list[float]], total: float, floor: Floor | None) -> dict[str, Any]:
    """One op's line."""
    calls, _, flops, moved = runs[0]
    ms = 1e3 * float(np.median([run[1] for run in runs]))
    row = {"op": key[0], "shape": key[1], "calls": int(calls), "ms": ms, "share": ms / total}
    row |= {"gflops": flops / ms / 1e6 if flops else None, "gbytes": moved / ms / 1e6}
    if floor is None:
        return row
    least = floor.milliseconds(flops, moved)
    return row | {"floor_ms": least, "of_floor": ms / least if least else None}
