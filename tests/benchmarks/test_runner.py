"""What a run leaves in its folder: files, tables that agree with hand counts, and networks to ask."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tiny
from halrp_np import HalrpError, TrainedRun, resolve_config, run
from halrp_np.benchmarks import BENCHMARKS, Reporter, open_stream
from halrp_np.benchmarks.table import settings_of
from halrp_np.errors import ConfigError, DeviceError, ResumeError, ShapeError
from halrp_np.training import metrics

# the network: 3072 -> 8 -> 6 -> 10, each hidden layer followed by BatchNorm
WEIGHTS, BIASES, NORMS, HEAD = 3072 * 8 + 8 * 6, 8 + 6, 2 * (8 + 6), 6 * 10 + 10
BASE = WEIGHTS + BIASES + NORMS + HEAD
SCALINGS = (3072 + 8) + (8 + 6)


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    """A CSV file's rows, numbers as numbers."""

    def number(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return text

    with open(folder / name, encoding="utf-8", newline="") as file:
        return [{key: number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def read(folder: Path, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return value


# ---- the folder -----------------------------------------------------------------------------------------------------


def test_the_folder_holds_these_files_and_no_others(whole: Path) -> None:
    found = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    (payload,) = {name for name in found if name.endswith(".safetensors")}
    assert payload.startswith("checkpoints/state-")
    assert found - {payload} == {
        *(".lock", "config.json", "environment.json", "metrics.jsonl", "summary.json", "timing.json"),
        *("accuracy.csv", "ranks.csv", "capacity.csv", "changes.csv", "checkpoints/state.json"),
    }
    assert (whole / ".lock").read_bytes() == b""


def test_config_and_protocol_are_resolved(whole: Path, data_dir: Path) -> None:
    recorded = read(whole, "config.json")
    config, protocol = recorded["config"], recorded["protocol"]
    assert (config["preset"], config["method"], config["model"], config["widths"]) == ("paper", "halrp", "mlp", [8, 6])
    assert config["data_dir"] == str(data_dir)
    assert protocol["data"] == "mnist-other"
    assert [[row[part] for part in ("train", "validation", "test")] for row in protocol["sizes"]] == [[48, 12, 30]] * 3
    assert protocol["order"] == [2, 1, 0]
    assert protocol["image_shape"] == [3, 32, 32]
    assert len(protocol["pixels_sha256"]) == len(protocol["labels_sha256"]) == 64


def test_summary_fields(whole: Path) -> None:
    summary = read(whole, "summary.json")
    assert set(summary) == {
        *("benchmark", "method", "preset", "model", "seed", "device", "data", "tasks_learned", "tasks"),
        *("metrics", "undefined", "growth", "answers_blake2b", "cost"),
    }
    assert (summary["benchmark"], summary["data"], summary["device"]) == ("pmnist", "mnist-other", "cpu")
    assert (summary["tasks_learned"], summary["tasks"]) == (3, 3)
    matrix = accuracy_matrix(whole)
    assert summary["metrics"] == metrics.summary(matrix)
    assert summary["undefined"] == metrics.undefined(matrix)
    assert {"acc", "aia", "bwt", "forgetting_all_tasks", "forgetting_chaudhry"} <= set(summary["metrics"])


def test_costs_are_those_of_the_tasks(whole: Path) -> None:
    tasks, cost = read(whole, "timing.json")["tasks"], read(whole, "summary.json")["cost"]
    assert len(tasks) == 3
    for kind in ("learn_seconds", "evaluate_seconds"):
        assert cost[kind] == sum(task[kind] for task in tasks) > 0
    assert cost["peak_memory_bytes"] == max(task["peak_memory_bytes"] for task in tasks) > 2**20
    assert "tasks_of_unknown_cost" not in cost


def accuracy_matrix(folder: Path, split: str = "test") -> list[list[float]]:
    rows = [row for row in table(folder, "accuracy.csv") if row["split"] == split]
    return [[row["accuracy"] for row in rows if row["after_task"] == after] for after in range(3)]


def test_one_task_says_what_is_undefined(data_dir: Path, tmp_path: Path) -> None:
    summary = read(run(tiny.config(data_dir, tasks=1), tmp_path / "run"), "summary.json")
    assert {"bwt", "forgetting_chaudhry", "forgetting_mammoth"} <= set(summary["undefined"])
    assert all(summary["undefined"].values())  # each with its reason
    assert not summary["undefined"].keys() & summary["metrics"].keys()
    assert "bwt" not in summary["metrics"]
    assert (tmp_path / "run" / "ranks.csv").read_text().count("\n") == 1
    assert summary["growth"] == {"released": 0.0, "released_rounded": 0.0, "honest": 0.0, "bytes": 0.0}


def test_accuracy_and_metrics_agree(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    for key, split in (("accuracy", "test"), ("validation", "validation")):
        assert [line[key] for line in lines if line["event"] == "task"] == accuracy_matrix(whole, split)
    epochs = [(line["task"], line["phase"], line["epoch"]) for line in lines if line["event"] == "epoch"]
    later = [(t, phase, 1) for t in (1, 2) for phase in ("warm-up", "perturbation")]
    assert epochs == [(0, "base", 1), (0, "base", 2), *later]
    rows = table(whole, "accuracy.csv")
    for split in ("test", "validation"):
        seen = [(r["after_task"], r["task"]) for r in rows if r["split"] == split]
        assert seen == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    assert {(r["task"], r["identity"]) for r in rows} == {(0, 2), (1, 1), (2, 0)}
    assert all(0 <= r["accuracy"] <= 100 for r in rows)


# ---- sizes ----------------------------------------------------------------------------------------------------------


def test_capacity_adds_up_to_hand_counts(whole: Path) -> None:
    ranks = {(row["task"], row["layer"]): row["rank"] for row in table(whole, "ranks.csv")}
    rows = table(whole, "capacity.csv")
    assert [(row["after_task"], row["task"]) for row in rows] == [(1, 1), (2, 1), (2, 2)]
    for row in rows:
        factors = ranks[row["task"], "fc1"] * (3072 + 8) + ranks[row["task"], "fc2"] * (8 + 6)
        assert row["scalings"] == SCALINGS
        assert (row["batchnorm"], row["head"], row["biases"], row["running_statistics"]) == (NORMS, HEAD, BIASES, NORMS)
        assert row["factors"] == factors
        assert 0 < row["factors_nonzero"] <= factors
        assert row["released_count"] == SCALINGS + row["factors_nonzero"] + NORMS + HEAD
        assert row["honest_count"] == row["released_count"] + BIASES + NORMS
        assert (row["weights"], row["training_state"]) == (0, 0)
    last = rows[1:]
    for kind in ("released", "honest"):
        total = sum(row[f"{kind}_count"] for row in last)
        assert last[-1][f"growth_{kind}"] == pytest.approx(total / BASE, rel=1e-14)
        assert read(whole, "summary.json")["growth"][kind] == pytest.approx(total / BASE, abs=1e-14)


def test_growth_is_rounded_to_three_decimals(whole: Path) -> None:
    growth = read(whole, "summary.json")["growth"]
    assert growth["released_rounded"] == round(growth["released"], 3)
    assert growth["released_rounded"] != growth["released"]
    assert growth["released"] < growth["honest"]


def test_bytes_are_those_of_the_file(whole: Path) -> None:
    """What capacity.csv says a task takes is what the checkpoint's arrays of that task take."""
    arrays = read(whole, "checkpoints/state.json")["arrays"]
    taken = {0: 0, 1: 0, 2: 0}
    for name, array in arrays.items():
        if not name.startswith("spectrum/"):
            size = np.dtype(array["dtype"]).itemsize * int(np.prod(array["shape"]))
            taken[int(name.partition("/")[0])] += size
    rows = table(whole, "capacity.csv")[1:]
    assert [row["bytes"] for row in rows] == [taken[1], taken[2]]
    assert rows[-1]["growth_bytes"] == pytest.approx((taken[1] + taken[2]) / taken[0], rel=1e-14)
    assert taken[0] == 4 * (BASE + NORMS)
    assert any(name.endswith("#mask") for name in arrays)  # pruned factors are stored sparsely


def test_ranks_come_with_their_reason(whole: Path) -> None:
    rows = table(whole, "ranks.csv")
    assert [(row["task"], row["layer"]) for row in rows] == [(t, name) for t in (1, 2) for name in ("fc1", "fc2")]
    for row in rows:
        assert 1 <= row["rank"] <= 5
        assert row["clamp"] in ("none", "raised", "capped")
        assert (row["rank"] == row["kept"]) == (row["clamp"] == "none")
        assert row["size"] == {"fc1": 8, "fc2": 6}[row["layer"]]
        assert 0 < row["kept_fraction"] <= 1
        assert 0 < row["cumulative_share"] <= 1
        assert row["importance"] > 0


# ---- asking the trained networks ------------------------------------------------------------------------------------


def test_predictions_reach_the_recorded_accuracy(whole: Path, data_dir: Path) -> None:
    trained = TrainedRun(whole)
    assert trained.tasks == 3
    stream, _ = open_stream(tiny.config(data_dir))
    for task, recorded in zip(stream.tasks, accuracy_matrix(whole)[-1], strict=True):
        images, labels = task.test.arrays(), task.test.labels_of()
        classes = trained.predict(task.position, images)
        assert classes.shape == (30,)
        assert 100 * np.mean(classes == labels) == pytest.approx(recorded, rel=1e-12)
        logits = trained.logits(task.position, images)
        assert (logits.shape, logits.dtype) == ((30, 10), np.float32)
        np.testing.assert_array_equal(logits.argmax(axis=1), classes)
        alone = trained.logits(task.position, images[4:5].astype(np.float64))
        np.testing.assert_allclose(alone[0], logits[4], atol=1e-4)
    assert accuracy_matrix(whole)[-1][0] > 30  # something was learned


def test_anything_like_an_array_will_do(whole: Path, rng: np.random.Generator) -> None:
    trained, images = TrainedRun(whole), rng.normal(size=(2, 3, 32, 32))
    expected = trained.logits(1, images)
    np.testing.assert_array_equal(trained.logits(np.int64(1), images.tolist()), expected)
    np.testing.assert_array_equal(trained.logits(1, images[:, :, ::-1][:, :, ::-1]), expected)


@pytest.mark.parametrize("task", ["1", 1.0, None])
def test_a_task_is_a_whole_number(whole: Path, task: Any) -> None:
    with pytest.raises(ConfigError, match="task: expected a whole number, received"):
        TrainedRun(whole).predict(task, np.zeros((1, 3, 32, 32)))


def test_validation_is_of_the_tasks_own_images(whole: Path, data_dir: Path) -> None:
    trained, (stream, _) = TrainedRun(whole), open_stream(tiny.config(data_dir))
    for task, recorded in zip(stream.tasks, accuracy_matrix(whole, "validation")[-1], strict=True):
        found = trained.predict(task.position, task.validation.arrays()) == task.validation.labels_of()
        assert 100 * np.mean(found) == pytest.approx(recorded, rel=1e-12)


def test_no_images_give_no_predictions(whole: Path) -> None:
    trained = TrainedRun(whole)
    assert trained.predict(1, np.zeros((0, 3, 32, 32))).shape == (0,)
    assert trained.logits(1, np.zeros((0, 3, 32, 32))).shape == (0, 10)


def test_a_run_in_progress_answers_for_what_it_has_learned(data_dir: Path, tmp_path: Path) -> None:
    from halrp_np.benchmarks import RunInterruptedError

    for name, step, learned in (("early", 3, None), ("late", 9, 1)):
        with pytest.raises(RunInterruptedError):
            run(tiny.config(data_dir), tmp_path / name, tiny.StopAt(step))
        if learned is None:
            with pytest.raises(ResumeError, match="expected a run with at least one learned task, received none yet"):
                TrainedRun(tmp_path / name)
        else:
            assert TrainedRun(tmp_path / name).tasks == learned


@pytest.mark.parametrize("task", [3, -1])
def test_a_task_that_is_not_there(whole: Path, task: int) -> None:
    with pytest.raises(ConfigError, match="task: expected a learned task, 0 to 2"):
        TrainedRun(whole).predict(task, np.zeros((1, 3, 32, 32)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 1, 28, 28)), r"received shape \(2, 1, 28, 28\)"),
        (np.zeros((3, 32, 32)), r"received shape \(3, 32, 32\)"),
        (np.zeros((3, 32, 32, 2)), r"received shape \(3, 32, 32, 2\)"),
        (np.full((1, 3, 32, 32), np.nan), "not all finite numbers"),
        (np.full((1, 3, 32, 32), np.inf), "not all finite numbers"),
        (np.zeros((1, 3, 32, 32), dtype="<U1"), "received shape .*<U1. Use Images.arrays"),
        (np.zeros((1, 3, 32, 32), np.uint8), "finite normalised images, floating .*uint8. Use Images.arrays"),
        (np.zeros((1, 3, 32, 32), np.complex64), "floating .*complex64"),
        ([[1.0], [1.0, 2.0]], "received a list .*inhomogeneous"),
        (None, r"received shape \(\), object"),
    ],
)
def test_images_that_do_not_fit(whole: Path, images: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        TrainedRun(whole).predict(0, images)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="expected a run folder"):
        TrainedRun(tmp_path)


# ---- configuration, reports, refusals -------------------------------------------------------------------------------


def test_layers_of_the_configuration() -> None:
    plain = resolve_config()
    assert (plain.preset, plain.gradient_scale, plain.tasks, plain.model) == ("paper", 1.0, 10, "lenet")
    for key, value in settings_of("pmnist", "lenet").items():
        assert getattr(plain, key) == value
    official = resolve_config(("cli", {"preset": "official", "gradient_scale": 3.0}))
    assert (official.importance, official.s_fit, official.gradient_scale) == ("official", "official", 3.0)
    quick = resolve_config(("cli", {"tasks": 2}), quick=True)
    assert (quick.tasks, quick.epochs, quick.train_images) == (2, 4, BENCHMARKS["pmnist"].quick["train_images"])
    assert quick.tasks_to_learn == 2
    shortened = resolve_config(quick=True)
    assert (shortened.tasks, shortened.stop_after, shortened.tasks_to_learn) == (10, 4, 4)
    with pytest.raises(ConfigError, match="tasks"):
        resolve_config(("cli", {"tassks": 2}))


def test_the_reporter_hears_everything_in_order(data_dir: Path, tmp_path: Path) -> None:
    lines: list[str] = []

    class Listen(tiny.Tell):
        def note(self, text: str) -> None:
            lines.append(f"note {text}")

        def stream(self, protocol: dict[str, Any]) -> None:
            lines.append(f"stream {protocol['tasks']}")

    run(tiny.config(data_dir, tasks=2), tmp_path / "run", Listen(lines.append))
    first = next(i for i, line in enumerate(lines) if line.startswith("stream"))
    assert all(line.startswith("note") for line in lines[:first])
    steps = [f"step 0 base {n}" for n in range(1, 7)]
    assert [line for line in lines if line.startswith("step 0")] == steps
    assert lines[-1] == "task 1"
    assert lines.index("task 0") < lines.index("step 1 warm-up 1")
    assert lines.index("epoch 1 warm-up") < lines.index("step 1 perturbation 1")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"device": "tpu"}, DeviceError, "--device: expected cpu, gpu"),
        ({"batch_size": 49}, ConfigError, "batch_size: expected at most the 48 training images"),
        ({"warmup_epochs": 3}, ConfigError, "warmup_epochs: expected at most epochs = 2"),
        ({"widths": (8, 6), "model": "lenet"}, ConfigError, "lenet: expected 4 positive widths"),
        ({"prune_values": (0.5,)}, ConfigError, "prune_values: expected 2 values"),
        ({"train_images": 61}, ConfigError, "train_images"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_on_disk(
    changes: dict[str, Any], error: type[HalrpError], message: str, data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(tiny.config(data_dir, **changes), tmp_path / "run", Reporter())
    assert not (tmp_path / "run").exists()
