"""curvature.csv: each layer's trace and largest eigenvalue, as the curvature's functions find them, when it changed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tiny
from halrp_np import TrainedRun, run
from halrp_np.backend import Device, Streams
from halrp_np.benchmarks import boundary, runner
from halrp_np.benchmarks.boundary import HEADER, LEAST_PRODUCTS, curvature_rows
from halrp_np.benchmarks.catalog import open_stream
from halrp_np.benchmarks.feed import Feeds
from halrp_np.curvature import Batches, HessianOperator, dense_matrix, extreme_eigenvalues, hutch_pp_trace
from halrp_np.errors import ConfigError
from halrp_np.losses import CrossEntropy
from halrp_np.models import build
from halrp_np.runs import RunFolder

LAYERS = ["fc1", "fc2", "head"]


def network(norm: str = "running") -> tuple[Any, Any]:
    """A network and its parameters, in float64."""
    model = build("mlp", (3, 32, 32), (8, 6), norm)(10)
    return model, model.init(np.random.default_rng(1), np.float64)


@pytest.fixture(scope="module")
def validation(data_dir: Path) -> Any:
    stream, _ = open_stream(tiny.config(data_dir))
    return Feeds(Device("cpu"), np.float64).open(stream.tasks[0].validation)


def rows_of(network: tuple[Any, Any], validation: Any, **changes: Any) -> tuple[list[list[Any]], list[str]]:
    """The rows of a network, and what was said."""
    said: list[str] = []
    options = {"images": 9, "batch": 9, "products": 60, "generator": np.random.default_rng(5), "warn": said.append}
    return curvature_rows(*network, validation, **{**options, **changes}), said


def operator(network: tuple[Any, Any], validation: Any) -> HessianOperator:
    return HessianOperator(*network, CrossEntropy(), Batches(validation, 9, 9))


def test_where_samples_allow_it_the_numbers_are_exact(validation: Any) -> None:
    found, said = rows_of(network(), validation)
    assert [row[0] for row in found] == LAYERS
    for name, trace, trace_error, top, top_error, products in found:
        if name != "fc1":  # its matrix has 24,576 columns
            H = dense_matrix(operator(network(), validation).block(f"{name}.weight"))
            np.testing.assert_allclose([trace, top], [np.trace(H), np.linalg.eigvalsh(H)[-1]], rtol=1e-9)
        assert (trace_error, top_error, products) == (0.0, 0.0, 0)
        assert 0 < top < trace
    assert said == []


def test_without_room_for_all_samples_only_the_eigenvalue_costs_products(
    validation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The factors of a few samples at a time give the trace, but no Gram matrix."""
    exact, _ = rows_of(network(), validation)
    original = boundary.layer_curvatures
    monkeypatch.setattr(boundary, "layer_curvatures", lambda *a, **o: original(*a, **o, memory=2**19))
    found, said = rows_of(network(), validation)
    generator, H = np.random.default_rng(5), operator(network(), validation)
    for row, known in zip(found, exact, strict=True):
        top = extreme_eigenvalues(H.block(f"{row[0]}.weight"), products=60, generator=generator)[0]
        assert row == [row[0], pytest.approx(known[1], rel=1e-9), 0.0, top.value, top.stderr, row[5]]
        assert LEAST_PRODUCTS <= row[5] <= 60
        assert abs(row[3] - known[3]) <= max(row[4], 1e-9 * known[3])
    assert said == []


def test_under_batch_statistics_both_are_estimated_from_half_of_the_products_each(validation: Any) -> None:
    found, said = rows_of(network("batch"), validation, products=80)
    generator, H = np.random.default_rng(5), operator(network("batch"), validation)
    for row in found:
        block = H.block(f"{row[0]}.weight")
        trace = hutch_pp_trace(block, products=40, generator=generator)
        top = extreme_eigenvalues(block, products=40, generator=generator)[0]
        assert row == [row[0], trace.value, trace.stderr, top.value, top.stderr, block.products]
        assert row[5] <= 80
    assert said == []


