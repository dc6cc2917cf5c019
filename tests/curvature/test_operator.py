"""Curvature operators of whole networks: dense against differences, symmetric, in blocks, in batches, in a budget."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from curvature.problems import PROBLEMS, Problem, Spy
from formulas import directional
from halrp_np.backend import Device, to_host
from halrp_np.curvature import EmpiricalFisherOperator, GaussNewtonOperator, HessianOperator
from halrp_np.layers import BatchNorm1d, Layer, Linear, PerturbedLinear, ReLU, Sequential
from halrp_np.losses import CrossEntropy

OPERATORS = [HessianOperator, GaussNewtonOperator, EmpiricalFisherOperator]
EVALUATED = [problem for problem in PROBLEMS.values() if not problem.train]
by_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=lambda problem: problem.name)
by_evaluated = pytest.mark.parametrize("problem", EVALUATED, ids=lambda problem: problem.name)
by_kind = pytest.mark.parametrize("kind", OPERATORS, ids=lambda kind: kind.__name__)


def operator(problem: Problem, kind: Any = HessianOperator, data: Any = None, **options: Any) -> Any:
    """The operator of a problem, on its one batch or on other data."""
    params, x, targets = problem.draw()
    given_data = (x, targets) if data is None else data
    return kind(problem.model, params, problem.loss, given_data, mode=problem.mode(), **options)


@cache
def dense(name: str, kind: Any = HessianOperator) -> Any:
    """The whole matrix of a problem, column by column through the operator."""
    A = operator(PROBLEMS[name], kind)
    return A @ np.eye(A.shape[0])


def rows(problem: Problem, names: Any) -> Any:
    """The places of some parameters in the vector of all."""
    params, start, places = problem.draw()[0], 0, {}
    for name in problem.model.trainable:
        places[name] = np.arange(start, start + params[name].size)
        start += params[name].size
    return np.concatenate([places[name] for name in names])


def assert_same(found: Any, expected: Any, tolerance: float) -> None:
    """Entries differ by at most tolerance times the largest."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(abs(expected).max(), 1e-3))


# ---- the matrix -----------------------------------------------------------------------------------------------------


def column_by_differences(problem: Problem, at: Any, j: int, column: Any, scale: float) -> float:
    """The relative error of the best central difference of the gradient, over a ladder of steps."""
    params, x, targets = at
    names, best = problem.model.trainable, np.inf
    sizes = np.cumsum([0, *(params[name].size for name in names)])
    place = int(np.searchsorted(sizes, j, side="right")) - 1
    name, entry = names[place], j - sizes[place]
    for h in (1e-5, 1e-6, 1e-4, 1e-7):
        ends = []
        for step in (h, -h):
            moved = params[name].copy()
            moved.flat[entry] += step
            ends.append(problem.gradient({**params, name: moved}, x, targets, names))
        error = np.abs((ends[0] - ends[1]) / (2 * h) - column).max() / max(np.abs(column).max(), scale)
        best = min(best, float(error))
        if best < 5e-8:
            break
    return best


@by_problem
def test_hessian_is_the_difference_of_gradients_column_by_column(problem: Problem) -> None:
    H, at = dense(problem.name), problem.draw()
    assert H.shape[0] <= 500
    scale = 1e-2 * np.abs(H).max()
    errors = [column_by_differences(problem, at, j, H[:, j], scale) for j in range(H.shape[0])]
    assert max(errors) < 1e-7, f"column {np.argmax(errors)}: {max(errors):.1e}"


@by_problem
def test_every_parameter_bends_the_loss(problem: Problem) -> None:
    """No problem is trivial: no dead unit hides a mistake. What normalisation takes out bends nothing."""
    H = dense(problem.name)
    for name in problem.model.trainable:
        size = np.abs(H[rows(problem, [name])]).max()
        taken_out = name.endswith("bias") and problem.train and "drop" not in problem.name and "head" not in name
        assert size < 1e-10 if taken_out else size > 1e-2, f"{name}: {size}"


@by_problem
def test_hessian_is_symmetric(problem: Problem) -> None:
    H = dense(problem.name)
    assert np.abs(H).max() > 1e-2
    assert_same(H, H.T, 1e-11)


