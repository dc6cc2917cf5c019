"""Importance by name: what each measures inside the method, which components are kept for it, and what is recorded."""

from typing import Any

import numpy as np
import pytest

from halrp_np.backend import to_host
from halrp_np.benchmarks import resolve_config
from halrp_np.benchmarks.tables import RANK_HEADER
from halrp_np.curvature import (
    EmpiricalFisherOperator,
    Estimate,
    HessianOperator,
    LayerCurvature,
    dense_matrix,
    layer_curvatures,
)
from halrp_np.errors import ConfigError
from halrp_np.layers import EVALUATE, BatchNorm1d, Layer, Sequential
from halrp_np.losses import CrossEntropy
from halrp_np.methods import IMPORTANCES, Halrp, rank_column
from halrp_np.methods.importance import of_curvature
from halrp_np.training import Hooks
from methods.streams import learned, make, small_mlp, task

COLUMNS = [rank_column(name) for name in IMPORTANCES]


def untracked(classes: int) -> Sequential:
    """The small MLP with batch statistics in evaluation too."""

    def twin(name: str, layer: Layer) -> Layer:
        return BatchNorm1d(layer.channels, track=False) if isinstance(layer, BatchNorm1d) else layer

    return small_mlp(classes).replaced(twin)


def prepared(method: Halrp) -> tuple[Any, Any]:
    """F of task 1 and the residuals there."""
    learned(method, 1)
    method.expect_next(task(1))
    free = method.warm_up(task(1), Hooks())
    return free, method.fit_scalings(free)[1]


def arrays(method: Halrp) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in method.state()[0].items()}


# ---- what each measures ---------------------------------------------------------------------------------------------


def test_each_name_is_what_it_says() -> None:
    """Against dense matrices on the first images, and single batches on all of them."""
    method = make(small_mlp, importance_images=9)
    free, residuals = prepared(method)
    found = method.importance(free, residuals, task(1))
    assert list(found) == list(IMPORTANCES)
    model, examples = method.build(3), task(1).validation
    first = examples.batch(np.arange(9))
    for name in method.layers():
        names = [f"{name}.weight"]
        H = dense_matrix(HessianOperator(model, free, CrossEntropy(), first, names=names))
        fisher = np.trace(dense_matrix(EmpiricalFisherOperator(model, free, CrossEntropy(), first, names=names)))
        expected = {
            "fisher": fisher,
            "hessian-frobenius": np.linalg.norm(H),
            "hessian-trace": np.trace(H),
            "hessian-top": np.linalg.eigvalsh((H + H.T) / 2)[-1],
        }
        square = 0.0
        for rows in (np.arange(8), np.arange(8, 12)):
            outputs, cache = model.forward(free, examples.x[..., rows], EVALUATE)
            _, grads = model.backward(free, cache, CrossEntropy().grad(outputs, examples.y[rows]))
            square += len(rows) * float((grads[names[0]] ** 2).sum()) / 2
        expected |= {"batch-gradient": square, "official": square / free[names[0]].size}
        for importance, value in expected.items():
            assert found[importance].layers[name] == pytest.approx(value, rel=1e-9), importance
            scores = value * residuals[name].s ** 2
            np.testing.assert_allclose(found[importance].scores[name], scores, rtol=1e-9)


def test_directional_scores_are_the_removal_costs_with_helpful_ones_at_zero() -> None:
    method = make()
    free, residuals = prepared(method)
    found = method.importance(free, residuals, task(1))["directional"]
    curvatures = layer_curvatures(
        method.build(3),
        free,
        CrossEntropy(),
        task(1).validation,
        residuals,
        samples=12,
        batch=8,
        products=4,
        generator=np.random.default_rng(0),
    )
    removals = [curvature.removal for curvature in curvatures.values()]
    assert min(removal.min() for removal in removals) < 0 < max(removal.max() for removal in removals)
    for name, curvature in curvatures.items():
        np.testing.assert_array_equal(found.scores[name], np.maximum(curvature.removal, 0))
        total = found.layers[name] * method.window(name) * float((residuals[name].s ** 2).sum())
        assert total == pytest.approx(found.scores[name].sum(), rel=1e-12)


# ---- what is kept ---------------------------------------------------------------------------------------------------


class Watched(Halrp):
    """Notes where the perturbation starts."""

    def perturbation(self, free: Any, scalings: Any, residuals: Any, decisions: Any) -> Any:
        self.start = super().perturbation(free, scalings, residuals, decisions)
        return self.start


