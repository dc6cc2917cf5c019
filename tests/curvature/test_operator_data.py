"""What operators make of their data: batches of any size, a memory budget, repetition, and clear refusals."""

import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from curvature.problems import PROBLEMS, Problem, Spy, Walks
from halrp_np.curvature import Batches, EmpiricalFisherOperator, GaussNewtonOperator, HessianOperator
from halrp_np.errors import ConfigError, DivergenceError, ShapeError
from halrp_np.layers import BatchNorm1d, Linear, Mode, ReLU, Residual, Sequential
from halrp_np.models import lenet

OPERATORS = [HessianOperator, GaussNewtonOperator, EmpiricalFisherOperator]
by_kind = pytest.mark.parametrize("kind", OPERATORS, ids=lambda kind: kind.__name__)
MLP = PROBLEMS["mlp eval"]


def operator(problem: Problem, kind: Any = HessianOperator, data: Any = None, **options: Any) -> Any:
    """The operator of a problem, on its one batch or on other data."""
    params, x, targets = problem.draw()
    mode = options.pop("mode", problem.mode())
    return kind(problem.model, params, problem.loss, (x, targets) if data is None else data, mode=mode, **options)


def parts(problem: Problem, *sizes: int, samples: int = 7) -> list[tuple[Any, Any]]:
    """The problem's batch cut into batches of these sizes."""
    _, x, targets = problem.draw(samples=samples)
    ends = np.cumsum([0, *sizes])
    return [(x[..., a:b], targets[..., a:b]) for a, b in itertools.pairwise(ends)]


def assert_same(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Entries differ by at most tolerance times the largest."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * abs(expected).max())


# ---- batches --------------------------------------------------------------------------------------------------------


@by_kind
@pytest.mark.parametrize("name", ["mlp eval", "mlp squared error", "lenet eval", "residual eval"])
@pytest.mark.parametrize("sizes", [(3, 4), (1, 6), (2, 2, 3), (1,) * 7], ids=str)
def test_batches_of_unequal_size_are_the_one_batch(kind: Any, name: str, sizes: tuple[int, ...]) -> None:
    problem = PROBLEMS[name]
    whole, cut = operator(problem, kind), operator(problem, kind, parts(problem, *sizes))
    V = np.random.default_rng(1).normal(size=(whole.shape[0], 3))
    assert_same(cut @ V, whole @ V)
    assert_same(cut.gradient(), whole.gradient())
    np.testing.assert_allclose(cut.value(), whole.value(), rtol=1e-13)


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ["mlp train", "residual train", "dropout train"])
def test_batches_in_train_mode_are_averaged_by_their_samples(kind: Any, name: str) -> None:
    """Each has statistics and masks of its own: the matrix of the batches is not that of one batch."""
    problem = PROBLEMS[name]
    three, four = parts(problem, 3, 4)
    mode = problem.mode()
    A = operator(problem, kind, [three, four])
    V = np.random.default_rng(1).normal(size=(A.shape[0], 3))
    first = operator(problem, kind, three, mode=replace(mode)) @ V
    problem.model.forward(problem.draw()[0], three[0], mode)  # the second batch's masks follow the first batch's
    second = operator(problem, kind, four, mode=mode) @ V
    assert_same(A @ V, (3 * first + 4 * second) / 7)
    assert np.abs(A @ V - operator(problem, kind) @ V).max() > 1e-3 * np.abs(A @ V).max()
    values = [operator(problem, kind, batch, mode=m).value() for batch, m in ((three, problem.mode()), (four, mode))]
    np.testing.assert_allclose(A.value(), (3 * values[0] + 4 * values[1]) / 7, rtol=1e-13)


class Rows:
    """Examples as data sets give them."""

    def __init__(self, x: Any, targets: Any) -> None:
        self.x, self.targets = x, targets

    def __len__(self) -> int:
        return len(self.targets)

    def begin_epoch(self, generator: Any) -> None:
        """Nothing varies."""

    def batch(self, rows: Any) -> tuple[Any, Any]:
        return self.x[..., rows], self.targets[rows]