def jacobians(problem: Problem) -> Any:
    """∂outputs_n/∂θ of every sample, (N, C, P), exactly, by the complex step of the written-out formulas."""
    params, x, _ = problem.draw()
    names, mode = problem.model.trainable, problem.mode()
    eye = np.eye(sum(params[name].size for name in names))
    columns = []
    for e in eye:
        parts = np.split(e, np.cumsum([params[name].size for name in names])[:-1])
        tangent = {name: part.reshape(params[name].shape) for name, part in zip(names, parts, strict=True)}
        columns.append(directional(problem.model, params, x, mode, tangent, np.zeros(x.shape)))
    return np.stack(columns, axis=-1).transpose(1, 0, 2)


@pytest.mark.parametrize("name", ["mlp eval", "mlp squared error", "perturbed lenet eval", "mlp train"])
def test_gauss_newton_is_the_loss_over_the_exact_jacobian(name: str) -> None:
    problem = PROBLEMS[name]
    params, x, _ = problem.draw()
    J = jacobians(problem)
    outputs, _ = problem.model.forward(params, x, problem.mode())
    if isinstance(problem.loss, CrossEntropy):
        p = (np.exp(outputs) / np.exp(outputs).sum(axis=0)).T
        middle = p[:, :, None] * np.eye(3) - p[:, :, None] * p[:, None, :]
    else:
        middle = np.stack([np.eye(3)] * 7)
    assert_same(dense(name, GaussNewtonOperator), np.einsum("ncp,ncd,ndq->pq", J, middle, J) / 7, 1e-12)


@by_evaluated
def test_fisher_is_the_outer_products_of_each_sample_alone(problem: Problem) -> None:
    params, x, targets = problem.draw()
    names = problem.model.trainable
    g = np.stack([
        problem.gradient(params, x[..., n : n + 1], targets[..., n : n + 1], names) for n in range(7)
    ])  # fmt: skip
    F = dense(problem.name, EmpiricalFisherOperator)
    assert_same(F, g.T @ g / 7, 1e-12)
    batch = problem.gradient(params, x, targets, names)
    assert np.abs(F - np.outer(batch, batch)).max() > 0.1 * np.abs(F).max()  # squaring the mean is another matrix


@by_evaluated
@pytest.mark.parametrize("kind", [GaussNewtonOperator, EmpiricalFisherOperator], ids=lambda kind: kind.__name__)
def test_siblings_are_symmetric_and_positive_semidefinite(problem: Problem, kind: Any) -> None:
    A = dense(problem.name, kind)
    assert_same(A, A.T, 1e-12)
    values = np.linalg.eigvalsh((A + A.T) / 2)
    assert values[0] > -1e-12 * values[-1]


@by_problem
def test_a_block_of_one_weight_is_its_gauss_newton_block_in_evaluation_only(problem: Problem) -> None:
    """There the outputs are piecewise linear in each weight; the whole matrices differ, and all of train mode does."""
    H, G = dense(problem.name), dense(problem.name, GaussNewtonOperator)
    assert np.abs(H - G).max() > 1e-3 * np.abs(H).max()
    for name in problem.model.trainable:
        place = np.ix_(rows(problem, [name]), rows(problem, [name]))
        if not problem.train or name.startswith("head"):
            assert_same(H[place], G[place], 1e-12)
    if problem.name == "lenet train":
        place = np.ix_(rows(problem, ["conv1.weight"]), rows(problem, ["conv1.weight"]))
        assert np.abs(H[place] - G[place]).max() > 1e-3 * np.abs(H[place]).max()


# ---- blocks ---------------------------------------------------------------------------------------------------------


@by_problem
def test_every_block_of_one_name_is_its_submatrix(problem: Problem) -> None:
    A, H = operator(problem), dense(problem.name)
    A @ np.zeros(A.shape[0])  # linearised once, for all
    for name in problem.model.trainable:
        block, place = A.block(name), rows(problem, [name])
        assert block.names == (name,)
        assert block.shape == (place.size, place.size)
        assert_same(block @ np.eye(place.size), H[np.ix_(place, place)], 1e-12)
        fresh = operator(problem, names=[name])
        assert_same(fresh @ np.eye(place.size), H[np.ix_(place, place)], 1e-12)


