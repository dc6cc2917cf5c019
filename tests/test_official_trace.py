"""official_trace.py: it passes on recorded traces and on those of an independent oracle, and finds what is wrong."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import official_trace
from halrp_np.backend import Device, Streams
from halrp_np.layers import EVALUATE
from halrp_np.lowrank import dense_count, released_count, released_increase
from halrp_np.methods import Halrp, MethodTask

SCRIPT = Path(official_trace.__file__)
Trace = dict[str, Any]


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The script as a user runs it."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def saved(folder: Path, trace: Trace, name: str = "trace.npz") -> Path:
    np.savez(folder / name, **trace)
    return folder / name


@pytest.mark.parametrize("name", ["official_trace_a.npz", "official_trace_b.npz", "official_trace_resnet.npz"])
def test_recorded_traces_of_the_released_code(shared_dir: Path, name: str) -> None:
    done = run_script(shared_dir / "reference" / name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TOO LARGE" not in done.stdout
    for quantity in ("losses", "free network", "importance", "R", "S", "rank", "B·A at the start", "trained factors"):
        assert f"  {quantity} " in done.stdout
    for quantity in ("pruned factors", "count, sparse", "count, dense", "logits", "BatchNorm", "biases", "head"):
        assert f"  {quantity} " in done.stdout


# ---- the independent oracle: PyTorch and autograd -------------------------------------------------------------------

SGD = {"optimizer": "SGD", "lr": 0.01}
RESNET = {"model": "ResNet18", "img_sz": 32, "widths": (2, 3, 4, 5), "tasks": 2, "validation": 16}
RULES = [
    *("relative", "relativeAllLayer", "relativeAllLayerAllTask"),
    *("mixAR", "mixAR_AllLayer", "mixAR_AllLayerAllTask"),
]
# Adam multiplies the rounding noise in the gradient of a bias before BatchNorm, whose true value is 0, by lr/eps: at a
# rate of 1e-2 two correct programs drift 1e-8 apart. So do they with a last batch of two or three, whose BatchNorm is
# nearly singular. The cases stay clear of both and under SGD, which multiplies no noise, must agree far below 1e-8.
CASES: dict[str, tuple[dict[str, Any], float]] = {
    "defaults": ({}, 1e-8),
    "flat ranks": ({"rankMethod": "flat", "upper_rank": 5}, 1e-8),
    "flat ranks above every size": ({"rankMethod": "flat", "tasks": 2}, 1e-8),
    "all of the share": ({"approxiRate": 1.0, "tasks": 2}, 1e-8),
    "a small cap": ({"upper_rank": 6, "approxiRate": 0.75}, 1e-8),
    "sgd with momentum": (SGD, 1e-12),
    "sgd without momentum": ({**SGD, "momentum": 0.0, "tasks": 2}, 1e-12),
    "larger images": ({"img_sz": 12, "tasks": 2}, 1e-8),
    "other widths and classes": ({"widths": (3, 5, 7, 9), "out_dim": 3, "tasks": 2}, 1e-8),
    "partial last batches": ({"train": 44, "validation": 37}, 1e-8),
    "partial last batches, sgd": ({"train": 44, "validation": 37, "tasks": 4, "img_sz": 12, **SGD}, 1e-12),
    "one batch, a partial one": ({"train": 12, "validation": 9, "tasks": 2, **SGD}, 1e-12),
    "a warm-up of two epochs": ({"estRank_epoch": 2, "n_epochs": 4, "tasks": 4}, 1e-8),
    "nothing but warm-up": ({"estRank_epoch": 2, "n_epochs": 2, "tasks": 2}, 1e-8),
    "one task": ({"tasks": 1}, 1e-8),
    "a residual network": ({**RESNET, **SGD}, 1e-12),
    "absolute": ({"prune_method": "absolute", "prune_value": [0.02], **SGD}, 1e-12),
    **{
        f"{rule}, {'bounded' if bounded else 'free'}": (
            {
                "prune_method": rule,
                "prune_boundAlltask": bounded,
                "prune_value": [1e-3, 0.6] if rule.startswith("mixAR") else [0.6],
                **SGD,
            },
            1e-12,
        )
        for rule in RULES
        for bounded in (True, False)
    },
}


@pytest.mark.parametrize("case", CASES)
def test_the_oracle_and_the_preset_official_agree(case: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from methods.released_torch import record

    changes, tolerance = CASES[case]
    trace = record(sum(map(ord, case)), **changes)
    errors = official_trace.replay(saved(tmp_path, trace))
    assert max(errors.values()) <= tolerance, {name: error for name, error in errors.items() if error > tolerance}
    if "relative" in case or "mixAR" in case or case == "absolute":
        pruned = sum((value == 0).sum() for key, value in trace.items() if key.startswith("after_task2/task"))
        assert pruned > 50  # the rule did something


@pytest.mark.parametrize(
    ("name", "widths"), [("official_trace_b.npz", (4, 6, 24, 16)), ("official_trace_resnet.npz", (4, 8, 16, 32))]
)
def test_the_oracle_follows_the_recorded_traces(shared_dir: Path, name: str, widths: tuple[int, ...]) -> None:
    """So that the oracle itself is held to the released code: same data and start, same losses."""
    torch = pytest.importorskip("torch")
    from methods.released_torch import Released

    with np.load(shared_dir / "reference" / name) as file:
        trace = dict(file)
    config = json.loads(str(trace["config"]))
    config["n_epochs"] += config["estRank_epoch"]
    data = {key: trace[key] for key in trace if key.split("/")[-1][:2] in ("x_", "y_")}

    class Started(Released):
        """The oracle with the recorded initial values."""

        def fresh(self, task: int) -> Any:
            net, prefix = super().fresh(task), "init/" if task == 0 else f"task{task}/start/"
            state = {k.removeprefix(prefix): torch.from_numpy(trace[k]) for k in trace if k.startswith(prefix)}
            net.load_state_dict(state)
            return net

    ours = Started(config, data, widths).run()
    counters = {key for key in trace.keys() - ours.keys() if key.endswith("num_batches_tracked")}
    trace = {key: value for key, value in trace.items() if key not in counters}
    assert ours.keys() == trace.keys()
    for key in trace.keys() - {"config"}:
        signs_free = key.split("/")[-2:-1] in (["row"], ["col"], ["row_trained"], ["col_trained"])
        a, b = (abs(v) if signs_free else v for v in (ours[key], trace[key]))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8, err_msg=key)


# ---- a trace of our own engine: needs neither PyTorch nor recorded files --------------------------------------------


def own_trace(**changes: Any) -> Trace:
    """What the preset `official` itself does on two random tasks, in the format of a trace."""
    config = {
        "model": "LeNet",
        "img_sz": 8,
        "batch": 8,
        "tasks": 2,
        "out_dim": 3,
        "n_epochs": 1,
        "estRank_epoch": 1,
        "lr": 0.01,
        "momentum": 0.9,
        "optimizer": "SGD",
        "schedule_gamma": 0.99,
        "l1_hyp": 1e-4,
        "wd_rate": 1e-3,
        "rankMethod": "imp",
        "upper_rank": 4,
        "approxiRate": 0.8,
        "prune_method": "absolute",
        "prune_boundAlltask": False,
        "prune_value": [0.01],
        **changes,
    }
    draw, widths, size = np.random.default_rng(3), (2, 3, 6, 5), config["img_sz"]
    out = official_trace.Trace(config=json.dumps(config))
    for task in range(2):
        for part, count in (("train", 16), ("val", 12)):
            out[f"task{task}/x_{part}"] = draw.normal(size=(count, 3, size, size))
            out[f"task{task}/y_{part}"] = draw.integers(0, 3, count)
    steps = np.array([[0, 1, 0.0]] * 4 + [[1, 0, 0.0]] * 2 + [[1, 1, 0.0]] * 2)  # tell read_settings the lengths
    settings, _ = official_trace.read_settings(official_trace.Trace(out, losses=steps))
    device, streams = Device("cpu"), Streams(5)
    build = partial(out.model.build, (3, size, size), widths=widths)
    method = Writer(build, settings, device=device, dtype=np.float64, streams=streams)
    method.out = out
    record = official_trace.LossRecord(method)
    for task in range(2):
        parts = [
            official_trace.Arrays(out[f"task{task}/x_{part}"], out[f"task{task}/y_{part}"]) for part in ("train", "val")
        ]
        method.learn(MethodTask(task, 3, 2, 0.0, *parts), record)
        method.close(task)
    return {**out, "losses": np.array(record.rows)}


def theirs_names(model: official_trace.RecordedModel) -> dict[str, str]:
    """Our parameter names -> PyTorch's."""
    entries = ("weight", "bias")
    theirs = [f"features.{position}.{entry}" for position in model.layers for entry in entries]
    theirs += [f"features.{position}.{entry}" for position in model.norms for entry in official_trace.NORM_ENTRIES]
    return {str(model.ours(name)): name for name in [*theirs, *(f"last.{entry}" for entry in entries)]}


