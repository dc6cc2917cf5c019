"""The bound report: every number against dense matrices and direct evaluation, at optima, across kinks; verdicts."""

import math
from typing import Any

import numpy as np
import pytest

from cases import Params, nested
from curvature.problems import PROBLEMS, Problem, Spy, Walks
from halrp_np.backend import Device
from halrp_np.curvature import BoundRow, HessianOperator, bound_report, dense_matrix
from halrp_np.curvature.bounds import verdict
from halrp_np.curvature.truncation import Truncation, split
from halrp_np.errors import ConfigError, DivergenceError, ShapeError
from halrp_np.layers import Conv2d, Linear, ReLU, Sequential
from halrp_np.losses import CrossEntropy, SquaredError

NESTED = Problem("nested eval", nested(), (2, 4, 5))
CASES = [
    PROBLEMS[name] for name in ("lenet eval", "residual eval", "mlp squared error", "mlp train", "dropout train")
] + [NESTED]


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def report(problem: Problem, params: Params, x: Any, targets: Any, **options: Any) -> list[BoundRow]:
    """The report with exact Frobenius norms, since the products pay for every column."""
    settings = {"products": 2000, "generator": seeded(), "mode": problem.mode(), **options}
    return bound_report(problem.model, params, problem.loss, (x, targets), **settings)


def cut_to(E: np.ndarray, rank: int) -> np.ndarray:
    """The residual at that rank, built by hand: the best one that is constant over the window."""
    means = E.reshape(*E.shape[:2], -1).mean(axis=2)
    U, s, Vt = np.linalg.svd(means)
    best = sum((s[i] * np.outer(U[:, i], Vt[i]) for i in range(rank)), np.zeros(means.shape))
    return np.broadcast_to(best.reshape(*means.shape, *[1] * (E.ndim - 2)), E.shape)


# ---- the perturbation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 6), (5, 2), (1, 3), (4, 3, 3, 3), (2, 5, 2, 1), (3, 4, 1, 1)])
def test_delta_is_what_truncation_leaves_out(shape: tuple[int, ...], dtype: Any, layout: Any) -> None:
    W, E = seeded(1).normal(size=(2, *shape)).astype(dtype)
    cut, tolerance = Truncation("layer", layout(W), layout(E)), 1e-12 if dtype is np.float64 else 1e-5
    ranks = list(range(min(shape[:2]), -1, -1))
    for rank, delta in zip(ranks, cut.deltas(ranks), strict=True):
        np.testing.assert_allclose(delta, cut_to(E.astype(np.float64), rank) - E, atol=tolerance)
        assert delta.dtype == dtype
        assert cut.delta_squared[rank] == pytest.approx(float((delta.astype(float) ** 2).sum()), abs=20 * tolerance)
    lost = E - E.reshape(*E.shape[:2], -1).mean(axis=2).reshape(*E.shape[:2], *[1] * (E.ndim - 2))
    assert cut.lost_squared == pytest.approx(float((lost.astype(float) ** 2).sum()), abs=20 * tolerance)
    if len(shape) == 2:
        assert cut.lost_squared == 0.0
        assert cut.delta_squared[-1] == 0.0


def test_ranks_far_apart_give_what_every_rank_gives() -> None:
    cut = Truncation("layer", seeded(2).normal(size=(6, 7)))
    every = dict(zip(range(6, -1, -1), cut.deltas(range(6, -1, -1)), strict=True))
    for rank, delta in zip((5, 2, 0), cut.deltas((5, 2, 0)), strict=True):
        np.testing.assert_allclose(delta, every[rank], atol=1e-13)


