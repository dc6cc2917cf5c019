"""Tasks learned with the GPU's kernels and recorded steps, on a GPU and on the stand-in of host_cuda.py."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Device, Streams, graph, to_host
from halrp_np.benchmarks.feed import Feeds
from halrp_np.data.images import Augmentation, whole_images
from halrp_np.layers import Dropout, Sequential, decomposed_layers, perturb
from halrp_np.losses import CrossEntropy, GroupedCrossEntropy
from halrp_np.models import mlp
from halrp_np.training import Hooks, PhasePlan, Pull, Together, make_optimizer, train_phase
from host_cuda import HostGraph, compiler, installed
from test_strict_device import SHAPE, Images, halrp, small_lenet, tasks


@pytest.fixture(scope="module", params=["stand-in", pytest.param("real", marks=pytest.mark.gpu)])
def kind(request: pytest.FixtureRequest) -> str:
    """Which GPU."""
    return str(request.param)


@pytest.fixture(scope="module")
def gpu(kind: str) -> Iterator[Device]:
    """A GPU, or the host's compiler in its place."""
    if kind == "stand-in" and compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    with installed() if kind == "stand-in" else nullcontext():
        yield Device("gpu")


class Heard(Hooks):
    """What the loop had to say."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def learned(device: Device, hooks: Hooks, **settings: Any) -> dict[str, np.ndarray]:
    """Everything that is left of two tasks."""
    method = halrp(device, np.float64, epochs=3, **settings)
    for task in tasks(device, np.float64)[:2]:
        method.learn(task, hooks)
    return method.state()[0]


@pytest.mark.parametrize("optimizer", [{"optimizer": "adam"}, {"optimizer": "sgd", "momentum": 0.9}], ids=str)
def test_two_tasks_recorded_step_by_step_and_on_the_cpu(
    gpu: Device, kind: str, optimizer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings, heard = [], Heard()
    monkeypatch.setattr(
        HostGraph, "__init__", lambda self, tape: (setattr(self, "tape", tape), recordings.append(self))[0]
    )
    found = learned(gpu, heard, **optimizer)
    assert len(recordings) == (3 if kind == "stand-in" else 0)  # base, warm-up, perturbation
    assert not [text for text in heard.warnings if "graph" in text]
    monkeypatch.setattr("halrp_np.training.recorded.recordable", lambda xp: False)
    for name, value in learned(gpu, Heard(), **optimizer).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    monkeypatch.setenv("HALRP_NP_KERNELS", "reference")
    for name, value in learned(Device("cpu"), Heard(), **optimizer).items():
        atol = 1e-7 * np.abs(value).max(initial=1e-9)
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=name)


def trained(
    device: Device, hooks: Hooks, rate: float = 0.0, samples: int = 20, examples: Any = None, **options: Any
) -> dict[str, np.ndarray]:
    """A small network after two epochs whose last batch is smaller."""
    plain = mlp(SHAPE, 4, widths=(6,))
    model = Sequential({**plain.layers, "dropout": Dropout(rate)}) if rate else plain
    params = {name: device.to_device(v) for name, v in model.init(np.random.default_rng(1), np.float64).items()}
    plan = PhasePlan(task=0, name="base", epochs=2, batch=6, lr=0.01, gamma=0.9, drop_last=False)
    examples = examples or Images(device, np.random.default_rng(0), samples, np.float64)
    trained = train_phase(
        plan, model, params, examples, optimizer=make_optimizer("adam", scale=1.0, momentum=0.0), penalties={},
        streams=Streams(0), hooks=hooks, **{"loss": CrossEntropy(), **options},
    )  # fmt: skip
    return {name: to_host(value) for name, value in trained.items()}


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_smaller_last_batch_and_masks_from_the_host(
    gpu: Device, kind: str, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches: list[int] = []
    launch = HostGraph.launch
    monkeypatch.setattr(HostGraph, "launch", lambda self: (launches.append(1), launch(self))[1])
    found = trained(gpu, Heard(), rate)
    assert len(launches) == (0 if rate or kind == "real" else 2 * 3 - graph.WARM_UP)
    for name, value in trained(Device("cpu"), Heard(), rate).items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-7, err_msg=name)


def test_recorded_steps_see_the_moves_of_every_epoch(gpu: Device, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    stored, labels = draw.integers(0, 256, (20, *SHAPE), dtype=np.uint8), draw.integers(0, 4, 20)
    images = whole_images(stored, labels, [0.5], [0.25]).augmented(Augmentation(2, flip=True))
    launches: list[int] = []
    launch = HostGraph.launch
    monkeypatch.setattr(HostGraph, "launch", lambda self: (launches.append(1), launch(self))[1])
    ways = [
        trained(device, Heard(), examples=Feeds(device, np.float64).open(part))
        for device, part in ((gpu, images), (Device("cpu"), images), (gpu, images.augmented(None)))
    ]
    assert len(launches) == (0 if kind == "real" else 2 * (2 * 3 - graph.WARM_UP))
    for name, value in ways[1].items():
        np.testing.assert_allclose(ways[0][name], value, rtol=0, atol=1e-7, err_msg=name)
    assert any((ways[2][name] != ways[0][name]).any() for name in ways[0])


def pulls(device: Device) -> dict[str, Pull]:
    """A pull on two of the parameters of `trained`."""
    draw, shapes = np.random.default_rng(9), {"head.weight": (4, 6), "head.bias": (4,)}
    return {
        name: Pull(device.to_device(draw.random(shape)), device.to_device(draw.normal(size=shape)))
        for name, shape in shapes.items()
    }


def test_pulls_groups_and_what_stays_are_recorded(gpu: Device, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[int] = []
    launch = HostGraph.launch
    monkeypatch.setattr(HostGraph, "launch", lambda self: (launches.append(1), launch(self))[1])
    wanted = ["head.weight", "head.bias"]
    ways = [
        trained(device, Heard(), wanted=wanted, pulls=some, loss=GroupedCrossEntropy([0, 0, 1, 1]))
        for device, some in ((gpu, pulls(gpu)), (Device("cpu"), pulls(Device("cpu"))), (gpu, {}))
    ]
    assert len(launches) == (0 if kind == "real" else 2 * (2 * 3 - graph.WARM_UP))
    for name, value in ways[1].items():
        np.testing.assert_allclose(ways[0][name], value, rtol=0, atol=1e-7, err_msg=name)
    assert all((ways[2][name] != ways[0][name]).any() for name in wanted)


def test_examples_that_gather_on_the_host_are_not_recorded(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halrp_np.training.recorded.Replay", None)  # to record would fail
    ways = []
    for device in (gpu, Device("cpu")):
        parts = [Images(device, np.random.default_rng(seed), 10, np.float64) for seed in (0, 1)]
        ways.append(trained(device, Heard(), examples=Together(parts, (0, 0))))
    for name, value in ways[1].items():
        np.testing.assert_allclose(ways[0][name], value, rtol=0, atol=1e-7, err_msg=name)


def test_factors_of_rank_0_are_recorded(gpu: Device, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[int] = []
    launch = HostGraph.launch
    monkeypatch.setattr(HostGraph, "launch", lambda self: (launches.append(1), launch(self))[1])
    ways = []
    for device in (gpu, Device("cpu")):
        plain = small_lenet(4)
        model, params = perturb(plain), plain.init(np.random.default_rng(1), np.float64)
        for name in decomposed_layers(plain):
            J, I = params[f"{name}.weight"].shape[:2]
            factors = {"R": np.ones(J), "S": np.ones(I), "A": np.zeros((0, I)), "B": np.zeros((J, 0))}
            params |= {f"{name}.{entry}": value for entry, value in factors.items()}
        ended = train_phase(
            PhasePlan(task=1, name="perturbation", epochs=2, batch=6, lr=0.01, gamma=0.9), model,
            {name: device.to_device(value) for name, value in params.items()},
            Images(device, np.random.default_rng(0), 20, np.float64), loss=CrossEntropy(),
            optimizer=make_optimizer("adam", scale=1.0, momentum=0.0), penalties={}, streams=Streams(0), hooks=Heard(),
        )  # fmt: skip
        ways.append({name: to_host(value) for name, value in ended.items()})
    assert len(launches) == (0 if kind == "real" else 2 * 3 - graph.WARM_UP)
    for name, value in ways[1].items():
        np.testing.assert_allclose(ways[0][name], value, rtol=0, atol=1e-7, err_msg=name)


def test_a_listener_between_gradient_and_update_is_heard_at_every_step(gpu: Device) -> None:
    class Listener(Heard):
        def before_update(self, plan: Any, state: Any, loss: Any) -> None:
            self.warnings.append(str(state.step))

    listener = Listener()
    trained(gpu, listener)
    assert listener.warnings == [str(step) for step in range(8)]


def test_a_step_that_cannot_be_recorded_goes_on_with_a_note(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halrp_np.backend.cupy_conv.MOST_PRODUCTS", 0)  # every product by cuBLAS
    expected, heard = trained(Device("cpu"), Heard()), Heard()
    found = trained(gpu, heard)
    (note,) = heard.warnings
    assert note.startswith("training goes on without a CUDA graph, which could not be recorded: ")
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-7, err_msg=name)
