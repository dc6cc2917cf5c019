"""The perturbed layers: the specification's numbers, two branches against one dense kernel, merging for inference."""

from typing import Any

import numpy as np
import pytest

from cases import PERTURBED_WINDOWS, Case, nested
from formulas import directional
from halrp_np.layers import (
    Conv2d,
    Linear,
    Mode,
    PerturbedConv2d,
    PerturbedLinear,
    Sequential,
    decomposed_layers,
    effective_weight,
    merged_params,
    perturb,
)
from halrp_np.layers.perturbed import project_gradient
from halrp_np.models import lenet


def worked_example(stride: int, dtype: Any = np.float64) -> Any:
    """Input 1..9, base weight all 1, R 2, S 0.5, A 1, B 0.25, bias 0.1, padding 1."""
    layer = PerturbedConv2d(Conv2d(1, 1, 3, stride, padding=1))
    numbers = {"R": [2.0], "S": [0.5], "A": [[1.0]], "B": [[0.25]], "bias": [0.1]}
    params = {name: np.array(value, dtype) for name, value in numbers.items()}
    params["weight"] = np.full((1, 1, 3, 3), 1.0, dtype)
    y, _ = layer.forward(params, np.arange(1.0, 10.0, dtype=dtype).reshape(1, 3, 3, 1))
    return y[0, :, :, 0]


def test_worked_example(dtype: Any) -> None:
    tolerance = 1e-9 if dtype == np.float64 else 1e-5
    y = worked_example(1, dtype)
    np.testing.assert_allclose([y[1, 1], y[0, 0]], [56.35, 15.1], rtol=tolerance)
    np.testing.assert_allclose(worked_example(2, dtype), [[15.1, 20.1], [30.1, 35.1]], rtol=tolerance)


@pytest.mark.parametrize("window", PERTURBED_WINDOWS, ids=str)
def test_every_gradient_entry_is_that_of_the_two_branches(window: tuple[int, int, int]) -> None:
    """Each entry of each gradient against the exact derivative of the paper's two-branch form."""
    case = Case(f"entries {window}", PerturbedConv2d(Conv2d(2, 3, *window)), (2, 5, 4, 2))
    params, x, gy = case.draw()
    _, cache = case.layer.forward(params, x)
    gx, grads = case.layer.backward(params, cache, gy)
    for name, gradient in {"x": gx, **grads}.items():
        expected = np.empty(gradient.shape)
        for index in np.ndindex(*gradient.shape):
            unit = np.zeros(gradient.shape)
            unit[index] = 1.0
            dp, dx = ({}, unit) if name == "x" else ({name: unit}, np.zeros(x.shape))
            expected[index] = np.sum(gy * directional(case.layer, params, x, case.mode(), dp, dx))
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max(), err_msg=name)


def random_perturbation(model: Sequential, rng: np.random.Generator, dtype: Any, rank: int = 2) -> dict[str, Any]:
    """Parameters of a perturbed network, none of them special."""
    fresh = _plain(model).init(rng, dtype)
    params = {name: value + 0.1 * rng.normal(size=value.shape) for name, value in fresh.items()}
    for name, layer in model.walk():
        if isinstance(layer, PerturbedLinear | PerturbedConv2d):
            J, I = layer.base.outputs, layer.base.inputs
            for entry, shape in {"R": (J,), "S": (I,), "A": (rank, I), "B": (J, rank)}.items():
                params[f"{name}.{entry}"] = rng.normal(size=shape)
    return {name: (np.abs(v) if name.endswith("var") else v).astype(dtype) for name, v in params.items()}


def _plain(model: Sequential) -> Sequential:
    """The network with the base layers back in place."""
    kinds = PerturbedLinear | PerturbedConv2d
    return model.replaced(lambda _, layer: layer.base if isinstance(layer, kinds) else layer)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("network", ["lenet", "nested"])
def test_merged_network_computes_the_same(network: str, train: bool, dtype: Any, rng: np.random.Generator) -> None:
    base = lenet((2, 8, 8), 5, widths=(3, 4, 10, 6)) if network == "lenet" else nested()
    shape = (2, 8, 8, 6) if network == "lenet" else (2, 4, 5, 6)
    model, x = perturb(base), rng.normal(size=shape).astype(dtype)
    params = random_perturbation(model, rng, dtype)
    kept = {name: value.copy() for name, value in params.items()}
    merged = merged_params(model, params)
    assert set(merged) == set(base.names())
    assert all(value.dtype == dtype for value in merged.values())
    ours, theirs = (m.forward(p, x, Mode(train=train))[0] for m, p in ((model, params), (base, merged)))
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=(1e-4 if dtype == np.float32 else 1e-12) * np.abs(ours).max())
    assert set(params) == set(kept)
    assert all(np.array_equal(params[name], kept[name]) for name in kept)


def test_effective_weight_of_no_change_is_the_base_weight(dtype: Any, rng: np.random.Generator) -> None:
    for shape in ((4, 3), (4, 3, 5, 5)):
        W = rng.normal(size=shape).astype(dtype)
        R, S = np.full(4, 1.0, dtype), np.full(3, 1.0, dtype)
        none = {"weight": W, "R": R, "S": S, "A": rng.normal(size=(2, 3)).astype(dtype), "B": np.zeros((4, 2), dtype)}
        np.testing.assert_array_equal(effective_weight(none), W)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2), (4, 3, 1, 1)], ids=str)
def test_projected_gradient_is_the_adjoint_of_the_effective_weight(
    shape: tuple[int, ...], dtype: Any, rng: np.random.Generator
) -> None:
    """⟨gK, dK⟩ = Σ ⟨g, d⟩ for the product rule's dK, factor by factor."""
    sizes = {"weight": shape, "R": (4,), "S": (3,), "A": (2, 3), "B": (4, 2)}
    params = {name: rng.normal(size=size).astype(dtype) for name, size in sizes.items()}
    gK = rng.normal(size=shape).astype(dtype)
    grads = project_gradient(params, gK)
    assert set(grads) == {"R", "S", "A", "B"}
    for name, gradient in grads.items():
        v = rng.normal(size=sizes[name]).astype(dtype)
        keep = {"A", "B"} - {name} if name in "AB" else {"R", "S", "weight"} - {name}
        others = {n: value if n in keep else 0 * value for n, value in params.items()}
        dK = effective_weight({**others, name: v})  # K is linear in each factor, its other branch switched off
        terms = gK.astype(np.float64) * dK
        assert gradient.dtype == dtype
        assert abs(terms.sum() - (gradient * v).sum()) <= (1e-5 if dtype == np.float32 else 1e-12) * np.abs(terms).sum()


def test_decomposed_layers_are_all_but_the_head() -> None:
    model = lenet((3, 32, 32), 10)
    assert list(decomposed_layers(model)) == ["conv1", "conv2", "fc1", "fc2"]
    assert list(decomposed_layers(model, head="fc2")) == ["conv1", "conv2", "fc1", "head"]
    assert list(decomposed_layers(nested())) == ["block.conv", "tail.fc"]


def test_perturbed_network_keeps_names_and_structure() -> None:
    model = nested()
    twin = perturb(model)
    assert [name for name, _ in twin.walk()] == [name for name, _ in model.walk()]
    kinds = {name: type(layer) for name, layer in twin.walk()}
    assert (kinds["block.conv"], kinds["tail.fc"], kinds["head"]) == (PerturbedConv2d, PerturbedLinear, Linear)
    assert "block.conv.weight" in twin.buffers
    assert "block.conv.weight" not in twin.trainable
    assert twin.layers["pool"] is model.layers["pool"]  # layers hold no state, so they may be shared
