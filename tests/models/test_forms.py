"""AlexNet and ResNet18 in every form they run in: perturbed and merged, plain and fused, network and inference."""

from typing import Any

import numpy as np
import pytest

from cases import Params, shapes
from curvature.problems import usual
from halrp_np.layers import (
    Conv2d,
    Mode,
    PerturbedConv2d,
    PerturbedLinear,
    Sequential,
    decomposed_layers,
    fuse,
    inference,
    merged_params,
    perturb,
)
from models.narrow import BUILDERS, CLASSES, SHAPES

by_name = pytest.mark.parametrize("name", BUILDERS)
by_norm = pytest.mark.parametrize("norm", ["running", "batch"])


def drawn(model: Sequential, rng: np.random.Generator, dtype: Any = np.float64) -> Params:
    """Parameters of a usual size, factors of rank 2 among them."""
    return {name: usual(rng, name, shape).astype(dtype) for name, shape in shapes(model, 2).items()}


def train() -> Mode:
    """Train mode with the same dropout masks each time."""
    return Mode(train=True, dropout=np.random.default_rng(7))


def close(found: Any, expected: Any, tolerance: float) -> None:
    """The same names, and values that differ by at most the tolerance times the largest of all."""
    assert found.keys() == expected.keys()
    scale = max(float(np.abs(value).max(initial=0.0)) for value in expected.values())
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * scale, err_msg=name)


@by_name
def test_every_convolution_and_linear_layer_but_the_head_is_perturbed(name: str) -> None:
    later = dict(perturb(BUILDERS[name]("running")).walk())
    twins = [path for path, layer in later.items() if isinstance(layer, PerturbedConv2d | PerturbedLinear)]
    assert twins == list(decomposed_layers(BUILDERS[name]("running")))
    assert not any(isinstance(layer, Conv2d) for layer in later.values())
    assert len(twins) == {"alexnet": 5, "resnet18": 20}[name]


@by_name
@by_norm
@pytest.mark.parametrize("in_train", [True, False], ids=["train", "eval"])
def test_merged_is_perturbed(name: str, norm: str, in_train: bool, dtype: Any, rng: np.random.Generator) -> None:
    """Outputs, and the gradients of what both have."""
    network = BUILDERS[name](norm)
    later = perturb(network)
    p, x = drawn(later, rng, dtype), rng.normal(size=(*SHAPES[name], 6)).astype(dtype)
    merged = merged_params(later, p)
    assert set(merged) == set(network.names())
    gy, passes = rng.normal(size=(CLASSES, 6)).astype(dtype), []
    for model, params in ((network, merged), (later, p)):
        y, cache = model.forward(params, x, train() if in_train else Mode())
        gx, grads = model.backward(params, cache, gy)
        shared = {entry: grads[entry] for entry in set(network.trainable) & set(later.trainable)}
        passes.append({"y": y, "gx": gx, **shared, **model.new_buffers(params, cache)})
    close(*passes, 1e-10 if dtype == np.float64 else 2e-4)


@by_name
@by_norm
@pytest.mark.parametrize("later", [False, True], ids=["base", "perturbed"])
@pytest.mark.parametrize("in_train", [True, False], ids=["train", "eval"])
def test_fused_is_plain(
    name: str, norm: str, later: bool, in_train: bool, dtype: Any, rng: np.random.Generator
) -> None:
    """Outputs, all gradients, some of the gradients, running statistics; dropout draws the same masks."""
    network = perturb(BUILDERS[name](norm)) if later else BUILDERS[name](norm)
    p, x = drawn(network, rng, dtype), rng.normal(size=(*SHAPES[name], 6)).astype(dtype)
    gy, passes = rng.normal(size=(CLASSES, 6)).astype(dtype), []
    some = network.trainable[::5]
    for model in (network, fuse(network)):
        assert (model.trainable, model.buffers) == (network.trainable, network.buffers)
        y, cache = model.forward(p, x, train() if in_train else Mode())
        gx, grads = model.backward(p, cache, gy)
        nothing, part = model.backward(p, cache, gy, input_gradient=False, wanted=some)
        assert nothing is None
        assert set(part) == set(some)
        part = {f"alone {entry}": value for entry, value in part.items()}
        passes.append({"y": y, "gx": gx, **grads, **part, **model.new_buffers(p, cache)})
    statistics = [entry for entry in network.buffers if "running" in entry] if in_train else []
    assert [entry for entry in passes[1] if "running" in entry] == statistics
    close(*passes, 1e-10 if dtype == np.float64 else 2e-4)


@by_name
@by_norm
@pytest.mark.parametrize("later", [False, True], ids=["base", "perturbed"])
def test_inference_is_evaluation(name: str, norm: str, later: bool, dtype: Any, rng: np.random.Generator) -> None:
    network = perturb(BUILDERS[name](norm)) if later else BUILDERS[name](norm)
    p, x = drawn(network, rng, dtype), rng.normal(size=(*SHAPES[name], 6)).astype(dtype)
    kept = {entry: value.copy() for entry, value in p.items()}
    folded, dense = inference(network, p)
    y = network.forward(p, x)[0]
    np.testing.assert_allclose(
        folded.forward(dense, x)[0], y, rtol=0, atol=(1e-11 if dtype == np.float64 else 1e-4) * np.abs(y).max()
    )
    assert all(np.array_equal(p[entry], kept[entry]) for entry in p)
    folded_away = [path for path, _ in folded.walk() if path.rpartition(".")[2].startswith("norm")]
    assert len(folded_away) == (0 if norm == "running" else {"alexnet": 5, "resnet18": 20}[name])
    assert not any(isinstance(layer, PerturbedConv2d | PerturbedLinear) for _, layer in folded.walk())


@by_name
def test_masks_are_drawn_anew_in_train_mode_only(name: str, rng: np.random.Generator) -> None:
    network = BUILDERS[name]("running")
    p, x = drawn(network, rng), rng.normal(size=(*SHAPES[name], 6))
    stream = np.random.default_rng(1)
    first, second = (network.forward(p, x, Mode(train=True, dropout=stream))[0] for _ in range(2))
    assert np.array_equal(first, second) == (name == "resnet18")
    np.testing.assert_array_equal(network.forward(p, x)[0], network.forward(p, x)[0])
