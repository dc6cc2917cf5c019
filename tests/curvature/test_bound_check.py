"""The check of the bound: it passes where derivatives are right, and fails where one is wrong."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cases import Params, nested
from curvature.problems import PROBLEMS, Problem
from halrp_np.backend import Device
from halrp_np.curvature import CheckResult, Estimate, check_bound
from halrp_np.curvature.bound_check import ordered
from halrp_np.errors import ConfigError
from halrp_np.layers import Linear, ReLU, Sequential
from halrp_np.losses import CrossEntropy

NESTED = Problem("nested eval", nested(), (2, 4, 5))
CASES = [
    PROBLEMS[name] for name in ("lenet eval", "residual eval", "mlp squared error", "mlp train", "dropout train")
] + [NESTED]


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def checked(problem: Problem, params: Params, x: Any, targets: Any, **options: Any) -> list[CheckResult]:
    settings = {"seed": 0, "mode": problem.mode(), **options}
    return check_bound(problem.model, params, problem.loss, (x, targets), **settings)


@pytest.mark.parametrize("problem", CASES, ids=lambda problem: problem.name)
def test_the_check_passes(problem: Problem) -> None:
    results = checked(problem, *problem.draw(samples=5))
    assert all(result.passed for result in results), results
    assert {result.kind for result in results} == {"bound"}
    for result in results:
        best = min((rung for rung in result.ladder if not rung.crossed), key=lambda rung: rung.error)
        assert (result.error, result.step) == (best.error, best.h)
        assert "½ΔᵀHΔ" in result.note


def test_it_passes_on_every_device(device_name: str) -> None:
    problem, device = PROBLEMS["residual eval"], Device(device_name)
    params, x, targets = problem.draw()
    there = {name: device.to_device(value) for name, value in params.items()}
    results = checked(problem, there, device.to_device(x), device.to_device(targets))
    assert all(result.passed for result in results), results


class DoubledCurvature(CrossEntropy):
    """Its value and gradient are right."""

    def hess_vec(self, logits: Any, labels: Any, r: Any) -> Any:
        return 2.0 * super().hess_vec(logits, labels, r)


def test_a_wrong_second_derivative_fails_the_check() -> None:
    problem = replace(PROBLEMS["lenet eval"], loss=DoubledCurvature())
    for result in checked(problem, *problem.draw()):
        assert not result.passed
        assert result.error == pytest.approx(0.5, abs=0.05)
        assert "second differences never come nearer" in result.note


def test_samples_at_a_kink_are_left_out_and_without_others_nothing_is_compared() -> None:
    model = Sequential({"fc": Linear(2, 3), "relu": ReLU(), "head": Linear(3, 2)})
    params, labels = model.init(seeded(), np.float64), np.array([0, 1])
    params["fc.bias"][:] = 0.0
    problem, x = Problem("at a kink", model, (2,)), np.array([[0.0, 1.0], [0.0, -2.0]])
    x[:, 0] = [-params["fc.weight"][0, 1], params["fc.weight"][0, 0]]  # the first unit sees exactly 0
    (good,) = checked(problem, params, x, labels, layers=["fc"])
    assert good.passed
    assert sum(rung.crossed == 0 for rung in good.ladder) >= 9
    (bad,) = checked(problem, params, x[:, :1], labels[:1], layers=["fc"])
    assert not bad.passed
    assert bad.error == math.inf
    assert "only 0 of 11 steps cross no kink" in bad.note


@pytest.mark.parametrize(
    ("quadratic", "spectral", "frobenius", "expected"),
    [
        (1.0, Estimate(1.0, 0.0, 1), Estimate(1.0, 0.0, 1), True),
        (1.01, Estimate(1.0, 0.0, 1), Estimate(2.0, 0.0, 1), False),
        (-1.01, Estimate(1.0, 0.0, 1), Estimate(2.0, 0.0, 1), False),
        (1.01, Estimate(1.0, 0.02, 1), Estimate(2.0, 0.0, 1), True),
        (0.5, Estimate(1.0, 0.0, 1), Estimate(0.9, 0.01, 1), False),
        (0.5, Estimate(1.0, 0.0, 1), Estimate(0.9, 0.04, 1), True),
    ],
)
def test_the_order_of_the_norms(quadratic: float, spectral: Estimate, frobenius: Estimate, expected: bool) -> None:
    assert ordered(quadratic, 1.0, (spectral, frobenius)) is expected


def test_the_check_asks_for_float64_and_has_nothing_to_say_of_a_weight_of_zeros() -> None:
    problem = PROBLEMS["lenet eval"]
    with pytest.raises(ConfigError, match="float64"):
        checked(problem, *problem.draw(np.float32))
    params, x, targets = problem.draw()
    (result,) = checked(problem, {**params, "fc1.weight": np.zeros((4, 12))}, x, targets, layers=["fc1"])
    assert (result.passed, result.ladder) == (True, ())
    assert "nothing is discarded" in result.note
