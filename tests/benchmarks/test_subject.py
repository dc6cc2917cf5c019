"""Subjects are the networks they name, at points where no derivative vanishes by chance, the same each time."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halrp_np import TrainedRun, fresh_subject, models, run_subject
from halrp_np.backend import to_host
from halrp_np.benchmarks import open_stream
from halrp_np.benchmarks import subject as module
from halrp_np.errors import ConfigError, DataError, DeviceError, ResumeError
from halrp_np.layers import BatchNorm2d, Conv2d, Flatten, Linear, ReLU, Sequential


def same(one: Any, other: Any) -> bool:
    """Whether two subjects are the same point."""
    pairs = [(one.params[name], other.params[name]) for name in one.params]
    pairs += list(zip(one.data, other.data, strict=True))
    return all(np.array_equal(to_host(a), to_host(b)) for a, b in pairs)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a small network, registered as a new one would be."""

    def build(shape: tuple[int, ...], classes: int, norm: str = "running") -> Sequential:
        return Sequential(
            {
                "conv": Conv2d(shape[0], 2, 4, stride=4),
                "norm": BatchNorm2d(2),
                "relu": ReLU(),
                "flatten": Flatten(),
                "head": Linear(2 * (shape[1] // 4) * (shape[2] // 4), classes),
            }
        )

    monkeypatch.setitem(models.MODELS, "small", build)
    return "small"


# ---- fresh ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_has_a_fresh_subject(name: str) -> None:
    subject = fresh_subject(name, batch=2)
    logits, _ = subject.model.forward(subject.params, subject.data[0])
    assert logits.shape == (10, 2)
    assert 0.1 < float(subject.loss.value(logits, subject.data[1])) < 100
    assert set(subject.params) == set(subject.model.names())


def test_no_parameter_of_a_fresh_subject_is_trivial(small: str) -> None:
    subject = fresh_subject(small)
    for name, value in subject.params.items():
        assert np.ptp(value) > 0, name
    assert float(subject.params["norm.running_var"].min()) > 0.4
    assert float(abs(subject.params["norm.running_mean"]).max()) > 0


def test_a_fresh_subject_is_its_seed(small: str, device_name: str) -> None:
    first = fresh_subject(small, seed=3, device=device_name)
    assert same(first, fresh_subject(small, seed=3))
    assert not same(first, fresh_subject(small, seed=4))
    assert first.title == "fresh small, seed 3, 16 images of noise"


def test_a_larger_batch_leaves_the_parameters(small: str) -> None:
    one, many = fresh_subject(small, batch=1), fresh_subject(small, batch=5)
    assert one.data[0].shape == (3, 32, 32, 1)
    assert all(np.array_equal(one.params[name], many.params[name]) for name in one.params)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_everything_is_of_one_precision(kind: str, small: str, whole: Path) -> None:
    for subject in (fresh_subject(small, dtype=kind), run_subject(whole, 1, batch=2, dtype=kind)):
        assert {value.dtype for value in subject.params.values()} == {np.dtype(kind)}
        assert subject.data[0].dtype == kind
        assert subject.data[1].dtype == np.int64


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model_name": "lent"}, ConfigError),
        ({"batch": 0}, ConfigError),
        ({"seed": -1}, ConfigError),
        ({"device": "gpux"}, DeviceError),
    ],
)
def test_a_wrong_fresh_subject_is_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        fresh_subject(**{"model_name": "mlp", **changes})


# ---- learned --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("task", [0, 2])
def test_a_run_subject_is_the_learned_network_on_the_runs_own_images(task: int, split: str, whole: Path) -> None:
    trained = TrainedRun(whole)
    stream, _ = open_stream(trained.config)
    images = getattr(stream.tasks[task], split)
    subject = run_subject(whole, task, batch=4, split=split)  # type: ignore[arg-type]
    x, labels = subject.data
    np.testing.assert_array_equal(np.moveaxis(x, -1, 0), images.arrays(slice(4), np.float64))
    np.testing.assert_array_equal(labels, images.labels_of(slice(4)))
    logits, _ = subject.model.forward(subject.params, x)
    np.testing.assert_allclose(logits.T, trained.logits(task, images.arrays(slice(4))), rtol=1e-4, atol=1e-5)
    assert subject.title == f"task {task} of {whole}, 4 images of {split}"


def test_a_run_subject_has_one_dense_weight_a_layer(whole: Path) -> None:
    subject = run_subject(whole, 1, batch=2)
    assert subject.model.trainable[:2] == ("fc1.weight", "fc1.bias")
    assert subject.params["fc1.weight"].shape == (8, 3072)
    assert set(subject.params) == set(subject.model.names())


def test_a_run_subject_is_the_same_twice(whole: Path, device_name: str) -> None:
    assert same(run_subject(whole, 2, batch=3, device=device_name), run_subject(whole, 2, batch=3))


@pytest.mark.parametrize(
    ("task", "changes", "says"),
    [
        (3, {}, "task: expected a learned task, 0 to 2"),
        (-1, {}, "task: expected a learned task, 0 to 2"),
        (0, {"batch": 13}, "at most the 12 validation images of the run, received 13"),
        (0, {"batch": 0}, "batch: expected at least 1"),
        (0, {"split": "all"}, "split: expected train or validation or test, received 'all'"),
    ],
)
def test_a_wrong_run_subject_is_refused(task: int, changes: dict[str, Any], says: str, whole: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        run_subject(whole, task, **changes)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match=r"a run folder \(one with a config.json\)"):
        run_subject(tmp_path, 0)


def test_other_data_than_the_runs_is_refused(
    whole: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, _ = open_stream(TrainedRun(whole).config)
    stream.tasks[0].train.images[0, 0] ^= 1
    monkeypatch.setattr("halrp_np.benchmarks.checks.open_stream", lambda config, say: (stream, []))
    with pytest.raises(ResumeError, match="pixels_sha256: expected the data of the run"):
        run_subject(whole, 0)


def test_absent_data_is_refused(whole: Path, data_dir: Path, tmp_path: Path) -> None:
    """The run's data folder is gone: its files are needed, and said to be."""
    moved = data_dir.rename(data_dir.with_name("moved"))
    try:
        with pytest.raises(DataError, match=r"data"):
            run_subject(whole, 0)
    finally:
        moved.rename(data_dir)


def test_a_damaged_run_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    config = json.loads((folder / "config.json").read_text())
    config["config"]["widths"] = [8, 7]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ResumeError, match="the configuration that the checkpoint 'state' was saved under"):
        run_subject(folder, 0)


def test_images_of_a_fresh_subject_are_a_benchmarks(whole: Path) -> None:
    assert TrainedRun(whole).shape == module.IMAGE