class Writer(Halrp):
    """HALRP that writes down what a trace holds."""

    out: official_trace.Trace

    def put(self, prefix: str, params: Any) -> None:
        names = theirs_names(self.out.model)
        self.out.update({f"{prefix}/{names[name]}": value.copy() for name, value in params.items() if name in names})

    def fresh_params(self, model: Any, position: int) -> Any:
        start = super().fresh_params(model, position)
        self.put("init", start)
        return start

    def fresh_head(self, model: Any, position: int) -> Any:
        head = super().fresh_head(model, position)
        self.put(f"task{position}/start", {**self.base, **head})
        return head

    def importance(self, free: Any, residuals: Any, task: Any) -> Any:
        self.put(f"task{task.position}/free", free)
        result = super().importance(free, residuals, task)
        self.layers_out(task.position, "importance", result["official"].layers)
        return result

    def perturbation(self, free: Any, scalings: Any, residuals: Any, decisions: Any) -> Any:
        start, t = super().perturbation(free, scalings, residuals, decisions), len(self.tasks) + 1
        self.layers_out(t, "rank", {d.layer: np.array(d.rank) for d in decisions})
        self.layers_out(t, "R0", {n: start[f"{n}.R"].copy() for n in self.layers()})
        self.layers_out(t, "S0", {n: start[f"{n}.S"].copy() for n in self.layers()})
        self.layers_out(t, "lowrank0", {n: start[f"{n}.B"] @ start[f"{n}.A"] for n in self.layers()})
        return start

    def train_perturbation(self, start: Any, task: Any, hooks: Any) -> Any:
        own, t = super().train_perturbation(start, task, hooks), task.position
        for theirs, ours in (("S", "S"), ("R", "R"), ("row", "B"), ("col", "A")):
            self.layers_out(t, f"{theirs}_trained", {n: own[f"{n}.{ours}"].copy() for n in self.layers()})
        self.layers_out(t, "lowrank_trained", {n: own[f"{n}.B"] @ own[f"{n}.A"] for n in self.layers()})
        return own

    def layers_out(self, task: int, quantity: str, values: Any, prefix: str = "task{}") -> None:
        for name, value in values.items():
            self.out[f"{prefix.format(task)}/{quantity}/{self.out.model.position(name)}"] = np.asarray(value)

    def close(self, task: int) -> None:
        prefix, base, sizes = f"after_task{task}", self.base_parameters(), self.sizes()
        for name, count in (("sparse", released_count), ("dense", dense_count)):
            self.out[f"{prefix}/count_{name}"] = np.array(count(base, sizes))
        self.out[f"{prefix}/capacity_increase"] = np.array(released_increase(base, sizes))
        for seen in range(task + 1):
            model, params = self.network(seen)
            x = np.ascontiguousarray(np.moveaxis(self.out[f"task{seen}/x_val"], 0, -1))
            self.out[f"{prefix}/logits_val/{seen}"] = model.forward(params, x, EVALUATE)[0].T
        if task == 0:
            self.put(f"{prefix}/base", self.base)
            return
        own = self.tasks[-1]
        self.layers_out(1, "task1/row", {n: own[f"{n}.B"].copy() for n in self.layers()}, "after_task{}")
        self.layers_out(1, "task1/col", {n: own[f"{n}.A"].copy() for n in self.layers()}, "after_task{}")
        self.layers_out(1, "bias", {n: own[f"{n}.bias"].copy() for n in self.layers()}, "after_task{}")
        self.put(f"{prefix}/bn", {name: own[name] for name in own if name.split(".")[-2].startswith("norm")})
        self.out.update({f"{prefix}/head/{e}": own[f"head.{e}"].copy() for e in ("weight", "bias")})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "Adam", "lr": 1e-3},
        {"rankMethod": "flat", "upper_rank": 1},
        {"prune_method": "relativeAllLayer", "prune_value": [0.5]},
        {"model": "ResNet18", "img_sz": 16},
    ],
    ids=str,
)
def test_a_trace_of_our_own_engine_replays_exactly(changes: dict[str, Any], tmp_path: Path) -> None:
    assert max(official_trace.replay(saved(tmp_path, own_trace(**changes))).values()) == 0


