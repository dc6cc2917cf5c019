"""Tangent passes and curvature products on the strict stand-in device: nothing crosses to the host by accident."""

from typing import Any

import numpy as np
import pytest

import tangent_checks
from cases import LAYERS, LOSSES, Case
from curvature.problems import PROBLEMS, Problem
from halrp_np.backend import to_host
from halrp_np.curvature import EmpiricalFisherOperator, GaussNewtonOperator, HessianOperator
from strict import StrictArray, StrictDevice


@pytest.fixture(autouse=True)
def _reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in has no twins."""
    monkeypatch.setenv("HALRP_NP_KERNELS", "reference")


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_tangent_passes_never_cross(case: Case, dtype: Any) -> None:
    device, at = StrictDevice(), tangent_checks.draw(case, K=3, dtype=dtype)
    expected = tangent_checks.tangents(case.layer, case, at)
    there = at.mapped(device.to_device)
    before = StrictArray.gets
    found = tangent_checks.tangents(case.layer, case, there, wanted=case.layer.trainable)
    _, cache = case.layer.forward(there.params, there.x, case.mode())
    branches = case.layer.branches(cache)
    assert StrictArray.gets == before
    assert all(isinstance(value, StrictArray) for value in [*found.values(), *branches])
    for name, value in expected.items():
        np.testing.assert_array_equal(to_host(found[name]), value, err_msg=name)


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.name)
def test_second_derivatives_of_losses_never_cross(case: Case) -> None:
    device, at = StrictDevice(), tangent_checks.draw(case, K=3)
    loss, targets = case.layer.loss, case.layer.targets  # type: ignore[attr-defined]
    before = StrictArray.gets
    found = loss.hess_vec(*map(device.to_device, (at.x, targets, at.r.rx)))
    assert StrictArray.gets == before
    np.testing.assert_array_equal(to_host(found), loss.hess_vec(at.x, targets, at.r.rx))


KINDS = [HessianOperator, GaussNewtonOperator, EmpiricalFisherOperator]
PRODUCTS = [(problem, kind) for problem in PROBLEMS.values() for kind in KINDS[: 2 if problem.train else 3]]


@pytest.mark.parametrize(("problem", "kind"), PRODUCTS, ids=[f"{p.name} {kind.__name__}" for p, kind in PRODUCTS])
def test_products_never_cross(problem: Problem, kind: Any, rng: np.random.Generator) -> None:
    device, (params, x, targets) = StrictDevice(), problem.draw()
    there = {name: device.to_device(value) for name, value in params.items()}
    data = [tuple(device.to_device(part[..., n]) for part in (x, targets)) for n in (slice(0, 3), slice(3, 7))]
    A = kind(problem.model, there, problem.loss, data, mode=problem.mode())
    same = [(x[..., :3], targets[..., :3]), (x[..., 3:], targets[..., 3:])]
    B = kind(problem.model, params, problem.loss, same, mode=problem.mode())
    V = rng.normal(size=(B.shape[0], 4))
    W = device.to_device(V)
    A.probe()
    before = StrictArray.gets
    found, alone, block = A @ W, A @ W[:, 0], A.block("head.weight", "head.bias")
    part = block @ W[-block.shape[0] :]
    again = A.flatten(A.unflatten(W))
    assert StrictArray.gets == before
    np.testing.assert_array_equal(to_host(found), B @ V)
    np.testing.assert_array_equal(to_host(alone), B @ V[:, 0])
    np.testing.assert_array_equal(to_host(part), B.block(*block.names) @ V[-block.shape[0] :])
    np.testing.assert_array_equal(to_host(again), V)


def test_the_gradient_stays_and_the_value_crosses_once_a_batch() -> None:
    device, (params, x, targets) = StrictDevice(), PROBLEMS["mlp eval"].draw()
    there = {name: device.to_device(value) for name, value in params.items()}
    problem = PROBLEMS["mlp eval"]
    A = HessianOperator(problem.model, there, problem.loss, (device.to_device(x), device.to_device(targets)))
    before = StrictArray.gets
    assert isinstance(A.gradient(), StrictArray)
    assert StrictArray.gets <= before + 1
    assert isinstance(A.value(), float)
    assert StrictArray.gets <= before + 2
