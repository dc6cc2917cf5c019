"""What a later task starts from, trains and penalises, as the layers and their parameters show it."""

from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Device, Streams
from halrp_np.layers import Sequential, perturb
from halrp_np.methods.base import MethodTask
from halrp_np.methods.halrp import Halrp
from halrp_np.methods.settings import PRESETS, HalrpSettings
from halrp_np.models import lenet
from halrp_np.training import Hooks, PhasePlan
from halrp_np.training.flat import Flat
from halrp_np.training.optimizer import SGD

WD, L1 = 0.01, 0.003


class Images:
    """Labelled random images in memory."""

    def __init__(self, seed: int, count: int = 16) -> None:
        rng = np.random.default_rng(seed)
        self.x, self.labels = rng.normal(size=(1, 8, 8, count)), rng.integers(0, 3, size=count)

    def __len__(self) -> int:
        return len(self.labels)

    def begin_epoch(self, generator: Any) -> None:
        """Nothing varies."""

    def batch(self, rows: Any) -> tuple[Any, Any]:
        return self.x[..., rows], self.labels[rows]


class FirstSteps(Hooks):
    """Copies of the parameters before the first update of each phase."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, str], dict[str, Any]] = {}

    def before_update(self, plan: PhasePlan, state: Any, loss: Any) -> None:
        key = (plan.task, plan.name)
        self.seen.setdefault(key, {name: value.copy() for name, value in state.params.items()})


def build(classes: int) -> Sequential:
    return lenet((1, 8, 8), classes, widths=(3, 4, 8, 6))


def method(**changes: Any) -> Halrp:
    small = {"epochs": 2, "warmup_epochs": 1, "batch_size": 8, "weight_decay": WD, "l1": L1}
    settings = HalrpSettings(**{**PRESETS["official"], **small, **changes})
    return Halrp(build, settings, device=Device("cpu"), dtype=np.float64, streams=Streams(1))


@pytest.fixture(scope="module")
def learned() -> tuple[Halrp, FirstSteps, dict[str, Any]]:
    """Two tasks learned; the first steps of their phases; task 0's network as it was when task 1 began."""
    halrp, hooks = method(), FirstSteps()
    halrp.learn(MethodTask(0, 3, 2, 0.2, Images(0), Images(1)), hooks)
    frozen = {name: value.copy() for name, value in halrp.base.items()}
    halrp.learn(MethodTask(1, 3, 2, 0.2, Images(2), Images(3)), hooks)
    return halrp, hooks, frozen


def test_free_network_starts_at_task_0s_features_with_a_fresh_head(learned: Any) -> None:
    _, hooks, frozen = learned
    start = hooks.seen[1, "warm-up"]
    assert set(start) == set(frozen)
    same = {name for name in frozen if np.array_equal(start[name], frozen[name])}
    assert set(frozen) - same == {"head.weight", "head.bias"}
    assert any(name.endswith("running_var") for name in same)


def test_learning_a_task_leaves_the_base_alone(learned: Any) -> None:
    halrp, hooks, frozen = learned
    assert all(np.array_equal(halrp.base[name], frozen[name]) for name in frozen)
    start = hooks.seen[1, "perturbation"]
    assert all(np.array_equal(start[f"{name}.weight"], frozen[f"{name}.weight"]) for name in halrp.layers())
    assert not [name for name in halrp.tasks[0] if name.endswith(".weight") and name != "head.weight"]


def test_warm_up_moved_what_the_perturbation_starts_from(learned: Any) -> None:
    """Biases, normalisation and head go on from the warm-up, not from task 0 (a bias before batch statistics stays)."""
    _, hooks, frozen = learned
    start = hooks.seen[1, "perturbation"]
    for name in ("fc1.bias", "norm1.gamma", "norm1.running_mean", "norm4.running_var", "head.bias"):
        assert not np.array_equal(start[name], frozen[name]), name


def penalty_gradient(halrp: Halrp, params: dict[str, Any], penalties: dict[str, Any]) -> dict[str, Any]:
    """What one plain step with rate 1 subtracts when the loss has no gradient."""
    flat = Flat(params, tuple(params), (), {}, penalties)
    SGD().update(flat, flat.on_device(SGD().factors(1.0, 1)))
    return {name: params[name] - flat.params[name] for name in params}


def expected_penalty_gradient(name: str, value: Any, centre: float) -> Any:
    """λ (x - centre) for scalings, λ x + λ₁ sign x for factors, nothing else."""
    entry = name.rpartition(".")[2]
    if entry in ("R", "S"):
        return WD * (value - centre)
    return WD * value + L1 * np.sign(value) if entry in ("A", "B") else 0.0 * value


@pytest.mark.parametrize("centre", [0.0, 1.0])
def test_penalty_of_a_later_task(centre: float, learned: Any) -> None:
    halrp, model = method(scaling_centre=centre), perturb(build(3))
    halrp.classes = [3]
    params = {name: learned[1].seen[1, "perturbation"][name] for name in model.trainable}
    params["fc1.A"] = params["fc1.A"].copy()
    params["fc1.A"][0, 0] = 0.0  # sign(0) = 0
    for name, found in penalty_gradient(halrp, params, halrp.penalties()).items():
        expected = expected_penalty_gradient(name, params[name], centre)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15, err_msg=name)


def test_penalty_of_task_0() -> None:
    halrp, model = method(), build(3)
    halrp.classes = [3]
    params = model.init(np.random.default_rng(0), np.float64)
    params = {name: params[name] for name in model.trainable}
    decayed = {f"{name}.weight" for name in ("conv1", "conv2", "fc1", "fc2")}
    for name, found in penalty_gradient(halrp, params, halrp.trainer.decay(halrp.layers())).items():
        np.testing.assert_allclose(found, WD * params[name] if name in decayed else 0.0 * found, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("ranks", [(1, 1, 1, 1), (2, 5, 30, 20), (3, 20, 100, 100)], ids=str)
def test_number_of_trained_scalars(ranks: tuple[int, ...]) -> None:
    from cases import shapes

    model, rank_of = perturb(lenet((3, 32, 32), 10)), dict(zip(("conv1", "conv2", "fc1", "fc2"), ranks, strict=True))
    sizes = {
        f"{path}.{entry}": int(np.prod(shape))
        for path, layer in model.walk()
        for entry, shape in shapes(layer, rank_of.get(path, 0)).items()
    }
    r1, r2, r3, r4 = ranks
    scalings, biases, normalisation, head = 4_023 + 1_370, 1_370, 2_740, 5_010
    factors = 23 * r1 + 70 * r2 + 4000 * r3 + 1300 * r4
    assert sum(sizes[name] for name in model.trainable) == scalings + biases + normalisation + head + factors
