"""Running statistics of BatchNorm: unbiased variance, momentum, purity, and whose statistics move when."""

from typing import Any

import numpy as np
import pytest

from cases import nested
from checks import check_running_statistics
from halrp_np.errors import ShapeError
from halrp_np.layers import BatchNorm1d, BatchNorm2d, Mode, Sequential

TRAIN = Mode(train=True)


@pytest.mark.parametrize(("norm", "shape"), [(BatchNorm1d, (3, 7)), (BatchNorm2d, (3, 2, 4, 5))])
@pytest.mark.parametrize("momentum", [0.1, 0.25, 1.0])
def test_running_statistics(
    norm: type, shape: tuple[int, ...], momentum: float, dtype: Any, rng: np.random.Generator
) -> None:
    layer = norm(3, momentum=momentum)
    x = rng.normal(5.0, 2.0, size=shape).astype(dtype)
    params = {**layer.init(rng, dtype), "running_mean": rng.normal(size=3).astype(dtype)}
    kept = {name: value.copy() for name, value in params.items()}
    check_running_statistics(layer, params, x)
    for name, value in kept.items():
        np.testing.assert_array_equal(params[name], value)
    _, cache = layer.forward(params, x, TRAIN)
    assert {value.dtype for value in layer.new_buffers(params, cache).values()} == {np.dtype(dtype)}


def test_default_momentum_and_eps() -> None:
    layer = BatchNorm2d(4)
    assert (layer.momentum, layer.eps, layer.track) == (0.1, 1e-5, True)


def test_evaluation_moves_nothing(rng: np.random.Generator) -> None:
    layer = BatchNorm1d(3)
    params = layer.init(rng, np.float64)
    _, cache = layer.forward(params, rng.normal(size=(3, 6)))
    assert layer.new_buffers(params, cache) == {}


def test_untracked_layer_has_no_buffers_and_uses_the_batch(rng: np.random.Generator) -> None:
    layer, x = BatchNorm1d(3, track=False), rng.normal(size=(3, 6))
    params = layer.init(rng, np.float64)
    assert set(params) == {"gamma", "beta"}
    train, cache = layer.forward(params, x, TRAIN)
    assert layer.new_buffers(params, cache) == {}
    np.testing.assert_array_equal(train, layer.forward(params, x)[0])


@pytest.mark.parametrize("track", [True, False])
def test_one_value_a_channel_has_no_statistics(rng: np.random.Generator, track: bool) -> None:
    layer = BatchNorm1d(3, track=track)
    params = layer.init(rng, np.float64)
    with pytest.raises(ShapeError, match="BatchNorm1d: expected more than one value a channel"):
        layer.forward(params, rng.normal(size=(3, 1)), TRAIN)
    if track:
        layer.forward(params, rng.normal(size=(3, 1)))  # evaluation needs none


def test_batch_statistics_normalise_and_running_ones_do_not(rng: np.random.Generator) -> None:
    layer, x = BatchNorm2d(3), rng.normal(4.0, 3.0, size=(3, 4, 4, 9))
    params = layer.init(rng, np.float64)
    y = layer.forward(params, x, TRAIN)[0].reshape(3, -1)
    np.testing.assert_allclose(y.mean(axis=1), 0.0, atol=1e-13)
    np.testing.assert_allclose(y.var(axis=1), 1.0, rtol=1e-4)  # biased, and below 1 by eps
    np.testing.assert_allclose(layer.forward(params, x)[0], x / np.sqrt(1 + 1e-5), rtol=1e-14)


def test_large_mean_does_not_spoil_the_variance(rng: np.random.Generator) -> None:
    """E[x²] - E[x]² would lose everything here."""
    layer, x = BatchNorm1d(2), (1e3 + rng.normal(size=(2, 500))).astype(np.float32)
    y, _ = layer.forward(layer.init(rng, np.float32), x, TRAIN)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(axis=1, keepdims=True)) / wide.std(axis=1, keepdims=True)
    np.testing.assert_allclose(y, expected, atol=1e-3)


def test_nested_statistics_carry_their_path(rng: np.random.Generator) -> None:
    model = nested()
    params = model.init(rng, np.float64)
    _, cache = model.forward(params, rng.normal(size=(2, 4, 5, 6)), TRAIN)
    moved = model.new_buffers(params, cache)
    assert set(moved) == set(model.buffers)
    entries = ("running_mean", "running_var")
    assert set(moved) == {f"{path}.norm.{entry}" for path in ("block", "tail") for entry in entries}


def test_training_on_one_task_moves_no_other_tasks_statistics(rng: np.random.Generator) -> None:
    """Two tasks share one network object: whatever it keeps lies in each task's own parameters."""
    model: Sequential = nested()
    first = model.init(rng, np.float64)
    second = {name: value.copy() for name, value in first.items()}
    before = {name: value.copy() for name, value in first.items()}
    probe = rng.normal(size=(2, 4, 5, 3))
    answer = model.forward(first, probe)[0]
    for _ in range(3):
        _, cache = model.forward(second, rng.normal(3.0, 2.0, size=(2, 4, 5, 6)), TRAIN)
        second.update(model.new_buffers(second, cache))
    assert not np.array_equal(second["block.norm.running_mean"], before["block.norm.running_mean"])
    assert all(np.array_equal(first[name], before[name]) for name in before)
    np.testing.assert_array_equal(model.forward(first, probe)[0], answer)
