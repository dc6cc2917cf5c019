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
