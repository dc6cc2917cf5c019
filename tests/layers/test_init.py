"""Initial parameters: bounds, distribution, precision, and the order in which the stream is drawn."""

import math
from typing import Any

import numpy as np
import pytest

from cases import nested
from halrp_np.layers import BatchNorm1d, Conv2d, Flatten, Layer, Linear, ReLU
from halrp_np.models import lenet


@pytest.mark.parametrize(
    ("layer", "fan_in"), [(Linear(40, 60), 40), (Conv2d(7, 30, 5), 7 * 25), (Conv2d(3, 64, 1), 3)], ids=["fc", "5", "1"]
)
def test_weights_and_biases_are_uniform_below_the_fan_in(layer: Layer, fan_in: int, dtype: Any) -> None:
    bound = 1.0 / math.sqrt(fan_in)
    for seed in range(3):
        params = layer.init(np.random.default_rng(seed), dtype)
        for value in params.values():
            assert value.dtype == dtype
            assert np.abs(value).max() <= np.nextafter(dtype(bound), dtype(1))
        weight = params["weight"].astype(np.float64).ravel()
        assert np.abs(weight).max() > 0.9 * bound
        assert abs(weight.mean()) < 5 * bound / math.sqrt(3 * weight.size)
        assert abs(weight.var() / (bound**2 / 3) - 1) < 0.3
        assert abs(params["bias"]).max() > 0.5 * bound


def test_float32_starts_at_the_same_point_as_float64() -> None:
    wide, narrow = (lenet((1, 8, 8), 3).init(np.random.default_rng(2), kind) for kind in (np.float64, np.float32))
    for name, value in wide.items():
        np.testing.assert_array_equal(value.astype(np.float32), narrow[name])


def test_batchnorm_starts_as_the_identity() -> None:
    params = BatchNorm1d(3).init(np.random.default_rng(0), np.float32)
    assert {name: set(value.tolist()) for name, value in params.items()} == {
        "gamma": {1.0},
        "beta": {0.0},
        "running_mean": {0.0},
        "running_var": {1.0},
    }


def test_stream_is_drawn_layer_by_layer_weight_before_bias() -> None:
    rng = np.random.default_rng(5)
    model = nested()
    params = model.init(np.random.default_rng(5), np.float64)
    for path, fan_in in (("block.conv", 18), ("tail.fc", 12), ("head", 5)):
        for entry in ("weight", "bias"):
            value = params[f"{path}.{entry}"]
            bound = 1.0 / math.sqrt(fan_in)
            np.testing.assert_array_equal(value, rng.uniform(-bound, bound, size=value.shape))


def test_init_fills_exactly_the_names_that_are_read() -> None:
    for layer in (nested(), Linear(2, 3), BatchNorm1d(2, track=False), ReLU(), Flatten()):
        assert set(layer.init(np.random.default_rng(0), np.float64)) == set(layer.names())