def test_examples_in_batches() -> None:
    _, x, targets = MLP.draw()
    whole, v = operator(MLP), np.random.default_rng(1).normal(size=92)
    assert whole.shape == (92, 92)
    for size in (1, 3, 7, 100):
        assert_same(operator(MLP, data=Batches(Rows(x, targets), size)) @ v, whole @ v)
    first = operator(MLP, data=(x[..., :5], targets[:5])) @ v
    assert_same(operator(MLP, data=Batches(Rows(x, targets), 2, samples=5)) @ v, first)


def test_dropout_keeps_its_masks_and_leaves_the_stream_alone() -> None:
    """Every product is of one function, whichever came before; the caller's generator does not move."""
    problem = PROBLEMS["dropout train"]
    stream = np.random.default_rng(3)
    before = stream.bit_generator.state
    A = operator(problem, mode=Mode(train=True, dropout=stream))
    v = np.random.default_rng(1).normal(size=A.shape[0])
    first = A @ v
    np.testing.assert_array_equal(A @ v, first)
    assert stream.bit_generator.state == before
    assert_same(operator(problem) @ v, first)


# ---- a memory budget ------------------------------------------------------------------------------------------------


def spied(*, train: bool = False) -> Problem:
    """A network with a spy at its input and one at its output."""
    layers = {"fc1": Linear(6, 8), "norm1": BatchNorm1d(8), "relu": ReLU(), "head": Linear(8, 3)}
    return Problem("spied", Sequential({"low": Spy(), **layers, "high": Spy()}), (6,), train=train)


def budgets(problem: Problem, kind: Any, data: Any) -> Iterator[tuple[int, Any, Any]]:
    """Ever smaller budgets, each with an operator and its product of 7 vectors, until the budget is refused."""
    V = np.random.default_rng(1).normal(size=(operator(problem).shape[0], 7))
    for exponent in range(44, 16, -1):
        A = operator(problem, kind, data, memory=int(2 ** (exponent / 2)))
        try:
            yield A.budget.memory, A, A @ V
        except ConfigError:
            return
    raise AssertionError("no budget was too small")


@by_kind
def test_any_budget_gives_the_same_products(kind: Any) -> None:
    problem = spied()
    low, high = problem.model.layers["low"], problem.model.layers["high"]
    assert isinstance(low, Spy)
    assert isinstance(high, Spy)
    data = Walks(parts(problem, 25, 40, samples=65))
    expected, seen = None, []
    for _, A, product in budgets(problem, kind, data):
        expected = product if expected is None else expected
        assert_same(product, expected)
        for spy in (low, high):
            spy.forgets()
        data.count = 0
        A @ np.ones((A.shape[0], 7))
        seen.append((data.count, max(low.batches, default=0), max(high.up)))
    assert seen[0][0] == 0  # all linearisations kept: the data is not walked through again
    assert any(walked == 1 for walked, _, _ in seen)  # made again for every product
    assert min(group for _, _, group in seen) == 1  # one vector after the other
    assert max(group for _, _, group in seen) == 7
    assert min(batch for walked, batch, _ in seen if walked) < 25  # batches in pieces


