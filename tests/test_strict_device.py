"""A whole small HALRP on the strict stand-in device: nothing crosses to the host by accident, nothing else changes."""

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Device, Streams, array_module, to_host
from halrp_np.layers import Sequential
from halrp_np.methods import METHODS, PRESETS, Halrp, HalrpSettings, MethodTask, make_method
from halrp_np.models import lenet
from halrp_np.training import Hooks, PhasePlan, evaluate
from halrp_np.training.loop import LOSS_CHECK_STEPS
from strict import OFFERED, Crossing, StrictArray, StrictDevice, xp

SHAPE, CLASSES, TASKS = (3, 8, 8), 4, 3


class Images:
    """Random labelled images that lie on a device."""

    def __init__(self, device: Device, rng: np.random.Generator, samples: int, dtype: Any) -> None:
        self.device, self.samples = device, samples
        self.images = device.to_device(rng.normal(size=(*SHAPE, samples)).astype(dtype))
        self.labels = device.to_device(rng.integers(CLASSES, size=samples))

    def __len__(self) -> int:
        return self.samples

    def begin_epoch(self, generator: np.random.Generator) -> None:
        """Nothing varies."""

    def batch(self, rows: np.ndarray) -> tuple[Any, Any]:
        chosen = self.device.to_device(rows)
        return self.images[..., chosen], self.labels[chosen]


def small_lenet(classes: int) -> Sequential:
    return lenet(SHAPE, classes, widths=(4, 6, 24, 16))


def halrp(device: Device, dtype: Any, **settings: Any) -> Halrp:
    """A method at its start, with a budget so small that pruning must act."""
    chosen = HalrpSettings(**{"epochs": 2, "batch_size": 16, "prune_values": (1e-5, 0.9), **settings})
    return Halrp(small_lenet, chosen, device=device, dtype=dtype, streams=Streams(3))


def tasks(device: Device, dtype: Any, samples: int = 48) -> list[MethodTask]:
    """The same random tasks on any device."""
    rng = np.random.default_rng(5)
    return [
        MethodTask(
            t, CLASSES, TASKS, 0.25, Images(device, rng, samples, dtype), Images(device, rng, samples // 3, dtype)
        )
        for t in range(TASKS)
    ]


def run(device: Device, dtype: Any, **settings: Any) -> tuple[Any, Any, list[float], Halrp]:
    """Learn every task, evaluating all seen ones after each: final arrays, JSON values, accuracies, method."""
    method, accuracies = halrp(device, dtype, **settings), []
    stream = tasks(device, dtype)
    for task in stream:
        method.learn(task, Hooks())
        for seen in stream[: task.position + 1]:
            accuracies.append(evaluate(*method.network(seen.position), seen.validation, 10))
    return *method.state(), accuracies, method


OPTIMIZERS = [{"optimizer": "adam"}, {"optimizer": "sgd", "momentum": 0.9}]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["adam", "sgd"])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_whole_run_is_the_same_to_the_bit(
    preset: str, optimizer: dict[str, Any], dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALRP_NP_KERNELS", "reference")  # the stand-in has no twins
    settings = {**PRESETS[preset], **optimizer}
    arrays, meta, accuracies, method = run(StrictDevice(), dtype, **settings)
    expected, expected_meta, expected_accuracies, _ = run(Device("cpu"), dtype, **settings)
    assert meta == expected_meta
    assert accuracies == expected_accuracies
    assert list(arrays) == list(expected)
    for name, value in expected.items():
        assert arrays[name].dtype == value.dtype, name
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)
    assert all(size.factors_sparse < size.factors_dense for size in method.sizes())
    assert all(isinstance(value, StrictArray) for own in (method.base, *method.tasks) for value in own.values())