def test_one_number_moved_by_a_millionth_is_found(tmp_path: Path) -> None:
    trace = own_trace()
    quantities = {
        "losses": "losses",
        "task1/free/features.4.weight": "free network",
        "task1/importance/9": "importance",
        "task1/R0/0": "R",
        "task1/S0/12": "S",
        "task1/rank/4": "rank",
        "task1/lowrank0/9": "B·A at the start",
        "task1/row_trained/12": "trained factors",
        "after_task1/task1/col/9": "pruned factors",
        "after_task1/count_sparse": "count, sparse",
        "after_task1/logits_val/0": "logits",
        "after_task1/bn/features.5.running_var": "BatchNorm",
        "after_task1/bias/4": "biases",
        "after_task1/head/bias": "head",
    }
    for key, quantity in quantities.items():
        moved = np.array(trace[key], dtype=float, order="C")
        moved.reshape(-1)[-1] += 1e-6
        errors = official_trace.replay(saved(tmp_path, {**trace, key: moved}))
        assert errors[quantity] == pytest.approx(1e-6, rel=1e-6), key
        others = {name: error for name, error in errors.items() if name != quantity}
        assert max(others.values()) < 1e-7, key


def test_exit_codes_say_what_happened(tmp_path: Path) -> None:
    trace = own_trace()
    good = saved(tmp_path, trace)
    moved = trace["after_task1/logits_val/1"].copy()
    moved[3, 1] += 1e-6
    bad = saved(tmp_path, {**trace, "after_task1/logits_val/1": moved}, "moved.npz")
    assert run_script(good).returncode == 0
    done = run_script(bad)
    assert done.returncode == 1
    assert "TOO LARGE" in done.stdout
    assert run_script(good, bad).returncode == 1
    assert run_script().returncode == 2


