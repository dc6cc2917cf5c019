"""Each baseline against what it is defined to be: HALRP with pieces off, a sum of quadratics, a loop over tasks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Streams
from halrp_np.curvature import fisher_diagonal
from halrp_np.errors import ConfigError
from halrp_np.layers import Mode, Sequential
from halrp_np.losses import CrossEntropy
from halrp_np.training import Hooks, PhasePlan
from methods.streams import CLASSES, SETTINGS, make, make_any, small_lenet, small_mlp, stream, task


def learned(method: Any, tasks: int = 3, dtype: Any = np.float64) -> Any:
    for one in stream(tasks, dtype):
        method.learn(one, Hooks())
    return method


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Equal names and, bit for bit, equal numbers."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
        assert value.dtype == theirs[name].dtype


# ---- BN, BE, STL: HALRP with pieces off ---------------------------------------------------------------------------

OFF: dict[str, Any] = {"warmup_epochs": 0, "rank_cap": 0, "prune_rule": "none"}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("build", [small_lenet, small_mlp])
@pytest.mark.parametrize("name", ["bn", "be"])
def test_halrp_with_pieces_off_is_the_baseline_to_the_bit(name: str, build: Any, dtype: Any) -> None:
    halrp = learned(make(build, dtype=dtype, **OFF, scalings=name == "be"), dtype=dtype)
    baseline = learned(make_any(name, build, dtype=dtype), dtype=dtype)
    for position in range(3):
        same(baseline.network(position)[1], halrp.network(position)[1])
    assert baseline.sizes() == halrp.sizes()
    own, theirs = baseline.tasks[1], halrp.tasks[1]
    same(own, {entry: value for entry, value in theirs.items() if entry in own})
    assert all(value.size == 0 for entry, value in theirs.items() if entry not in own)


@pytest.mark.parametrize("name", ["bn", "be"])
def test_a_later_task_moves_what_it_owns(name: str) -> None:
    method = learned(make_any(name), 2)
    base, own = method.base, method.tasks[0]
    moved = {entry.rpartition(".")[2] for entry in own if (own[entry] != base.get(entry, 1.0)).any()}
    assert moved >= {"gamma", "beta", "running_mean", "running_var", "bias"} | ({"R", "S"} if name == "be" else set())
    assert not any(entry.endswith(".weight") for entry in own if not entry.startswith("head."))


def test_halrp_without_scalings_owns_none() -> None:
    method = learned(make(scalings=False, prune_rule="none"), 2)
    assert not any(entry.endswith((".R", ".S")) for entry in method.tasks[0])
    assert method.sizes()[0].scalings == 0
    assert not set(method.penalties()) & {f"{layer}.R" for layer in method.layers()}
    again = make(scalings=False, prune_rule="none")
    again.load(*method.state())
    same(again.network(1)[1], method.network(1)[1])


def test_the_first_network_of_stl_is_halrps_and_the_others_know_nothing_of_it() -> None:
    halrp, stl = learned(make(), 1), learned(make_any("stl"))
    same(stl.network(0)[1], halrp.network(0)[1])
    alone = make_any("stl")
    alone.classes, alone.tasks = [CLASSES, CLASSES], [{}, {}]  # as if two other tasks had been learned
    alone.learn(stream()[2], Hooks())
    same(alone.network(2)[1], stl.network(2)[1])


# ---- one trunk: finetune, L2, EWC ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "off"), [("l2", {"l2_strength": 0.0}), ("ewc", {"ewc_strength": 0.0})])
def test_without_strength_it_is_finetuning(name: str, off: dict[str, float]) -> None:
    ours, plain = learned(make_any(name, **off)), learned(make_any("finetune"))
    for position in range(3):
        same(ours.network(position)[1], plain.network(position)[1])


def ends(method: Any, tasks: int) -> list[dict[str, np.ndarray]]:
    """The trunk at the end of each of some tasks, learned by the method."""
    found = []
    for one in stream(tasks + 1)[:tasks]:
        method.learn(one, Hooks())
        found.append({name: method.trunk[name].copy() for name in method.shared()})
    return found


def test_the_pull_of_l2_is_to_the_task_before() -> None:
    method = make_any("l2", l2_strength=3.0)
    newest = ends(method, 2)[-1]
    for name, pull in method.pulls().items():
        np.testing.assert_array_equal(pull.centre, newest[name])
        assert (pull.strength == 3.0).all()
    assert set(method.pulls()) == set(newest)


@pytest.mark.parametrize("labels", ["true", "predicted", "sampled"])
def test_the_one_quadratic_of_ewc_is_the_sum_over_tasks(labels: str) -> None:
    """Its gradient at random parameters, against the terms one by one, each with a Fisher matrix of its own."""
    method = make_any("ewc", ewc_strength=2.0, fisher_labels=labels)
    terms, draw = [], np.random.default_rng(3)
    for one in stream(4)[:3]:
        method.learn(one, Hooks())
        model, params = method.network(one.position)
        generator = Streams(0).generator("fisher", one.position)
        options: dict[str, Any] = {"names": method.shared(), "labels": labels, "batch": 8, "generator": generator}
        terms.append((fisher_diagonal(model, params, one.train, **options), dict(method.trunk)))
    for name, pull in method.pulls().items():
        theta = draw.normal(size=pull.centre.shape)
        expected = 2.0 * sum(fisher[name] * (theta - trunk[name]) for fisher, trunk in terms)
        found = pull.strength * (theta - pull.centre)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * abs(expected).max())


def test_online_ewc_keeps_the_newest_centre_and_a_running_sum() -> None:
    online = make_any("ewc", ewc_online=True, ewc_decay=0.5)
    trunks, one_by_one = ends(online, 1), make_any("ewc")
    one_by_one.learn(stream()[0], Hooks())
    for name in online.shared():
        np.testing.assert_array_equal(online.fisher[name], one_by_one.fisher[name])
    first = {name: value.copy() for name, value in online.fisher.items()}
    online.learn(replace(task(1), stream=()), Hooks())
    model, params = online.network(1)
    generator = Streams(0).generator("fisher", 1)
    names = online.shared()
    newest = fisher_diagonal(model, params, task(1).train, names=names, labels="sampled", batch=8, generator=generator)
    for name in names:
        np.testing.assert_allclose(online.fisher[name], 0.5 * first[name] + newest[name], rtol=1e-12)
        np.testing.assert_array_equal(online.centre[name], online.trunk[name])
    assert any((online.centre[name] != trunks[0][name]).any() for name in names)


def test_old_heads_answer_on_the_new_trunk() -> None:
    method = learned(make_any("finetune"))
    for position in range(3):
        model, params = method.network(position)
        for name in model.names():
            owner = method.heads[position] if name.startswith("head.") else method.trunk
            assert params[name] is owner[name]


# ---- MTL ----------------------------------------------------------------------------------------------------------


def by_hand(model: Sequential, params: Any, tasks: list[Any], rate: float, decay: float) -> dict[str, np.ndarray]:
    """One step of SGD on all images of all tasks at once, with one head a task and plain cross-entropy for each."""
    parts = [one.train.batch(np.arange(len(one.train))) for one in tasks]
    x = np.concatenate([images for images, _ in parts], axis=-1)
    outputs, cache = model.forward(params, x, Mode(train=True))
    gy, start, count = np.zeros_like(outputs), 0, x.shape[-1]
    for number, (_, labels) in enumerate(parts):
        rows = slice(number * CLASSES, (number + 1) * CLASSES)
        columns = slice(start, start + len(labels))
        share = len(labels) / count
        gy[rows, columns] = share * CrossEntropy().grad(outputs[rows, columns], labels)
        start += len(labels)
    _, grads = model.backward(params, cache, gy)
    moved = {name: params[name] - rate * grad for name, grad in grads.items()}
    for name in moved:
        if name.endswith(".weight") and not name.startswith("head."):
            moved[name] = moved[name] - rate * decay * params[name]
    return moved


def test_a_step_of_mtl_is_one_of_all_heads_together() -> None:
    tasks = stream(2)
    images = sum(len(one.train) for one in tasks)
    settings: dict[str, Any] = {"optimizer": "sgd", "gamma_rule": "fixed", "batch_size": images, "weight_decay": 0.25}
    method = make_any("mtl", epochs=1, shuffle=False, learning_rate=0.5, **settings)
    model = small_lenet(2 * CLASSES)
    start = method.fresh_params(model, 0)
    method.learn(tasks[0], Hooks())
    for name, expected in by_hand(model, start, tasks, 0.5, 0.25).items():
        np.testing.assert_allclose(method.params[name], expected, rtol=1e-10, atol=1e-12)


def test_mtl_learns_once_and_all_tasks_at_once() -> None:
    method, phases = make_any("mtl"), []

    class Count(Hooks):
        def after_epoch(self, plan: PhasePlan, record: dict[str, Any]) -> None:
            phases.append((plan.task, plan.name, record["steps"]))

    tasks = stream()
    for one in tasks:
        method.learn(one, Count())
    steps = -(-3 * len(tasks[0].train) // SETTINGS["batch_size"]) - 1  # the last partial batch is dropped
    assert phases == [(0, "together", steps)] * SETTINGS["epochs"]
    with pytest.raises(ConfigError, match="one of the 3 tasks that came with task 0"):
        method.learn(task(3, tasks=4), Hooks())


def test_alone_mtl_is_stl() -> None:
    """With one task there is nothing to share but the names of the phases, and so of the batches drawn."""
    mtl, stl = (make_any(name, shuffle=False) for name in ("mtl", "stl"))
    for method in (mtl, stl):
        method.learn(task(0), Hooks())
    for name, value in stl.network(0)[1].items():
        np.testing.assert_allclose(mtl.network(0)[1][name], value, rtol=1e-9, atol=1e-12)
