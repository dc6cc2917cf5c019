"""changes.csv: what of an earlier task's tensors changed, and which kind of change did what to its accuracy."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tiny
from halrp_np import TrainedRun, run
from halrp_np.benchmarks import runner
from halrp_np.benchmarks.attribution import MOVED, Answer, answers_of, change_rows
from halrp_np.benchmarks.runner import Run
from halrp_np.data import Task
from halrp_np.layers import Sequential
from halrp_np.lowrank import TaskSize
from halrp_np.methods import MethodTask
from halrp_np.methods.base import KINDS, kind_of
from halrp_np.models import build
from halrp_np.runs import RunFolder
from halrp_np.training import Hooks
from halrp_np.typing import Params

NAMES = {
    "fc1.weight": "weights",
    "block1.conv2.weight": "weights",
    "fc1.R": "scalings",
    "fc1.S": "scalings",
    "fc1.A": "factors",
    "block1.conv2.B": "factors",
    "norm1.gamma": "batchnorm",
    "norm1.beta": "batchnorm",
    "norm1.running_mean": "batchnorm",
    "norm1.running_var": "batchnorm",
    "fc1.bias": "biases",
    "head.weight": "head",
    "head.bias": "head",
}


def test_every_tensor_has_a_kind_by_its_name() -> None:
    assert {name: kind_of(name) for name in NAMES} == NAMES
    assert set(NAMES.values()) == set(MOVED) == set(KINDS)


# ---- a hand-made method ---------------------------------------------------------------------------------------------


class Held:
    """What answers for one task, as a method holds it."""

    def __init__(self, tensors: Params) -> None:
        self.own = tensors

    def tensors(self, position: int) -> Params:
        return dict(self.own)

    def answer(self) -> Answer:
        return answers_of(self, 1)[0]  # type: ignore[arg-type]


def tensors() -> Params:
    return {name: np.arange(1, 7, dtype=np.float32).reshape(2, 3) for name in NAMES}


def found(before: Params, now: Params, asked: list[Params] | None = None) -> dict[str, list[Any]]:
    """The rows by kind, when the accuracy is the sum of all entries."""

    def ask(mixed: Params) -> float:
        if asked is not None:
            asked.append(mixed)
        return accuracy(mixed)

    rows = change_rows(Held(before).answer(), Held(now).answer(), (accuracy(before), accuracy(now)), ask)
    return {kind: rest for kind, *rest in rows}


def accuracy(params: Params) -> float:
    return float(sum(float(value.sum(dtype=np.float64)) for value in params.values()))


def test_nothing_changed_and_nothing_is_asked() -> None:
    before = tensors()
    asked: list[Params] = []
    copies = {name: value.copy() for name, value in before.items()}
    for now in (before, copies):
        assert found(before, now, asked) == {kind: [24 * list(NAMES.values()).count(kind), 0, 0.0] for kind in KINDS}
    assert asked == []


def test_known_changes_are_counted_and_shared_out() -> None:
    """Where the accuracy is a sum, every order of moving says the same."""
    before = tensors()
    asked: list[Params] = []
    now = {name: value.copy() for name, value in before.items()}
    now["fc1.A"][0, 0] += 100.0
    now["block1.conv2.B"][1] = 0.0  # three entries of it
    now["norm1.running_mean"][0, 1] -= 30.0
    now["head.bias"][1, 2] += 7.0
    rows = found(before, now, asked)
    assert {kind: row[:2] for kind, row in rows.items()} == {
        "factors": [48, 16],
        "batchnorm": [96, 4],
        "weights": [48, 0],
        "scalings": [48, 0],
        "biases": [24, 0],
        "head": [48, 4],
    }
    shares = {kind: change for kind, (_, _, change) in rows.items() if change}
    assert shares == pytest.approx({"factors": 100.0 - 15.0, "batchnorm": -30.0, "head": 7.0})
    assert sum(shares.values()) == pytest.approx(accuracy(now) - accuracy(before))
    changed = ("factors", "batchnorm", "head")
    choices = [moved for size in (1, 2) for moved in combinations(changed, size)]
    assert len(asked) == len(choices) == 6
    for mixed, moved in zip(asked, choices, strict=True):
        assert mixed.keys() == NAMES.keys()
        assert all(mixed[name] is (now if kind in moved else before)[name] for name, kind in NAMES.items())


def test_what_two_kinds_do_together_is_shared_evenly() -> None:
    """With an accuracy that needs both: 0 with none or one of them moved, 10 with both, and 4 for a third alone."""
    before = {name: np.zeros(1) for name in ("fc1.weight", "norm1.gamma", "fc1.bias")}
    now = {name: np.ones(1) for name in before}

    def ask(mixed: Params) -> float:
        weight, gamma, bias = (float(mixed[name][0]) for name in before)
        return 10 * weight * gamma + 4 * bias

    rows = change_rows(Held(before).answer(), Held(now).answer(), (0.0, 14.0), ask)
    assert {kind: share for kind, _, _, share in rows} == pytest.approx({"weights": 5, "batchnorm": 5, "biases": 4})


def test_one_changed_kind_takes_the_whole_change_unasked() -> None:
    before = tensors()
    asked: list[Params] = []
    rows = found(before, {**before, "fc1.weight": before["fc1.weight"] + 1}, asked)
    assert rows["weights"] == [48, 24, 6.0]
    assert asked == []


def test_bits_count_and_not_values() -> None:
    zero = {"fc1.weight": np.zeros(4, np.float32), "fc1.bias": np.full(2, np.nan)}
    rows = found(zero, {"fc1.weight": -zero["fc1.weight"], "fc1.bias": zero["fc1.bias"].copy()})
    assert {kind: row[:2] for kind, row in rows.items()} == {"weights": [16, 16], "biases": [16, 0]}


@pytest.mark.parametrize(
    ("before", "now", "size", "changed"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), 48, 48),
        (np.ones(6, np.float32), np.ones(6), 48, 48),
        (np.ones(6), None, 0, 48),
        (None, np.ones(6), 48, 48),
    ],
)
def test_other_shapes_types_and_tensors_that_come_or_go_count_whole(
    before: Any, now: Any, size: int, changed: int
) -> None:
    then, there = ({"fc1.A": value} if value is not None else {} for value in (before, now))
    assert found(then, there)["factors"][:2] == [size, changed]


def test_a_tensor_that_was_changed_in_place_does_not_pass_for_frozen() -> None:
    own = tensors()
    before = Held(own).answer()
    own["fc1.weight"][0, 0] = 9.0
    rows = change_rows(before, Held(own).answer(), (1.0, 2.0), accuracy)
    assert next(row for row in rows if row[0] == "weights") == ["weights", 48, 24, 1.0]


def test_a_checksum_tells_names_shapes_and_every_bit() -> None:
    a = np.arange(6, dtype=np.float32)
    others = [{"b": a}, {"a": a.reshape(2, 3)}, {"a": a.view(np.int32)}, {"a": np.nextafter(a, np.float32(9))}, {}]
    sums = [Held(own).answer().checksum for own in ({"a": a}, {"a": a.copy()}, *others)]
    assert sums[0] == sums[1]
    assert len(set(sums)) == 6


# ---- a method that forgets, in a run --------------------------------------------------------------------------------


class Forgetful:
    """All tasks share one network; each task moves, of every earlier one, what `moves` says."""

    def __init__(self, model: Sequential, moves: tuple[str, ...]) -> None:
        self.model, self.moves = model, moves
        self.draw = np.random.default_rng(3)
        self.held: list[Params] = []

    def learn(self, task: MethodTask, hooks: Hooks) -> None:
        def moved(name: str, value: Any) -> Any:
            return value + self.draw.random(value.shape, np.float32) if kind_of(name) in self.moves else value

        self.held = [{name: moved(name, value) for name, value in own.items()} for own in self.held]
        self.held.append(self.model.init(self.draw, np.float32))

    def tensors(self, position: int) -> Params:
        return self.held[position]

    def network(self, position: int, tensors: Params | None = None) -> tuple[Sequential, Params]:
        return self.model, dict(tensors or self.held[position])

    def base_parameters(self) -> int:
        return 100

    def sizes(self) -> list[TaskSize]:
        return [TaskSize(1, 2, 3, 4, 5, 6, 7, weights=50, training_state=8) for _ in self.held[1:]]

    def stored_bytes(self) -> list[int]:
        return [4] * len(self.held)

    def rank_rows(self) -> list[dict[str, Any]]:
        return []

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {f"{j}/{name}": value for j, own in enumerate(self.held) for name, value in own.items()}, {}


@pytest.fixture
def forgetful(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs a forgetful method: its folder, and how often the tests were asked after mixed tensors."""

    def of(*moves: str) -> tuple[RunFolder, list[int]]:
        asked: list[int] = []

        def method(config: Any, shape: Any, device: Any) -> Any:
            return Forgetful(build(config.model, shape, config.widths)(10), moves)

        def counting(self: Any, task: Task, params: Params) -> float:
            asked.append(task.position)
            return original(self, task, params)

        original = runner.Evaluation.with_tensors
        monkeypatch.setattr(runner, "new_method", method)
        monkeypatch.setattr(runner.Evaluation, "with_tensors", counting)
        monkeypatch.setattr(Run, "ranks", lambda self: [])
        return RunFolder(run(tiny.config(data_dir), tmp_path / "-".join(("run", *moves)))), asked

    return of


