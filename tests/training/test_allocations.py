"""After its second run a training step takes no new memory to speak of: every large array was used before."""

from __future__ import annotations

import numpy as np
import pytest

import allocations
from halrp_np import layers, losses, models
from halrp_np.backend import buffers
from halrp_np.training.loop import Hooks, PhasePlan, PhaseState, Step
from halrp_np.training.optimizer import Adam
from halrp_np.typing import Params

LARGE = 2**16  # bytes
RANKS = {"conv1": 3, "conv2": 20, "fc1": 40, "fc2": 40}


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The readable column has temporaries: it is there to be read."""
    monkeypatch.setenv("HALRP_NP_KERNELS", "fast")


def residual() -> layers.Sequential:
    """What LeNet does not have: residual blocks, strides, dropout, average pooling."""
    half = layers.Sequential({"conv": layers.Conv2d(16, 24, 1, 2), "norm": layers.BatchNorm2d(24)})
    return layers.Sequential(
        {
            "conv1": layers.Conv2d(3, 16, 3, padding=1),
            "norm1": layers.BatchNorm2d(16),
            "relu1": layers.ReLU(),
            "drop": layers.Dropout(0.2),
            "same": layers.Residual(layers.Conv2d(16, 16, 3, padding=1)),
            "relu2": layers.ReLU(),
            "half": layers.Residual(layers.Conv2d(16, 24, 3, 2, 1), half),
            "pool": layers.AvgPool2d(2),
            "flatten": layers.Flatten(),
            "head": layers.Linear(24 * 64, 10),
        }
    )


def problem(perturbed: bool, model: layers.Sequential | None = None) -> tuple[layers.Sequential, Params]:
    """A network, or its perturbed twin: LeNet of the paper's widths unless another is given."""
    rng = np.random.default_rng(0)
    model = models.lenet((3, 32, 32), 10) if model is None else model
    params = model.init(rng, np.float32)
    if not perturbed:
        return model, params
    for name, rank in RANKS.items():
        J, I = params[f"{name}.weight"].shape[:2]
        shapes = {"R": (J,), "S": (I,), "A": (rank, I), "B": (J, rank)}
        params |= {f"{name}.{e}": rng.normal(size=shape).astype(np.float32) for e, shape in shapes.items()}
    return layers.perturb(model), params


@pytest.mark.parametrize("batch", [128, 50])
@pytest.mark.parametrize("kind", ["base", "low-rank", "residual"])
def test_a_step_allocates_nothing_large(kind: str, batch: int) -> None:
    model, params = problem(kind == "low-rank", residual() if kind == "residual" else None)
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(3, 32, 32, batch)).astype(np.float32), rng.integers(0, 10, batch)
    state = PhaseState(params=params, moments={}, order={}, dropout=rng)
    plan = PhasePlan(0, "base", epochs=1, batch=batch, lr=1e-3, gamma=1.0)
    step = Step(
        plan, layers.fuse(model), state, loss=losses.CrossEntropy(), optimizer=Adam(), penalties={}, hooks=Hooks()
    )
    for _ in range(2):
        step(x, labels)
    created = buffers.POOL.created
    with allocations.listened() as sizes:
        for _ in range(3):
            step(x, labels)
    assert sizes  # small ones are made: the ear is on
    assert max(sizes) <= LARGE
    assert buffers.POOL.created == created


def test_an_evaluation_allocates_nothing_large() -> None:
    model, params = layers.inference(*problem(perturbed=True))
    x = np.random.default_rng(1).normal(size=(3, 32, 32, 128)).astype(np.float32)
    for _ in range(2):
        model.forward(params, x)
    with allocations.listened() as sizes:
        model.forward(params, x)
    assert max(sizes) <= LARGE