def test_directional_keeps_the_components_whose_loss_costs_most() -> None:
    method = make(kind=Watched, importance="directional", rank_share=0.8)
    free, residuals = prepared(method)
    scores = method.importance(free, residuals, task(1))["directional"].scores
    method.learn(task(1), Hooks())
    moved = 0
    for decision in method.choices[0].decisions:
        name, parts = decision.layer, residuals[decision.layer]
        kept = np.argsort(-scores[name], kind="stable")[: decision.rank]
        moved += sorted(kept) != list(range(decision.rank))
        expected = (parts.U[:, kept] * parts.s[kept]) @ parts.Vt[kept]
        start = method.start
        np.testing.assert_allclose(start[f"{name}.B"] @ start[f"{name}.A"], expected, rtol=0, atol=1e-12)
        assert decision.last_score == pytest.approx(scores[name][kept[-1]])
        np.testing.assert_array_equal(method.choices[0].spectra[name], to_host(parts.s))  # as ever, falling
    assert moved  # for some layer they are not the largest singular values


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("preset", ["paper", "official"])
def test_the_choice_by_any_name_is_the_one_recorded_for_it(importance: str, preset: str) -> None:
    """So what a table says an importance would have chosen is what it does choose."""
    method = learned(make(small_mlp, preset=preset, importance=importance, rank_share=0.7), 2)
    other = learned(make(small_mlp, preset=preset, rank_share=0.7), 2)
    for row, elsewhere in zip(method.rank_rows(), other.rank_rows(), strict=True):
        assert row["rank"] == row[rank_column(importance)] == elsewhere[rank_column(importance)]
        assert [row[column] for column in COLUMNS] == [elsewhere[column] for column in COLUMNS]


def test_the_comparison_changes_nothing_else() -> None:
    for importance in ("batch-gradient", "directional"):
        both = [learned(make(importance=importance, compare_importances=on), 3) for on in (True, False)]
        assert arrays(both[0]) == arrays(both[1])
        rows = [method.rank_rows() for method in both]
        shared = [key for key in RANK_HEADER if key not in COLUMNS]
        assert [[row[key] for key in shared] for row in rows[0]] == [[row[key] for key in shared] for row in rows[1]]
    assert all(row["rank_official"] is None and row["rank_fisher"] >= 1 for row in rows[1])


# ---- the record -----------------------------------------------------------------------------------------------------


def test_every_row_says_what_each_would_have_chosen() -> None:
    method = learned(make(rank_share=0.8))
    rows = method.rank_rows()
    assert set(rows[0]) == set(RANK_HEADER)
    for row in rows:
        assert all(1 <= row[column] <= min(row["size"], 6) for column in COLUMNS)
        assert row["rank_batch_gradient"] == row["rank"]
    assert len({tuple(row[column] for row in rows) for column in COLUMNS}) > 3  # they do differ


def test_a_repeat_and_a_loaded_state_agree_bit_for_bit(dtype: Any) -> None:
    options: dict[str, Any] = {"importance": "directional", "dtype": dtype}
    method, again = (learned(make(**options), 2, dtype=dtype) for _ in range(2))
    assert arrays(method) == arrays(again)
    assert method.rank_rows() == again.rank_rows()
    loaded = make(**options)
    loaded.load(*method.state())
    assert loaded.rank_rows() == method.rank_rows()
    learned(method, 3, dtype=dtype)
    learned(loaded, 3, dtype=dtype)
    assert arrays(loaded) == arrays(method)
    assert loaded.rank_rows() == method.rank_rows()


# ---- batch statistics, and names ------------------------------------------------------------------------------------


def test_batch_statistics_leave_out_the_fisher() -> None:
    method = learned(make(untracked, importance="directional", rank_share=0.7), 2)
    for row in method.rank_rows():
        assert row["rank_fisher"] is None
        assert all(row[column] >= 1 for column in COLUMNS if column != "rank_fisher")
    with pytest.raises(ConfigError, match=r"importance: .* received fisher, but its batch statistics"):
        learned(make(untracked, importance="fisher"), 2)


def test_negative_curvature_counts_as_none() -> None:
    """Under batch statistics a Hessian's trace may fall below 0, and an estimate may anywhere."""
    below, norm, above = (Estimate(value, 0.1, 5) for value in (-1.0, 2.0, 3.0))
    curvatures = {
        "a": LayerCurvature(0.5, below, norm, below, np.zeros(2)),
        "b": LayerCurvature(0.7, above, norm, above, np.zeros(2)),
    }
    assert of_curvature(curvatures) == {
        "fisher": {"a": 0.5, "b": 0.7},
        "hessian-frobenius": {"a": 2.0, "b": 2.0},
        "hessian-trace": {"a": 0.0, "b": 3.0},
        "hessian-top": {"a": 0.0, "b": 3.0},
    }


@pytest.mark.parametrize("old", ["mean", "sum"])
def test_the_old_names_are_refused_with_the_new_ones(old: str) -> None:
    told = rf"key 'importance': expected one of official, batch-gradient, .* received '{old}'"
    with pytest.raises(ConfigError, match=told):
        resolve_config(("--set", {"importance": old}))
    assert resolve_config(("flags", {"preset": "hessian"})).importance == "hessian-frobenius"
