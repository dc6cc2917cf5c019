"""Every method by the one contract: tensors and networks, sizes and bytes, states, and what stays as it was."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from halrp_np.backend import to_host
from halrp_np.errors import ConfigError
from halrp_np.layers import EVALUATE, Sequential
from halrp_np.lowrank import growth_honest, growth_released
from halrp_np.methods import METHODS
from halrp_np.methods.base import KINDS, kind_of
from halrp_np.models import alexnet, resnet18
from halrp_np.training import Hooks
from methods.streams import SHAPE, make_any, small_lenet, small_mlp, stream, task
from training.blobs import Blobs

FROZEN = ("stl", "mtl", "bn", "be")
"""The methods under which a later task changes nothing of an earlier one."""


def finished(name: str, tasks: int = 3, build: Any = small_lenet, **changes: Any) -> Any:
    """The method after all tasks."""
    method = make_any(name, build, **changes)
    for one in stream(tasks):
        method.learn(one, Hooks())
    return method


def logits(method: Any, position: int, build_shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """The answers of a task's network to some images."""
    model, params = method.network(position)
    x = np.random.default_rng(9).normal(size=(*build_shape, 5))
    return np.asarray(model.forward(params, x, EVALUATE)[0])


def bits(params: dict[str, Any]) -> dict[str, bytes]:
    return {name: to_host(value).tobytes() for name, value in params.items()}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("build", [small_lenet, small_mlp])
def test_it_learns_and_answers_for_every_task(name: str, build: Any) -> None:
    method = finished(name, build=build, prune_rule="none")
    for position in range(3):
        model, params = method.network(position)
        assert isinstance(model, Sequential)
        assert set(model.names()) <= params.keys()
        assert np.isfinite(logits(method, position)).all()
        named = method.tensors(position)
        assert {kind_of(entry) for entry in named} <= set(KINDS)
        again = method.network(position, named)[1]
        assert bits(again) == bits(params)
    changed = {key: value * 2 for key, value in method.tensors(1).items()}
    assert bits(method.network(1, changed)[1]) != bits(method.network(1)[1])


@pytest.mark.parametrize("name", METHODS)
def test_tasks_come_once_and_in_order(name: str) -> None:
    method = make_any(name)
    with pytest.raises(ConfigError, match="expected task 0"):
        method.learn(task(1), Hooks())
    method.learn(stream()[0], Hooks())
    with pytest.raises(ConfigError, match="expected task 1"):
        method.learn(stream()[0], Hooks())
    with pytest.raises(ConfigError, match="a learned task, 0 to 0, received 1"):
        method.network(1)
    with pytest.raises(ConfigError, match="a learned task"):
        method.tensors(-1)


@pytest.mark.parametrize("name", METHODS)
def test_what_was_handed_out_is_a_snapshot_and_frozen_methods_forget_nothing(name: str) -> None:
    method, kept, answers = make_any(name, prune_values=(1e-2, 0.9)), [], []
    for one in stream():
        taken = [bits(method.tensors(position)) for position in range(one.position)]
        held = [method.tensors(position) for position in range(one.position)]
        method.learn(one, Hooks())
        assert [bits(params) for params in held] == taken
        kept.append(bits(method.tensors(one.position)))
        answers.append(logits(method, one.position))
    now = [bits(method.tensors(position)) for position in range(3)]
    if name in FROZEN:
        assert now == kept
        assert all((logits(method, t) == answers[t]).all() for t in range(3))
    else:
        assert (now[0] == kept[0]) == (name == "halrp")  # whose first task never changes
        assert now[1] != kept[1]
        heads = [{entry for entry in params if entry.startswith("head.")} for params in now]
        assert all(now[t][entry] == kept[t][entry] for t in range(3) for entry in heads[t])


@pytest.mark.parametrize("name", METHODS)
def test_a_loaded_state_answers_and_learns_on_alike(name: str) -> None:
    first, *later = stream()
    method, again = make_any(name), make_any(name)
    method.learn(first, Hooks())
    method.learn(later[0], Hooks())
    again.load(*method.state())
    assert again.sizes() == method.sizes()
    assert again.stored_bytes() == method.stored_bytes()
    assert again.rank_rows() == method.rank_rows()
    for both in (method, again):
        both.learn(later[1], Hooks())
    for position in range(3):
        assert bits(again.tensors(position)) == bits(method.tensors(position))
    states = [(bits(arrays), meta) for arrays, meta in (method.state(), again.state())]
    assert states[0] == states[1]


@pytest.mark.parametrize("name", METHODS)
def test_sizes_count_what_is_stored(name: str) -> None:
    """In float64 and without zeros, bytes are eight times the honest count; spectra and JSON are no part of a model."""
    method = finished(name, prune_rule="none", l1=0.0, ewc_strength=1.0)
    sizes, base = method.sizes(), method.base_parameters()
    assert len(sizes) == 2
    own = [sum(int(v.size) for k, v in method.tensors(t).items()) for t in range(3)]
    total = base + sum(size.honest for size in sizes)
    running = sum(int(v.size) for k, v in method.tensors(0).items() if "running_" in k)
    assert sum(method.stored_bytes()) == 8 * (total + running)
    assert own[0] == base + running
    released, honest = growth_released(base, sizes), growth_honest(base, sizes)
    assert 0 < released <= honest
    if name == "stl":
        assert honest == pytest.approx(2 * own[0] / base)
    if name in ("finetune", "mtl", "l2"):
        assert honest == pytest.approx(sum(size.head for size in sizes) / base)
    if name == "ewc":
        assert [size.training_state for size in sizes] == [0, 2 * (base - sizes[0].head)]


def test_only_halrp_has_ranks() -> None:
    assert [name for name in METHODS if finished(name, 2, small_mlp).rank_rows()] == ["halrp"]


DEEP: dict[str, Any] = {
    "alexnet": (partial(alexnet, (3, 32, 32), widths=(2, 3, 4, 6, 6)), (3, 32, 32)),
    "resnet18": (partial(resnet18, (3, 16, 16), widths=(2, 3, 4, 5)), (3, 16, 16)),
}


@pytest.mark.parametrize("network", DEEP)
@pytest.mark.parametrize("name", METHODS)
def test_deep_networks(name: str, network: str) -> None:
    build, shape = DEEP[network]
    method = make_any(name, build, epochs=2, compare_importances=False, rank_cap=2)
    plain = [
        replace(
            one,
            train=Blobs(one.position, 10, shape, 3, np.float64),
            validation=Blobs(7 + one.position, 8, shape, 3, np.float64),
        )
        for one in stream(2)
    ]
    for one in plain:
        method.learn(replace(one, stream=tuple(plain)), Hooks())
    for position in range(2):
        assert np.isfinite(logits(method, position, shape)).all()
