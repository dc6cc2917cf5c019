"""Replay a recorded trace of the released code with the preset `official` in float64, and compare every quantity.

    python tests/official_trace.py FILE.npz

Prints the largest absolute error of each recorded quantity; exit code 1 when one exceeds 1e-8 (counts and ranks must
be equal), 2 when the file is no such trace. A trace holds what the released code did, so the defects that the preset
mends (a share of 1 or more collapsing to rank 1) are replayed too.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from halrp_np.backend import Device, Streams
from halrp_np.errors import HalrpError
from halrp_np.layers import EVALUATE, Sequential
from halrp_np.lowrank import dense_count, released_count, released_increase, value_count
from halrp_np.methods import PRESETS, Halrp, HalrpSettings, MethodTask
from halrp_np.models import lenet, resnet18
from halrp_np.training import Hooks, PhasePlan, penalty_value

TOLERANCE = 1e-8
NORM_ENTRIES = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}


class TraceError(Exception):
    """The file is not a trace that this script can replay."""


@dataclass(frozen=True)
class RecordedModel:
    """A network of the released code: where our layers stand in its flat list `features`."""

    build: Callable[..., Sequential]
    layers: dict[str, str]  # position of a decomposed layer -> our name
    norms: dict[str, str]  # position of its normalisation, always the next -> our name
    widths: tuple[str, ...]  # positions of the layers whose sizes are the widths of `build`

    def ours(self, theirs: str) -> str | None:
        """`features.4.weight` -> `conv2.weight`, `last.bias` -> `head.bias`; None for a batch counter."""
        if theirs.startswith("last."):
            return theirs.replace("last.", "head.")
        _, position, entry = theirs.split(".")
        if position in self.layers:
            return f"{self.layers[position]}.{entry}"
        return f"{self.norms[position]}.{NORM_ENTRIES[entry]}" if entry in NORM_ENTRIES else None

    def position(self, layer: str) -> str:
        """The position of one of our decomposed layers."""
        return next(position for position, name in self.layers.items() if name == layer)


def recorded_model(
    build: Callable[..., Sequential], layers: dict[int, tuple[str, str]], widths: tuple[int, ...]
) -> RecordedModel:
    """From position -> our layer and its normalisation."""
    return RecordedModel(
        build,
        {str(position): layer for position, (layer, _) in layers.items()},
        {str(position + 1): norm for position, (_, norm) in layers.items()},
        tuple(map(str, widths)),
    )


LENET = {0: ("conv1", "norm1"), 4: ("conv2", "norm2"), 9: ("fc1", "norm3"), 12: ("fc2", "norm4")}
RESNET_BLOCKS = ((3, 6), (9, 12), (15, 18, 20), (22, 25), (28, 31, 33), (35, 38), (41, 44, 46), (48, 51))
RESNET_PARTS = (("body.conv1", "body.norm1"), ("body.conv2", "body.norm2"), ("shortcut.conv", "shortcut.norm"))
RESNET18 = {0: ("conv0", "norm0")} | {
    position: (f"block{number}.{layer}", f"block{number}.{norm}")
    for number, positions in enumerate(RESNET_BLOCKS, start=1)
    for position, (layer, norm) in zip(positions, RESNET_PARTS, strict=False)  # half of the blocks have no shortcut
}
MODELS = {
    "LeNet": recorded_model(lenet, LENET, widths=(0, 4, 9, 12)),
    "ResNet18": recorded_model(resnet18, RESNET18, widths=(0, 15, 28, 41)),
}


class Trace(dict[str, Any]):
    """The arrays of a trace by name.

    Raises: TraceError for one that is missing.
    """

    @property
    def config(self) -> dict[str, Any]:
        """The recorded hyper-parameters."""
        return dict(json.loads(str(self["config"])))

    @property
    def model(self) -> RecordedModel:
        """The recorded network.

        Raises: TraceError for one that this script does not know.
        """
        name = self.config["model"]
        if name not in MODELS:
            raise TraceError(f"model {name}: this script replays traces of {' and '.join(MODELS)} only")
        return MODELS[name]

    def parameters(self, prefix: str) -> dict[str, np.ndarray]:
        """Copies of all recorded parameters below a prefix, under our names."""
        keys = [key for key in self if key.startswith(prefix)]
        found = {self.model.ours(key.removeprefix(prefix)): self[key] for key in keys}
        return {name: value.copy() for name, value in found.items() if name is not None}

    def __missing__(self, key: str) -> np.ndarray:
        raise TraceError(f"not a complete trace: it holds no array {key!r}")


class Arrays:
    """Recorded batches in the stored order."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def begin_epoch(self, generator: np.random.Generator) -> None:
        """Nothing varies."""

    def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ascontiguousarray(np.moveaxis(self.x[rows], 0, -1)), self.y[rows]


