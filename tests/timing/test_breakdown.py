"""What an op costs is counted from shapes; a breakdown's rows add up to its step."""

import numpy as np
import pytest

from halrp_np.backend import Device, ops
from halrp_np.timing.breakdown import OUTSIDE, Work, breakdown
from halrp_np.timing.floor import Floor
from halrp_np.timing.workloads import workloads
from timing.small import problem


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


CONV = {"stride": 1, "padding": 2}
X, W, GY = zeros(3, 8, 8, 4), zeros(5, 3, 5, 5), zeros(5, 8, 8, 4)
CONV_FLOPS = 2 * (5 * 3 * 5 * 5) * (8 * 8 * 4)


@pytest.mark.parametrize(
    ("name", "arrays", "options", "result", "flops", "moved", "shape"),
    [
        ("matmul", (zeros(2, 3), zeros(3, 5)), {}, zeros(2, 5), 60, 4 * (6 + 15 + 10), "2x3x5"),
        ("linear", (zeros(3, 5), zeros(2, 3), zeros(2)), {}, zeros(2, 5), 60, 4 * (15 + 6 + 2 + 10), "2x3x5"),
        ("linear", (zeros(3, 5), zeros(2, 3), None), {}, zeros(2, 5), 60, 4 * (15 + 6 + 10), "2x3x5"),
        ("conv2d", (X, W), CONV, GY, CONV_FLOPS, X.nbytes + W.nbytes + GY.nbytes, "5x3x5x5"),
        ("conv2d_grad_input", (GY, W), CONV, X, CONV_FLOPS, X.nbytes + W.nbytes + GY.nbytes, "5x3x5x5"),
        (
            "conv2d_grad_weight",
            (GY, X),
            {"w_shape": W.shape, **CONV},
            W,
            CONV_FLOPS,
            X.nbytes + W.nbytes + GY.nbytes,
            "5x3x5x5",
        ),
        ("relu", (X,), {}, X, 0, 2 * X.nbytes, "3x8x8x4"),
        ("adam_flat", (zeros(6), zeros(6), zeros(6), zeros(6)), {}, None, 0, 4 * 6 * 7, "6"),
        ("pull", (zeros(6), zeros(6), zeros(6), zeros(6)), {}, None, 0, 4 * 6 * 5, "6"),
    ],
)
def test_work_of_an_op(
    name: str, arrays: tuple, options: dict, result: object, flops: float, moved: float, shape: str
) -> None:
    assert Work().of(name, arrays, options, result) == (flops, moved, shape)


def test_a_fused_backward_costs_its_forward_once_or_twice() -> None:
    work, saved, pooled, channel = Work(), object(), zeros(5, 4, 4, 4), zeros(5)
    forward = work.of("conv_block", (X, W, channel), {**CONV, "pool": 2}, (pooled, channel, channel, saved))
    assert forward[0] == CONV_FLOPS
    for gx, gw, times in ((X, W, 2), (None, W, 1), (X, None, 1), (None, None, 0)):
        result = (gx, gw, channel, channel)
        flops, moved, shape = work.of("conv_block_backward", (pooled,), {"saved": saved}, result)
        assert (flops, shape) == (times * CONV_FLOPS, "5x3x5x5")
        passed = [pooled, channel, channel, X, GY, *(array for array in (gx, gw) if array is not None)]
        assert moved == sum(array.nbytes for array in passed)


def test_the_floor_is_the_slower_of_arithmetic_and_memory() -> None:
    floor = Floor(flops=1e9, bytes=1e8)
    assert floor.milliseconds(1e6, 0.0) == 1.0
    assert floor.milliseconds(1e6, 1e6) == 10.0


def test_rows_add_up_to_the_step() -> None:
    call = workloads(problem(), Device("cpu"))["base_step"]().call
    whole, rows = breakdown(call, Floor(1e9, 1e9), repeats=1, synchronize=lambda: None)
    assert rows[-1]["op"] == OUTSIDE
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert [row["ms"] for row in rows[:-1]] == sorted((row["ms"] for row in rows[:-1]), reverse=True)
    assert whole["gflop"] > 0
    assert whole["compute_floor_ms"] == pytest.approx(1e3 * whole["gflop"])
    assert whole["memory_floor_ms"] == pytest.approx(whole["mb"])
    assert whole["floor_ms"] == max(whole["compute_floor_ms"], whole["memory_floor_ms"])
    assert not ops._observers  # nobody listens any more


def test_without_a_floor_nothing_is_said_of_it() -> None:
    whole, rows = breakdown(lambda: ops.relu(X), None, repeats=1, synchronize=lambda: None)
    assert set(whole) == {"gflop", "mb"}
    assert "of_floor" not in rows[0]