# ---- every number ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", CASES, ids=lambda problem: problem.name)
def test_every_number_against_dense_matrices_and_direct_evaluation(problem: Problem) -> None:
    params, x, targets = problem.draw()
    rows = report(problem, params, x, targets, ranks="all")
    layers = [path for path, layer in problem.model.walk() if isinstance(layer, Linear | Conv2d)]
    assert list(dict.fromkeys(row.layer for row in rows)) == layers

    def along(weight: Any, name: str) -> tuple[float, list[Any]]:
        outputs, cache = problem.model.forward({**params, name: weight}, x, problem.mode())
        return float(problem.loss.value(outputs, targets)), problem.model.branches(cache)

    for layer in layers:
        name = f"{layer}.weight"
        W = params[name]
        H = dense_matrix(
            HessianOperator(problem.model, params, problem.loss, (x, targets), names=[name], mode=problem.mode())
        )
        g, (value, branches) = problem.gradient(params, x, targets, [name]), along(W, name)
        mine = [row for row in rows if row.layer == layer]
        assert [row.rank for row in mine] == list(range(min(W.shape[:2]) + 1))
        for row in mine:
            delta = (cut_to(W, row.rank) - W).ravel()
            moved, there = along(W + delta.reshape(W.shape), name)
            size = float(delta @ delta)
            terms = [moved - value, float(g @ delta), 0.5 * float(delta @ H @ delta)]
            norms = [0.5 * size * float(np.linalg.norm(H, kind)) for kind in (2, "fro")]
            assert [row.measured, row.gradient_term, row.quadratic_term] == pytest.approx(terms, rel=1e-9, abs=1e-12)
            assert row.remainder == pytest.approx(terms[0] - terms[1] - terms[2], rel=1e-9, abs=1e-12)
            assert [row.spectral_bound, row.frobenius_bound] == pytest.approx(norms, rel=1e-6, abs=1e-12)
            assert row.crossed == sum(int((a != b).sum()) for a, b in zip(branches, there, strict=True))
            assert row.delta_squared == pytest.approx(size, abs=1e-12)
            assert abs(row.quadratic_term) <= row.spectral_bound * 1.000001 + 1e-15
            if size > 1e-12:
                assert row.tightness == pytest.approx(abs(terms[0]) / norms[1], rel=1e-6, abs=1e-12)
                assert row.quadratic_tightness == pytest.approx(abs(terms[2]) / norms[1], rel=1e-6, abs=1e-12)


def test_in_float32_the_same_within_its_rounding() -> None:
    problem = PROBLEMS["lenet eval"]
    rows, same = (report(problem, *problem.draw(dtype), ranks="all") for dtype in (np.float64, np.float32))
    for row, other in zip(rows, same, strict=True):
        assert other.rounding == pytest.approx(100 * 2.0**-23 / 2.0**-52 / 100 * row.rounding, rel=1e-3)
        assert other.measured == pytest.approx(row.measured, abs=other.rounding)
        assert other.quadratic_term == pytest.approx(row.quadratic_term, rel=1e-3, abs=1e-6)
        assert other.frobenius_bound == pytest.approx(row.frobenius_bound, rel=1e-3, abs=1e-6)


def test_a_residual_is_cut_in_place_of_the_weight(rng: np.random.Generator) -> None:
    problem = PROBLEMS["lenet eval"]
    params, x, targets = problem.draw()
    residuals = {layer: 0.1 * rng.normal(size=params[f"{layer}.weight"].shape) for layer in ("fc1", "conv2")}
    rows = report(problem, params, x, targets, residuals=residuals, ranks=[1])
    assert [row.layer for row in rows] == ["fc1", "conv2"]
    for row in rows:
        E = residuals[row.layer]
        moved = {f"{row.layer}.weight": params[f"{row.layer}.weight"] + cut_to(E, 1) - E}
        values = [
            float(problem.loss.value(problem.model.forward(p, x)[0], targets)) for p in (params, {**params, **moved})
        ]
        assert row.measured == pytest.approx(values[1] - values[0], rel=1e-9)
        assert row.delta_squared == pytest.approx(float(((cut_to(E, 1) - E) ** 2).sum()), rel=1e-12)


def test_batches_and_a_small_memory_change_nothing() -> None:
    problem = PROBLEMS["lenet eval"]
    params, x, targets = problem.draw(samples=7)
    whole = report(problem, params, x, targets, ranks="all")
    batches = Walks([(x[..., :3], targets[:3]), (x[..., 3:], targets[3:])])
    parts = bound_report(
        problem.model, params, problem.loss, batches, ranks="all", products=2000, generator=seeded(), memory=200_000
    )
    for row, other in zip(whole, parts, strict=True):
        for name in ("measured", "gradient_term", "quadratic_term", "spectral_bound", "frobenius_bound"):
            assert getattr(other, name) == pytest.approx(getattr(row, name), rel=1e-6, abs=1e-12), name
        assert (other.crossed, other.branches, other.verdict) == (row.crossed, row.branches, row.verdict)