class Errors:
    """The largest error of each quantity."""

    def __init__(self) -> None:
        self.largest: dict[str, float] = {}

    def compare(self, quantity: str, ours: Any, theirs: Any) -> None:
        ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
        same = ours.shape == theirs.shape
        error = float(np.abs(ours - theirs).max(initial=0.0)) if same else float("inf")
        self.largest[quantity] = max(self.largest.get(quantity, 0.0), float("inf") if np.isnan(error) else error)


class Replay(Halrp):
    """HALRP that starts every task from the recorded initial values and compares each step with the record."""

    def __init__(self, trace: Trace, build: Any, settings: HalrpSettings, errors: Errors) -> None:
        super().__init__(build, settings, device=Device("cpu"), dtype=np.float64, streams=Streams(0))
        self.trace, self.errors = trace, errors

    def fresh_params(self, model: Sequential, position: int) -> dict[str, np.ndarray]:
        return self.trace.parameters("init/")

    def fresh_head(self, model: Sequential, position: int) -> dict[str, np.ndarray]:
        start = self.trace.parameters(f"task{position}/start/")
        for name, value in self.base.items():
            if not name.startswith("head."):
                self.errors.compare("start of task", value, start[name])
        return {name: value for name, value in start.items() if name.startswith("head.")}

    def warm_up(self, task: MethodTask, hooks: Hooks) -> dict[str, np.ndarray]:
        free = super().warm_up(task, hooks)
        for name, value in self.trace.parameters(f"task{task.position}/free/").items():
            self.errors.compare("free network", free[name], value)
        return free

    def importance(self, free: Any, residuals: Any, task: MethodTask) -> Any:
        result = super().importance(free, residuals, task)
        self.compare_layers("importance", task.position, "importance", result["official"].layers)
        return result

    def perturbation(self, free: Any, scalings: Any, residuals: Any, decisions: Any) -> dict[str, np.ndarray]:
        position = len(self.tasks) + 1
        start = super().perturbation(free, scalings, residuals, decisions)
        ranks = {d.layer: d.rank for d in decisions}
        recorded = {name: np.minimum(self.layer(position, "rank", name), ranks_size(decisions, name)) for name in ranks}
        for name, rank in ranks.items():
            self.errors.compare("rank", rank, recorded[name])
        self.compare_layers("R", position, "R0", {name: start[f"{name}.R"] for name in ranks})
        self.compare_layers("S", position, "S0", {name: start[f"{name}.S"] for name in ranks})
        product = {name: start[f"{name}.B"] @ start[f"{name}.A"] for name in ranks}
        self.compare_layers("B·A at the start", position, "lowrank0", product)
        for quantity, field in (("weighted_loss", "score_sum"), ("explained", "kept_fraction")):
            if f"task{position}/{quantity}" in self.trace:
                ours = [getattr(decision, field) for decision in decisions]
                self.errors.compare(quantity, ours, self.trace[f"task{position}/{quantity}"])
        return start

    def train_perturbation(self, start: Any, task: MethodTask, hooks: Hooks) -> dict[str, np.ndarray]:
        own = super().train_perturbation(start, task, hooks)
        names, position = self.layers(), task.position
        self.compare_layers("trained R", position, "R_trained", {name: own[f"{name}.R"] for name in names})
        self.compare_layers("trained S", position, "S_trained", {name: own[f"{name}.S"] for name in names})
        product = {name: own[f"{name}.B"] @ own[f"{name}.A"] for name in names}
        self.compare_layers("trained B·A", position, "lowrank_trained", product)
        for name in names:
            row, col = self.layer(position, "row_trained", name), self.layer(position, "col_trained", name)
            B, A = column_signs_of(row, col, own[f"{name}.B"], own[f"{name}.A"])
            self.errors.compare("trained factors", B, row)
            self.errors.compare("trained factors", A, col)
        return own

    def layer(self, position: int, quantity: str, name: str) -> np.ndarray:
        """One layer's recorded value."""
        return self.trace[f"task{position}/{quantity}/{self.trace.model.position(name)}"]

    def compare_layers(self, quantity: str, position: int, recorded: str, ours: dict[str, Any]) -> None:
        for name, value in ours.items():
            self.errors.compare(quantity, value, self.layer(position, recorded, name))