@settings(max_examples=40)
@given(st.data())
def test_blocks_of_several_names_in_any_order(data: st.DataObject) -> None:
    problem = PROBLEMS[data.draw(st.sampled_from(["mlp train", "residual train", "perturbed lenet eval"]))]
    kinds = [HessianOperator, GaussNewtonOperator] if problem.train else OPERATORS
    kind = data.draw(st.sampled_from(kinds))
    names = data.draw(st.lists(st.sampled_from(problem.model.trainable), min_size=1, max_size=5, unique=True))
    within = data.draw(st.permutations([*names, *problem.model.trainable[:2]]).map(dict.fromkeys).map(list))
    place = rows(problem, names)
    block = operator(problem, kind, names=within).block(*names)
    assert_same(block @ np.eye(place.size), dense(problem.name, kind)[np.ix_(place, place)], 1e-12)


def test_a_block_runs_from_its_layer_up_and_back_down_to_it() -> None:
    """Spies between the layers: no tangent passes below the lowest layer of the block, none is wasted above."""
    spies = [Spy() for _ in range(4)]
    layers: dict[str, Layer] = {"fc1": Linear(4, 5), "fc2": Linear(5, 4), "fc3": Linear(4, 3)}
    parts = [("spy0", spies[0])]
    for (name, layer), spy in zip(layers.items(), spies[1:], strict=True):
        parts += [(name, layer), (f"after {name}", spy)]  # type: ignore[list-item]
    problem = Problem("spied", Sequential(dict(parts)), (4,))
    A = operator(problem)
    for lowest, names in ((1, ["fc1.weight"]), (2, ["fc2.bias", "fc3.weight"]), (3, ["fc3.weight"])):
        block = A.block(*names)
        block.probe()
        for spy in spies:
            spy.forgets()
        block @ np.ones((block.shape[0], 3))
        assert [spy.up for spy in spies] == [[3] if n >= lowest else [] for n in range(4)]
        assert [spy.down for spy in spies] == [[3] if n >= lowest else [] for n in range(4)]
        assert [spy.backwards for spy in spies[:lowest]] == [0] * lowest


BLOCKS: dict[str, Callable[[], Layer]] = {
    "linear": lambda: Linear(3, 3),
    "perturbed": lambda: PerturbedLinear(Linear(3, 3)),
    "norm": lambda: BatchNorm1d(3),
    "relu": ReLU,
}


@settings(max_examples=30)
@given(st.lists(st.sampled_from(sorted(BLOCKS)), max_size=4), st.booleans(), st.integers(1, 10**6))
def test_random_networks(kinds: list[str], train: bool, seed: int) -> None:
    """Symmetric, and along a random direction the difference of gradients."""
    layers = {f"{kind}{n}": BLOCKS[kind]() for n, kind in enumerate(kinds)}
    problem = Problem(f"random {seed}", Sequential({**layers, "head": Linear(3, 3)}), (3,), train=train)
    A, (params, x, targets) = operator(problem), problem.draw()
    rng = np.random.default_rng(seed)
    U = rng.normal(size=(A.shape[0], 2))
    HU = A @ U
    scale = (np.abs(U[:, 0]) @ np.abs(HU[:, 1])) + 1e-12
    assert abs(U[:, 0] @ HU[:, 1] - U[:, 1] @ HU[:, 0]) <= 1e-11 * scale
    along, errors = A.unflatten(U[:, 0]), []
    for h in (1e-4, 1e-5, 1e-6, 1e-7):
        ends = [{n: value + s * h * along[n] if n in along else value for n, value in params.items()} for s in (1, -1)]
        up, down = (problem.gradient(p, x, targets, A.names) for p in ends)
        errors.append(np.abs((up - down) / (2 * h) - HU[:, 0]).max() / max(np.abs(HU[:, 0]).max(), 1e-2))
    assert min(errors) < 1e-6


# ---- one product, many products -------------------------------------------------------------------------------------


@by_problem
@pytest.mark.parametrize("K", [1, 7])
def test_one_vector_and_many(problem: Problem, K: int, layout: Callable[[Any], Any], rng: np.random.Generator) -> None:
    """Columns are the products of the columns; data, parameters and vectors may lie in memory as they like."""
    params, x, targets = problem.draw()
    V = rng.normal(size=(dense(problem.name).shape[0], K))
    arrays = ({name: layout(value) for name, value in params.items()}, layout(x), layout(V))
    before = [*(value.copy() for value in arrays[0].values()), *(array.copy() for array in arrays[1:])]
    A = HessianOperator(problem.model, arrays[0], problem.loss, (arrays[1], targets), mode=problem.mode())
    together = A @ arrays[2]
    assert_same(together, dense(problem.name) @ V, 1e-12)
    for k in range(K):
        alone = A @ arrays[2][:, k]
        assert alone.shape == (A.shape[0],)
        assert_same(alone, together[:, k], 1e-13)
    np.testing.assert_array_equal(A @ arrays[2], together)
    for array, copy in zip([*arrays[0].values(), *arrays[1:]], before, strict=True):
        np.testing.assert_array_equal(array, copy)


