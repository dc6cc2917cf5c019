"""The diagonal of the Fisher matrix, against one sample after the other, the exact expectation, and other routes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from halrp_np.backend import to_host
from halrp_np.curvature import Batches, EmpiricalFisherOperator, dense_matrix, fisher_diagonal, layer_curvatures
from halrp_np.errors import ConfigError, DivergenceError
from halrp_np.layers import EVALUATE, Linear, Sequential, decomposed_layers, perturb
from halrp_np.losses import CrossEntropy
from halrp_np.lowrank import decompose
from halrp_np.models import large_lenet, lenet, mlp
from models.narrow import BUILDERS, SHAPES
from strict import StrictDevice
from training.blobs import Blobs

Params = dict[str, np.ndarray]
SMALL = (2, 8, 8)
NETWORKS: dict[str, tuple[Callable[[str], Sequential], tuple[int, ...]]] = {
    "lenet": (lambda norm: lenet(SMALL, 3, (3, 4, 6, 5), norm), SMALL),
    "large-lenet": (lambda norm: large_lenet(SMALL, 3, (6, 7, 6, 5), norm), SMALL),
    "mlp": (lambda norm: mlp(SMALL, 3, widths=(6, 5), norm=norm), SMALL),
    **{name: (make, SHAPES[name]) for name, make in BUILDERS.items()},
}
COUNT = 21


def problem(name: str, dtype: Any = np.float64, count: int = COUNT) -> tuple[Sequential, Params, Blobs]:
    """A network at random parameters, its running statistics not those of a fresh one, and labelled images."""
    make, shape = NETWORKS[name]
    model, draw = make("running"), np.random.default_rng(2)
    params = model.init(draw, dtype)
    for entry, value in params.items():
        if value.ndim == 1:
            params[entry] = (value + 0.3 * draw.random(value.shape)).astype(dtype)
    return model, params, Blobs(30, count, shape, 3, dtype)


def one_by_one(model: Sequential, params: Params, x: np.ndarray, labels: np.ndarray) -> Params:
    """The mean of squared gradients, each from a pass of its own."""
    totals = {name: np.zeros(params[name].shape) for name in model.trainable}
    for n in range(labels.size):
        outputs, cache = model.forward(params, np.ascontiguousarray(x[..., n : n + 1]), EVALUATE)
        _, grads = model.backward(params, cache, CrossEntropy().grad(outputs, labels[n : n + 1]))
        for name in totals:
            totals[name] += grads[name].astype(np.float64) ** 2 / labels.size
    return totals


def assert_close(found: Params, expected: Params, rtol: float) -> None:
    """Relative to the largest entry of each array."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name], value, rtol=0, atol=rtol * value.max(), err_msg=name)


@pytest.mark.parametrize("batch", [1, 8, COUNT])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_mean_over_single_samples(name: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, params, examples = problem(name)
    expected = one_by_one(model, params, examples.x, examples.y)
    for kernels in ("reference", "fast"):
        monkeypatch.setenv("HALRP_NP_KERNELS", kernels)
        found = fisher_diagonal(model, params, examples, batch=batch)
        assert_close(found, expected, 1e-12)
        assert all((value >= 0).all() for value in found.values())


@pytest.mark.parametrize("batch", [3, COUNT])
@pytest.mark.parametrize("name", NETWORKS)
def test_in_single_precision(name: str, batch: int) -> None:
    model, params, examples = problem(name, np.float32)
    double = {entry: value.astype(np.float64) for entry, value in params.items()}
    expected = one_by_one(model, double, examples.x.astype(np.float64), examples.y)
    found = fisher_diagonal(model, params, examples, batch=batch)
    assert all(value.dtype == np.float32 for value in found.values())
    assert_close(found, expected, 2e-5)


def test_single_entries_are_exact_where_they_are_small() -> None:
    """Entry by entry, not only against the largest of the array."""
    model, params, examples = problem("lenet")
    expected = one_by_one(model, params, examples.x, examples.y)
    for name, value in fisher_diagonal(model, params, examples, batch=8).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12, atol=1e-12 * expected[name].mean(), err_msg=name)


def test_images_that_are_not_contiguous() -> None:
    model, params, examples = problem("lenet")
    expected = fisher_diagonal(model, params, examples, batch=8)
    plain = examples.batch
    examples.batch = lambda rows: (np.asfortranarray(plain(rows)[0]), plain(rows)[1])  # type: ignore[method-assign]
    assert_close(fisher_diagonal(model, params, examples, batch=8), expected, 1e-13)


