"""Every benchmark resolves to the published settings, and a setting that it does not have is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halrp_np import BENCHMARKS, Device, RunConfig, resolve_config, run
from halrp_np.benchmarks import checks, open_stream
from halrp_np.benchmarks.catalog import STREAM_SETTINGS, find_benchmark
from halrp_np.benchmarks.table import ROWS, models_of, settings_of
from halrp_np.errors import ConfigError
from halrp_np.methods import PRESETS
from halrp_np.models import MODELS

SCRIPTS = """
cifar100-split      lenet    128 20 1  1e-3 0.2 1e-4 1e-4 0.9  100 0.80
cifar100-superclass lenet    128 20 1  1e-3 0.2 1e-4 1e-4 0.9  100 0.80
pmnist              lenet    128 12 1  1e-3 0.2 1e-3 1e-6 0.9  100 0.40
five-datasets       alexnet  128 12 1  1e-3 0.2 1e-4 1e-6 0.9  100 0.40
five-datasets       resnet18 128 12 3  1e-3 0.2 1e-4 1e-6 0.95 120 0.40
tinyimagenet-20     alexnet  32  50 25 1e-3 0.1 5e-4 1e-5 0.9  100 0.40
tinyimagenet-20     resnet18 32  50 25 5e-4 0.1 1e-4 5e-4 0.9  100 0.40
tinyimagenet-40     alexnet  32  50 20 1e-3 0.1 1e-4 5e-4 0.9  100 0.40
tinyimagenet-40     resnet18 32  50 25 5e-4 0.1 1e-4 5e-4 0.9  100 0.40
"""
SCRIPT_COLUMNS = (
    *("batch_size", "epochs", "warmup_epochs", "learning_rate", "validation_share", "weight_decay", "l1"),
    *("rank_share", "rank_cap"),
)


def resolved(**chosen: Any) -> RunConfig:
    return resolve_config(("test", chosen))


@pytest.mark.parametrize("line", SCRIPTS.strip().splitlines())
@pytest.mark.parametrize("preset", PRESETS)
def test_the_settings_are_those_of_the_released_scripts(line: str, preset: str) -> None:
    benchmark, model, *numbers, budget = line.split()
    config = resolved(benchmark=benchmark, model=model, preset=preset)
    assert [getattr(config, key) for key in SCRIPT_COLUMNS] == [float(text) for text in numbers]
    assert config.prune_values == (1e-5, float(budget))
    assert (config.prune_rule, config.prune_bounded, config.rank_rule) == ("mixAR_AllLayer", True, "importance")
    assert (config.optimizer, config.train_size, config.order) == ("adam", 1.0, "A")


def test_batches_are_drawn_as_released_under_the_preset_official() -> None:
    """Shuffled with the last partial batch dropped (permuted MNIST, five), kept (Tiny), and never shuffled (CIFAR)."""
    expected = {"pmnist": (True, True), "five-datasets": (True, True), "tinyimagenet-20": (True, False)}
    expected |= {"cifar100-split": (False, False), "cifar100-superclass": (False, False)}
    for name, (shuffle, drop_last) in expected.items():
        official = resolved(benchmark=name, preset="official")
        assert (official.shuffle, official.drop_last) == (shuffle, drop_last), name
        assert resolved(benchmark=name).shuffle
    assert resolved(benchmark="cifar100-split").split_seed == 7690
    assert [resolved(benchmark=f"tinyimagenet-{n}").augment for n in (20, 40)] == [True, True]


def test_the_released_alexnet_keeps_no_running_statistics() -> None:
    official = resolved(benchmark="five-datasets", preset="official")
    assert (official.model, official.norm, official.images_asked) == ("alexnet", "batch", official.batch_size)
    assert resolved(benchmark="five-datasets", preset="official", model="resnet18").norm == "running"
    assert resolved(benchmark="five-datasets", preset="official", norm="running").norm == "running"
    paper = resolved(benchmark="five-datasets")
    assert (paper.norm, paper.images_asked) == ("running", paper.evaluation_batch)


def test_every_benchmark_has_a_network_and_every_row_a_benchmark() -> None:
    assert {name for name, _ in ROWS} == {*BENCHMARKS, "*.toml"}
    assert {model for _, model in ROWS} <= set(MODELS)
    for name in BENCHMARKS:
        assert resolved(benchmark=name).model == models_of(name)[0]
    fallback = resolved(benchmark="pmnist", model="mlp")
    assert (fallback.model, fallback.weight_decay) == ("mlp", settings_of("pmnist", "lenet")["weight_decay"])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_streams_need_no_files_for_a_quick_look(name: str) -> None:
    config = resolve_config(("test", {"benchmark": name, "data": "sample"}), quick=True)
    stream, notes = open_stream(config)
    assert len(stream.tasks) == (BENCHMARKS[name].tasks or len(stream.tasks))
    assert stream.protocol["benchmark"] == stream.name == name
    assert {key: type(stream.protocol[key]) for key in ("data", "split", "normalisation", "sizes")} == {
        "data": str, "split": str, "normalisation": dict, "sizes": list,
    }  # fmt: skip
    assert [row["identity"] for row in stream.protocol["sizes"]] == stream.protocol["order"]
    for task, row in zip(stream.tasks, stream.protocol["sizes"], strict=True):
        found = {"classes": task.classes, "train": len(task.train), "validation": len(task.validation)}
        assert {key: row[key] for key in found} == found
        assert (row["identity"], row["test"]) == (task.identity, len(task.test))
    words = "SMALL SAMPLE" if name == "pmnist" else "SYNTHETIC"
    assert any(words in note.upper() for note in notes)
    assert set(stream.protocol["data"].split(", ")) == {"mnist-5k"} if name == "pmnist" else "synthetic" in str(notes)


def test_a_quick_look_at_the_users_own_files_reads_them() -> None:
    chosen = {"benchmark": "cifar100-split", "data_dir": "somewhere"}
    assert resolve_config(("test", chosen), quick=True).data == "auto"
    assert resolve_config(("test", {"benchmark": "cifar100-split"}), quick=True).data == "sample"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_settings_that_a_stream_does_not_have_are_refused(name: str) -> None:
    other = {"tasks": 7, "permutation": "spatial", "train_images": 5, "test_images": 5, "train_size": 0.5}
    other |= {"split_seed": 3, "augment": True, "swap_test": True, "validation_share": 0.3}
    assert other.keys() == STREAM_SETTINGS.keys()
    for key, value in other.items():
        config = resolved(benchmark=name, **{key: value})
        if key in BENCHMARKS[name].uses:
            checks.check_stream_settings(config)
            continue
        with pytest.raises(ConfigError, match=f"^{key}: expected .* received {value}"):
            checks.check_stream_settings(config)


@pytest.mark.parametrize("name", ["cifar100-split", "own.toml"])
def test_a_run_refuses_a_number_of_tasks_that_its_stream_has_not(name: str, tmp_path: Path) -> None:
    arrays = {"images": np.zeros((16, 8, 8), np.uint8), "labels": np.arange(16) % 4}
    np.savez(tmp_path / "own.npz", **arrays)
    (tmp_path / "own.toml").write_text('name = "own"\nimages = "own.npz"\ntest = 0.2\nclasses_per_task = 2\n')
    benchmark = str(tmp_path / name) if name.endswith("toml") else name
    config = resolve_config(("test", {"benchmark": benchmark, "data": "sample", "tasks": 3}), quick=True)
    with pytest.raises(ConfigError, match=r"^tasks: expected .* received 3.*stop_after"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_benchmarks_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'cifar100-split'"):
        resolved(benchmark="cifar-split")
    with pytest.raises(ConfigError, match="halrp-np list benchmarks"):
        resolved(benchmark="qqq")
    assert find_benchmark("mine/birds.toml").name == "*.toml"
    assert Path(resolved(benchmark="mine/birds.toml").benchmark).is_absolute()


def test_batches_of_one_are_refused_in_evaluation_by_batch_statistics() -> None:
    config = resolve_config(
        ("test", {"benchmark": "five-datasets", "data": "sample", "preset": "official"}), quick=True
    )
    (task, *_), _ = open_stream(config)[0].tasks, None
    lonely = dataclasses.replace(config, batch_size=len(task.test) - 1)
    with pytest.raises(ConfigError, match=r"last batch of 1 of .* images"):
        checks.check_batches(lonely, task, len(task.train))


def test_batches_of_tasks_learned_together_are_those_of_all_images() -> None:
    """Three tasks of odd sizes leave no image alone where they are joined, or leave one where none of them does."""
    config = resolve_config(("test", {"benchmark": "cifar100-split", "data": "sample", "method": "mtl"}))
    stream, device = open_stream(config)[0], Device("cpu")
    images = sum(len(task.train) for task in stream.tasks)
    lonely = dataclasses.replace(config, batch_size=images - 1)
    with pytest.raises(ConfigError, match=r"last batch of 1 of .* training images"):
        checks.check_stream(lonely, stream, device)
    checks.check_stream(dataclasses.replace(config, batch_size=len(stream.tasks[0].train) - 1), stream, device)


def test_ewc_is_refused_where_samples_have_no_gradients_of_their_own() -> None:
    config = resolve_config(("test", {"benchmark": "five-datasets", "preset": "official", "method": "ewc"}))
    with pytest.raises(ConfigError, match="norm: expected running under method=ewc"):
        checks.check_config(config)


def test_provenance_tells_a_resume_where_to_look() -> None:
    assert checks.source_of("mnist-5k") == "sample"
    assert checks.source_of("cifar10-synthetic, svhn-synthetic") == "sample"
    assert checks.source_of("mnist-60k") == "full"
    assert checks.source_of("cifar10, svhn") is checks.source_of("mnist-other") is None