def test_an_eigenvalue_that_is_not_found_within_its_products_is_left_out_and_told(
    validation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **options: Any) -> Any:
        raise ConfigError("products", expected="more", received="40", next_step="Raise it.")

    monkeypatch.setattr(boundary, "extreme_eigenvalues", fails)
    found, said = rows_of(network("batch"), validation, products=80)
    assert [(row[3], row[4], row[5]) for row in found] == 3 * [(None, None, 40)]
    assert said == ["curvature: no largest eigenvalue of fc1, fc2, head within curvature_products=80"]


# ---- in a run -------------------------------------------------------------------------------------------------------

ON: dict[str, Any] = {"curvature_products": 40, "curvature_images": 10}


def test_a_run_records_every_learned_task_after_every_task(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[Any] = []

    def counting(*arguments: Any, generator: Any, **options: Any) -> Any:
        seeds.append(generator.bit_generator.state)
        return curvature_rows(*arguments, generator=generator, **options)

    class Listen(tiny.StopAt):
        def stream(self, protocol: Any) -> None:
            self.notes.append("stream")

    monkeypatch.setattr(runner, "curvature_rows", counting)
    config, listen = tiny.config(data_dir, **ON, prune_rule="none"), Listen()
    folder = RunFolder(run(config, tmp_path / "run", listen))
    (note,) = [text for text in listen.notes if text.startswith("curvature")]
    assert note == (
        "curvature: about 120 Hessian products after each task for each task that changed, "
        "40 for each of 3 layers; none for a layer where it is exact"
    )
    header, rows = folder.read_csv("curvature.csv")
    assert header == list(HEADER)
    places = [(after, task) for after in range(3) for task in range(after + 1)]
    assert [(row["after_task"], row["task"], row["layer"]) for row in rows] == [(*p, n) for p in places for n in LAYERS]
    assert {(row["task"], row["identity"]) for row in rows} == {(0, 2), (1, 1), (2, 0)}

    # nothing is pruned again, so that each task is measured once, on its own stream, and its rows are repeated
    assert seeds == [Streams(config.seed).generator("curvature", t, t).bit_generator.state for t in range(3)]
    last: dict[Any, list[Any]] = {task: [] for task in range(3)}
    for row in rows:
        last[row["task"]].append((row["layer"], *(row[name] for name in HEADER[4:])))
    for task, found in last.items():
        assert found == found[:3] * (3 - task)

    trained, (stream, _) = TrainedRun(folder.path), open_stream(config)
    feeds = Feeds(Device("cpu"), np.float32)
    for task in stream.tasks:
        by_hand = curvature_rows(
            *trained.method.network(task.position),
            feeds.open(task.validation),
            images=10,
            batch=256,
            products=40,
            generator=Streams(config.seed).generator("curvature", task.position, task.position),
            warn=print,
        )
        assert [list(row) for row in last[task.position][:3]] == by_hand


def test_a_task_that_was_pruned_again_is_measured_again(data_dir: Path, tmp_path: Path) -> None:
    changes = {"prune_values": (1e-4, 0.9), "prune_bounded": True}  # so tight that every task is pruned again
    folder = RunFolder(run(tiny.config(data_dir, **ON, **changes), tmp_path / "run"))
    rows = folder.read_csv("curvature.csv")[1]
    traces = {(row["after_task"], row["task"], row["layer"]): row["trace"] for row in rows}
    assert all(traces[2, 0, layer] == traces[1, 0, layer] for layer in LAYERS)
    assert all(traces[2, 1, layer] != traces[1, 1, layer] for layer in LAYERS)


def test_it_is_off_unless_asked_for(whole: Path) -> None:
    assert not (whole / "curvature.csv").exists()


@pytest.mark.parametrize(("changes", "least"), [({}, LEAST_PRODUCTS), ({"norm": "batch"}, 2 * LEAST_PRODUCTS)])
def test_a_budget_that_finds_nothing_is_refused(
    changes: dict[str, object], least: int, data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=f"curvature_products: expected 0, or at least {least}: .* received {least - 1}"
    ):
        run(tiny.config(data_dir, curvature_products=least - 1, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