@by_kind
def test_products_are_counted(kind: Any) -> None:
    A = operator(PROBLEMS["mlp eval"], kind)
    assert A.products == 0
    A @ np.ones(A.shape[0])
    assert A.products == 1
    A @ np.ones((A.shape[0], 7))
    assert A.products == 8
    assert A.block("fc1.weight").products == 0


@by_problem
def test_flatten_and_unflatten_are_inverse(problem: Problem, rng: np.random.Generator) -> None:
    A, params = operator(problem), problem.draw()[0]
    assert A.names == problem.model.trainable
    one, many = rng.normal(size=A.shape[0]), rng.normal(size=(A.shape[0], 3))
    parts = A.unflatten(one)
    assert {name: part.shape for name, part in parts.items()} == {name: params[name].shape for name in A.names}
    np.testing.assert_array_equal(np.concatenate([part.ravel() for part in parts.values()]), one)
    np.testing.assert_array_equal(A.flatten(parts), one)
    wide = A.unflatten(many)
    assert {name: part.shape for name, part in wide.items()} == {name: (3, *params[name].shape) for name in A.names}
    np.testing.assert_array_equal(A.flatten(wide), many)
    for k in range(3):
        np.testing.assert_array_equal(A.flatten({name: part[k] for name, part in wide.items()}), many[:, k])
    backwards = {name: parts[name] for name in reversed(A.names)}
    np.testing.assert_array_equal(A.flatten(backwards), one)  # the operator's order, not the dict's


@by_problem
def test_value_and_gradient(problem: Problem) -> None:
    A, (params, x, targets) = operator(problem), problem.draw()
    outputs, _ = problem.model.forward(params, x, problem.mode())
    assert isinstance(A.value(), float)
    np.testing.assert_allclose(A.value(), problem.loss.value(outputs, targets), rtol=1e-13)
    assert_same(A.gradient(), problem.gradient(params, x, targets, A.names), 1e-13)
    block = A.block(A.names[-1])
    assert_same(block.gradient(), problem.gradient(params, x, targets, block.names), 1e-13)


@by_kind
def test_as_a_scipy_operator(kind: Any, rng: np.random.Generator) -> None:
    A, M = operator(PROBLEMS["mlp eval"], kind), dense("mlp eval", kind)
    linear = A.to_scipy()
    V = rng.normal(size=(A.shape[0], 3))
    assert isinstance(linear, sparse.LinearOperator)
    assert (linear.shape, linear.dtype) == (A.shape, np.float64)
    assert_same(linear @ V, M @ V, 1e-12)
    assert_same(linear.T @ V[:, 0], M @ V[:, 0], 1e-12)
    assert_same(linear.matvec(V[:, :1]), M @ V[:, :1], 1e-12)
    assert_same(linear @ np.ones(A.shape[0], int), M.sum(axis=1), 1e-12)
    largest = sparse.eigsh(linear, k=2, which="LA", return_eigenvectors=False, rng=rng)
    np.testing.assert_allclose(sorted(largest), np.linalg.eigvalsh(M)[-2:], rtol=1e-9)


def test_float32_agrees_with_float64(device_name: str, rng: np.random.Generator) -> None:
    device = Device(device_name)
    for problem in EVALUATED:
        params, x, targets = problem.draw()
        narrow = {name: device.to_device(value.astype(np.float32)) for name, value in params.items()}
        t = targets if targets.dtype.kind == "i" else targets.astype(np.float32)
        data = (device.to_device(x.astype(np.float32)), device.to_device(t))
        A = HessianOperator(problem.model, narrow, problem.loss, data)
        assert A.dtype == np.float32
        assert A.xp is device.xp
        V = rng.normal(size=(A.shape[0], 2))
        found = A @ device.to_device(V.astype(np.float32))
        assert found.dtype == np.float32
        assert_same(to_host(found), dense(problem.name) @ V, 1e-4)
