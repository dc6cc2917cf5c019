"""Curvature of AlexNet and ResNet18: the library's own checks pass on them, and products are PyTorch's."""

from typing import Any

import numpy as np
import pytest

from cases import Params
from curvature.problems import Problem
from halrp_np.curvature import (
    EmpiricalFisherOperator,
    GaussNewtonOperator,
    HessianOperator,
    check_bound,
    check_gradient,
    check_hvp,
    check_symmetry,
)
from halrp_np.layers import perturb
from models.narrow import BUILDERS, SHAPES

PROBLEMS = [
    Problem(f"{name} {what}", perturb(make(norm)) if later else make(norm), SHAPES[name], train=train)
    for name, make in BUILDERS.items()
    for what, norm, train, later in (
        ("eval", "running", False, False),
        ("perturbed train", "running", True, True),
        ("by the batch", "batch", False, False),
    )
]
by_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)


def point(problem: Problem, samples: int) -> tuple[Any, Params, Any, tuple[Any, Any]]:
    params, x, labels = problem.draw(samples=samples)
    return problem.model, params, problem.loss, (x, labels)


@pytest.mark.slow
@by_problem
@pytest.mark.parametrize("check", [check_gradient, check_hvp, check_symmetry], ids=lambda check: check.__name__)
def test_the_checks_pass(problem: Problem, check: Any) -> None:
    """A layer of each kind, from the first to the last."""
    names = problem.model.trainable
    chosen = [
        name for n, name in enumerate(names) if n % 24 == 0 or name.endswith(("shortcut.conv.weight", "head.weight"))
    ]
    results = check(*point(problem, 3), names=chosen, mode=problem.mode())
    assert [result.name for result in results] == chosen
    assert all(result.passed for result in results), [(r.name, r.note) for r in results if not r.passed]


@pytest.mark.parametrize("problem", PROBLEMS[::3], ids=lambda problem: problem.name)
def test_the_bound_holds(problem: Problem) -> None:
    results = check_bound(
        *point(problem, 4), layers=[n for n, _ in problem.model.walk() if "conv" in n][-3:], products=6
    )
    assert all(result.passed for result in results), [(r.name, r.note) for r in results if not r.passed]


@by_problem
@pytest.mark.parametrize(
    ("kind", "oracle"),
    [(HessianOperator, "hessian"), (GaussNewtonOperator, "gauss_newton"), (EmpiricalFisherOperator, "fisher")],
)
def test_products_are_pytorchs(problem: Problem, kind: Any, oracle: str) -> None:
    pytest.importorskip("torch", reason="PyTorch, an oracle of the curvature, is not installed")
    from curvature.test_operator_torch import check

    if oracle != "fisher" or "eval" in problem.name:  # else samples have no gradients of their own
        check(problem, kind, oracle)


@by_problem
def test_a_block_is_its_part_of_the_whole(problem: Problem) -> None:
    """Tangents that start in the middle of the network, on a shortcut too, take a shorter way to the same numbers."""
    model, params, loss, data = point(problem, 3)
    options: dict[str, Any] = {"mode": problem.mode()}
    whole = HessianOperator(model, params, loss, data, **options)
    starts = dict(zip(model.trainable, np.cumsum([0, *(params[name].size for name in model.trainable)]), strict=False))
    names = [name for name in model.trainable if "shortcut" in name or name.startswith(("block4", "conv2", "fc1"))]
    for name in names[::3]:
        at = slice(starts[name], starts[name] + params[name].size)
        v = np.zeros(whole.shape[0])
        v[at] = np.random.default_rng(1).normal(size=params[name].size)
        full = whole @ v
        np.testing.assert_allclose(whole.block(name) @ v[at], full[at], rtol=0, atol=1e-12 * np.abs(full).max())
