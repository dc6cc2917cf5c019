"""AlexNet and ResNet18 as a whole: all passes against the written-out formulas, differences and PyTorch."""

import pytest

import checks
import tangent_checks
from cases import Case
from models.narrow import CASES


@pytest.fixture(params=CASES, ids=lambda case: case.name.removeprefix("nested "))
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def test_forward_is_the_formula(case: Case) -> None:
    checks.check_value(case.layer, case)


def test_backward_is_the_adjoint(case: Case) -> None:
    checks.check_adjoint(case.layer, case)


def test_float32_agrees_with_float64(case: Case) -> None:
    checks.check_precision(case.layer, case, tolerance=2e-4)  # twenty normalisations in a row pass rounding on


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name.endswith("perturbed train")], ids=lambda case: case.name, indirect=True
)
def test_r_forward_is_the_exact_tangent(case: Case) -> None:
    tangent_checks.check_r_forward(case.layer, case)


def test_second_derivative_is_symmetric(case: Case) -> None:
    tangent_checks.check_symmetry(case.layer, case)


def test_r_backward_is_linear_and_contains_backward(case: Case) -> None:
    tangent_checks.check_linear(case.layer, case)


def test_value_and_gradients_are_pytorchs(case: Case) -> None:
    pytest.importorskip("torch", reason="PyTorch, an oracle of the networks, is not installed")
    import torch_twins

    torch_twins.check(case.layer, case)


def test_tangents_are_pytorchs(case: Case) -> None:
    pytest.importorskip("torch", reason="PyTorch, an oracle of the networks, is not installed")
    import torch_twins

    torch_twins.check_tangents(case.layer, case)