def test_what_lies_below_the_layer_runs_once() -> None:
    spy = Spy()
    model = Sequential({"fc1": Linear(5, 4), "spy": spy, "fc2": Linear(4, 3)})
    params = model.init(seeded(), np.float64)
    x, targets = seeded(1).normal(size=(5, 6)), np.arange(6) % 3
    bound_report(model, params, CrossEntropy(), (x, targets), layers=["fc2"], ranks="all", generator=seeded())
    assert spy.batches == [6]


@pytest.mark.parametrize("problem", [PROBLEMS["residual eval"], PROBLEMS["lenet eval"], NESTED], ids=lambda p: p.name)
def test_a_network_split_at_any_layer_is_itself(problem: Problem) -> None:
    params, x, _ = problem.draw()
    for path, _ in problem.model.walk():
        below, above = split(problem.model, path)
        y = above.forward(params, below.forward(params, x)[0])[0]
        np.testing.assert_array_equal(y, problem.model.forward(params, x)[0])
        assert path in [name for name, _ in above.walk()]


def test_the_same_on_every_device(device_name: str) -> None:
    problem, device = PROBLEMS["residual eval"], Device(device_name)
    params, x, targets = problem.draw()
    there = ({name: device.to_device(value) for name, value in params.items()}, *map(device.to_device, (x, targets)))
    for row, other in zip(report(problem, params, x, targets), report(problem, *there), strict=True):
        assert other.measured == pytest.approx(row.measured, rel=1e-9, abs=1e-12)
        assert other.quadratic_term == pytest.approx(row.quadratic_term, rel=1e-9, abs=1e-12)
        assert other.verdict == row.verdict


# ---- at an optimum --------------------------------------------------------------------------------------------------


def softmax_regression() -> tuple[Problem, Params, Any, Any]:
    """Overlapping classes, so that the loss has a minimum; Newton's method finds it, the flat direction damped."""
    problem = Problem("softmax regression", Sequential({"fc": Linear(4, 3)}), (4,))
    rng = seeded(5)
    targets = rng.integers(3, size=60)
    x = rng.normal(size=(4, 60)) + 0.7 * np.eye(4)[:, targets]
    params = {"fc.weight": np.zeros((3, 4)), "fc.bias": np.zeros(3)}
    for _ in range(20):
        op = HessianOperator(problem.model, params, problem.loss, (x, targets))
        step = op.unflatten(np.linalg.solve(dense_matrix(op) + 1e-10 * np.eye(15), -op.gradient()))
        params = {name: value + step[name] for name, value in params.items()}
    return problem, params, x, targets


def test_at_the_minimum_of_a_smooth_loss_the_bound_holds_at_every_rank() -> None:
    rows = report(*softmax_regression(), ranks="all")
    for row in rows:
        assert row.verdict == "holds"
        assert row.gradient_term == pytest.approx(0.0, abs=1e-9)
        assert 0.0 <= row.measured <= row.frobenius_bound
        assert (row.crossed, row.branches, row.crossed_share) == (0, 0, 0.0)
    assert rows[0].measured > 0.05
    assert math.isnan(rows[-1].tightness)


def test_at_the_minimum_a_small_delta_is_as_tight_as_its_direction_says() -> None:
    """Along the top eigenvector the spectral bound is reached, and the Frobenius bound to λ_max/‖H‖_F."""
    problem, params, x, targets = softmax_regression()
    H = dense_matrix(HessianOperator(problem.model, params, problem.loss, (x, targets), names=["fc.weight"]))
    values, vectors = np.linalg.eigh(H)
    for number, size in ((-1, 1e-3), (-3, 1e-3)):
        E = size * vectors[:, number].reshape(3, 4)
        (row,) = report(problem, params, x, targets, residuals={"fc": E}, ranks=[0])
        assert row.measured == pytest.approx(0.5 * size**2 * values[number], rel=1e-3)
        assert row.tightness == pytest.approx(values[number] / np.linalg.norm(H), rel=1e-3)
        assert row.quadratic_term / row.spectral_bound == pytest.approx(values[number] / values[-1], rel=1e-6)


