"""Curvature of single weights: Gram matrices against dense ones, single samples, operators and the loss itself."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from halrp_np.curvature import (
    Batches,
    EmpiricalFisherOperator,
    HessianOperator,
    LayerCurvature,
    batch_gradient_importance,
    dense_matrix,
    layer_curvatures,
)
from halrp_np.curvature.factors import ConvFactor, curvature_roots, gradient_roots, weight_factors
from halrp_np.curvature.measures import removal_by_products
from halrp_np.errors import DivergenceError
from halrp_np.layers import (
    EVALUATE,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)
from halrp_np.losses import CrossEntropy, SquaredError
from halrp_np.lowrank import Decomposition, decompose
from training.blobs import Blobs

SHAPE, CLASSES = (2, 4, 4), 3
Params = dict[str, np.ndarray]


def plain(track: bool = True) -> Sequential:
    """A convolution, pooling and two linear layers."""
    return Sequential(
        {
            "conv": Conv2d(2, 3, kernel=3, padding=1),
            "norm1": BatchNorm2d(3, track=track),
            "relu1": ReLU(),
            "pool": MaxPool2d(2),
            "flatten": Flatten(),
            "fc": Linear(12, 5),
            "norm2": BatchNorm1d(5, track=track),
            "relu2": ReLU(),
            "head": Linear(5, CLASSES),
        }
    )


def branching() -> Sequential:
    """A block with a strided convolution in its body and in its shortcut."""
    body = Sequential({"conv": Conv2d(2, 3, kernel=3, stride=2, padding=1), "norm": BatchNorm2d(3), "relu": ReLU()})
    block = Residual(body, Sequential({"conv": Conv2d(2, 3, kernel=1, stride=2)}))
    return Sequential({"block": block, "relu": ReLU(), "flatten": Flatten(), "head": Linear(12, CLASSES)})


CASES: dict[str, tuple[Callable[[], Sequential], list[str]]] = {
    "plain": (plain, ["conv", "fc"]),
    "branching": (branching, ["block.body.conv", "block.shortcut.conv"]),
}


def parameters(model: Sequential, dtype: Any = np.float64) -> Params:
    """Random ones, with running statistics and normalisations that are not those of a fresh network."""
    draw = np.random.default_rng(2)
    params = model.init(draw, dtype)
    for name in params:
        if "running" in name or "gamma" in name or "beta" in name:
            params[name] = (params[name] + 0.3 * draw.random(params[name].shape)).astype(dtype)
    return params


def residuals(params: Params, layers: list[str]) -> dict[str, Decomposition]:
    """Of random matrices as large as a tenth of each weight."""
    draw = np.random.default_rng(3)
    weights = [params[f"{name}.weight"] for name in layers]
    return {
        n: decompose((0.1 * draw.normal(size=W.shape[:2])).astype(W.dtype))
        for n, W in zip(layers, weights, strict=True)
    }


def images(dtype: Any = np.float64, count: int = 9) -> Blobs:
    return Blobs(30, count, SHAPE, CLASSES, dtype)


def found(model: Sequential, params: Params, layers: list[str], examples: Blobs, **changes: Any) -> Any:
    options = {"samples": 7, "batch": 4, "products": 40, "generator": np.random.default_rng(0), **changes}
    return layer_curvatures(model, params, CrossEntropy(), examples, residuals(params, layers), **options)


def triple(parts: Decomposition, i: int, shape: tuple[int, ...]) -> np.ndarray:
    """u_i v_iᵀ at every kernel position."""
    outer = np.outer(parts.U[:, i], parts.Vt[i])
    return np.ascontiguousarray(np.broadcast_to(outer.reshape(*outer.shape, *(1,) * (len(shape) - 2)), shape))


def by_definition(
    model: Sequential, params: Params, name: str, examples: Blobs, parts: Decomposition, mean: int = 7
) -> LayerCurvature:
    """From the dense Hessian and Fisher matrices of the first samples, in one batch."""
    batch = examples.batch(np.arange(mean))
    names = [f"{name}.weight"]
    H = HessianOperator(model, params, CrossEntropy(), batch, names=names)
    matrix, gradient = dense_matrix(H), H.gradient()
    tied = any(isinstance(layer, BatchNorm2d) and not layer.track for _, layer in model.walk())
    fisher = (
        None
        if tied
        else np.trace(dense_matrix(EmpiricalFisherOperator(model, params, CrossEntropy(), batch, names=names)))
    )
    removal = []
    for i in range(parts.size):
        T = triple(parts, i, params[names[0]].shape).reshape(-1)
        removal.append(-parts.s[i] * (gradient @ T) + 0.5 * parts.s[i] ** 2 * (T @ matrix @ T))
    top = np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]
    return LayerCurvature(fisher, np.trace(matrix), np.linalg.norm(matrix), top, np.array(removal))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_exact_values_are_those_of_the_dense_matrices(case: str) -> None:
    build, layers = CASES[case]
    model, params, examples = build(), parameters(build()), images()
    curvatures = found(model, params, layers, examples)
    assert list(curvatures) == layers
    for name, parts in residuals(params, layers).items():
        expected, curvature = by_definition(model, params, name, examples, parts), curvatures[name]
        assert curvature.fisher == pytest.approx(expected.fisher, rel=1e-10)
        for quantity in ("trace", "frobenius", "top"):
            estimate = getattr(curvature, quantity)
            assert estimate.value == pytest.approx(getattr(expected, quantity), rel=1e-10), quantity
            assert (estimate.stderr, estimate.products) == (0.0, 0)
        np.testing.assert_allclose(curvature.removal, expected.removal, rtol=1e-9, atol=1e-15)
        assert curvature.removal.dtype == np.float64


@pytest.mark.parametrize("case", CASES)
def test_in_single_precision_too(case: str) -> None:
    build, layers = CASES[case]
    model, params = build(), parameters(build(), np.float32)
    exact = found(model, {name: value.astype(np.float64) for name, value in params.items()}, layers, images())
    for name, curvature in found(model, params, layers, images(np.float32)).items():
        for quantity in ("trace", "frobenius", "top"):
            assert getattr(curvature, quantity).value == pytest.approx(getattr(exact[name], quantity).value, rel=1e-4)
        assert curvature.fisher == pytest.approx(exact[name].fisher, rel=1e-4)
        scale = abs(exact[name].removal).max()  # the two residuals agree to single precision, and signs are free
        np.testing.assert_allclose(curvature.removal, exact[name].removal, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("case", CASES)
def test_removal_from_full_products_is_the_same(case: str) -> None:
    """Two ways that share only the layers: factors of single samples, and products with a perturbed twin."""
    build, layers = CASES[case]
    model, params, examples = build(), parameters(build()), images()
    operator = HessianOperator(model, params, CrossEntropy(), Batches(examples, 3, 7))
    curvatures = found(model, params, layers, examples)
    for name, parts in residuals(params, layers).items():
        by_products = removal_by_products(operator, name, parts)
        np.testing.assert_allclose(by_products, curvatures[name].removal, rtol=1e-9, atol=1e-15)


def test_removal_is_the_change_of_the_loss_to_second_order() -> None:
    """Small residuals: what is left over falls with the third power of the step, or is rounding."""
    model, layers = plain(), ["conv", "fc"]
    params, (x, y) = parameters(model), images().batch(np.arange(7))

    def loss(weights: Params) -> float:
        return float(CrossEntropy().value(model.forward(weights, x, EVALUATE)[0], y))

    for name, parts in residuals(params, layers).items():
        small = Decomposition(parts.U, 1e-3 * parts.s, parts.Vt)
        curvature = layer_curvatures(
            model,
            params,
            CrossEntropy(),
            images(),
            {name: small},
            samples=7,
            batch=7,
            products=8,
            generator=np.random.default_rng(0),
        )[name]
        for i in range(parts.size):
            W = params[f"{name}.weight"]
            moved = {**params, f"{name}.weight": W - small.s[i] * triple(small, i, W.shape)}
            assert loss(moved) - loss(params) == pytest.approx(curvature.removal[i], rel=1e-3, abs=1e-12)


def test_the_fisher_is_that_of_single_samples() -> None:
    model, layers, examples = plain(), ["conv", "fc"], images()
    params = parameters(model)
    single = batch_gradient_importance(
        model, params, examples, layers, loss=CrossEntropy(), batch=1, reduction="sum", samples=7
    )
    curvatures = found(model, params, layers, examples)
    assert {name: c.fisher for name, c in curvatures.items()} == pytest.approx(single, rel=1e-12)


def test_without_room_for_all_samples_only_the_norms_are_estimated() -> None:
    """Pieces of few samples add up to the same exact values."""
    model, layers, examples = plain(), ["conv", "fc"], images(count=40)
    params = parameters(model)
    exact = found(model, params, layers, examples, samples=40)
    examples.asked = []
    estimated = found(model, params, layers, examples, samples=40, memory=200_000, products=30)
    pieces = [len(rows) for rows in examples.asked]
    assert 4 < max(pieces) < 40
    for name in layers:
        true, guess = exact[name], estimated[name]
        assert guess.frobenius.products == guess.top.products == 30
        assert abs(guess.frobenius.value - true.frobenius.value) <= 4 * guess.frobenius.stderr + 1e-12
        assert guess.top.value == pytest.approx(true.top.value, rel=1e-6)
        assert np.isnan(guess.top.stderr)
        assert guess.trace.value == pytest.approx(true.trace.value, rel=1e-10)
        assert guess.fisher == pytest.approx(true.fisher, rel=1e-10)
        np.testing.assert_allclose(guess.removal, true.removal, rtol=1e-9, atol=1e-15)


def test_norms_that_are_not_asked_for_are_not_formed() -> None:
    model, layers = plain(), ["conv", "fc"]
    params = parameters(model)
    without, full = (found(model, params, layers, images(), norms=norms) for norms in ("never", "always"))
    for name in layers:
        assert (without[name].frobenius, without[name].top) == (None, None)
        assert (without[name].trace, without[name].fisher) == (full[name].trace, full[name].fisher)
        assert without[name].removal.tobytes() == full[name].removal.tobytes()


def test_under_batch_statistics_the_full_product_counts() -> None:
    """There H of one weight is not its Gauss-Newton part, and a sample has no gradient of its own."""
    model, layers, examples = plain(track=False), ["conv", "fc"], images()
    params = parameters(model)
    curvatures = found(model, params, layers, examples, batch=7, products=200)
    for name, parts in residuals(params, layers).items():
        expected = by_definition(model, params, name, examples, parts)
        assert curvatures[name].fisher is None
        assert curvatures[name].trace.value == pytest.approx(float(expected.trace), rel=1e-9)  # type: ignore[arg-type]
        assert curvatures[name].top.value == pytest.approx(float(expected.top), rel=1e-9)  # type: ignore[arg-type]
        np.testing.assert_allclose(curvatures[name].removal, expected.removal, rtol=1e-9, atol=1e-15)


def test_everything_repeats_bit_for_bit_and_nothing_is_changed() -> None:
    model, layers = plain(), ["conv", "fc"]
    params = parameters(model)
    before = {name: value.tobytes() for name, value in params.items()}
    for value in params.values():
        value.flags.writeable = False
    for memory in (2**30, 200_000):
        first, again = (found(model, params, layers, images(), memory=memory, products=12) for _ in range(2))
        for name in layers:
            assert first[name].removal.tobytes() == again[name].removal.tobytes()
            assert first[name].trace == again[name].trace
            assert first[name].frobenius == again[name].frobenius
            assert first[name].top.value == again[name].top.value
    assert {name: value.tobytes() for name, value in params.items()} == before


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError()], ids=["cross entropy", "squared error"])
def test_roots_multiply_to_the_curvature_of_the_outputs(loss: Any, dtype: Any) -> None:
    draw = np.random.default_rng(4)
    outputs = draw.normal(size=(4, 6)).astype(dtype)
    targets = draw.integers(0, 4, 6) if isinstance(loss, CrossEntropy) else draw.normal(size=(4, 6)).astype(dtype)
    roots, r = curvature_roots(loss, outputs, targets), draw.normal(size=(4, 2, 6)).astype(dtype)
    product = np.einsum("ikn,jkn,jrn->irn", roots, roots, r)
    expected = loss.hess_vec(outputs, targets, r)
    np.testing.assert_allclose(product, expected, rtol=0, atol=1e-14 if dtype is np.float64 else 1e-6)
    assert roots.dtype == dtype
    adds_up = isinstance(loss, CrossEntropy)  # a constant added to all outputs changes nothing
    assert roots.shape == (4, 3 if adds_up else 4, 6)
    g = gradient_roots(loss, outputs, targets)
    np.testing.assert_allclose(g[:, 0], loss.grad(outputs, targets) * 6**0.5, rtol=1e-6)


@pytest.mark.parametrize(("k", "stride", "padding"), [(5, 1, 2), (4, 1, 0), (3, 2, 1), (1, 2, 0), (2, 3, 0)])
def test_a_convolution_s_factor_holds_the_gradients_of_single_samples(
    k: int, stride: int, padding: int, dtype: Any
) -> None:
    """Each under each root, by the layer's own way back, and what is read off them."""
    layer, draw = Conv2d(2, 3, kernel=k, stride=stride, padding=padding), np.random.default_rng(5)
    model = Sequential({"conv": layer, "flatten": Flatten()})
    params, x = model.init(draw, dtype), draw.normal(size=(2, 7, 8, 4)).astype(dtype)
    outputs, cache = model.forward(params, x, EVALUATE)
    roots = draw.normal(size=(outputs.shape[0], 5, 4)).astype(dtype)
    ((name, factor),) = weight_factors(model, params, cache, roots, ["conv"])
    assert name == "conv"
    assert isinstance(factor, ConvFactor)
    Z = []
    for n in range(4):
        one = model.forward(params, x[..., n : n + 1].copy(), EVALUATE)[1]
        Z += [model.backward(params, one, roots[:, r, n : n + 1].copy())[1]["conv.weight"] for r in range(5)]
    tolerance = {"rtol": 0, "atol": (1e-4 if dtype == np.float32 else 1e-12) * np.abs(Z).max() ** 2}
    np.testing.assert_allclose(factor.Z, Z, **tolerance)
    flat = np.array(Z).reshape(20, -1)
    np.testing.assert_allclose(factor.gram(), flat @ flat.T, **tolerance)
    assert (factor.gram() == factor.gram().T).all()
    np.testing.assert_allclose(factor.squares(), (flat**2).sum(axis=1), **tolerance)
    U, Vt = draw.normal(size=(3, 2)).astype(dtype), draw.normal(size=(2, 2)).astype(dtype)
    along = np.einsum("mjicd,jq,qi->qm", np.array(Z), U, Vt)
    np.testing.assert_allclose(factor.along(U, Vt), along, **tolerance)


def test_outputs_that_overflow_are_told() -> None:
    model = plain()
    params = parameters(model)
    params["head.bias"] = np.full(CLASSES, np.inf)
    with pytest.raises(DivergenceError, match="the outputs with finite entries only"):
        found(model, params, ["conv", "fc"], images())
