"""What operators, estimators and importances are given: what fits is used as it is, all else refused by name."""

from typing import Any

import numpy as np
import pytest

from curvature.problems import PROBLEMS
from halrp_np import lowrank
from halrp_np.curvature import (
    Batches,
    HessianOperator,
    batch_gradient_importance,
    bound_report,
    check_hvp,
    dense_matrix,
    directional_curvature,
    layer_curvatures,
)
from halrp_np.errors import ConfigError, DivergenceError, ShapeError
from halrp_np.layers import Linear, ReLU, Sequential
from halrp_np.losses import CrossEntropy

SQUARED = PROBLEMS["mlp squared error"]


class Examples:
    """Targets (C, N) of a squared error, gathered by rows."""

    def __init__(self, x: Any, targets: Any) -> None:
        self.x, self.targets = x, targets

    def __len__(self) -> int:
        return int(self.x.shape[-1])

    def begin_epoch(self, generator: Any) -> None:
        """Nothing varies."""

    def batch(self, rows: Any) -> tuple[Any, Any]:
        return self.x[..., rows], self.targets[..., rows]


def operator(**changed: Any) -> HessianOperator:
    """On the small network with squared error."""
    params, x, targets = SQUARED.draw()
    given = {"model": SQUARED.model, "params": params, "loss": SQUARED.loss, "data": (x, targets), **changed}
    model, params, loss, data = (given.pop(name) for name in ("model", "params", "loss", "data"))
    return HessianOperator(model, params, loss, data, **given)


# ---- targets that are no labels -------------------------------------------------------------------------------------


def test_a_batch_counts_by_its_samples_whatever_the_shape_of_its_targets() -> None:
    """Seven samples in batches of three, targets (3, N): the mean over batches of N ‖g‖²."""
    params, x, targets = SQUARED.draw()
    found = batch_gradient_importance(
        SQUARED.model, params, Examples(x, targets), ["fc1"], loss=SQUARED.loss, batch=3, reduction="sum"
    )
    expected = []
    for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
        g = SQUARED.gradient(params, x[:, rows], targets[:, rows], SQUARED.model.trainable)[: params["fc1.weight"].size]
        expected.append(x[:, rows].shape[1] * float(g @ g))
    assert found["fc1"] == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.parametrize("memory", [2**30, 40_000])
def test_layer_curvatures_of_a_squared_error(memory: int) -> None:
    """Whole and in pieces, against the dense block."""
    params, x, targets = SQUARED.draw()
    parts = {"fc1": lowrank.decompose(params["fc1.weight"]), "head": lowrank.decompose(params["head.weight"])}
    found = layer_curvatures(
        SQUARED.model, params, SQUARED.loss, Examples(x, targets), parts,
        samples=7, batch=3, products=30, generator=np.random.default_rng(0), memory=memory,
    )  # fmt: skip
    for layer, curvature in found.items():
        H = dense_matrix(operator(names=[f"{layer}.weight"]))
        assert curvature.trace.value == pytest.approx(np.trace(H), rel=1e-10)
        s, U, Vt = parts[layer].s, parts[layer].U, parts[layer].Vt
        g = operator(names=[f"{layer}.weight"]).gradient()
        for i in range(len(s)):
            T = -s[i] * np.outer(U[:, i], Vt[i]).ravel()
            assert curvature.removal[i] == pytest.approx(g @ T + 0.5 * T @ H @ T, rel=1e-9, abs=1e-12)


# ---- the block and the whole ----------------------------------------------------------------------------------------


class WrongAlone(Linear):
    """Right as part of the whole network, wrong where its weight alone has a tangent."""

    def r_forward(self, params: Any, cache: Any, rparams: Any, rx: Any) -> tuple[Any, Any]:
        ry, rcache = super().r_forward(params, cache, rparams, rx)
        return (2 * ry if set(rparams) != {"weight", "bias"} else ry), rcache


def test_a_block_that_differs_from_the_whole_is_caught() -> None:
    rng = np.random.default_rng(0)
    layers = {"fc": WrongAlone(5, 4), "relu": ReLU(), "head": Linear(4, 3)}
    model = Sequential(layers)
    params, data = model.init(rng, np.float64), (rng.normal(size=(5, 7)), rng.integers(0, 3, 7))
    results = {result.name: result for result in check_hvp(model, params, CrossEntropy(), data)}
    assert [name for name, result in results.items() if not result.passed] == ["fc.weight", "fc.bias"]
    assert "the block's own product is another one" in results["fc.weight"].note


def test_a_row_vector_from_the_left(rng: np.random.Generator) -> None:
    H = operator()
    V = rng.normal(size=(3, H.shape[0]))
    np.testing.assert_allclose(V @ H, (H @ V.T).T, rtol=0, atol=0)
    assert (V[0] @ H).shape == (H.shape[0],)


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [0, -1, 1.5, "1GB", True])
def test_a_memory_budget_is_a_number_of_bytes(memory: Any) -> None:
    with pytest.raises(ConfigError, match=r"^memory: expected a positive whole number of bytes"):
        operator(memory=memory)


def test_parameters_are_complete_and_of_one_dtype() -> None:
    params, _, _ = SQUARED.draw()
    lacking = {name: value for name, value in params.items() if name != "fc2.bias"}
    with pytest.raises(ConfigError, match=r"^parameters: .*none called fc2\.bias"):
        operator(params=lacking)
    with pytest.raises(ConfigError, match=r"^parameters: .*received float32, float64"):
        operator(params={**params, "fc2.bias": params["fc2.bias"].astype(np.float32)})


def test_flatten_refuses_what_only_has_the_right_size() -> None:
    H = operator(names=["fc1.weight"])
    weight = SQUARED.draw()[0]["fc1.weight"]
    assert H.flatten({"fc1.weight": weight}).shape == H.flatten({"fc1.weight": weight[None]})[:, 0].shape
    with pytest.raises(ShapeError, match=r"flatten: expected fc1\.weight of shape \(5, 6\)"):
        H.flatten({"fc1.weight": weight.T})
    with pytest.raises(ShapeError, match="nothing of that name"):
        H.flatten({})


def test_targets_have_the_dtype_of_the_parameters() -> None:
    params, x, targets = SQUARED.draw(np.float32)
    H = operator(params=params, data=(x, targets.astype(np.float64)))
    with pytest.raises(ShapeError, match=r"targets of float64"):
        H @ np.ones(H.shape[0], np.float32)


@pytest.mark.parametrize("sizes", [(0, None), (-1, None), (3, 0)])
def test_batches_have_at_least_one_sample(sizes: tuple[int, int | None]) -> None:
    _, x, targets = SQUARED.draw()
    with pytest.raises(ConfigError, match="expected at least 1"):
        Batches(Examples(x, targets), *sizes)


def test_curvature_along_what_is_not_finite() -> None:
    with pytest.raises(DivergenceError, match="directional_curvature"):
        directional_curvature(np.eye(3), np.full((3, 1), np.nan))


def test_layers_by_unknown_names_or_twice() -> None:
    params, x, targets = SQUARED.draw()
    common = (SQUARED.model, params, SQUARED.loss)
    with pytest.raises(ConfigError, match="Did you mean 'fc"):
        batch_gradient_importance(
            SQUARED.model, params, Examples(x, targets), ["fc"], loss=SQUARED.loss, batch=3, reduction="sum"
        )
    with pytest.raises(ConfigError, match="each once"):
        bound_report(*common, (x, targets), layers=["fc1", "fc1"], generator=np.random.default_rng(0))
