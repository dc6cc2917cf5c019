"""The released code's own numbers: from its recorded free weights to its ranks, pruned factors and counts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halrp_np.lowrank import (
    RankDecision,
    allocate_ranks,
    component_scores,
    decompose,
    dense_count,
    fit_col_scale,
    fit_row_scale,
    growth_dense,
    initial_factors,
    prune,
    pruning_plan,
    released_count,
    released_increase,
    residual,
    task_size,
    window_mean,
)

TRACES = ["official_trace_a.npz", "official_trace_b.npz"]


@pytest.fixture(params=TRACES)
def trace(request: pytest.FixtureRequest, shared_dir: Path) -> dict[str, Any]:
    """All arrays of a trace, with its configuration decoded."""
    with np.load(shared_dir / "reference" / request.param) as file:
        arrays = {key: file[key] for key in file.files}
    return arrays | {"config": json.loads(str(arrays["config"]))}


def layers_of(trace: dict[str, Any]) -> list[str]:
    return [key.split("/")[-1] for key in trace if key.startswith("task1/importance/")]


def trained_factors(trace: dict[str, Any], prefix: str) -> dict[str, tuple[Any, Any]]:
    """The recorded (A, B) pairs; `prefix` holds two gaps, for col or row and for the layer."""
    return {
        layer: (trace[prefix.format("col", layer)], trace[prefix.format("row", layer)]) for layer in layers_of(trace)
    }


def test_fit_and_ranks(trace: dict[str, Any]) -> None:
    config, layers = trace["config"], layers_of(trace)
    for t in range(1, config["tasks"]):
        parts, scores = {}, {}
        for layer in layers:
            W, F = (trace[f"{stage}/features.{layer}.weight"] for stage in ("after_task0/base", f"task{t}/free"))
            R = fit_row_scale(W, F)
            S = fit_col_scale(W, F, R, "official")
            np.testing.assert_allclose(R, trace[f"task{t}/R0/{layer}"], rtol=1e-12)
            np.testing.assert_allclose(S, trace[f"task{t}/S0/{layer}"], rtol=1e-12)
            parts[layer] = decompose(window_mean(residual(W, F, R, S)))
            window = int(np.prod(W.shape[2:]))
            scores[layer] = component_scores(parts[layer].s, window, float(trace[f"task{t}/importance/{layer}"]))
        decisions: list[RankDecision] = allocate_ranks(
            scores, share=config["approxiRate"], cap=config["upper_rank"], at_full_share="one"
        )
        assert [d.rank for d in decisions] == [int(trace[f"task{t}/rank/{layer}"]) for layer in layers]
        np.testing.assert_allclose([d.score_sum for d in decisions], trace[f"task{t}/weighted_loss"], rtol=1e-10)
        np.testing.assert_allclose([d.kept_fraction for d in decisions], trace[f"task{t}/explained"], rtol=1e-10)
        for d in decisions:
            A, B = initial_factors(parts[d.layer], d.rank)
            np.testing.assert_allclose(B @ A, trace[f"task{t}/lowrank0/{d.layer}"], atol=1e-13)


def test_pruning_and_counts(trace: dict[str, Any]) -> None:
    config = trace["config"]
    base = int(trace["after_task0/count_dense"])
    channels = sum(len(v) for key, v in trace.items() if key.startswith("after_task1/bn/") and "running_mean" in key)
    head = sum(trace[f"after_task1/head/{part}"].size for part in ("weight", "bias"))
    other = {"batchnorm": 2 * channels, "head": head, "bias": channels, "running_stats": 2 * channels}
    factors: list[dict[str, tuple[Any, Any]]] = []
    for t in range(1, config["tasks"]):
        factors.append(trained_factors(trace, f"task{t}/{{}}_trained/{{}}"))
        growth = growth_dense(base, [task_size(task, **other) for task in factors])
        plan = pruning_plan(
            config["prune_method"], config["prune_value"], bounded=config["prune_boundAlltask"], growth=growth
        )
        factors = prune(factors, plan) if plan else factors
        for s, task in enumerate(factors, start=1):
            recorded = trained_factors(trace, f"after_task{t}/task{s}/{{}}/{{}}")
            for layer in recorded:
                for a, b in zip(task[layer], recorded[layer], strict=True):
                    np.testing.assert_array_equal(a, b)
        sizes = [task_size(task, **other) for task in factors]
        assert released_count(base, sizes) == trace[f"after_task{t}/count_sparse"]
        assert dense_count(base, sizes) == trace[f"after_task{t}/count_dense"]
        assert released_increase(base, sizes) == trace[f"after_task{t}/capacity_increase"]
