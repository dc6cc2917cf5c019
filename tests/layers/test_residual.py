"""The residual container: two branches under two names, their sum, and what is refused."""

from typing import Any

import numpy as np
import pytest

import checks
import tangent_checks
from cases import Case, residual, shapes
from halrp_np.errors import ConfigError, ShapeError
from halrp_np.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Linear,
    Mode,
    PerturbedConv2d,
    PerturbedLinear,
    ReLU,
    Residual,
    Sequential,
    decomposed_layers,
    merged_params,
    perturb,
)
from halrp_np.layers.container import Container


def drawn(layer: Any, rng: np.random.Generator) -> Any:
    """Parameters and buffers, all positive where it matters."""
    return {n: rng.uniform(0.5, 1.5, size=shape) for n, shape in shapes(layer, 2).items()}


def test_the_sum_of_both_branches(rng: np.random.Generator) -> None:
    body, shortcut, x = Linear(4, 3), Linear(4, 3), rng.normal(size=(4, 5))
    layer = Residual(body, shortcut)
    assert layer.trainable == ("body.weight", "body.bias", "shortcut.weight", "shortcut.bias")
    p = drawn(layer, rng)
    y, _ = layer.forward(p, x)
    expected = (p["body.weight"] + p["shortcut.weight"]) @ x + (p["body.bias"] + p["shortcut.bias"])[:, None]
    np.testing.assert_allclose(y, expected, rtol=1e-14)
    identity = Residual(Linear(4, 4))
    assert identity.trainable == ("body.weight", "body.bias")
    q = drawn(identity, rng)
    y, _ = identity.forward(q, x)
    np.testing.assert_allclose(y, q["body.weight"] @ x + q["body.bias"][:, None] + x, rtol=1e-14)


def test_a_body_that_hands_on_its_input(rng: np.random.Generator) -> None:
    """Dropout in evaluation returns x itself: adding it to x must not change x, nor gy on the way back."""
    layer, x, gy = Residual(Dropout(0.5)), rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    kept = x.copy(), gy.copy()
    y, cache = layer.forward({}, x)
    gx, _ = layer.backward({}, cache, gy)
    rx = rng.normal(size=(3, 2, 4))
    ry, rcache = layer.r_forward({}, cache, {}, rx)
    rgx, _ = layer.r_backward({}, cache, rcache, layer.cotangents({}, cache, gy)[1], rx)
    for found, one in ((y, x), (gx, gy), (ry, rx), (rgx, rx)):
        np.testing.assert_array_equal(found, 2 * one)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(gy, kept[1])


def test_blocks_in_blocks() -> None:
    """Residual in residual, with a sequence between, in both modes."""
    inner = Residual(Linear(4, 4), Sequential({"norm": BatchNorm1d(4), "fc": Linear(4, 4)}))
    outer = Residual(Sequential({"first": inner, "relu": ReLU(), "second": Residual(Linear(4, 4))}))
    for train in (True, False):
        case = Case(f"nested residual in residual {train}", outer, (4, 7), train=train)
        checks.check_adjoint(outer, case)
        tangent_checks.check_r_forward(outer, case)
        tangent_checks.check_r_backward(outer, case)
        tangent_checks.check_symmetry(outer, case)
        tangent_checks.check_wanted(outer, case)
        tangent_checks.check_absent_is_zero(outer, case)


def test_statistics_of_both_branches_move(rng: np.random.Generator) -> None:
    layer = Residual(BatchNorm2d(3), Sequential({"conv": Conv2d(3, 3, 1), "norm": BatchNorm2d(3)}))
    p, x = drawn(layer, rng), rng.normal(size=(3, 4, 2, 5))
    assert layer.buffers == tuple(f"{n}.running_{s}" for n in ("body", "shortcut.norm") for s in ("mean", "var"))
    _, cache = layer.forward(p, x, Mode(train=True))
    moved = layer.new_buffers(p, cache)
    assert set(moved) == set(layer.buffers)
    np.testing.assert_allclose(moved["body.running_mean"], 0.9 * p["body.running_mean"] + 0.1 * x.mean(axis=(1, 2, 3)))
    assert all((moved[name] != p[name]).all() for name in layer.buffers)
    assert layer.new_buffers(p, layer.forward(p, x)[1]) == {}


def test_initial_parameters() -> None:
    network = residual()
    params = network.init(np.random.default_rng(0), np.float32)
    assert {name: value.shape for name, value in params.items()} == shapes(network, 2)
    assert all(value.dtype == np.float32 for value in params.values())
    again = network.init(np.random.default_rng(0), np.float32)
    assert all((params[name] == again[name]).all() for name in params)
    with pytest.raises(ConfigError, match=r"parameters of same: .*received none called same\.body\.conv\.weight"):
        network.forward({n: v for n, v in params.items() if n != "same.body.conv.weight"}, np.ones((2, 4, 5, 3)))


def test_walk_and_replace_keep_the_structure() -> None:
    network = residual()
    names = [name for name, _ in network.walk()]
    assert names == [
        "stem.conv", "stem.norm", "stem.relu", "same.body.conv", "same.body.norm", "same.body.relu", "relu1",
        "half.body.conv", "half.body.norm", "half.shortcut.conv", "half.shortcut.norm", "relu2",
        "pool", "flatten", "head",
    ]  # fmt: skip
    twin = network.replaced(lambda name, layer: Linear(7, 7) if name == "same.body.relu" else layer)
    half, same = twin.layers["half"], twin.layers["same"]
    assert isinstance(half, Residual)
    assert isinstance(same, Residual)
    assert list(half.layers) == ["body", "shortcut"]
    assert list(same.layers) == ["body"]
    assert "same.body.relu.weight" in twin.trainable
    assert "same.body.relu.weight" not in network.trainable
    assert isinstance(network.layers["same"], Container)