def test_a_small_budget_takes_the_batch_in_pieces() -> None:
    model, params, examples = problem("resnet18")
    expected = fisher_diagonal(model, params, examples, batch=COUNT)
    assert_close(fisher_diagonal(model, params, examples, batch=COUNT, memory=1), expected, 1e-12)


def test_the_first_samples_and_the_names_asked_for() -> None:
    model, params, examples = problem("resnet18")
    names = ("head.bias", model.trainable[5], model.trainable[0])
    found = fisher_diagonal(model, params, examples, names=names, batch=4, samples=6)
    expected = one_by_one(model, params, examples.x[..., :6], examples.y[:6])
    assert_close(found, {name: expected[name] for name in names}, 1e-12)
    more = fisher_diagonal(model, params, examples, names=["head.bias"], batch=4, samples=1000)
    whole = fisher_diagonal(model, params, examples, names=["head.bias"], batch=4)
    assert more["head.bias"].tobytes() == whole["head.bias"].tobytes()


def test_predicted_labels_are_the_likeliest() -> None:
    model, params, examples = problem("alexnet")
    outputs, _ = model.forward(params, examples.x)
    expected = one_by_one(model, params, examples.x, outputs.argmax(axis=0))
    assert_close(fisher_diagonal(model, params, examples, labels="predicted", batch=8), expected, 1e-12)


def test_sampled_labels_depend_on_the_generator_alone() -> None:
    model, params, examples = problem("lenet")
    ways = [
        fisher_diagonal(
            model, params, examples, labels="sampled", batch=batch, generator=np.random.default_rng(seed)
        )["head.weight"]
        for batch, seed in ((COUNT, 1), (4, 1), (COUNT, 2))
    ]  # fmt: skip
    np.testing.assert_allclose(ways[1], ways[0], rtol=1e-12)
    assert abs(ways[2] - ways[0]).max() > 0.01 * abs(ways[0]).max()


def test_sampled_labels_average_to_the_fisher_matrix() -> None:
    """Σ_c p_c g_c² of each sample, c running over all labels; standard errors from the draws themselves."""
    model = Sequential({"fc": Linear(3, 4), "head": Linear(4, 3)})
    params = model.init(np.random.default_rng(0), np.float64)
    examples = Blobs(30, 5, (3,), 3)
    outputs, _ = model.forward(params, examples.x)
    p = np.exp(outputs) / np.exp(outputs).sum(axis=0)
    expected = {name: np.zeros(params[name].shape) for name in model.trainable}
    for n in range(5):
        for label in range(3):
            one = one_by_one(model, params, examples.x[:, n : n + 1], np.array([label]))
            for name in expected:
                expected[name] += p[label, n] * one[name] / 5
    draws, generator = [], np.random.default_rng(7)
    for _ in range(1500):
        draws.append(fisher_diagonal(model, params, examples, labels="sampled", batch=5, generator=generator))
    for name, value in expected.items():
        sample = np.stack([draw[name] for draw in draws])
        error = sample.std(axis=0) / np.sqrt(len(draws))
        assert (abs(sample.mean(axis=0) - value) <= 5 * error + 1e-15).all(), name


@pytest.mark.parametrize("name", ["lenet", "resnet18"])
def test_sums_over_weights_are_the_traces_of_other_routes(name: str) -> None:
    model, params, examples = problem(name)
    layers = list(decomposed_layers(model))[:3]
    shapes = {layer: params[f"{layer}.weight"].shape[:2] for layer in layers}
    residuals = {layer: decompose(np.random.default_rng(1).normal(size=shape)) for layer, shape in shapes.items()}
    others = layer_curvatures(
        model, params, CrossEntropy(), examples, residuals, samples=COUNT, batch=8, products=10,
        generator=np.random.default_rng(0),
    )  # fmt: skip
    found = fisher_diagonal(model, params, examples, batch=8)
    for layer in layers:
        np.testing.assert_allclose(found[f"{layer}.weight"].sum(), others[layer].fisher, rtol=1e-11)


def test_it_is_the_diagonal_of_the_empirical_fisher_matrix() -> None:
    model, params, examples = problem("mlp")
    names = ["head.weight", "norm1.gamma", "norm1.beta", "fc2.bias"]
    operator = EmpiricalFisherOperator(model, params, CrossEntropy(), Batches(examples, 8), names=names)
    diagonal = operator.unflatten(np.diag(dense_matrix(operator)).copy())
    assert_close(fisher_diagonal(model, params, examples, names=names, batch=8), diagonal, 1e-11)