@pytest.mark.parametrize("name", [name for name in METHODS if name != "halrp"])
def test_every_method_is_the_same_to_the_bit(name: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALRP_NP_KERNELS", "reference")
    found = []
    for device in (StrictDevice(), Device("cpu")):
        settings = METHODS[name].settings_class(epochs=2, batch_size=16)
        method = make_method(name, small_lenet, settings, device=device, dtype=dtype, streams=Streams(3))
        stream = tuple(tasks(device, dtype))
        for task in stream:
            method.learn(replace(task, stream=stream), Hooks())
        again = make_method(name, small_lenet, settings, device=device, dtype=dtype, streams=Streams(3))
        again.load(*method.state())
        answers = [
            evaluate(*one.network(t), task.validation, 10) for one in (method, again) for t, task in enumerate(stream)
        ]
        found.append((*method.state(), answers, method.sizes(), method.stored_bytes()))
    (arrays, *rest), (expected, *expected_rest) = found
    assert rest == expected_rest
    assert list(arrays) == list(expected)
    for entry, value in expected.items():
        np.testing.assert_array_equal(arrays[entry], value, err_msg=entry)


@pytest.mark.parametrize("change", [{}, {"prune_rule": "relativeAllLayerAllTask", "prune_values": (0.9,)}])
def test_a_saved_method_continues_on_the_device(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALRP_NP_KERNELS", "reference")
    arrays, meta, _, _ = run(StrictDevice(), np.float32, **change)
    again = halrp(StrictDevice(), np.float32, **change)
    again.load(arrays, meta)
    reread, remeta = again.state()
    assert remeta == meta
    for name, value in arrays.items():
        np.testing.assert_array_equal(reread[name], value, err_msg=name)


class Crossings(Hooks):
    """The number of crossings before each update, by phase."""

    def __init__(self) -> None:
        self.counts: dict[str, list[int]] = {}

    def before_update(self, plan: PhasePlan, state: Any, loss: Any) -> None:
        self.counts.setdefault(f"{plan.name} {plan.task}", []).append(StrictArray.gets)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_training_step_never_crosses(optimizer: str) -> None:
    device, hooks = StrictDevice(), Crossings()
    method = halrp(device, np.float32, optimizer=optimizer, batch_size=3)
    for task in tasks(device, np.float32, samples=96)[:2]:
        method.learn(task, hooks)
    steps = 96 // 3
    assert steps > LOSS_CHECK_STEPS
    assert {name: len(counts) for name, counts in hooks.counts.items()} == {
        "base 0": 2 * steps, "warm-up 1": steps, "perturbation 1": steps,
    }  # fmt: skip
    for counts in hooks.counts.values():
        crossed = {number for number, more in enumerate(np.diff(counts), start=1) if more}
        checks = {epoch * steps + n for epoch in range(2) for n in (LOSS_CHECK_STEPS, steps)}
        assert crossed == {number for number in checks if number < len(counts)}
        assert max(np.diff(counts)) == 1  # all losses since the last check in one read


def test_evaluation_crosses_once() -> None:
    device = StrictDevice()
    model, images = small_lenet(CLASSES), Images(device, np.random.default_rng(0), 50, np.float32)
    params = {name: device.to_device(v) for name, v in model.init(np.random.default_rng(1), np.float32).items()}
    before = StrictArray.gets
    evaluate(model, params, images, 16)
    assert StrictArray.gets == before + 1


# ---- the stand-in itself ------------------------------------------------------------------------------------------

REFUSED: list[Callable[[StrictArray], Any]] = [
    np.asarray,
    np.exp,
    np.sum,
    np.linalg.norm,
    lambda a: np.concatenate([a, a]),
    lambda a: np.add(np.zeros(3), a),
    lambda a: a + np.zeros(3),
    lambda a: np.zeros(3) + a,
    lambda a: a * np.float64(2),
    lambda a: np.float32(2) * a,
    lambda a: operator.iadd(a, np.zeros(3)),
    lambda a: operator.iadd(np.zeros(3), a),
    lambda a: a == np.zeros(3),
    lambda a: a[np.array([0, 1])],
    lambda a: np.zeros(3)[a],
    lambda a: operator.setitem(a, 0, np.zeros(())),
    lambda a: operator.setitem(np.zeros(3), slice(None), a),
    lambda a: xp.maximum(a, np.zeros(3)),
    lambda a: xp.stack([a, np.zeros(3)]),
    lambda a: float(a[0]),
    lambda a: int(a[0]),
    lambda a: bool(a[0]),
    lambda a: math.sqrt(a[0]),
    lambda a: [0, 1, 2][a[0]],
    len,
    list,
    lambda a: 1.0 in a,
    lambda a: max(a[0], a[1]),
    lambda a: sorted([a[0], a[1]]),
]


@pytest.mark.parametrize("attempt", REFUSED)
def test_every_silent_way_to_the_host_is_refused(attempt: Callable[[StrictArray], Any]) -> None:
    array = StrictDevice().to_device(np.arange(3.0))
    before = StrictArray.gets
    with pytest.raises(TypeError, match=r"strict|Strict"):
        attempt(array)
    assert StrictArray.gets == before


def test_what_a_gpu_array_can_do_works() -> None:
    host = np.arange(6.0).reshape(2, 3)
    array = StrictDevice().to_device(host)
    assert array_module(array) is xp
    assert (array.shape, array.ndim, array.size, array.dtype) == ((2, 3), 2, 6, np.float64)
    before = StrictArray.gets
    found = (2 * array.T[1:]) @ array
    np.testing.assert_array_equal(to_host(found), (2 * host.T[1:]) @ host)
    assert StrictArray.gets == before + 1
    view = array[:, 0]
    view += 5
    np.testing.assert_array_equal(to_host(array)[:, 0], [5, 8])
    np.testing.assert_array_equal(host[:, 0], [0, 3])
    with pytest.raises(AttributeError, match="no tolist"):
        array.tolist()


def test_the_namespace_offers_only_what_cupy_has() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
    assert not [name for name in (*OFFERED, "asarray", "float32", "float64") if not hasattr(cupy, name)]
    assert hasattr(cupy.linalg, "svd")


def test_crossing_is_a_type_error_with_advice() -> None:
    with pytest.raises(Crossing, match=r"use Device\.to_host"):
        float(StrictDevice().to_device(np.zeros(())))