def test_of_a_least_squares_problem_the_second_order_is_all_there_is(rng: np.random.Generator) -> None:
    x, targets = rng.normal(size=(5, 30)), rng.normal(size=(4, 30))
    W = np.linalg.lstsq(x.T, targets.T, rcond=None)[0].T
    problem = Problem("least squares", Sequential({"fc": Linear(5, 4)}), (5,), loss=SquaredError())
    rows = report(problem, {"fc.weight": W, "fc.bias": np.zeros(4)}, x, targets, ranks="all")
    for row in rows:
        assert row.remainder == pytest.approx(0.0, abs=1e-13)
        assert row.verdict == "holds"


# ---- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "bound", "kinks", "expected"),
    [
        ((0.9, 0.0, 0.0), 1.0, False, "holds"),
        ((-0.9, -0.9, 0.0), 1.0, False, "holds"),
        ((0.9, 0.0, 0.0), 1.0, True, "holds, but kinks were crossed: the second-order model does not apply"),
        ((1.005, 0.0, 0.0), 1.0, False, "holds"),
        ((0.0, 0.0, 0.0), 0.0, False, "holds"),
        ((0.004, 0.0, 0.0), 0.001, False, "undecided: the bound is below the rounding of the loss"),
        ((1.5, 0.8, 0.2), 1.0, False, "violated: the gradient term (no optimum)"),
        ((1.5, 0.8, 0.2), 1.0, True, "violated: the gradient term (no optimum)"),
        ((-1.5, -0.8, -0.2), 1.0, False, "violated: the gradient term (no optimum)"),
        ((2.0, 0.1, 1.5), 1.0, False, "violated: higher order"),
        ((2.0, 0.1, 1.5), 1.0, True, "violated: kinks were crossed"),
        ((5.0, 2.0, 2.5), 1.0, False, "violated: the gradient term (no optimum), and higher order"),
        ((5.0, 2.0, 2.5), 1.0, True, "violated: the gradient term (no optimum), and kinks were crossed"),
    ],
)
def test_verdict(terms: tuple[float, float, float], bound: float, kinks: bool, expected: str) -> None:
    assert verdict(terms, bound, 0.01, kinks=kinks) == expected


def unit(w: float, bias: float, target: float, sample: float = 1.0) -> BoundRow:
    """A ReLU of one weight cut to rank 0, under squared error: L = ½ (max(w x + bias, 0) - target)²."""
    model = Sequential({"fc": Linear(1, 1), "relu": ReLU()})
    params = {"fc.weight": np.array([[w]]), "fc.bias": np.array([bias])}
    problem = Problem("unit", model, (1,), loss=SquaredError())
    (row,) = report(problem, params, np.array([[sample]]), np.array([[target]]), ranks=[0])
    return row


def test_a_dead_unit_that_wakes_up_violates_the_bound_by_a_kink() -> None:
    row = unit(w=-2.0, bias=1.0, target=0.0)  # -1 becomes 1
    assert (row.measured, row.frobenius_bound, row.crossed, row.branches) == (0.5, 0.0, 1, 1)
    assert row.verdict == "violated: kinks were crossed"
    assert row.crossed_share == 1.0
    assert math.isnan(row.tightness)


def test_a_unit_that_dies_may_stay_within_the_bound() -> None:
    row = unit(w=1.0, bias=-0.5, target=0.5)  # 0.5, which is right, becomes 0
    assert (row.measured, row.frobenius_bound) == (0.125, 0.5)
    assert row.verdict.startswith("holds, but kinks were crossed")


def test_away_from_an_optimum_the_gradient_is_to_blame() -> None:
    row = unit(w=0.1, bias=1.0, target=5.0)
    assert (row.gradient_term, row.quadratic_term) == (pytest.approx(0.39), pytest.approx(0.005))
    assert row.verdict == "violated: the gradient term (no optimum)"


