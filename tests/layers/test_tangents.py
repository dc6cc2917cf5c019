"""Every layer and loss of cases.py: both tangent passes against exact derivatives, differences and their symmetry."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tangent_checks
from cases import CASES, Case, nested, residual
from halrp_np.backend import Device
from halrp_np.layers import BatchNorm1d, Dropout, Layer, Linear, MaxPool2d, PerturbedLinear, ReLU, Sequential


@pytest.fixture(params=CASES.values(), ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def test_r_forward_is_the_exact_tangent(case: Case) -> None:
    tangent_checks.check_r_forward(case.layer, case)


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.smooth], ids=lambda case: case.name)
def test_r_backward_agrees_with_differences_of_backward(case: Case) -> None:
    tangent_checks.check_r_backward(case.layer, case)


def test_second_derivative_is_symmetric(case: Case) -> None:
    tangent_checks.check_symmetry(case.layer, case)


def test_r_backward_is_linear_and_contains_backward(case: Case) -> None:
    tangent_checks.check_linear(case.layer, case)


def test_tangents_do_not_meet_one_another(case: Case) -> None:
    tangent_checks.check_columns(case.layer, case)


def test_what_is_absent_is_zero(case: Case) -> None:
    tangent_checks.check_absent_is_zero(case.layer, case)


def test_only_what_is_wanted_comes_back(case: Case) -> None:
    tangent_checks.check_wanted(case.layer, case)


def test_tangent_passes_are_pure(case: Case, dtype: Any, layout: Callable[[Any], Any]) -> None:
    tangent_checks.check_tangent_purity(case.layer, case, dtype, layout)


def test_float32_agrees_with_float64(case: Case, device_name: str) -> None:
    tangent_checks.check_tangent_precision(case.layer, case, Device(device_name))


# ---- random networks ------------------------------------------------------------------------------------------------

WIDTH = 3
BLOCKS: dict[str, Callable[[], Layer]] = {
    "linear": lambda: Linear(WIDTH, WIDTH),
    "perturbed": lambda: PerturbedLinear(Linear(WIDTH, WIDTH)),
    "norm": lambda: BatchNorm1d(WIDTH, eps=0.1),
    "untracked": lambda: BatchNorm1d(WIDTH, track=False, eps=0.1),
    "relu": ReLU,
    "dropout": lambda: Dropout(0.3),
}


@settings(max_examples=25)
@given(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=6), st.booleans(), st.integers(1, 10**6))
def test_random_networks(kinds: list[str], train: bool, seed: int) -> None:
    """Any order of layers, from one without parameters to six with them, in both modes.

    A large eps keeps rounding small where a random network leaves a unit almost without variance.
    """
    layers = {f"{kind}{n}": BLOCKS[kind]() for n, kind in enumerate(kinds)}
    case = Case(f"nested random {seed}", Sequential(layers), (WIDTH, 5), train=train)
    tangent_checks.check_r_forward(case.layer, case)
    tangent_checks.check_symmetry(case.layer, case)
    tangent_checks.check_linear(case.layer, case)
    tangent_checks.check_absent_is_zero(case.layer, case)
    tangent_checks.check_wanted(case.layer, case)


@settings(max_examples=25)
@given(st.data())
def test_any_subset_of_names(data: st.DataObject) -> None:
    """A tangent of some names, and the gradients of others: the columns and rows of the full second derivative."""
    network = data.draw(st.sampled_from([nested(), residual()]))
    case = Case("nested subsets", network, (2, 4, 5, 6), train=data.draw(st.booleans()))
    names = st.lists(st.sampled_from(network.trainable), min_size=1, unique=True)
    moving, wanted, asked = data.draw(names), data.draw(names), data.draw(st.booleans())
    at = tangent_checks.draw(case)
    rparams = {name: at.r.rparams[name] for name in moving}
    zeros = {name: np.zeros_like(r) for name, r in at.r.rparams.items()}
    _, cache = network.forward(at.params, at.x, case.mode())
    _, gys = network.cotangents(at.params, cache, at.gy, input_gradient=asked, wanted=wanted)
    _, all_gys = network.cotangents(at.params, cache, at.gy)
    ry, rcache = network.r_forward(at.params, cache, rparams, None)
    full_ry, full_rcache = network.r_forward(at.params, cache, {**zeros, **rparams}, np.zeros_like(at.r.rx))
    rgx, found = network.r_backward(at.params, cache, rcache, gys, at.r.rgy, input_gradient=asked, wanted=wanted)
    full_rgx, full = network.r_backward(at.params, cache, full_rcache, all_gys, at.r.rgy)
    assert set(found) == set(wanted)
    assert (rgx is not None) == asked
    scale = tangent_checks.largest({"x": full_rgx, **full})
    np.testing.assert_allclose(ry, full_ry, rtol=1e-12, atol=1e-13 * np.abs(full_ry).max())
    for name in wanted:
        np.testing.assert_allclose(found[name], full[name], rtol=1e-12, atol=1e-13 * scale, err_msg=name)
    if asked:
        np.testing.assert_allclose(rgx, full_rgx, rtol=1e-12, atol=1e-13 * scale)


# ---- what a container keeps, and where the branches lie -------------------------------------------------------------


def flat(gys: Any) -> list[Any]:
    """The cotangents of all layers inside, containers entered."""
    return [array for inner in gys.values() for array in flat(inner)] if isinstance(gys, dict) else [gys]


@pytest.mark.parametrize("name", ["nested train", "nested eval", "nested residual train", "nested residual eval"])
def test_cotangents_are_the_gradients_at_every_output(name: str) -> None:
    """Layer by layer from the top: each receives the input gradient of the one above."""
    case = CASES[name]
    assert isinstance(case.layer, Sequential)
    at = tangent_checks.draw(case)
    _, cache = case.layer.forward(at.params, at.x, case.mode())
    gx, gys = case.layer.cotangents(at.params, cache, at.gy)
    assert set(gys) == set(case.layer.layers)
    expected = at.gy
    for inner_name, inner in reversed(case.layer.layers.items()):
        p = {n: at.params[f"{inner_name}.{n}"] for n in inner.names()}
        below, own = inner.cotangents(p, cache[inner_name], expected)
        assert isinstance(own, dict) or own is expected
        for found, right in zip(flat(gys[inner_name]), flat(own), strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-13, err_msg=inner_name)
        expected = below
    np.testing.assert_allclose(gx, expected, rtol=1e-13)


def test_branches_of_relu_and_pool(rng: np.random.Generator) -> None:
    relu, pool = ReLU(), MaxPool2d(2)
    x = np.array([[1.0, -2.0, 0.0, 3.0]])
    (mask,) = relu.branches(relu.forward({}, x)[1])
    np.testing.assert_array_equal(mask, x > 0)
    images = rng.normal(size=(2, 4, 4, 3))
    _, argmax = pool.forward({}, images)
    (chosen,) = pool.branches(argmax)
    assert chosen.shape == (2, 2, 2, 3)
    (same,) = pool.branches(pool.forward({}, images * 2)[1])
    np.testing.assert_array_equal(chosen, same)
    (other,) = pool.branches(pool.forward({}, -images)[1])
    assert (chosen != other).any()
    assert Linear(2, 2).branches(x) == Dropout(0.2).branches(None) == []


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("nested")])
def test_branches_of_a_network(name: str) -> None:
    """A tiny step leaves them, a long one does not; the function is linear in between where BatchNorm evaluates."""
    case = CASES[name]
    at = tangent_checks.draw(case, K=1)

    def branches(h: float) -> list[Any]:
        params, x, _ = at.moved("x", h)
        return case.layer.branches(case.layer.forward(params, x, case.mode())[1])

    start = branches(0.0)
    kinks = sum(isinstance(inner, ReLU | MaxPool2d) for _, inner in case.layer.walk())  # type: ignore[attr-defined]
    assert len(start) == kinks
    assert [b.shape for b in branches(1.0)] == [b.shape for b in start]
    assert all((a == b).all() for a, b in zip(start, branches(1e-9), strict=True))
    assert any((a != b).any() for a, b in zip(start, branches(10.0), strict=True))
