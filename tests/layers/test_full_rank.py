"""Full rank and no training: a network of linear and 1x1 layers is the warm-started free network again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Device, Streams
from halrp_np.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    ReLU,
    Residual,
    Sequential,
    effective_weight,
    merged_params,
    perturb,
)
from halrp_np.lowrank import COLUMN_RULES
from halrp_np.methods.halrp import Halrp
from halrp_np.methods.importance import Importance
from halrp_np.methods.settings import HalrpSettings
from halrp_np.models import mlp

Build = Callable[[int], Sequential]


def linear_only(classes: int) -> Sequential:
    return mlp((6,), classes, widths=(9, 5))


def one_by_one_convolutions(classes: int) -> Sequential:
    """1x1 convolutions, one with stride 2 as in a ResNet's shortcut."""
    first = {"conv1": Conv2d(3, 5, 1), "norm1": BatchNorm2d(5), "relu1": ReLU()}
    second = {"conv2": Conv2d(5, 4, 1, stride=2), "norm2": BatchNorm2d(4), "relu2": ReLU()}
    last = {"flatten": Flatten(), "fc": Linear(4 * 3 * 2, 7), "norm3": BatchNorm1d(7), "head": Linear(7, classes)}
    return Sequential({**first, **second, **last})


def residual_of_one_by_one_convolutions(classes: int) -> Sequential:
    """A block that halves, as in a ResNet, but of 1x1 convolutions throughout, and one with nothing on its shortcut."""
    body = Sequential(
        {"conv1": Conv2d(3, 5, 1, stride=2), "norm1": BatchNorm2d(5), "relu": ReLU(), "conv2": Conv2d(5, 4, 1)}
    )
    shortcut = Sequential({"conv": Conv2d(3, 4, 1, stride=2), "norm": BatchNorm2d(4)})
    same = Residual(Sequential({"conv": Conv2d(4, 4, 1), "norm": BatchNorm2d(4)}))
    blocks = {"half": Residual(body, shortcut), "relu1": ReLU(), "same": same, "relu2": ReLU()}
    return Sequential({**blocks, "flatten": Flatten(), "head": Linear(4 * 3 * 2, classes)})


def five_by_five_convolution(classes: int) -> Sequential:
    return Sequential({"conv1": Conv2d(3, 5, 5, padding=2), "flatten": Flatten(), "head": Linear(5 * 30, classes)})


def before_perturbation(build: Build, rule: Any, dtype: Any, rng: Any) -> tuple[Halrp, dict[str, Any], dict[str, Any]]:
    """The method at the start of task 1's perturbation, by its own steps: itself, the free network, the start."""
    settings = HalrpSettings(s_fit=rule, rank_share=1.0, rank_cap=1000, full_share="all")
    method = Halrp(build, settings, device=Device("cpu"), dtype=dtype, streams=Streams(4))
    method.classes = [4, 4]
    method.base = build(4).init(rng, dtype)
    free = {name: value + 0.3 * rng.normal(size=value.shape).astype(dtype) for name, value in method.base.items()}
    free = {name: np.abs(value) if name.endswith("running_var") else value for name, value in free.items()}
    scalings, residuals = method.fit_scalings(free)
    scores = {name: parts.s.astype(np.float64) ** 2 for name, parts in residuals.items()}
    decisions = method.allocate_ranks(Importance(dict.fromkeys(scores, 1.0), scores))
    assert [(d.rank, d.clamp) for d in decisions] == [(residuals[d.layer].size, "none") for d in decisions]
    return method, free, method.perturbation(free, scalings, residuals, decisions)


@pytest.mark.parametrize("rule", COLUMN_RULES)
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (linear_only, (6, 8)),
        (one_by_one_convolutions, (3, 5, 4, 8)),
        (residual_of_one_by_one_convolutions, (3, 5, 4, 8)),
    ],
    ids=["linear", "1x1 conv", "residual"],
)
def test_effective_weights_and_logits_are_the_free_networks(
    build: Build, shape: tuple[int, ...], rule: str, dtype: Any, rng: np.random.Generator
) -> None:
    method, free, start = before_perturbation(build, rule, dtype, rng)
    model, x = perturb(build(4)), rng.normal(size=shape).astype(dtype)
    params = {**method.base_weights(), **start}
    bound = 1e-5 if dtype == np.float32 else 1e-13
    for name, layer in model.walk():
        if name in method.layers():
            K = effective_weight({entry: params[f"{name}.{entry}"] for entry in layer.names()})
            assert np.abs(K - free[f"{name}.weight"]).max() < bound, name
    expected, _ = build(4).forward(free, x)
    tolerance = (1e-4 if dtype == np.float32 else 1e-9) * np.abs(expected).max()
    np.testing.assert_allclose(model.forward(params, x)[0], expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(build(4).forward(merged_params(model, params), x)[0], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("rule", COLUMN_RULES)
def test_larger_windows_keep_the_window_mean_only(rule: str, rng: np.random.Generator) -> None:
    """K - F = Ē - E for a 5x5 convolution at full rank: it cannot be the free network again."""
    method, free, start = before_perturbation(five_by_five_convolution, rule, np.float64, rng)
    weight = {entry: start[f"conv1.{entry}"] for entry in ("R", "S", "A", "B")}
    miss = effective_weight({**weight, "weight": method.base["conv1.weight"]}) - free["conv1.weight"]
    np.testing.assert_allclose(miss.mean(axis=(2, 3)), 0.0, atol=1e-14)
    assert np.abs(miss).max() > 0.01
