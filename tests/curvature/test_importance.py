"""Importance: the numbers of a hand-made case, a direct loop over batches, and that nothing is changed by it."""

from typing import Any

import numpy as np
import pytest

from halrp_np.curvature import batch_gradient_importance
from halrp_np.curvature.importance import averaged_square
from halrp_np.errors import ConfigError
from halrp_np.layers import EVALUATE, BatchNorm1d, BatchNorm2d, Conv2d, Dropout, Flatten, Linear, ReLU, Sequential
from halrp_np.losses import CrossEntropy
from training.blobs import Blobs

LAYERS = ["conv", "fc"]


def network() -> Sequential:
    return Sequential(
        {
            "conv": Conv2d(2, 3, kernel=3, padding=1),
            "norm1": BatchNorm2d(3),
            "relu": ReLU(),
            "flatten": Flatten(),
            "fc": Linear(48, 5),
            "norm2": BatchNorm1d(5),
            "dropout": Dropout(0.5),
            "head": Linear(5, 3),
        }
    )


def parameters(dtype: Any = np.float64) -> dict[str, np.ndarray]:
    """Random ones, with running statistics that are not those of a fresh network."""
    draw = np.random.default_rng(2)
    params = network().init(draw, dtype)
    for name in params:
        if "running" in name or "gamma" in name or "beta" in name:
            params[name] = (params[name] + 0.3 * draw.random(params[name].shape)).astype(dtype)
    return params


def importance(reduction: str, params: dict[str, np.ndarray], examples: Blobs, batch: int = 4) -> dict[str, float]:
    return batch_gradient_importance(
        network(), params, examples, LAYERS, loss=CrossEntropy(), batch=batch, reduction=reduction
    )


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 5.5), ("sum", 22.0)])
def test_two_batches_by_hand(reduction: str, expected: float) -> None:
    """n = 4 and 2: (4 · 6/4 + 2 · 10/4) / 2 = 5.5; times the four entries for the sum."""
    gradients = [(4, [np.array([[1.0, -1.0], [2.0, 0.0]])]), (2, [np.array([[0.0, 3.0], [1.0, 0.0]])])]
    assert averaged_square(gradients, ["layer"], reduction) == {"layer": expected}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_against_a_direct_loop_over_batches(reduction: str, dtype: Any) -> None:
    """Eleven samples in batches of 4: the last, of 3, counts as a batch like the others."""
    params, examples, model = parameters(dtype), Blobs(30, 11, (2, 4, 4), dtype=dtype), network()
    total = dict.fromkeys(LAYERS, 0.0)
    for rows in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]):
        outputs, cache = model.forward(params, examples.x[..., rows], EVALUATE)
        _, grads = model.backward(params, cache, CrossEntropy().grad(outputs, examples.y[rows]))
        for name in LAYERS:
            g = grads[f"{name}.weight"].astype(np.float64)
            total[name] += len(rows) * (np.mean(g**2) if reduction == "mean" else np.sum(g**2)) / 3
    found = importance(reduction, params, examples)
    tolerance = 1e-12 if dtype is np.float64 else 1e-4
    assert found == pytest.approx(total, rel=tolerance)
    assert all(type(value) is float and value > 0 for value in found.values())


def test_the_gradient_in_it_is_that_of_the_batch_loss() -> None:
    """By central differences of the loss, so without the layers' own derivatives."""
    params, examples, model = parameters(), Blobs(30, 4, (2, 4, 4)), network()

    def loss() -> float:
        return float(CrossEntropy().value(model.forward(params, examples.x, EVALUATE)[0], examples.y))

    W, h, square = params["conv.weight"], 1e-5, 0.0
    for index in np.ndindex(W.shape):
        kept = W[index]
        W[index] = kept + h
        above = loss()
        W[index] = kept - h
        below = loss()
        W[index] = kept
        square += ((above - below) / (2 * h)) ** 2
    assert importance("sum", params, examples)["conv"] == pytest.approx(4 * square, rel=1e-6)


def test_sum_is_mean_times_the_entries_of_a_layer() -> None:
    params, examples = parameters(), Blobs(30, 11, (2, 4, 4))
    mean, total = importance("mean", params, examples), importance("sum", params, examples)
    for name in LAYERS:
        assert total[name] == pytest.approx(mean[name] * params[f"{name}.weight"].size, rel=1e-12)


def test_parameters_and_running_statistics_are_unchanged_and_a_repeat_agrees() -> None:
    params, examples = parameters(), Blobs(30, 11, (2, 4, 4))
    before = {name: value.tobytes() for name, value in params.items()}
    for value in params.values():
        value.flags.writeable = False
    assert importance("mean", params, examples) == importance("mean", params, examples)
    assert {name: value.tobytes() for name, value in params.items()} == before


def test_it_depends_on_true_labels_and_on_batches() -> None:
    params, examples = parameters(), Blobs(30, 12, (2, 4, 4))
    first = importance("mean", params, examples)
    assert importance("mean", params, examples, batch=12) != pytest.approx(first, rel=1e-3)
    examples.y = (examples.y + 1) % 3
    assert importance("mean", params, examples) != pytest.approx(first, rel=1e-3)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ConfigError, match="importance: expected mean or sum, received 'max'"):
        importance("max", parameters(), Blobs(30, 4, (2, 4, 4)))
