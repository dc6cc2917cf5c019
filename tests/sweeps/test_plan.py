"""What a sweep's file means, and what is refused in it, each with file and key."""

from pathlib import Path
from typing import Any

import pytest

from halrp_np import benchmarks, resolve_config
from halrp_np.errors import ConfigError
from halrp_np.sweeps import expand, load, shipped

Content = dict[str, Any]


def meant(content: Content, *keys: str, **options: Any) -> list[tuple[Any, ...]]:
    """These settings of each run, in order."""
    return [
        tuple(getattr(job.config, key) for key in keys) for job in expand(content, "f.toml", name="f", **options).jobs
    ]


@pytest.mark.parametrize(
    ("content", "keys", "runs"),
    [
        ({}, ("benchmark", "method", "preset", "order", "seed"), [("pmnist", "halrp", "paper", "A", 0)]),
        ({"seeds": 3}, ("seed",), [(0,), (1,), (2,)]),
        ({"seeds": [5, 1, 5]}, ("seed",), [(5,), (1,)]),
        ({"orders": ["A-C"]}, ("order",), [("A",), ("B",), ("C",)]),
        ({"orders": ["E", "D-E", "random:2"]}, ("order",), [("E",), ("D",), ("random:0",), ("random:1",)]),
        (
            {"methods": ["halrp", "stl"], "seeds": 2},
            ("method", "seed"),
            [("halrp", 0), ("halrp", 1), ("stl", 0), ("stl", 1)],
        ),
        ({"models": ["mlp", "lenet"]}, ("model",), [("mlp",), ("lenet",)]),
        ({"settings": {"model": "mlp", "epochs": 7}}, ("model", "epochs"), [("mlp", 7)]),
        (
            {"grid": {"l1": [0.0, 1e-3], "epochs": [1, 2]}},
            ("l1", "epochs"),
            [(0.0, 1), (0.0, 2), (1e-3, 1), (1e-3, 2)],
        ),
        # a grid over a setting that one method does not read: one run of that method, not two
        (
            {"methods": ["halrp", "finetune"], "grid": {"rank_cap": [2, 4]}},
            ("method", "rank_cap"),
            [("halrp", 2), ("halrp", 4), ("finetune", resolve_config().rank_cap)],
        ),
        (
            {"methods": ["ewc", "finetune"], "settings": {"ewc_strength": 3.0}},
            ("method", "ewc_strength"),
            [("ewc", 3.0), ("finetune", resolve_config().ewc_strength)],
        ),
        # a setting of the stream that one benchmark has not
        (
            {"benchmarks": ["pmnist", "cifar100-split"], "grid": {"train_size": [0.5, 1.0]}},
            ("benchmark", "train_size"),
            [("pmnist", 1.0), ("cifar100-split", 0.5), ("cifar100-split", 1.0)],
        ),
        # a preset that has nothing to set for a method: `paper`, once
        (
            {"methods": ["halrp", "stl"], "presets": ["paper", "hessian"]},
            ("method", "preset"),
            [("halrp", "paper"), ("halrp", "hessian"), ("stl", "paper")],
        ),
    ],
    ids=str,
)
def test_what_a_file_means(content: Content, keys: tuple[str, ...], runs: list[tuple[Any, ...]]) -> None:
    assert meant(content, *keys) == runs


def test_names_are_those_of_single_runs() -> None:
    for quick in (False, True):
        for job in expand({"seeds": 2, "grid": {"l1": [0.0, 1e-3]}}, "f.toml", name="f", quick=quick).jobs:
            assert job.name == benchmarks.run_name(job.config, quick=quick)


def test_quick_takes_the_small_runs_and_the_table_of_that_name() -> None:
    content = {"seeds": 5, "orders": ["A-E"], "quick": {"seeds": 2, "orders": ["B"]}}
    assert meant(content, "order", "seed", quick=True) == [("B", 0), ("B", 1)]
    assert meant(content, "train_images", quick=True) == [(2000,), (2000,)]
    assert len(meant(content, "seed")) == 25