def test_perturbed_blocks_compute_what_merged_ones_do(rng: np.random.Generator) -> None:
    network = residual()
    assert list(decomposed_layers(network)) == ["stem.conv", "same.body.conv", "half.body.conv", "half.shortcut.conv"]
    later = perturb(network)
    assert all(isinstance(dict(later.walk())[name], PerturbedConv2d) for name in decomposed_layers(network))
    assert not isinstance(dict(later.walk())["head"], PerturbedLinear)
    p, x = drawn(later, rng), rng.normal(size=(2, 4, 5, 3))
    merged = merged_params(later, p)
    assert set(merged) == set(network.names())
    np.testing.assert_allclose(network.forward(merged, x)[0], later.forward(p, x)[0], rtol=1e-12)


def test_a_halving_block_by_hand() -> None:
    """One image 1..9; a 3x3 convolution beside a 1x1 one, both perturbed and of stride 2.

    Body: W = 1, R = 2, S = ½, A = 1, B = ¼, so K = 2·1·½ + ¼·1 = 1.25 at all nine positions. Its padded windows
    sum to 12, 16, 24, 28, which with the bias 0.1 gives 15.1, 20.1, 30.1, 35.1.
    Shortcut: W = 3, R = 2, S = ½, A = -2, B = ½, so K = 2·3·½ + ½·(-2) = 2. It sees the corners 1, 3, 7, 9 only,
    which with the bias -1 gives 1, 5, 13, 17.
    """
    body, shortcut = PerturbedConv2d(Conv2d(1, 1, 3, 2, 1)), PerturbedConv2d(Conv2d(1, 1, 1, 2, 0))
    layer, x = Residual(body, shortcut), np.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    numbers = {
        "body": {"weight": 1.0, "R": 2.0, "S": 0.5, "A": 1.0, "B": 0.25, "bias": 0.1},
        "shortcut": {"weight": 3.0, "R": 2.0, "S": 0.5, "A": -2.0, "B": 0.5, "bias": -1.0},
    }
    p = {
        name: np.full(shape, numbers[name.split(".")[0]][name.split(".")[1]])
        for name, shape in shapes(layer, 1).items()
    }
    y, cache = layer.forward(p, x)
    np.testing.assert_allclose(y[0, :, :, 0], [[16.1, 25.1], [43.1, 52.1]], rtol=1e-14)
    gx, grads = layer.backward(p, cache, np.ones((1, 2, 2, 1)))
    # of the shortcut Σ gK = 1+3+7+9 = 20, of the body 12+16+24+28 = 80: gR = Σ gK W S, gS = Σ gK R W, gA = B Σ gK, ...
    expected = {
        "body": {"R": 80 * 0.5, "S": 80 * 2, "A": 80 * 0.25, "B": 80 * 1, "bias": 4},
        "shortcut": {"R": 20 * 1.5, "S": 20 * 6, "A": 20 * 0.5, "B": 20 * -2, "bias": 4},
    }
    found = {
        branch: {entry: float(grads[f"{branch}.{entry}"].item()) for entry in expected[branch]} for branch in expected
    }
    assert found == expected
    # a corner is in one window of the body, an edge in two, the middle in all four
    assert gx is not None
    np.testing.assert_allclose(gx[0, :, :, 0], [[3.25, 2.5, 3.25], [2.5, 5.0, 2.5], [3.25, 2.5, 3.25]], rtol=1e-14)


def test_a_shortcut_of_two_channels_by_hand() -> None:
    """K = R W S + B A, row by row: 2·(1·½, 2·3) + 2·(1, -1) = (3, 10) and -1·(3·½, -1·3) + 1·(1, -1) = (-½, 2)."""
    layer = PerturbedConv2d(Conv2d(2, 2, 1, 2, 0))
    p = {
        "weight": np.array([[1.0, 2.0], [3.0, -1.0]]).reshape(2, 2, 1, 1),
        "R": np.array([2.0, -1.0]),
        "S": np.array([0.5, 3.0]),
        "A": np.array([[1.0, -1.0]]),
        "B": np.array([[2.0], [1.0]]),
        "bias": np.array([0.1, -0.2]),
    }
    rising = np.arange(1.0, 10.0).reshape(3, 3)
    y, _ = layer.forward(p, np.stack([rising, 10 - rising])[..., None])
    # the corners are (1, 9), (3, 7), (7, 3), (9, 1)
    np.testing.assert_allclose(y[0, :, :, 0], [[93.1, 79.1], [51.1, 37.1]], rtol=1e-14)
    np.testing.assert_allclose(y[1, :, :, 0], [[17.3, 12.3], [2.3, -2.7]], rtol=1e-13)


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (
            Residual(Linear(4, 3)),
            (4, 5),
            r"Residual: expected two branches of one shape, \(4, 5\), received also \(3, 5\)",
        ),
        (Residual(Linear(4, 3), Linear(4, 2)), (4, 5), r"one shape, \(3, 5\), received also \(2, 5\)"),
        (
            Residual(Conv2d(2, 3, 3, 2, 1), Conv2d(2, 3, 1)),
            (2, 4, 4, 5),
            r"\(3, 2, 2, 5\), received also \(3, 4, 4, 5\)",
        ),
        (Residual(Linear(4, 1)), (4, 5), r"received also \(1, 5\)"),
    ],
    ids=["no shortcut", "features", "stride", "one that would broadcast"],
)
def test_branches_of_two_shapes_are_refused(layer: Residual, x: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        layer.forward(drawn(layer, np.random.default_rng(0)), np.ones(x))
