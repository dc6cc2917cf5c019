"""The checks themselves: every network passes them, ladders are Vs, kinks are seen, bad input is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from curvature.problems import PROBLEMS, Problem
from halrp_np.curvature import CheckResult, check_gradient, check_hvp, check_symmetry, finite_difference
from halrp_np.curvature.finite_difference import STEPS
from halrp_np.curvature.point import Point
from halrp_np.errors import ConfigError, DivergenceError
from halrp_np.layers import BatchNorm1d, Linear, Mode, ReLU, Sequential, perturb
from halrp_np.losses import CrossEntropy, Loss, SquaredError
from strict import StrictDevice

Params = dict[str, Any]
Check = Callable[..., list[CheckResult]]
CHECKS: list[Check] = [check_gradient, check_hvp, check_symmetry]
LADDERS: list[Check] = [check_gradient, check_hvp]


SMOOTH = Problem("smooth", Sequential({"fc": Linear(4, 6), "norm": BatchNorm1d(6), "head": Linear(6, 3)}), (4,))
TRAIN = Mode(train=True)


def at(problem: Problem, samples: int = 4) -> tuple[Sequential, Params, Loss, tuple[Any, Any]]:
    """The arguments of a check."""
    params, x, targets = problem.draw(samples=samples)
    return problem.model, params, problem.loss, (x, targets)


def errors(result: CheckResult) -> list[float]:
    return [rung.error for rung in result.ladder]


# ---- right derivatives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_every_network_passes_every_check(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """In both modes of BatchNorm; dropout keeps its mask from rung to rung, and its stream stays where it was."""
    monkeypatch.setattr(finite_difference, "STEPS", STEPS[::2])  # every second rung is faster
    arguments, mode = at(problem), problem.mode()
    for check, kind, tolerance in zip(CHECKS, ("grad", "hvp", "symmetry"), (1e-7, 1e-7, 1e-11), strict=True):
        results = check(*arguments, mode=mode)
        assert [result.name for result in results] == list(problem.model.trainable)
        for result in results:
            assert result.passed, result
            assert (result.kind, result.tolerance) == (kind, tolerance)
            assert result.error <= tolerance
            assert [rung.h for rung in result.ladder] == list(STEPS[::2] if kind != "symmetry" else ())
    if mode.dropout is not None:
        assert mode.dropout.random() == np.random.default_rng(3).random()


def test_a_derivative_of_zero_is_compared_with_the_network_and_says_so() -> None:
    """Train-mode BatchNorm takes the bias below it away; in evaluation it does not."""
    for check in CHECKS:
        (result,) = check(*at(SMOOTH, 7), mode=TRAIN, names=["fc.bias"])
        assert result.passed
        assert result.note.startswith("nearly 0 (")
        assert [other.note for other in check(*at(SMOOTH, 7), names=["fc.bias"])] == [""]


@pytest.mark.parametrize("check", CHECKS)
def test_batches_of_unequal_size_count_by_their_samples(check: Check) -> None:
    """In evaluation mode 3 + 4 samples are the same loss as 7, so the same ladder but for rounding."""
    model, params, loss, (x, y) = at(SMOOTH, 7)
    split = check(model, params, loss, [(x[:, :3], y[:3]), (x[:, 3:], y[3:])])
    for one, two in zip(check(model, params, loss, (x, y)), split, strict=True):
        assert two.passed
        assert errors(two)[:2] == pytest.approx(errors(one)[:2], rel=1e-2, abs=1e-9)


def test_memory_layout_is_no_matter_and_nothing_is_modified(layout: Callable[[Any], Any]) -> None:
    model, params, loss, (x, y) = at(PROBLEMS["residual train"])
    asked: dict[str, Any] = {"names": ["half.body.conv.weight"], "mode": TRAIN}
    params, x = {name: layout(value) for name, value in params.items()}, layout(x)
    before = {name: value.tobytes() for name, value in params.items()}
    for value in (*params.values(), x, y):
        value.flags.writeable = False
    for check in CHECKS:
        assert all(result.passed for result in check(model, params, loss, (x, y), **asked))
    assert {name: value.tobytes() for name, value in params.items()} == before


def test_squared_error_and_a_parameter_without_entries() -> None:
    model = perturb(Sequential({"fc": Linear(4, 3), "head": Linear(3, 2)}))
    model, params, loss, data = at(Problem("rank 0", model, (4,), outputs=2, loss=SquaredError()))
    params |= {"fc.A": np.zeros((0, 4)), "fc.B": np.zeros((3, 0))}
    for check in LADDERS:
        results = check(model, params, loss, data)
        assert all(result.passed for result in results), results
        assert {result.name for result in results if result.note == "it has no entries"} == {"fc.A", "fc.B"}


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_crosses_to_the_host_unseen(check: Check) -> None:
    """On the strict stand-in device the result is that of the host, rounding aside."""
    problem, device = PROBLEMS["mlp train"], StrictDevice()
    model, params, loss, (x, y) = at(problem)
    there = {name: device.to_device(value) for name, value in params.items()}
    found = check(model, there, loss, (device.to_device(x), device.to_device(y)), mode=TRAIN)
    for one, two in zip(check(model, params, loss, (x, y), mode=TRAIN), found, strict=True):
        assert two.passed
        assert [rung.crossed for rung in two.ladder] == [rung.crossed for rung in one.ladder]
        assert errors(two)[:2] == pytest.approx(errors(one)[:2], rel=1e-2, abs=1e-9)


# ---- ladders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", LADDERS)
@pytest.mark.parametrize("name", ["fc.weight", "head.weight"])
def test_the_ladder_is_a_v(check: Check, name: str) -> None:
    """Truncation falls as h² over the first decade, rounding rises as 1/h over the last two."""
    (result,) = check(*at(SMOOTH, 7), mode=TRAIN, names=[name])
    ladder = errors(result)
    assert result.step == STEPS[ladder.index(min(ladder))]
    assert 1e-6 <= result.step <= 1e-3
    assert 50 < ladder[0] / ladder[2] < 200
    assert ladder[-1] > 10 * min(ladder)
    assert np.mean(ladder[-2:]) > 10 * np.mean(ladder[-6:-4]), "no slope of -1"


@pytest.mark.parametrize("check", LADDERS)
def test_a_wrong_derivative_has_the_same_error_on_every_rung(check: Check) -> None:
    class Wrong(CrossEntropy):
        def grad(self, logits: Any, labels: Any) -> Any:
            return (1.001 if check is check_gradient else 1.0) * super().grad(logits, labels)

        def hess_vec(self, logits: Any, labels: Any, r: Any) -> Any:
            return 1.001 * super().hess_vec(logits, labels, r)

    model, params, _, data = at(SMOOTH, 7)
    (result,) = check(model, params, Wrong(), data, names=["head.weight"])
    assert not result.passed
    assert "the derivative is wrong" in result.note
    assert 1e-4 < result.error < 2e-3
    assert errors(result)[2:] == pytest.approx([result.error] * (len(STEPS) - 2), rel=0.05)


def test_a_wrong_gradient_that_truncation_cancels_on_one_rung_is_caught() -> None:
    """Wrong by just as much as the first difference is: without error there, with one on every other rung."""
    model, params, loss, data = at(SMOOTH, 7)
    v = {"head.weight": Point(model, params, loss, data, Mode()).direction("head.weight", seed=0)}

    def value(h: float) -> float:
        moved = params | {name: params[name] + h * step for name, step in v.items()}
        return float(loss.value(model.forward(moved, data[0])[0], data[1]))

    _, cache = model.forward(params, data[0])
    gy = loss.grad(model.forward(params, data[0])[0], data[1])
    slope = float((model.backward(params, cache, gy)[1]["head.weight"] * v["head.weight"]).sum())
    factor = (value(STEPS[0]) - value(-STEPS[0])) / (2 * STEPS[0]) / slope

    class Wrong(CrossEntropy):
        def grad(self, logits: Any, labels: Any) -> Any:
            return factor * super().grad(logits, labels)

    (result,) = check_gradient(model, params, Wrong(), data, names=["head.weight"])
    assert errors(result)[0] < result.tolerance
    assert not result.passed
    assert "the derivative is wrong" in result.note


def test_an_error_that_is_only_rounding_is_called_so() -> None:
    (result,) = check_hvp(*at(SMOOTH, 7), names=["head.weight"], tolerance=1e-16)
    assert not result.passed
    assert "rounding" in result.note


# ---- kinks ----------------------------------------------------------------------------------------------------------


def near_a_kink(distance: float) -> tuple[Sequential, Params, CrossEntropy, tuple[Any, Any]]:
    """Two ReLUs, one of them that far above its kink; only its first weight can reach it."""
    model = Sequential({"fc": Linear(2, 2), "relu": ReLU(), "head": Linear(2, 2)})
    params = {
        "fc.weight": np.array([[0.0, 0.8], [1.2, -0.7]]),
        "fc.bias": np.array([distance, 0.4]),
        "head.weight": np.array([[0.9, -0.3], [-1.1, 0.5]]),
        "head.bias": np.array([0.2, -0.1]),
    }
    return model, params, CrossEntropy(), (np.array([[1.0], [0.0]]), np.array([1]))


@pytest.mark.parametrize("check", LADDERS)
def test_rungs_across_a_kink_are_marked_and_do_not_count(check: Check) -> None:
    (result,) = check(*near_a_kink(1e-4), names=["fc.weight"])
    crossed = [rung.crossed for rung in result.ladder]
    assert crossed[:2] == [1, 1]
    assert crossed[-6:] == [0] * 6
    assert crossed == sorted(crossed, reverse=True)
    assert result.passed
    assert result.attempts == 1
    assert all(rung.error > 1e-3 for rung in result.ladder if rung.crossed)
    assert result.error == min(rung.error for rung in result.ladder if not rung.crossed)


@pytest.mark.parametrize("check", LADDERS)
def test_on_a_kink_there_is_nothing_to_compare(check: Check) -> None:
    (result,) = check(*near_a_kink(0.0), names=["fc.weight"], attempts=3)
    assert not result.passed
    assert (result.attempts, result.error, result.step) == (3, float("inf"), 0.0)
    assert all(rung.crossed == 1 for rung in result.ladder)
    assert "no smooth piece" in result.note
    (beside,) = check(*near_a_kink(0.0), names=["head.weight"])
    assert beside.passed, "the head's weight moves no ReLU"


@pytest.mark.parametrize("check", LADDERS)
def test_another_direction_is_tried_and_its_seed_is_logged(check: Check) -> None:
    """Whether three rungs stay smooth depends on how far a direction moves the one weight that matters."""
    arguments = near_a_kink(2.5e-8)
    (result,) = check(*arguments, names=["fc.weight"], seed=0)
    assert result.passed
    assert (result.attempts, result.seed) == (3, 2)
    assert result.note == "the first 2 of 3 directions crossed kinks"
    (again,) = check(*arguments, names=["fc.weight"], seed=result.seed, attempts=1)
    assert again.ladder == result.ladder
    assert not any(check(*arguments, names=["fc.weight"], seed=seed, attempts=1)[0].passed for seed in (0, 1))


@pytest.mark.parametrize("check", CHECKS)
def test_a_seed_repeats_a_check_and_another_one_draws_another_direction(check: Check) -> None:
    first, again, other = (check(*at(SMOOTH), seed=seed) for seed in (4, 4, 5))
    assert first == again
    assert [result.error for result in first] != [result.error for result in other]
    (alone,) = check(*at(SMOOTH), seed=4, names=["head.bias"])
    assert alone == first[-1], "the direction depends on what else is checked"


# ---- input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS)
def test_float32_and_what_is_not_finite_are_refused(check: Check) -> None:
    model, params, loss, (x, y) = at(SMOOTH)
    for name in ("fc.weight", "norm.running_mean"):
        with pytest.raises(ConfigError, match=rf"{name}: expected float64 .*, received float32. Cast"):
            check(model, params | {name: params[name].astype(np.float32)}, loss, (x, y))
        with pytest.raises(DivergenceError, match=f"{name}: expected finite numbers"):
            check(model, params | {name: np.full_like(params[name], np.nan)}, loss, (x, y))
    with pytest.raises(ConfigError, match="data: expected float64"):
        check(model, params, loss, (x.astype(np.float32), y))
    with pytest.raises(ConfigError, match="targets: expected float64"):
        check(model, params, SquaredError(), (x, np.zeros((3, 4), np.float32)))
    with pytest.raises(DivergenceError, match="data: expected finite numbers"):
        check(model, params, loss, (np.where(x == x[0, 0], np.inf, x), y))


@pytest.mark.parametrize("check", CHECKS)
def test_an_infinite_loss_is_refused(check: Check) -> None:
    model, params, _, (x, _) = at(SMOOTH)
    with pytest.raises(DivergenceError, match="expected a finite loss"), np.errstate(over="ignore"):
        check(model, params, SquaredError(), (x, np.full((3, 4), 1e200)))


@pytest.mark.parametrize("check", CHECKS)
def test_names_are_checked_in_the_order_given_and_reported(check: Check) -> None:
    said: list[tuple[int, int]] = []
    names = ["head.bias", "fc.weight"]
    results = check(*at(SMOOTH), names=names, progress=lambda done, total: said.append((done, total)))
    assert [result.name for result in results] == names
    assert said == [(1, 2), (2, 2)]
    with pytest.raises(ConfigError, match=r"received 'norm\.running_var'"):
        check(*at(SMOOTH), names=["norm.running_var"])


def test_no_attempt_and_data_that_can_be_read_once_are_refused() -> None:
    model, params, loss, data = at(SMOOTH)
    for check in LADDERS:
        with pytest.raises(ConfigError, match="attempts: expected at least 1, received 0"):
            check(model, params, loss, data, attempts=0)
    for check in CHECKS:
        with pytest.raises(ConfigError, match="walked through again"):
            check(model, params, loss, iter([data]))


def test_steps_straddle_the_best_one() -> None:
    """Twice the tip's distance from either end, in decades: ε^⅓ for central differences in float64."""
    tip = np.finfo(np.float64).eps ** (1 / 3)
    assert STEPS[0] >= 1e3 * tip
    assert STEPS[-1] <= 1e-2 * tip