@pytest.mark.parametrize(
    ("moves", "asked"),
    [((), 0), (("biases",), 0), (("batchnorm", "weights"), 6), (("batchnorm", "weights", "biases", "head"), 42)],
)
def test_the_changes_of_a_run_add_up_to_those_of_its_accuracies(
    forgetful: Any, moves: tuple[str, ...], asked: int
) -> None:
    folder, questions = forgetful(*moves)
    header, rows = folder.read_csv("changes.csv")
    assert header == ["after_task", "task", "identity", "kind", "bytes", "bytes_changed", "accuracy_change"]
    tested = [row for row in folder.read_csv("accuracy.csv")[1] if row["split"] == "test"]
    a = {(row["after_task"], row["task"]): row["accuracy"] for row in tested}
    kinds = ["batchnorm", "weights", "biases", "head"]  # those of a dense network, in the order they are moved
    places = [(after, task) for after in (1, 2) for task in range(after)]
    assert [(row["after_task"], row["task"], row["kind"]) for row in rows] == [(*p, k) for p in places for k in kinds]
    assert {(row["task"], row["identity"]) for row in rows} == {(0, 2), (1, 1)}
    for row in rows:
        assert row["bytes"] == 4 * {"weights": 3072 * 8 + 48, "batchnorm": 56, "biases": 14, "head": 70}[row["kind"]]
        assert row["bytes_changed"] == (row["bytes"] if row["kind"] in moves else 0)
        assert row["kind"] in moves or row["accuracy_change"] == 0
    for after, task in places:
        total = sum(r["accuracy_change"] for r in rows if (r["after_task"], r["task"]) == (after, task))
        assert total == pytest.approx(a[after, task] - a[after - 1, task], abs=1e-11)
    assert len(questions) == asked
    if len(moves) > 1:
        assert any(row["accuracy_change"] for row in rows)  # it does forget


