"""Products with whole networks against PyTorch's double backward, in float64 at 1e-10."""

from typing import Any

import numpy as np
import pytest

from curvature.problems import PROBLEMS, Problem
from halrp_np.curvature import EmpiricalFisherOperator, GaussNewtonOperator, HessianOperator
from halrp_np.losses import CrossEntropy

torch = pytest.importorskip("torch", reason="PyTorch, an oracle of the curvature, is not installed")
import torch_twins  # noqa: E402  it imports torch

by_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=lambda problem: problem.name)


class Twin:
    """A problem in PyTorch: its trainable tensors, its outputs, and losses of outputs."""

    def __init__(self, problem: Problem) -> None:
        params, x, targets = problem.draw()
        self.problem, self.names = problem, problem.model.trainable
        tensors = {name: torch.tensor(value) for name, value in params.items()}
        self.theta = [tensors[name].requires_grad_(True) for name in self.names]
        x = torch.tensor(torch_twins.batch_first(x))
        self.outputs = torch_twins.twin(problem.model, tensors, x, problem.mode(), {})  # (N, C)
        self.targets = torch.tensor(torch_twins.batch_first(targets))

    def losses(self, outputs: Any) -> Any:
        """The loss of every sample."""
        if isinstance(self.problem.loss, CrossEntropy):
            return torch.nn.functional.cross_entropy(outputs, self.targets, reduction="none")
        return 0.5 * ((outputs - self.targets) ** 2).sum(dim=1)

    def flat(self, parts: Any) -> Any:
        """One vector."""
        return torch.cat([part.reshape(-1) for part in parts])

    def split(self, v: Any) -> Any:
        """A vector in the shapes of the parameters."""
        pieces = torch.split(torch.tensor(v), [t.numel() for t in self.theta])
        return [piece.reshape(t.shape) for piece, t in zip(pieces, self.theta, strict=True)]

    def gradient(self, value: Any, **options: Any) -> Any:
        """∂value/∂θ, flat."""
        return self.flat(torch.autograd.grad(value, self.theta, retain_graph=True, materialize_grads=True, **options))

    def hessian(self, v: Any) -> Any:
        """H v by double backward."""
        g = self.gradient(self.losses(self.outputs).mean(), create_graph=True)
        return self.gradient(g @ torch.tensor(v)).numpy()

    def forward_product(self, v: Any) -> Any:
        """J v by differentiating Jᵀ u in u."""
        u = torch.zeros_like(self.outputs, requires_grad=True)
        grads = torch.autograd.grad(self.outputs, self.theta, u, create_graph=True, materialize_grads=True)
        along = sum((g * part).sum() for g, part in zip(grads, self.split(v), strict=True))
        return torch.autograd.grad(along, u, retain_graph=True)[0]

    def gauss_newton(self, v: Any) -> Any:
        """Jᵀ ∂²L/∂y² J v."""
        y = self.outputs.detach().requires_grad_(True)
        (gy,) = torch.autograd.grad(self.losses(y).mean(), y, create_graph=True)
        (middle,) = torch.autograd.grad((gy * self.forward_product(v)).sum(), y)
        return self.gradient(self.outputs, grad_outputs=middle).numpy()

    def fisher(self, v: Any) -> Any:
        """(1/N) Σ_n g_n ⟨g_n, v⟩, sample by sample."""
        gradients = [self.gradient(value) for value in self.losses(self.outputs)]
        return sum(g * (g @ torch.tensor(v)) for g in gradients).numpy() / len(gradients)


def check(problem: Problem, kind: Any, oracle: str) -> None:
    """Seven products at once are PyTorch's one by one."""
    params, x, targets = problem.draw()
    A = kind(problem.model, params, problem.loss, (x, targets), mode=problem.mode())
    V = np.random.default_rng(2).normal(size=(A.shape[0], 7))
    found, twin = A @ V, Twin(problem)
    np.testing.assert_allclose(A.gradient(), twin.gradient(twin.losses(twin.outputs).mean()).numpy(), atol=1e-12)
    expected = np.stack([getattr(twin, oracle)(v) for v in V.T], axis=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


@by_problem
def test_hessian(problem: Problem) -> None:
    check(problem, HessianOperator, "hessian")


@by_problem
def test_gauss_newton(problem: Problem) -> None:
    check(problem, GaussNewtonOperator, "gauss_newton")


@pytest.mark.parametrize("problem", [p for p in PROBLEMS.values() if not p.train], ids=lambda problem: problem.name)
def test_fisher(problem: Problem) -> None:
    check(problem, EmpiricalFisherOperator, "fisher")