def test_what_is_no_trace_gives_exit_code_2_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not an archive")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    cut = saved(tmp_path, own_trace()).read_bytes()
    (tmp_path / "cut.npz").write_bytes(cut[: len(cut) // 2])
    incomplete = {key: value for key, value in own_trace().items() if key != "task1/free/features.9.weight"}
    for path in ("text.npz", "other.npz", "array.npy", "cut.npz", "absent.npz"):
        assert_refused(tmp_path / path)
    for missing in ("task1/R0/4", "after_task1/head/bias", "init/last.weight"):
        assert_refused(saved(tmp_path, {k: v for k, v in own_trace().items() if k != missing}, "incomplete.npz"))
    assert max(official_trace.replay(saved(tmp_path, incomplete)).values()) == 0  # compares what is there


def test_a_trace_of_an_unknown_model_is_refused(tmp_path: Path) -> None:
    trace = own_trace()
    config = json.dumps({**json.loads(trace["config"]), "model": "AlexNet"})
    assert_refused(saved(tmp_path, {**trace, "config": config}), "model AlexNet", "LeNet and ResNet18")


def assert_refused(path: Path, *saying: str) -> None:
    done = run_script(path)
    assert done.returncode == 2, (path.name, done.stdout, done.stderr)
    assert path.name in done.stderr or "trace" in done.stderr
    assert "Traceback" not in done.stderr
    assert all(text in done.stderr for text in saying)