def test_a_saturated_softmax_is_worse_than_second_order() -> None:
    """One label of 1000 is another one: at the minimum the loss is nearly flat, and log 2 at rank 0."""
    problem = Problem("saturated", Sequential({"fc": Linear(1, 2)}), (1,))
    w, targets = 0.5 * math.log(999), np.array([0] * 999 + [1])
    params = {"fc.weight": np.array([[w], [-w]]), "fc.bias": np.zeros(2)}
    x = np.full((1, 1000), 1.0)
    (row,) = report(problem, params, x, targets, ranks=[0])
    assert row.gradient_term == pytest.approx(0.0, abs=1e-12)
    assert row.measured > 10 * row.frobenius_bound
    assert row.verdict == "violated: higher order"


# ---- ranks and refusals ---------------------------------------------------------------------------------------------


def test_ranks_in_every_form() -> None:
    model = Sequential({"fc": Linear(40, 30)})
    params, data = model.init(seeded(), np.float64), (seeded(1).normal(size=(40, 5)), np.arange(5))

    def ranks_of(ranks: Any) -> list[int]:
        rows = bound_report(model, params, CrossEntropy(), data, ranks=ranks, products=4, generator=seeded())
        assert all(row.size == 30 for row in rows)
        return [row.rank for row in rows]

    assert ranks_of("all") == list(range(31))
    assert ranks_of((7, 2, 7, np.int64(30))) == [2, 7, 30]
    assert ranks_of(None) == [0, 1, 2, 3, 5, 6, 9, 12, 16, 22, 30]


def test_progress_rises_to_its_total() -> None:
    problem, heard = PROBLEMS["lenet eval"], list[tuple[int, int]]()
    params, x, targets = problem.draw()
    data = (x, targets)
    rows = bound_report(
        problem.model, params, problem.loss, data, products=10, generator=seeded(), progress=lambda *p: heard.append(p)
    )
    assert heard == sorted(heard)
    assert heard[-1] == (50 + len(rows), 50 + len(rows))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layers": ["fc11"]}, ConfigError, "layers: .*'fc11'.*Did you mean 'fc1'"),
        ({"layers": ["norm1"]}, ConfigError, "expected linear layers or convolutions"),
        ({"layers": []}, ConfigError, "at least one"),
        (
            {"ranks": [5], "layers": ["fc1"]},
            ConfigError,
            "ranks of fc1: expected whole numbers from 0 to 4.*received 5",
        ),
        ({"ranks": [-1]}, ConfigError, "received -1"),
        ({"ranks": [1.0]}, ConfigError, "received 1.0"),
        ({"ranks": [True]}, ConfigError, "received True"),
        ({"ranks": "some"}, ConfigError, "received 'some'"),
        ({"ranks": []}, ConfigError, "at least one"),
        ({"residuals": {"fc1": np.zeros((4, 11))}}, ShapeError, "fc1: expected weight and residual of one shape"),
        ({"residuals": {"fc1": np.zeros((4, 12), np.float32)}}, ShapeError, "float32"),
        ({"residuals": {"fc1": np.full((4, 12), np.nan)}}, DivergenceError, "the residual"),
        ({"residuals": {"fc9": np.zeros((4, 12))}}, ConfigError, "'fc9'"),
        ({"residuals": {"fc1": np.zeros((4, 12))}, "layers": ["fc2"]}, ConfigError, "residuals: .*none for 'fc2'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    problem = PROBLEMS["lenet eval"]
    with pytest.raises(error, match=words):
        report(problem, *problem.draw(), **options)


def test_half_precision_and_nan_are_refused() -> None:
    problem = PROBLEMS["lenet eval"]
    params, x, targets = problem.draw()
    with pytest.raises(ShapeError, match="float16"):
        report(problem, {name: value.astype(np.float16) for name, value in params.items()}, x, targets)
    with pytest.raises(DivergenceError):
        report(problem, {**params, "fc1.bias": np.full(4, np.nan)}, x, targets)
    with pytest.raises(ConfigError, match="walked through again"):
        bound_report(problem.model, params, problem.loss, iter([(x, targets)]), generator=seeded())
