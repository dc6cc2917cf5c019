"""What single layers promise beyond their formula: dropout's masks, ties and zeros, containers."""

from typing import Any

import numpy as np
import pytest

from cases import nested
from halrp_np.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, Mode, ReLU, Sequential


def training(seed: int) -> Mode:
    return Mode(train=True, dropout=np.random.default_rng(seed))


def test_dropout_keeps_the_mean_and_its_share(dtype: Any) -> None:
    x = np.full((200, 300), 2.0, dtype)
    y, _ = Dropout(0.3).forward({}, x, training(1))
    kept = y[y != 0]
    assert y.dtype == dtype
    np.testing.assert_allclose(kept, 2.0 / 0.7, rtol=1e-6)
    assert abs(kept.size / y.size - 0.7) < 0.01
    assert abs(y.mean() / 2.0 - 1) < 0.02


def test_dropout_draws_anew_and_the_same_in_every_dtype() -> None:
    mode, x = training(1), np.random.default_rng(0).normal(size=(20, 30))
    first, second = (Dropout(0.5).forward({}, x, mode)[0] for _ in range(2))
    narrow, _ = Dropout(0.5).forward({}, x.astype(np.float32), training(1))
    assert not np.array_equal(first != 0, second != 0)
    np.testing.assert_array_equal(narrow != 0, first != 0)


def test_dropout_is_the_identity_in_evaluation() -> None:
    x = np.random.default_rng(0).normal(size=(5, 6))
    generator = np.random.default_rng(1)
    before = generator.bit_generator.state
    np.testing.assert_array_equal(Dropout(0.5).forward({}, x, Mode(train=False, dropout=generator))[0], x)
    np.testing.assert_array_equal(Dropout(0.0).forward({}, x, Mode(train=True, dropout=generator))[0], x)
    assert generator.bit_generator.state == before  # and costs no draws


def test_pool_gives_a_tie_to_the_first_entry(rng: np.random.Generator) -> None:
    x = np.full((2, 4, 4, 3), 1.5)
    _, cache = MaxPool2d(2).forward({}, x)
    gy = rng.normal(size=(2, 2, 2, 3))
    expected = np.zeros(x.shape)
    expected[:, ::2, ::2] = gy
    np.testing.assert_array_equal(MaxPool2d(2).backward({}, cache, gy)[0], expected)


def test_pool_of_negative_entries() -> None:
    x = -np.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(MaxPool2d(2).forward({}, x)[0].ravel(), [-1.0, -3.0, -9.0, -11.0])


def test_relu_at_zero_has_derivative_zero() -> None:
    x = np.array([[-1.0, -0.0, 0.0, 1e-300, 2.0]])
    y, cache = ReLU().forward({}, x)
    np.testing.assert_array_equal(y, [[0.0, 0.0, 0.0, 1e-300, 2.0]])
    np.testing.assert_array_equal(ReLU().backward({}, cache, np.full((1, 5), 3.0))[0], [[0.0, 0.0, 0.0, 3.0, 3.0]])


@pytest.mark.parametrize("layer", [ReLU(), MaxPool2d(2)], ids=["relu", "maxpool"])
def test_a_nan_is_not_swallowed(layer: Any, dtype: Any) -> None:
    x = np.full((1, 2, 2, 1), -1.0, dtype)
    x[0, 1, 0, 0] = np.nan
    assert np.isnan(layer.forward({}, x)[0]).any()


def test_flatten_orders_channels_rows_columns() -> None:
    x = np.arange(24.0).reshape(2, 3, 2, 2)
    np.testing.assert_array_equal(Flatten().forward({}, x)[0][:, 1], x[..., 1].ravel())


def test_stride_of_a_pool_is_its_window_by_default() -> None:
    assert (MaxPool2d(3).stride, MaxPool2d(3, 1).stride) == (3, 1)


def test_a_sequence_is_its_layers_one_after_another(rng: np.random.Generator) -> None:
    first, second = Linear(4, 3), Linear(3, 2)
    model = Sequential({"first": first, "second": second})
    params = model.init(rng, np.float64)
    own = [{entry: params[f"{name}.{entry}"] for entry in ("weight", "bias")} for name in ("first", "second")]
    x = rng.normal(size=(4, 5))
    inner, c1 = first.forward(own[0], x)
    y, c2 = second.forward(own[1], inner)
    gy = rng.normal(size=y.shape)
    ginner, g2 = second.backward(own[1], c2, gy)
    gx, g1 = first.backward(own[0], c1, ginner)
    found, cache = model.forward(params, x)
    found_gx, grads = model.backward(params, cache, gy)
    np.testing.assert_array_equal(found, y)
    np.testing.assert_array_equal(found_gx, gx)
    joined = {f"{n}.{e}": v for n, g in (("first", g1), ("second", g2)) for e, v in g.items()}
    assert set(grads) == set(joined)
    assert all(np.array_equal(grads[name], joined[name]) for name in joined)


def test_a_sequence_ignores_parameters_of_others(rng: np.random.Generator) -> None:
    model, x = nested(), rng.normal(size=(2, 4, 5, 3))
    params = model.init(rng, np.float64)
    np.testing.assert_array_equal(model.forward({**params, "other": x}, x)[0], model.forward(params, x)[0])


def test_walk_and_names_follow_network_order() -> None:
    model = nested()
    paths = [path for path, _ in model.walk()]
    assert paths[:4] == ["block.conv", "block.norm", "block.relu", "pool"]
    assert model.trainable[:4] == ("block.conv.weight", "block.conv.bias", "block.norm.gamma", "block.norm.beta")
    assert set(model.names()) == set(model.trainable) | set(model.buffers)


def test_without_the_input_gradient_the_first_convolution_forms_none(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halrp_np.layers import conv

    model = Sequential({"a": Conv2d(1, 2, 3), "b": Conv2d(2, 2, 3)})
    params = model.init(rng, np.float64)
    y, cache = model.forward(params, rng.normal(size=(1, 6, 6, 2)))
    calls: list[Any] = []
    real = conv.grad_input
    monkeypatch.setattr(conv, "grad_input", lambda *arguments: calls.append(arguments[2]) or real(*arguments))
    assert model.backward(params, cache, y, input_gradient=False)[0] is None
    assert calls == [(2, 4, 4, 2)]
