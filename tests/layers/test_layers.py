"""Every layer of cases.py: its value, its derivative two ways, purity, memory layout, precision and device."""

from collections.abc import Callable
from typing import Any

import pytest

import checks
from cases import LAYERS, Case
from halrp_np.backend import Device


@pytest.fixture(params=LAYERS, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def test_forward_is_the_formula(case: Case) -> None:
    checks.check_value(case.layer, case)


def test_backward_is_the_adjoint(case: Case) -> None:
    checks.check_adjoint(case.layer, case)


@pytest.mark.parametrize("case", [case for case in LAYERS if case.smooth], ids=lambda case: case.name)
def test_backward_agrees_with_finite_differences(case: Case) -> None:
    checks.check_finite_differences(case.layer, case)


def test_passes_are_pure(case: Case, dtype: Any, layout: Callable[[Any], Any]) -> None:
    checks.check_purity(case.layer, case, dtype, layout)


def test_memory_layout_does_not_matter(case: Case, dtype: Any, layout: Callable[[Any], Any]) -> None:
    checks.check_layout(case.layer, case, dtype, layout)


def test_float32_agrees_with_float64(case: Case, device_name: str) -> None:
    checks.check_precision(case.layer, case, Device(device_name))