def test_tied_samples_are_never_taken_apart() -> None:
    """Batch statistics belong to the whole batch: below its need the budget is refused, and the message says so."""
    problem = spied(train=True)
    spy = problem.model.layers["low"]
    assert isinstance(spy, Spy)
    data = parts(problem, 25, 40, samples=65)
    products, least = [], 0
    for memory, _, product in budgets(problem, HessianOperator, data):
        least = memory
        products.append(product)
        assert_same(product, products[0])
        assert set(spy.batches) <= {25, 40, 2}  # 2: where the need of a sample is measured
        spy.forgets()
    assert len(products) > 5
    with pytest.raises(ConfigError, match=r"memory: expected at least \d+ bytes for (25|40) samples tied together"):
        operator(problem, data=data, memory=least // 4) @ np.ones((operator(problem).shape[0], 1))


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_the_budget_bounds_what_is_allocated(train: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a quarter more, for what layers make in passing; vectors and products are the caller's and come on top."""
    monkeypatch.setenv("HALRP_NP_KERNELS", "reference")
    problem = Problem("wide lenet", lenet((1, 8, 8), 3, widths=(4, 6, 12, 8)), (1, 8, 8), train=train)
    data, peaks = parts(problem, 10, 22, samples=32), {}
    size = operator(problem, data=data).shape[0]
    V = np.random.default_rng(1).normal(size=(size, 8))
    for memory in (2**20, 2**21, 2**22, 2**24):
        A = operator(problem, data=data, memory=memory)
        tracemalloc.start()
        try:
            A @ V
            peaks[memory] = tracemalloc.get_traced_memory()[1]
        except ConfigError:
            assert train
        finally:
            tracemalloc.stop()
    assert max(peaks) == 2**24
    assert {memory: peak for memory, peak in peaks.items() if peak > 1.25 * memory + 4 * V.nbytes} == {}
    assert peaks[2**24] > 2**21  # the budget was of use


def test_a_budget_below_one_sample_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"memory: expected at least \d+ bytes for a sample, received 100\."):
        operator(MLP, memory=100) @ np.ones(92)


# ---- refusals -------------------------------------------------------------------------------------------------------

X, LABELS = np.ones((6, 4)), np.array([0, 1, 2, 0])
ONES = np.ones(92)


@pytest.mark.parametrize(
    ("vector", "received"),
    [
        (np.ones(91), r"\(91,\), float64"),
        (np.ones((7, 92)), r"\(7, 92\), float64"),
        (np.ones((92, 2, 1)), r"\(92, 2, 1\), float64"),
        (np.ones(()), r"\(\), float64"),
        (np.ones(92, np.float32), r"\(92,\), float32"),
        (np.ones(92, int), r"\(92,\), int64"),
    ],
)
def test_vectors_that_do_not_fit(vector: Any, received: str) -> None:
    A = operator(MLP)
    with pytest.raises(ShapeError, match=rf"HessianOperator: expected a vector \(92,\).* received shape {received}"):
        A @ vector
    with pytest.raises(ShapeError):
        A.unflatten(vector)
    assert A.products == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fc1.wieght"], r"received 'fc1\.wieght'\. Did you mean 'fc1\.weight'\?"),
        (["head.weight", "quux"], r"received 'quux'\. Choose among fc1\.weight, "),
        (["norm1.running_mean"], r"received 'norm1\.running_mean'"),
        (["fc1.weight", "fc1.weight"], r"received 'fc1\.weight' twice"),
        ([], r"expected at least one parameter, received none"),
    ],
)
def test_names_that_are_unknown(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        operator(MLP, names=names)
    with pytest.raises(ConfigError, match=message):
        operator(MLP).block(*names)
    with pytest.raises(ConfigError, match=r"received 'fc1.weight'\. Did you mean 'fc2\.weight'\?"):
        operator(MLP, names=["fc2.weight"]).block("fc1.weight")


BAD_DATA = [
    ((X, LABELS[:3]), ShapeError, r"batch 0: .*\(6, 4\) and \(3,\)"),
    ([(X, LABELS), (X, LABELS[:3])], ShapeError, r"batch 1: .*\(6, 4\) and \(3,\)"),
    ([(X, LABELS, LABELS)], ShapeError, r"batch 0: expected a pair of arrays"),
    ([X], ShapeError, r"batch 0: expected a pair of arrays"),
    ((X[:, :0], LABELS[:0]), ShapeError, r"batch 0: .*N ≥ 1"),
    ([], ConfigError, r"data: expected at least one batch, received none"),
    ((X[:5], LABELS), ShapeError, r"Linear: expected features \(6, N\)"),
    ((X, LABELS.astype(float)), ShapeError, r"CrossEntropy: expected integer labels"),
    ((X.astype(np.float32), LABELS), ShapeError, r"data: expected inputs of the parameters' dtype, float64"),
]


@by_kind
@pytest.mark.parametrize(("data", "error", "message"), BAD_DATA, ids=[message for _, _, message in BAD_DATA])
def test_data_that_is_refused(kind: Any, data: Any, error: Any, message: str) -> None:
    A = operator(MLP, kind, data)
    for use in (lambda: A @ ONES, A.gradient, A.value):
        with pytest.raises(error, match=message):
            use()


@pytest.mark.parametrize(
    "data",
    [lambda: iter([(X, LABELS)]), lambda: ((X, LABELS) for _ in range(2)), lambda: zip([X], [LABELS], strict=True)],
)
def test_data_that_runs_dry_is_refused_at_once(data: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match=r"data: expected .*walked through again, received a \w+"):
        operator(MLP, data=data())


class Noisy:
    """Batches that are different every time, as augmentation makes them."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        yield X + 1e-3 * self.rng.normal(size=X.shape), LABELS


class Shuffled(Noisy):
    """The same batches in another order every time: the same mean."""

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        batches = parts(MLP, 2, 2, 3)
        return iter([batches[n] for n in self.rng.permutation(3)])


def test_data_that_changes_is_refused_by_the_probe() -> None:
    with pytest.raises(
        ConfigError, match=r"HessianOperator: expected the same gradient twice, received gradients that"
    ):
        operator(MLP, data=Noisy()) @ ONES
    v = np.random.default_rng(1).normal(size=92)
    assert_same(operator(MLP, data=Shuffled()) @ v, operator(MLP) @ v)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_nan_is_refused(value: float) -> None:
    params, x, labels = MLP.draw()
    for spoiled in ("fc1.weight", "x"):
        array = (x if spoiled == "x" else params[spoiled]).copy()
        array.flat[3] = value
        changed = {**params, spoiled: array}
        A = HessianOperator(MLP.model, params if spoiled == "x" else changed, MLP.loss, (changed.get("x", x), labels))
        with pytest.raises(DivergenceError, match="HessianOperator: expected a finite gradient"):
            A @ ONES


@pytest.mark.parametrize("name", ["mlp train", "dropout train"])
def test_samples_that_depend_on_one_another_have_no_fisher(name: str) -> None:
    with pytest.raises(ConfigError, match="EmpiricalFisherOperator: expected evaluation mode"):
        operator(PROBLEMS[name], EmpiricalFisherOperator)
    untracked = Sequential({"norm": BatchNorm1d(6, track=False), "fc": Linear(6, 3)})
    with pytest.raises(ConfigError, match=r"EmpiricalFisherOperator: expected .*running statistics"):
        operator(Problem("untracked", untracked, (6,)), EmpiricalFisherOperator)


# ---- the edges ------------------------------------------------------------------------------------------------------


def test_no_vectors_are_no_work() -> None:
    A = operator(MLP)
    assert (A @ np.ones((92, 0))).shape == (92, 0)
    assert A.products == 0


def test_a_residual_block_as_the_whole_model(rng: np.random.Generator) -> None:
    """Any container is a network; alone it is what it is as the only layer of a sequence."""
    block = Residual(Linear(4, 3), Linear(4, 3))
    alone, wrapped = Problem("alone", block, (4,)), Problem("alone", Sequential({"only": block}), (4,))  # type: ignore[arg-type]
    V = rng.normal(size=(30, 3))
    A = operator(alone)
    params, x, labels = alone.draw()
    longer = {f"only.{name}": value for name, value in params.items()}
    B = HessianOperator(wrapped.model, longer, wrapped.loss, (x, labels))
    assert [f"only.{name}" for name in A.names] == list(B.names)
    np.testing.assert_array_equal(A @ V, B @ V)
