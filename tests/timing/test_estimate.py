"""What a benchmark will cost: counts against published ones and against real networks, steps and images by hand."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from halrp_np import BENCHMARKS, resolve_config, timing
from halrp_np.data import DataSet, cifar100_split, cifar100_superclass, omniglot_rotation, tiny_imagenet_split
from halrp_np.models import MODELS
from halrp_np.timing import Estimate, StepTimes, rates
from halrp_np.timing.estimate import OFFICIAL, estimates, parameters, size_at_caps

PUBLISHED = """
network      shape     classes  base      scalings norm  head   biases  costs and full ranks of the layers
lenet        3x32x32   10   2995620   5393  2740  5010   1370   23,70,4000,1300             3,20,800,500
lenet        3x32x32   5    2993115   5393  2740  2505   1370   23,70,4000,1300             3,20,800,500
alexnet      3x32x32   10   6533450   7811  9088  20490  4544   67,192,384,3072,4096        3,64,128,1024,2048
alexnet      3x64x64   10   23310666  16003 9088  20490  4544   67,192,384,11264,4096       3,64,128,2048,2048
alexnet      3x64x64   5    23300421  16003 9088  10245  4544   67,192,384,11264,4096       3,64,128,2048,2048
large-lenet  1x32x32   12   24466988  14949 8384  18012  4192   65,192,10692,4000           1,64,2500,1500
resnet18     3x32x32   10   2807690   4323  4800  10250  2400   RESNET
resnet18     3x64x64   10   2838410   4323  4800  40970  2400   RESNET
resnet18     3x64x64   5    2817925   4323  4800  20485  2400   RESNET
"""
RESNET = (
    "35,64,64,64,64,96,128,96,128,128,192,256,192,256,256,384,512,384,512,512 "
    "3,32,32,32,32,32,64,32,64,64,64,128,64,128,128,128,256,128,256,256"
)
LINES = [line.replace("RESNET", RESNET).split() for line in PUBLISHED.strip().splitlines()[1:]]


def shape_of(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split("x"))


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(line[:3]))
def test_counts_are_the_published_ones(line: list[str]) -> None:
    network, shape, classes, *numbers, costs, full = line
    base, scalings, norm, head, biases = (int(number) for number in numbers)
    model = MODELS[network](shape_of(shape), int(classes))
    assert parameters(model) == base
    for cap in (1, 100, 10**6):
        size = size_at_caps(model, cap)
        ranks = [min(int(rank), cap) for rank in full.split(",")]
        factors = sum(int(cost) * rank for cost, rank in zip(costs.split(","), ranks, strict=True))
        assert (size.scalings, size.batchnorm, size.head, size.bias) == (scalings, norm, head, biases)
        assert size.factors_dense == size.factors_sparse == factors
        assert size.running_stats == norm


@pytest.mark.parametrize(("name", "widths"), [("lenet", (4, 6, 20, 10)), ("mlp", (8, 5))])
def test_counts_are_those_of_initial_parameters(name: str, widths: tuple[int, ...]) -> None:
    model = MODELS[name]((3, 32, 32), 7, widths)
    start = model.init(np.random.default_rng(0), np.float32)
    assert parameters(model) == sum(start[entry].size for entry in model.trainable)
    assert size_at_caps(model, 3).running_stats == sum(start[entry].size for entry in model.buffers)


def row(preset: str = "paper", images: Any = None, **settings: Any) -> Estimate:
    """A benchmark of LeNet on 3x32x32."""
    chosen = {"benchmark": "cifar100-split", "model": "lenet", "preset": preset, **settings}
    images = images or OFFICIAL["cifar100-split"][1]
    return Estimate(resolve_config(("test", chosen)), 10, (3, 32, 32), images)


def test_growth_at_the_caps_and_after_pruning() -> None:
    """A task of LeNet costs 544,612 = 0.1818 of N₀; nine of them 1.6362248883, and pruned as released 0.235."""
    assert row().later_task().released == 544_612
    assert row(images=((1000, 100, 100),) * 2).growth_at_caps() == pytest.approx(0.1818, abs=5e-5)
    assert row().growth_at_caps() == pytest.approx(1.6362248883, abs=5e-11)
    assert row("official").growth_pruned() == pytest.approx(0.235, abs=5e-4)
    assert row().growth_pruned() == pytest.approx(0.2)
    assert row(prune_rule="none").growth_pruned() == row().growth_at_caps()
    fixed = 9 * 13_143 / 2_995_620
    assert row(prune_values=(1e-5, 0.99)).growth_pruned() > fixed > 0.01  # the budget cannot be met


def test_steps_and_seconds_by_hand() -> None:
    images = ((1000, 100, 60), (300, 100, 50), (130, 70, 40))
    made = row("official", images, batch_size=100, epochs=4, warmup_epochs=1, prune_rule="none")
    assert [made.steps_of_task(task) for task in range(3)] == [40, 12, 8]
    dropped = dataclasses.replace(made, config=dataclasses.replace(made.config, drop_last=True))
    assert [dropped.steps_of_task(task) for task in range(3)] == [40, 12, 4]
    times = StepTimes(base_step=1.0, low_rank_step=100.0, image=1e-6)
    assert made.evaluated_images() == 160 + 150 + 110
    assert made.seconds(times) == pytest.approx(40 + (3 + 2) + 100 * (9 + 6) + 420e-6)


def test_a_pruned_task_is_evaluated_again() -> None:
    """With the released rules growth reaches its budget of 0.2 at the second later task; from then on all are."""
    images = ((1000, 100, 60), (300, 100, 50), (130, 70, 40), (200, 7, 3))
    assert row("official", images).evaluated_images() == 160 + 150 + (150 + 110) + (150 + 110 + 10)


def test_every_row_of_the_table_is_estimated() -> None:
    rows = estimates()
    assert {one.config.benchmark for one in rows} == set(BENCHMARKS) == set(OFFICIAL)
    assert len({(one.config.benchmark, one.config.model) for one in rows}) == len(rows) > len(BENCHMARKS)
    for one in rows:
        assert len(one.images) == (BENCHMARKS[one.config.benchmark].tasks or 100)
        assert one.growth_at_caps() > one.growth_pruned() > 0


def blank(shape: tuple[int, ...], classes: int, train: int, test: int) -> DataSet:
    """Black images, as many of each class."""
    images = [np.zeros((n * classes, *shape), np.uint8) for n in (train, test)]
    labels = [np.arange(classes).repeat(n) for n in (train, test)]
    names = tuple(f"{number:03}" for number in range(classes))
    return DataSet("blank", images[0], labels[0], images[1], labels[1], names, "blank", "blank")


def test_sizes_are_those_of_the_streams() -> None:
    cifar, tiny = blank((3, 32, 32), 100, 500, 100), blank((3, 64, 64), 200, 500, 50)
    streams = [cifar100_split(cifar), cifar100_superclass(cifar), omniglot_rotation(blank((1, 32, 32), 1200, 20, 0))]
    streams += [tiny_imagenet_split(tiny, tasks=20), tiny_imagenet_split(tiny, tasks=40)]
    for stream in streams:
        shape, images = OFFICIAL[stream.name]
        assert [(row["train"], row["validation"], row["test"]) for row in stream.protocol["sizes"]] == list(images)
        assert stream.tasks[0].train.shape == shape


def test_rows_of_one_kind_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"widths": (3, 4, 8, 6), "batch_size": 8, "evaluation_batch": 16}
    rows = [row(**small), row(benchmark="pmnist", **small), row(augment=True, **small)]
    asked: list[Estimate] = []
    measured = rates.measured
    monkeypatch.setattr(rates, "measured", lambda one: asked.append(one) or measured(one))
    monkeypatch.setattr(rates, "ENOUGH_SECONDS", 0.0)
    told: list[tuple[int, int]] = []
    times = timing.step_times(rows, lambda done, total: told.append((done, total)))
    assert asked == [rows[0], rows[2]]
    assert told == [(0, 2), (1, 2), (2, 2)]
    assert times[0] is times[1] is not times[2]
    assert all(0 < value < 10 for one in times for value in dataclasses.astuple(one))


def test_a_median_leaves_the_first_call_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 5.0, 8.0])
    monkeypatch.setattr(rates.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    assert rates.median(lambda: calls.append(1)) == 2.0
    assert len(calls) == 3
