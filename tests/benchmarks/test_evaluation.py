"""Every task seen is answered for after every task; a network is asked again only when its numbers changed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tiny
from halrp_np import run
from halrp_np.backend import Device
from halrp_np.benchmarks import evaluation
from halrp_np.benchmarks.catalog import open_stream
from halrp_np.benchmarks.evaluation import SPLITS, Evaluation, digest
from halrp_np.benchmarks.feed import Feeds
from halrp_np.layers import EVALUATE, Sequential
from halrp_np.models import build
from halrp_np.training import evaluate
from halrp_np.typing import Params


class Networks:
    """One network a task, as a method holds them."""

    def __init__(self, data_dir: Path, tasks: int = 3) -> None:
        config = tiny.config(data_dir)
        self.stream, _ = open_stream(config)
        self.model = build(config.model, self.stream.tasks[0].train.shape, config.widths)(10)
        draw = np.random.default_rng(0)
        self.params = [self.model.init(draw, np.float32) for _ in range(tasks)]

    def network(self, position: int) -> tuple[Sequential, Params]:
        return self.model, dict(self.params[position])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each evaluation looked at."""
    images: list[int] = []

    def counting(model: Any, params: Any, examples: Any, batch: int) -> float:
        images.append(len(examples))
        return evaluate(model, params, examples, batch)

    monkeypatch.setattr(evaluation, "evaluate", counting)
    return images


def test_accuracies_are_those_of_each_task_s_own_network(data_dir: Path) -> None:
    networks = Networks(data_dir)
    found = Evaluation(networks, Feeds(Device("cpu"), np.float32), batch=7)  # type: ignore[arg-type]
    for task in networks.stream.tasks:
        for split, images in zip(SPLITS, (task.test, task.validation), strict=True):
            x = np.moveaxis(images.arrays(), 0, -1).astype(np.float32)
            outputs, _ = networks.model.forward(networks.params[task.position], np.ascontiguousarray(x), EVALUATE)
            right = (outputs.argmax(axis=0) == images.labels_of()).mean()
            assert found.of(task)[split] == pytest.approx(100 * right, rel=1e-12)


def test_only_what_changed_is_asked_again(data_dir: Path, asked: list[int]) -> None:
    networks = Networks(data_dir)
    tasks = networks.stream.tasks
    found = Evaluation(networks, Feeds(Device("cpu"), np.float32), batch=256)  # type: ignore[arg-type]
    first = [found.of(task) for task in tasks]
    assert asked == [30, 12] * 3
    assert [found.of(task) for task in tasks] == first
    assert asked == [30, 12] * 3  # not again
    networks.params[1] = {name: value.copy() for name, value in networks.params[1].items()}
    assert [found.of(task) for task in tasks] == first
    assert asked == [30, 12] * 3  # other arrays, the same numbers
    networks.params[1]["head.bias"][3] += 100  # in place: the arrays are the same, their numbers are not
    again = [found.of(task) for task in tasks]
    assert asked == [30, 12] * 4
    labels = tasks[1].test.labels_of()
    assert again[1]["test"] == pytest.approx(100 * (labels == 3).mean())
    assert (again[0], again[2]) == (first[0], first[2])


def test_the_checksum_sees_names_shapes_types_and_every_number() -> None:
    a = np.arange(6, dtype=np.float32)
    others: list[Params] = [
        {"w": a, "b": a},
        {"v": a},
        {"w": a.reshape(2, 3)},
        {"w": a.astype(np.float64)},
        {"w": a.view(np.int32)},
        {"w": np.nextafter(a, np.float32(9))},
        {"w": np.array([-0.0, 1, 2, 3, 4, 5], np.float32)},
        {},
    ]
    assert digest({"w": a}) == digest({"w": np.repeat(a, 2)[::2]})
    assert len({digest(params) for params in [{"w": a}, *others]}) == 9
    assert digest({"w": a, "b": a}) == digest({"b": a, "w": a})


@pytest.mark.parametrize("rule", ["none", "mixAR_AllLayer"])
def test_a_run_records_the_same_as_one_that_always_asks(
    rule: str, data_dir: Path, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, object] = {"prune_rule": rule}
    if rule != "none":
        changes |= {"prune_values": (1e-4, 0.9), "prune_bounded": True}  # so tight that every task is pruned again
    saving = run(tiny.config(data_dir, **changes), tmp_path / "saving")
    # task 0 once; later tasks once each, or again after every pruning
    assert len(asked) == 2 * (3 if rule == "none" else 4)
    asked.clear()
    monkeypatch.setattr(evaluation, "digest", lambda params: np.random.default_rng().bytes(8))
    always = run(tiny.config(data_dir, **changes), tmp_path / "always")
    assert len(asked) == 2 * 6
    for name in ("accuracy.csv", "capacity.csv", "ranks.csv", "metrics.jsonl"):
        assert (saving / name).read_bytes() == (always / name).read_bytes()
