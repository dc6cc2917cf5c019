"""The whole chain from two weights to packed factors, on each device, against the host in float64."""

from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Device, to_host
from halrp_np.lowrank import (
    COLUMN_RULES,
    PRUNE_RULES,
    PrunePlan,
    count_nonzero,
    decompose,
    fit_col_scale,
    fit_row_scale,
    initial_factors,
    prune,
    residual,
    truncated,
    window_mean,
)


def adapt(W: Any, F: Any, rule: str) -> list[Any]:
    """R, S, residual, singular values, B A and its truncation, at rank 3."""
    R = fit_row_scale(W, F)
    S = fit_col_scale(W, F, R, rule)
    E = residual(W, F, R, S)
    parts = decompose(window_mean(E))
    A, B = initial_factors(parts, 3)
    return [R, S, E, parts.s, B @ A, truncated(parts, 3)]


@pytest.mark.parametrize("rule", COLUMN_RULES)
@pytest.mark.parametrize("shape", [(7, 5), (5, 4, 3, 2)])
def test_adaptation(shape: tuple[int, ...], rule: str, dtype: Any, device_name: str, rng: np.random.Generator) -> None:
    W = rng.normal(size=shape)
    F = W * rng.uniform(0.5, 1.5, size=shape)
    device = Device(device_name)
    found = adapt(*(device.to_device(a.astype(dtype)) for a in (W, F)), rule)
    for a, b in zip(found, adapt(W, F, rule), strict=True):
        assert a.dtype == dtype
        assert isinstance(a, type(device.to_device(W)))
        np.testing.assert_allclose(to_host(a), b, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("rule", PRUNE_RULES)
def test_pruning_is_the_same_to_the_bit(rule: str, dtype: Any, device_name: str, rng: np.random.Generator) -> None:
    host = [
        {layer: (rng.normal(size=(2, 9)).astype(dtype), rng.normal(size=(8, 2)).astype(dtype)) for layer in "ab"}
        for _ in range(3)
    ]
    plan = PrunePlan(rule, None if rule == "absolute" else 0.37, 0.2)
    device = Device(device_name)
    there = [{layer: (device.to_device(A), device.to_device(B)) for layer, (A, B) in task.items()} for task in host]
    for task, expected in zip(prune(there, plan), prune(host, plan), strict=True):
        for layer in expected:
            for a, b in zip(task[layer], expected[layer], strict=True):
                assert a.dtype == dtype
                np.testing.assert_array_equal(to_host(a), b)
                assert count_nonzero(a) == np.count_nonzero(b)
