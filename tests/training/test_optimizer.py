"""Adam and SGD against their formulas, against PyTorch's, and the penalties against finite differences."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from halrp_np.errors import ConfigError
from halrp_np.training import SGD, Adam, Optimizer, Penalty, make_optimizer, penalty_value
from halrp_np.training.flat import Flat

Params = dict[str, np.ndarray]
PENALTIES = {"a": Penalty(l1=0.01, l2=0.3), "b": Penalty(l2=0.2, centre=1.0), "c": Penalty(l1=0.05)}


def random_params(rng: np.random.Generator, dtype: Any) -> Params:
    shapes = {"a": (3, 4), "b": (5,), "c": (2, 3, 2, 2), "free": (4,)}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def flattened(params: Params, optimizer: Optimizer, penalties: dict[str, Penalty]) -> Flat:
    """All of the parameters at the start of a phase."""
    return Flat(params, tuple(params), optimizer.moments, {}, penalties)


def step(optimizer: Optimizer, flat: Flat, grads: Params, lr: float, number: int) -> None:
    """One update with these gradients."""
    flat.set_gradients(grads)
    optimizer.update(flat, flat.on_device(optimizer.factors(lr, number)))


# ---- the factor ten on gradients, exactly ---------------------------------------------------------------------------


def three_steps(optimizer: Adam) -> float:
    """Parameter 1 after gradients g, 2g, 3g with g = 1e-8 at a rate of 1e-3."""
    flat = flattened({"x": np.array([1.0])}, optimizer, {})
    for number in (1, 2, 3):
        step(optimizer, flat, {"x": np.array([number * 1e-8])}, 1e-3, number)
    return float(flat.params["x"][0])


def test_ten_times_the_gradient_is_a_tenth_of_epsilon_under_adam() -> None:
    assert three_steps(Adam(scale=10.0, eps=1e-8)) == pytest.approx(0.997267503360365, abs=1e-15)
    assert three_steps(Adam(scale=1.0, eps=1e-9)) == pytest.approx(0.997267503360365, abs=1e-15)
    assert three_steps(Adam(scale=1.0, eps=1e-8)) == pytest.approx(0.998253800923154, abs=1e-15)


# ---- against PyTorch ------------------------------------------------------------------------------------------------


def torch_penalty(torch: Any, params: dict[str, Any]) -> Any:
    """The penalties as a term of the loss, for autograd."""
    return sum(
        p.l1 * params[name].abs().sum() + 0.5 * p.l2 * ((params[name] - p.centre) ** 2).sum()
        for name, p in PENALTIES.items()
    )


@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("name", ["adam", "sgd", "sgd with momentum"])
def test_ten_steps_agree_with_torch(name: str, scale: float, rng: np.random.Generator, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    start, steps = random_params(rng, dtype), 10
    start["a"][0, :2] = 0.0  # |x|'s slope at 0 is 0
    grads = [random_params(rng, dtype) for _ in range(steps)]
    momentum = 0.9 if "momentum" in name else 0.0
    theirs = {key: torch.nn.Parameter(torch.from_numpy(value.copy())) for key, value in start.items()}
    if name == "adam":
        reference = torch.optim.Adam(theirs.values(), lr=0.01)
    else:
        reference = torch.optim.SGD(theirs.values(), lr=0.01, momentum=momentum)
    schedule = torch.optim.lr_scheduler.ExponentialLR(reference, 0.97)
    ours = make_optimizer(name.split()[0], scale=scale, momentum=momentum)
    flat = flattened(start, ours, PENALTIES)
    for n, grad in enumerate(grads):
        step(ours, flat, grad, 0.01 * 0.97**n, n + 1)
        reference.zero_grad()
        loss = sum((theirs[key] * torch.from_numpy(grad[key])).sum() for key in theirs) + torch_penalty(torch, theirs)
        loss.backward()
        for parameter in theirs.values():
            parameter.grad *= scale
        reference.step()
        schedule.step()
    tolerance = 1e-12 if dtype is np.float64 else 2e-5
    for key, value in flat.params.items():
        assert value.dtype == dtype
        np.testing.assert_allclose(value, theirs[key].detach().numpy(), rtol=tolerance, atol=tolerance, err_msg=key)


# ---- penalties ------------------------------------------------------------------------------------------------------


def pulls(optimizer: Optimizer, params: Params, penalties: dict[str, Penalty]) -> Params:
    """The gradient that one step of plain descent at rate 1 takes off when the loss has none."""
    flat = flattened(params, optimizer, penalties)
    step(optimizer, flat, {}, 1.0, 1)
    return {key: params[key] - flat.params[key] for key in params}


def test_the_penalty_gradient_is_the_derivative_of_the_penalty_value(rng: np.random.Generator) -> None:
    params = random_params(rng, np.float64)
    for key, gradient in pulls(SGD(), params, PENALTIES).items():
        h, numeric = 1e-6, np.zeros_like(gradient)
        for index in np.ndindex(gradient.shape):
            values = []
            for sign in (1, -1):
                moved = {name: value.copy() for name, value in params.items()}
                moved[key][index] += sign * h
                values.append(float(penalty_value(moved, PENALTIES)))
            numeric[index] = (values[0] - values[1]) / (2 * h)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8, err_msg=key)
    assert not pulls(SGD(), params, PENALTIES)["free"].any()


def test_the_finite_difference_check_sees_a_wrong_centre(rng: np.random.Generator) -> None:
    params = random_params(rng, np.float64)
    wrong = {**PENALTIES, "b": Penalty(l2=0.2, centre=0.0)}
    assert abs(pulls(SGD(), params, wrong)["b"] - pulls(SGD(), params, PENALTIES)["b"]).min() == pytest.approx(0.2)


def test_penalty_value_by_hand() -> None:
    params = {"a": np.array([[1.0, -2.0]]), "b": np.array([3.0])}
    penalties = {"a": Penalty(l1=0.1, l2=0.5), "b": Penalty(l2=2.0, centre=1.0)}
    assert penalty_value(params, penalties) == pytest.approx(0.1 * 3 + 0.25 * 5 + 1.0 * 4, rel=1e-15)
    assert penalty_value(params, {}) == 0.0


def test_the_slope_of_the_absolute_value_at_zero_is_zero() -> None:
    params = {"x": np.array([0.0, -0.0, 2.0, -2.0])}
    pull = pulls(SGD(), params, {"x": Penalty(l1=0.25)})["x"]
    np.testing.assert_array_equal(pull, [0.0, 0.0, 0.25, -0.25])


# ---- in place, and nothing else -------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [Adam(), SGD(momentum=0.5), SGD()], ids=["adam", "momentum", "sgd"])
def test_a_step_updates_in_place_and_leaves_the_gradients(
    optimizer: Optimizer,
    rng: np.random.Generator,
    dtype: Any,
    layout: Callable[[np.ndarray], np.ndarray],
) -> None:
    start, grads = (
        {key: layout(value) for key, value in random_params(rng, dtype).items()} for _ in ("params", "grads")
    )
    kept = {key: value.copy() for key, value in (*start.items(), *(("grad " + k, g) for k, g in grads.items()))}
    flat = flattened(start, optimizer, PENALTIES)
    views, before = dict(flat.params), {key: value.copy() for key, value in flat.params.items()}
    for number in (1, 2):
        step(optimizer, flat, grads, 0.1, number)
    for key, view in views.items():
        assert (view != before[key]).any()
        assert np.shares_memory(view, flat.theta)
        np.testing.assert_array_equal(start[key], kept[key])
        np.testing.assert_array_equal(grads[key], kept["grad " + key])
        np.testing.assert_array_equal(flat.grads[key], kept["grad " + key])


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="optimizer: expected adam or sgd, received 'adamw'"):
        make_optimizer("adamw", scale=1.0, momentum=0.0)