def test_everything_repeats_bit_for_bit_and_nothing_is_changed() -> None:
    model, params, examples = problem("lenet", np.float32)
    before = {name: value.copy() for name, value in params.items()}
    first, second = (fisher_diagonal(model, params, examples, batch=8) for _ in range(2))
    for name, value in first.items():
        assert value.tobytes() == second[name].tobytes()
    for name, value in before.items():
        np.testing.assert_array_equal(params[name], value)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_what_torch_makes_of_single_samples(name: str) -> None:
    torch: Any = pytest.importorskip("torch", reason="PyTorch, an oracle of the networks, is not installed")
    import torch_twins

    model, params, examples = problem(name, count=5)
    tensors = {entry: torch.tensor(value, requires_grad=entry in model.trainable) for entry, value in params.items()}
    expected = {entry: np.zeros(params[entry].shape) for entry in model.trainable}
    for n in range(5):
        x = torch.tensor(torch_twins.batch_first(examples.x[..., n : n + 1]))
        outputs = torch_twins.twin(model, tensors, x, EVALUATE, {})
        loss = torch.nn.functional.cross_entropy(outputs, torch.tensor(examples.y[n : n + 1]))
        grads = torch.autograd.grad(loss, [tensors[entry] for entry in expected])
        for value, g in zip(expected.values(), grads, strict=True):
            value += g.numpy() ** 2 / 5
    assert_close(fisher_diagonal(model, params, examples, batch=5), expected, 1e-10)


class OnDevice:
    """Examples on the strict device."""

    def __init__(self, examples: Blobs, device: StrictDevice) -> None:
        self.examples, self.device = examples, device

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, rows: Any) -> Any:
        return tuple(map(self.device.to_device, self.examples.batch(rows)))


@pytest.mark.parametrize("labels", ["true", "predicted", "sampled"])
def test_on_a_device_nothing_crosses_unsaid(labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALRP_NP_KERNELS", "reference")
    (model, params, examples), device = problem("resnet18"), StrictDevice()
    placed = {name: device.to_device(value) for name, value in params.items()}
    ways = [
        fisher_diagonal(model, own, data, labels=labels, batch=8, generator=np.random.default_rng(3))
        for own, data in ((placed, OnDevice(examples, device)), (params, examples))  # type: ignore[list-item]
    ]
    for name, value in ways[1].items():
        np.testing.assert_array_equal(to_host(ways[0][name]), value, err_msg=name)


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lenet", "alexnet", "resnet18"])
def test_batch_statistics_are_refused(name: str) -> None:
    _, _, examples = problem(name)
    model = NETWORKS[name][0]("batch")
    with pytest.raises(ConfigError, match="fisher_diagonal: expected running statistics, received batch statistics"):
        fisher_diagonal(model, model.init(np.random.default_rng(0), np.float64), examples, batch=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "sample"}, "labels: expected true, predicted, sampled, received 'sample'. Did you mean 'sampled'"),
        ({"labels": "sampled"}, "generator: expected a random generator to draw labels from, received none"),
        ({"names": ["head.wieght"]}, "names: expected parameters of the network, each once, received 'head.wieght'"),
        ({"names": ["norm1.running_mean"]}, "names: expected parameters of the network, each once"),
        ({"names": []}, "names: expected at least one parameter"),
        ({"batch": 0}, "size: expected at least 1"),
        ({"samples": -1}, "samples: expected at least 1"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    model, params, examples = problem("lenet")
    with pytest.raises(ConfigError, match=message):
        fisher_diagonal(model, params, examples, **{"batch": 8, **options})


def test_a_perturbed_network_is_refused() -> None:
    model, params, examples = problem("lenet")
    for name, layer in decomposed_layers(model).items():
        J, I = params[f"{name}.weight"].shape[:2]
        params |= {f"{name}.R": np.ones(J), f"{name}.S": np.ones(I)}
        params |= {f"{name}.A": np.zeros((1, I)), f"{name}.B": np.zeros((J, 1))}
        assert layer.plain is layer
    with pytest.raises(ConfigError, match=r"received conv1, a PerturbedConv2d\. Give the plain network"):
        fisher_diagonal(perturb(model), params, examples, batch=8)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_told(value: float) -> None:
    model, params, examples = problem("lenet")
    params["head.bias"] = np.array([value, 0.0, 0.0])
    with pytest.raises(DivergenceError, match="fisher_diagonal: expected the outputs with finite entries only"):
        fisher_diagonal(model, params, examples, batch=8)


def test_squares_that_overflow_are_told() -> None:
    model, params, examples = problem("mlp", np.float32)
    examples.x = examples.x * np.float32(1e30)
    params["fc1.weight"] *= np.float32(1e-30)
    with np.errstate(all="ignore"), pytest.raises(DivergenceError, match=r"the squared gradients of fc1\.weight"):
        fisher_diagonal(model, params, examples, batch=8)
