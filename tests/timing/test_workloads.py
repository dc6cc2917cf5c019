"""What is timed is the training loop's own step, on parameters that travel to the other process unchanged."""

from pathlib import Path

import numpy as np
import pytest

from halrp_np.backend import Device
from halrp_np.errors import ConfigError
from halrp_np.layers import Mode, perturb
from halrp_np.losses import CrossEntropy
from halrp_np.models import lenet
from halrp_np.timing import STEPS
from halrp_np.timing.settings import CONSTANTS
from halrp_np.timing.workloads import Problem, workloads
from timing.small import problem, settings


def test_a_problem_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    before = problem()
    before.save(tmp_path / "problem.npz")
    after = Problem.load(tmp_path / "problem.npz")
    assert after.widths == before.widths
    for group in ("base", "perturbed", "directions"):
        a, b = getattr(before, group), getattr(after, group)
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) and a[name].dtype == np.float32 for name in a)
    assert np.array_equal(before.images, after.images)
    assert np.array_equal(before.labels, after.labels)


@pytest.mark.parametrize("what", ["base_step", "low_rank_step"])
def test_a_step_is_one_of_the_objective(what: str) -> None:
    """Adam's first moment after one step is 0.1 times the scaled gradient of loss and penalties."""
    p, base = problem(), what == "base_step"
    model = lenet((3, 32, 32), 10, p.widths)
    model, params = (model, p.base) if base else (perturb(model, "head"), p.perturbed)
    outputs, cache = model.forward(params, p.images, Mode(train=True))
    _, grads = model.backward(params, cache, CrossEntropy().value_and_grad(outputs, p.labels)[1], input_gradient=False)
    found = workloads(p, Device("cpu"))[what]().result()
    assert found.keys() == grads.keys()
    for name, gradient in grads.items():
        layer, entry = name.split(".")
        if layer in ("conv1", "conv2", "fc1", "fc2") and entry == "bias":
            continue  # exactly 0 but for rounding
        decayed = entry in "RSAB" or (base and entry == "weight" and layer != "head")
        expected = gradient + CONSTANTS["weight_decay"] * params[name] * decayed
        expected = expected + CONSTANTS["l1"] * np.sign(params[name]) * (entry in "AB")
        scale = 0.1 * CONSTANTS["gradient_scale"]
        np.testing.assert_allclose(found[name], scale * expected, rtol=1e-3, atol=1e-5 * scale)


def test_everything_can_be_called_again_and_its_result_does_not_depend_on_that() -> None:
    for name, make in workloads(problem(), Device("cpu")).items():
        workload = make()
        before = workload.result()
        workload.call()
        workload.call()
        after = workload.result()
        assert name in STEPS
        assert all(np.array_equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"what": ("nothing",)}, "what: .*base_step"),
        ({"what": ("task", "task")}, "each once"),
        ({"what": ()}, "at least one"),
        ({"batch": 1}, "batch: .*at least 2"),
        ({"rounds": 0}, "rounds"),
        ({"epochs": 1}, "epochs"),
        ({"threads": 10_000}, "threads: .*cores"),
        ({"ranks": (1, 2, 3)}, "ranks: .*4 ranks"),
        ({"ranks": (1, 2, 9, 2)}, "at most 2,2,8,6"),
        ({"ranks": (0, 2, 3, 2)}, "at least 1"),
        ({"widths": (2, 3)}, "widths"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_settings_that_make_no_sense(changes: dict, says: str) -> None:
    with pytest.raises(Exception, match=says) as raised:
        settings(**changes)
    assert raised.type is ConfigError or "device" in changes