class LossRecord(Hooks):
    """One row a step: task, 1 when regularised, loss before the step."""

    def __init__(self, method: Replay) -> None:
        self.method, self.rows = method, []

    def before_update(self, plan: PhasePlan, state: Any, loss: Any) -> None:
        method = self.method
        found = {"base": lambda: method.trainer.decay(method.layers()), "perturbation": method.penalties}
        penalties = found.get(plan.name, dict)()
        self.rows.append([plan.task, float(bool(penalties)), float(loss + penalty_value(state.params, penalties))])


def ranks_size(decisions: Any, name: str) -> int:
    """The number of singular values of a layer."""
    return next(decision.size for decision in decisions if decision.layer == name)


def column_signs_of(row: np.ndarray, col: np.ndarray, B: np.ndarray, A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """B and A with the signs of their columns and rows chosen as recorded: a pair's common sign is free.

    Both of a pair decide, since pruning may have emptied one of them.
    """
    if row.shape != B.shape or col.shape != A.shape:
        return B, A
    signs = np.where((row * B).sum(axis=0) + (col * A).sum(axis=1) < 0, -1.0, 1.0)
    return B * signs, A * signs[:, None]


def read_settings(trace: Trace) -> tuple[HalrpSettings, int]:
    """The recorded hyper-parameters in our names, on top of the preset `official`; and the number of tasks."""
    config = trace.config
    for key in ("weight_decay", "check_lepoch"):
        if config.get(key):
            raise TraceError(f"{key} = {config[key]}: this script replays traces without it")
    tasks, losses, images = int(config["tasks"]), trace["losses"], len(trace["task0/y_train"])
    warm_up = max(int(config["estRank_epoch"]), 1)
    warm_up_rows = int(((losses[:, 0] == 1) & (losses[:, 1] == 0)).sum())
    # the released code lowers n_epochs while it runs, so lengths are read off the losses
    steps = warm_up_rows // warm_up if tasks > 1 else int((losses[:, 0] == 0).sum()) // int(config["n_epochs"])
    rule = config["prune_method"]
    settings = {
        **PRESETS["official"],
        "epochs": int((losses[:, 0] == 0).sum()) // steps,
        "warmup_epochs": warm_up,
        "batch_size": int(config["batch"]),
        "shuffle": False,
        "drop_last": steps == images // int(config["batch"]),
        "optimizer": config["optimizer"].lower(),
        "learning_rate": config["lr"],
        "momentum": config["momentum"],
        "gamma_rule": "fixed",
        "gamma": config["schedule_gamma"],
        "weight_decay": config["wd_rate"],
        "l1": config["l1_hyp"],
        "rank_rule": "flat" if config["rankMethod"] == "flat" else "importance",
        "rank_share": config["approxiRate"],
        "rank_cap": int(config["upper_rank"]),
        "full_share": "one",
        "prune_rule": rule,
        "prune_values": tuple(np.atleast_1d(config["prune_value"])[: value_count(rule)].tolist()),
        "prune_bounded": bool(config["prune_boundAlltask"]),
    }
    return HalrpSettings(**settings), tasks


def compare_after_task(trace: Trace, method: Replay, position: int, errors: Errors) -> None:
    """Everything recorded after one task, pruning included."""
    prefix, sizes, base = f"after_task{position}", method.sizes(), method.base_parameters()
    errors.compare("count, sparse", released_count(base, sizes), trace[f"{prefix}/count_sparse"])
    errors.compare("count, dense", dense_count(base, sizes), trace[f"{prefix}/count_dense"])
    errors.compare("capacity increase", released_increase(base, sizes), trace[f"{prefix}/capacity_increase"])
    for seen in range(position + 1):
        model, params = method.network(seen)
        images = trace[f"task{seen}/x_val"]
        x, _ = Arrays(images, trace[f"task{seen}/y_val"]).batch(np.arange(len(images)))
        logits, _ = model.forward(params, x, EVALUATE)
        errors.compare("logits", logits.T, trace[f"{prefix}/logits_val/{seen}"])
    for name, value in trace.parameters(f"{prefix}/base/").items():
        errors.compare("base network", method.base[name], value)
    for earlier in range(1, position + 1):
        own = method.tasks[earlier - 1]
        for key, name in trace.model.layers.items():
            row, col = trace[f"{prefix}/task{earlier}/row/{key}"], trace[f"{prefix}/task{earlier}/col/{key}"]
            B, A = column_signs_of(row, col, own[f"{name}.B"], own[f"{name}.A"])
            errors.compare("pruned factors", B, row)
            errors.compare("pruned factors", A, col)
            errors.compare("entries pruned", (B == 0).sum() + (A == 0).sum(), (row == 0).sum() + (col == 0).sum())
    if position:
        compare_own_state(trace, method.tasks[position - 1], prefix, errors)


def compare_own_state(trace: Trace, own: Any, prefix: str, errors: Errors) -> None:
    """Normalisation, biases and head of the newest task."""
    for name, value in trace.parameters(f"{prefix}/bn/").items():
        errors.compare("BatchNorm", own[name], value)
    for key, name in trace.model.layers.items():
        errors.compare("biases", own[f"{name}.bias"], trace[f"{prefix}/bias/{key}"])
    for entry in ("weight", "bias"):
        errors.compare("head", own[f"head.{entry}"], trace[f"{prefix}/head/{entry}"])


def replay(path: Path) -> dict[str, float]:
    """The largest error of every quantity of one trace.

    Raises: TraceError when the file cannot be read as a trace.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            trace = Trace(file)
        model, (settings, tasks) = trace.model, read_settings(trace)
    except (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise TraceError(f"{path}: not a recorded trace ({type(error).__name__}: {error})") from error
    widths = tuple(len(trace[f"init/features.{position}.weight"]) for position in model.widths)
    shape, classes = trace["task0/x_train"].shape[1:], trace["init/last.weight"].shape[0]
    errors = Errors()
    method = Replay(trace, lambda count: model.build(shape, count, widths), settings, errors)
    record = LossRecord(method)
    for position in range(tasks):
        train = Arrays(trace[f"task{position}/x_train"], trace[f"task{position}/y_train"])
        validation = Arrays(trace[f"task{position}/x_val"], trace[f"task{position}/y_val"])
        method.learn(MethodTask(position, classes, tasks, 0.0, train, validation), record)
        compare_after_task(trace, method, position, errors)
    errors.compare("losses", record.rows, trace["losses"])
    return errors.largest


def main(arguments: list[str]) -> int:
    """Replay the traces named on the command line."""
    if not arguments:
        print(__doc__)
        return 2
    worst = 0
    for argument in arguments:
        try:
            largest = replay(Path(argument))
        except (TraceError, HalrpError) as error:
            print(error, file=sys.stderr)
            return 2
        print(f"{argument}: largest absolute error of each quantity")
        for quantity, error in largest.items():
            print(f"  {quantity:<28} {error:10.2e}  {'ok' if error <= TOLERANCE else 'TOO LARGE'}")
        worst = max(worst, int(max(largest.values()) > TOLERANCE))
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