def test_settings_for_every_run_win_over_the_files() -> None:
    content = {"methods": ["halrp", "ewc"], "settings": {"epochs": 9}}
    layers = [("--set", {"epochs": "3"}), ("--set", {"ewc_strength": "2"})]
    assert meant(content, "method", "epochs", "ewc_strength", overrides=layers) == [
        ("halrp", 3, resolve_config().ewc_strength),
        ("ewc", 3, 2.0),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"method": ["halrp"]}, ["f.toml: key 'method'", "Did you mean 'methods'?"]),
        ({"epochs": 3}, ["f.toml: key 'epochs'", "[settings]"]),
        ({"methods": []}, ["f.toml: methods", "a list of names", "[]"]),
        ({"methods": "halrp"}, ["f.toml: methods", "a list of names"]),
        ({"methods": ["halpr"]}, ["f.toml: methods", "'halpr'", "Did you mean 'halrp'?"]),
        ({"presets": ["papers"]}, ["f.toml: presets", "Did you mean 'paper'?"]),
        ({"benchmarks": ["pmnits"]}, ["f.toml: benchmarks", "Did you mean 'pmnist'?"]),
        ({"models": ["lennet"]}, ["f.toml: key 'model'", "Did you mean 'lenet'?"]),
        ({"orders": ["F"]}, ["f.toml: orders", "'F'", "A-E"]),
        ({"orders": ["E-A"]}, ["f.toml: orders", "'E-A'"]),
        ({"orders": ["random:0"]}, ["f.toml: orders", "'random:0'"]),
        ({"seeds": 0}, ["f.toml: seeds", "0"]),
        ({"seeds": True}, ["f.toml: seeds", "True"]),
        ({"seeds": []}, ["f.toml: seeds", "[]"]),
        ({"seeds": [0, "1"]}, ["f.toml: seeds"]),
        ({"title": 3}, ["f.toml: title", "text"]),
        ({"settings": 3}, ["f.toml: settings", "a table"]),
        ({"settings": {"epoch": 3}}, ["f.toml: [settings]: key 'epoch'", "Did you mean 'epochs'?"]),
        ({"settings": {"epochs": "many"}}, ["f.toml: [settings]: key 'epochs'", "'many'"]),
        ({"settings": {"seed": 3}}, ["f.toml: [settings]: seed", "the list seeds"]),
        ({"settings": {"l1": 0.0}, "grid": {"l1": [0.0]}}, ["f.toml: [settings]: l1", "[grid] decides it"]),
        ({"grid": {"epochs": []}}, ["f.toml: [grid] epochs", "a list of values"]),
        ({"grid": {"epochs": 3}}, ["f.toml: [grid] epochs", "a list of values"]),
        ({"grid": {"epochs": [1, "x"]}}, ["f.toml: [grid]: key 'epochs'", "'x'"]),
        ({"grid": {"rank_capp": [1]}}, ["f.toml: [grid]: key 'rank_capp'", "Did you mean 'rank_cap'?"]),
        ({"grid": {"method": ["stl"]}}, ["f.toml: [grid] method", "methods = [...]"]),
        ({"grid": {"ewc_strength": [1.0, 2.0]}}, ["f.toml: [grid]: ewc_strength", "a method of the sweep reads"]),
        ({"settings": {"swap_test": True}}, ["f.toml: [settings]: swap_test"]),
        ({"settings": {"momentum": 0.9, "optimizer": "adam"}}, ["f.toml: pmnist-halrp-paper-seed0", "momentum"]),
    ],
    ids=str,
)
def test_what_is_refused(content: Content, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        expand(content, "f.toml", name="f")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (("--set", {"seed": "3"}), "--set: seed: expected no value: the list seeds decides it"),
        (("--epochs", {"epochs": "3"}), r"--epochs: epochs: expected no value: \[grid\] decides it"),
        (("--set", {"ewc_strength": "3"}), "--set: ewc_strength: expected a setting that a method of the sweep reads"),
        (("--set", {"epoch": "3"}), "--set: key 'epoch'.*Did you mean 'epochs'"),
    ],
)
def test_what_is_refused_for_every_run(layer: tuple[str, dict[str, object]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        expand({"grid": {"epochs": [1, 2]}}, "f.toml", name="f", overrides=[layer])


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b'\xef\xbb\xbftitle = "Mine"\r\nseeds = 2\r\n[settings]\r\nepochs = 2\r\n')  # as Windows writes it
    sweep = load(str(file))
    assert (sweep.name, sweep.title, sweep.figure, len(sweep.jobs)) == ("mine", "Mine", None, 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"seeds = ", "mine.toml: expected TOML"),
        (b"seeds = 1\nseeds = 2", "mine.toml: expected TOML"),
        (b"\xff\xfe", "mine.toml: expected UTF-8 text"),
        (None, "mine.toml: expected a readable TOML file"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        load(str(tmp_path / "mine.toml"))


def test_a_name_that_no_sweep_has() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'example'"):
        load("exampel")


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_sweeps_load(name: str, quick: bool) -> None:
    sweep = load(name, quick=quick)
    assert sweep.jobs
    assert sweep.title == shipped()[name]
    assert len({job.config for job in sweep.jobs}) == len(sweep.jobs)
