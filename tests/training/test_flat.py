"""Flat parameters: the views by name are the segments, nothing overlaps, and what was saved comes back."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halrp_np.errors import ConfigError
from halrp_np.training import SGD, Adam, Optimizer, Penalty
from halrp_np.training.flat import Flat

SHAPES = st.lists(st.lists(st.integers(1, 9), max_size=4).map(tuple), min_size=1, max_size=6)
OPTIMIZERS = [Adam(scale=2.0), SGD(momentum=0.5), SGD()]


def draw(seed: int, shapes: list[tuple[int, ...]], dtype: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"p{k}": np.asarray(rng.normal(size=shape), dtype=dtype) for k, shape in enumerate(shapes)}


@settings(max_examples=50, deadline=None)
@given(shapes=SHAPES, dtype=st.sampled_from([np.float32, np.float64]))
def test_views_are_the_parameters_and_start_on_a_cache_line(shapes: list[tuple[int, ...]], dtype: Any) -> None:
    params = draw(0, shapes, dtype)
    flat = Flat(params, tuple(params), ("m", "v"), {}, {})
    for views, whole in ((flat.params, flat.theta), (flat.grads, flat.grad), (flat.moment_params, None)):
        for number, (name, view) in enumerate(views.items()):
            assert view.shape == params[name.split("/")[-1]].shape
            assert view.dtype == dtype
            if whole is not None:
                assert (view.ctypes.data - whole.ctypes.data) % 64 == 0
                view[...] = number
    assert all((view == number).all() for number, view in enumerate(flat.params.values()))  # no two overlap
    assert flat.ends[-1] == flat.theta.size == flat.grad.size


@settings(max_examples=30, deadline=None)
@given(shapes=SHAPES, number=st.integers(1, 5), optimizer=st.sampled_from(OPTIMIZERS))
def test_a_parameter_moves_as_if_it_were_alone(
    shapes: list[tuple[int, ...]], number: int, optimizer: Optimizer
) -> None:
    """Bit for bit, with a penalty of its own."""
    params, grads = draw(1, shapes, np.float32), draw(2, shapes, np.float32)
    penalties = {name: Penalty(0.1 * k, 0.2 * k, 0.5) for k, name in enumerate(params)}
    together = Flat(params, tuple(params), optimizer.moments, {}, penalties)
    together.set_gradients(grads)
    optimizer.update(together, together.on_device(optimizer.factors(0.1, number)))
    for name in params:
        alone = Flat({name: params[name]}, (name,), optimizer.moments, {}, penalties)
        alone.set_gradients({name: grads[name]})
        optimizer.update(alone, alone.on_device(optimizer.factors(0.1, number)))
        np.testing.assert_array_equal(together.params[name], alone.params[name])
        for kind in optimizer.moments:
            moment = f"{kind}/{name}"
            np.testing.assert_array_equal(together.moment_params[moment], alone.moment_params[moment])


def test_saved_moments_are_copied_and_missing_ones_are_zero() -> None:
    params = draw(3, [(2, 3), (5,)], np.float64)
    saved = {"m/p1": np.arange(5.0)}
    flat = Flat(params, tuple(params), ("m", "v"), saved, {})
    np.testing.assert_array_equal(flat.moment_params["m/p1"], saved["m/p1"])
    assert not any(flat.moment_params[name].any() for name in ("m/p0", "v/p0", "v/p1"))
    flat.moments["m"][...] = 7
    np.testing.assert_array_equal(saved["m/p1"], np.arange(5.0))


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match="a network with trainable parameters"):
        Flat({}, (), (), {}, {})
