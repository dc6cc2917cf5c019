"""STL, L2 and EWC by hand: gradient descent on the loss, the decay and the pull; and what the methods draw."""

from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Streams
from halrp_np.curvature import fisher_diagonal
from halrp_np.layers import Mode
from halrp_np.losses import CrossEntropy
from halrp_np.training import Hooks, PhasePlan, exponential_gamma
from methods.streams import CLASSES, make_any, small_lenet, stream

RATE, DECAY, EPOCHS, SCALE = 0.3, 0.25, 3, 2.0
SETTINGS: dict[str, Any] = {
    "optimizer": "sgd",
    "gamma_rule": "fixed",
    "learning_rate": RATE,
    "weight_decay": DECAY,
    "gradient_scale": SCALE,
    "epochs": EPOCHS,
    "batch_size": 26,  # all images of a task: one step an epoch
    "shuffle": False,
}


def by_hand(params: dict[str, Any], one: Any, pulls: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """One task's steps from `params`; `pulls` give each pulled parameter's strength and centre."""
    model, now = small_lenet(CLASSES), dict(params)
    x, labels = one.train.batch(np.arange(len(one.train)))
    for _ in range(EPOCHS):
        outputs, cache = model.forward(now, x, Mode(train=True))
        _, grads = model.backward(now, cache, CrossEntropy().grad(outputs, labels))
        for name, grad in grads.items():
            decayed = DECAY * now[name] if name.endswith(".weight") and not name.startswith("head.") else 0.0
            strength, centre = pulls.get(name, (0.0, 0.0))
            grads[name] = grad + decayed + strength * (now[name] - centre)
        now |= model.new_buffers(now, cache)
        now |= {name: now[name] - RATE * SCALE * grad for name, grad in grads.items()}
    return now


@pytest.mark.parametrize(("name", "strength"), [("finetune", 0.0), ("l2", 0.5), ("ewc", 3.0)])
def test_three_tasks_by_hand(name: str, strength: float) -> None:
    """EWC's pull is the sum of a term a task, each with the Fisher matrix of its own end; L2's that of the last."""
    changes = {f"{name}_strength": strength, "fisher_labels": "true"}
    method = make_any(name, **SETTINGS, **changes)
    theta = method.fresh_params(small_lenet(CLASSES), 0)
    fishers: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    for one in stream(3):
        model = small_lenet(CLASSES)
        pulls: dict[str, tuple[Any, Any]] = {}
        if ends:
            theta |= method.fresh_head(model, one.position)
            shared = [entry for entry in model.trainable if not entry.startswith("head.")]
            for entry in shared:
                if name == "l2":
                    pulls[entry] = (strength, ends[-1][entry])
                elif name == "ewc":
                    total = sum(fisher[entry] for fisher in fishers)
                    push = sum(fisher[entry] * end[entry] for fisher, end in zip(fishers, ends, strict=True))
                    centre = np.divide(push, total, out=np.zeros_like(total), where=total > 0)
                    pulls[entry] = (strength * total, centre)
        theta = by_hand(theta, one, pulls)
        method.learn(one, Hooks())
        answers = method.network(one.position)[1]
        for entry, expected in theta.items():
            np.testing.assert_allclose(answers[entry], expected, rtol=1e-7, atol=1e-10, err_msg=entry)
        ends.append(dict(theta))
        fishers.append(fisher_diagonal(model, theta, one.train, labels="true", batch=7))


def test_pulls_keep_more_of_the_first_task() -> None:
    """The distance of the trunk from where task 0 left it: L2 and EWC stay nearer than finetuning does."""
    moved = {}
    for name in ("finetune", "l2", "ewc"):
        method = make_any(name, l2_strength=1.0, ewc_strength=1e3)
        first, *later = stream()
        method.learn(first, Hooks())
        before = method.tensors(0)
        for one in later:
            method.learn(one, Hooks())
        moved[name] = sum(float(((method.trunk[n] - before[n]) ** 2).sum()) for n in method.shared())
    assert max(moved["l2"], moved["ewc"]) < 0.8 * moved["finetune"]


def test_fisher_images_are_the_first_training_images_as_evaluation_sees_them() -> None:
    method = make_any("ewc", fisher_images=9, fisher_labels="sampled")
    first = stream()[0]
    method.learn(first, Hooks())
    model, params = method.network(0)
    options: dict[str, Any] = {"names": method.shared(), "labels": "sampled", "batch": 8, "samples": 9}
    expected = fisher_diagonal(model, params, first.train, **options, generator=Streams(0).generator("fisher", 0))
    for entry, value in expected.items():
        np.testing.assert_array_equal(method.fisher[entry], value)
    assert first.train.begun[-1] == int(Streams(0).generator("augment fisher", 0).integers(2**32))


def test_every_task_of_stl_starts_by_itself_and_decays() -> None:
    method = make_any("stl", **SETTINGS)
    for one in stream(3):
        method.learn(one, Hooks())
        start = small_lenet(CLASSES).init(Streams(0).generator("init", one.position), np.float64)
        for entry, expected in by_hand(start, one, {}).items():
            np.testing.assert_allclose(method.network(one.position)[1][entry], expected, rtol=1e-7, atol=1e-10)


def test_every_task_has_a_head_of_its_own_draw() -> None:
    method, model = make_any("finetune"), small_lenet(CLASSES)
    for position in (1, 2):
        drawn = model.layers["head"].init(Streams(0).generator("head", position), np.float64)
        found = method.fresh_head(model, position)
        assert {f"head.{entry}": value.tobytes() for entry, value in drawn.items()} == {
            entry: value.tobytes() for entry, value in found.items()
        }


@pytest.mark.parametrize("rule", ["task-size", "released"])
def test_the_rate_of_mtl_decays_over_the_images_of_all_tasks(rule: str) -> None:
    """Under `released` as if the 50000 images that it assumes were those of one task."""
    plans: list[PhasePlan] = []

    class Note(Hooks):
        def after_epoch(self, plan: PhasePlan, record: dict[str, Any]) -> None:
            plans.append(plan)

    tasks = stream(3)
    make_any("mtl", gamma_rule=rule).learn(tasks[0], Note())
    images = sum(len(one.train) for one in tasks)
    options: dict[str, Any] = {"train_images": images, "tasks": 1, "train_share": 1.0, "validation_share": 0.2}
    assert {plan.gamma for plan in plans} == {exponential_gamma(rule, batch=8, **options)}