def test_weights_and_training_state_are_counted(forgetful: Any) -> None:
    folder, _ = forgetful()
    header, rows = folder.read_csv("capacity.csv")
    assert header[-2:] == ["weights", "training_state"]
    for row in rows:
        assert (row["weights"], row["training_state"]) == (50, 8)
        assert row["released_count"] == 1 + 2 + 4 + 5 + 50
        assert row["honest_count"] == row["released_count"] + 6 + 7 + 8
        assert row["growth_honest"] == pytest.approx(row["task"] * row["honest_count"] / 100)


# ---- the real one ---------------------------------------------------------------------------------------------------


def test_pruning_changes_nothing_but_the_factors_of_later_tasks(data_dir: Path, tmp_path: Path) -> None:
    changes = {"prune_values": (1e-4, 0.9), "prune_bounded": True}  # so tight that every task is pruned again
    folder = run(tiny.config(data_dir, **changes), tmp_path / "run")
    rows = RunFolder(folder).read_csv("changes.csv")[1]
    assert {row["kind"] for row in rows if row["task"] == 0} == {"batchnorm", "weights", "biases", "head"}
    assert {row["kind"] for row in rows if row["task"] == 1} == set(KINDS)
    touched = [(row["after_task"], row["task"], row["kind"]) for row in rows if row["bytes_changed"]]
    assert touched == [(2, 1, "factors")]
    assert all(row["bytes"] > 0 for row in rows)


def test_the_summary_names_what_answers_for_each_task(whole: Path) -> None:
    sums = json.loads((whole / "summary.json").read_text())["answers_blake2b"]
    assert sums == [answer.checksum for answer in answers_of(TrainedRun(whole).method, 3)]
    assert len(set(sums)) == 3
