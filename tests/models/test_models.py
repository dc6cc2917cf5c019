"""LeNet and the MLP: published parameter counts, image sizes, widths, errors."""

from typing import Any

import numpy as np
import pytest

from halrp_np.errors import ConfigError
from halrp_np.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Linear,
    MaxPool2d,
    Mode,
    Sequential,
    decomposed_layers,
)
from halrp_np.lowrank import dense_count, honest_count, released_count, released_increase, task_size
from halrp_np.models import MODELS, build, lenet, mlp


def parameters(model: Sequential) -> dict[str, np.ndarray]:
    return model.init(np.random.default_rng(0), np.float32)


def count(params: dict[str, Any], *kinds: str) -> int:
    """Numbers in the parameters of these kinds, e.g. `bias`."""
    return sum(value.size for name, value in params.items() if name.rpartition(".")[2] in kinds)


def trainable(model: Sequential) -> int:
    params = parameters(model)
    return sum(params[name].size for name in model.trainable)


def lenet_task(classes: int, ranks: tuple[int, ...]) -> tuple[int, Any]:
    """Task 0's size, and what one more task adds to a LeNet on 3x32x32 images, from the model itself."""
    model = lenet((3, 32, 32), classes)
    params = parameters(model)
    layers = decomposed_layers(model)
    factors = {}
    for (name, layer), rank in zip(layers.items(), ranks, strict=True):
        assert isinstance(layer, Conv2d | Linear)
        factors[name] = (np.full((rank, layer.inputs), 0.5), np.full((layer.outputs, rank), 0.5))
    size = task_size(
        factors,
        batchnorm=count(params, "gamma", "beta"),
        head=params["head.weight"].size + params["head.bias"].size,
        bias=sum(params[f"{name}.bias"].size for name in layers),
        running_stats=count(params, "running_mean", "running_var"),
    )
    return trainable(model), size


@pytest.mark.parametrize(
    ("classes", "total", "head", "fixed"), [(10, 2_995_620, 5_010, 13_143), (5, 2_993_115, 2_505, 10_638)]
)
def test_lenet_counts(classes: int, total: int, head: int, fixed: int) -> None:
    base, size = lenet_task(classes, (1, 1, 1, 1))
    assert base == total
    assert (size.scalings, size.batchnorm, size.head, size.bias, size.fixed) == (5_393, 2_740, head, 1_370, fixed)
    assert size.running_stats == 2_740
    assert released_count(base, [size]) == total + fixed + 5_393
    assert honest_count(base, [size]) == released_count(base, [size]) + 1_370 + 2_740


def test_lenet_layers_cost_per_rank() -> None:
    layers: dict[str, Any] = decomposed_layers(lenet((3, 32, 32), 10))
    sizes = {name: (layer.inputs, layer.outputs) for name, layer in layers.items()}
    assert {name: sum(size) for name, size in sizes.items()} == {"conv1": 23, "conv2": 70, "fc1": 4000, "fc2": 1300}
    assert [min(size) for size in sizes.values()] == [3, 20, 800, 500]


@pytest.mark.parametrize(
    ("ranks", "extra", "increase"),
    [((2, 5, 30, 20), 159_539, 0.053), ((1, 1, 1, 1), 18_536, 0.006), ((3, 20, 100, 100), 544_612, 0.182)],
)
def test_lenet_growth(ranks: tuple[int, ...], extra: int, increase: float) -> None:
    base, size = lenet_task(10, ranks)
    assert dense_count(base, [size]) - base == released_count(base, [size]) - base == extra
    assert released_increase(base, [size]) == increase


def test_lenet_is_the_papers() -> None:
    """Kernel, stride, padding and pooling, from the table of layers."""
    layers = dict(lenet((3, 32, 32), 10).walk())
    for name, sizes in (("conv1", (3, 20)), ("conv2", (20, 50))):
        conv = layers[name]
        assert isinstance(conv, Conv2d)
        assert (conv.inputs, conv.outputs, conv.kernel, conv.stride, conv.padding) == (*sizes, 5, 1, 2)
    for name in ("pool1", "pool2"):
        pool = layers[name]
        assert isinstance(pool, MaxPool2d)
        assert (pool.kernel, pool.stride) == (2, 2)
    norms = [layer for layer in layers.values() if isinstance(layer, BatchNorm1d | BatchNorm2d)]
    assert [(norm.channels, norm.track) for norm in norms] == [(20, True), (50, True), (800, True), (500, True)]
    convolutional, full = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"], ["Linear", "BatchNorm1d", "ReLU"]
    assert [type(layer).__name__ for layer in layers.values()] == [*convolutional * 2, "Flatten", *full * 2, "Linear"]


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 4, 4), (2, 8, 20)], ids=str)
@pytest.mark.parametrize("classes", [1, 7])
def test_lenet_on_any_size_divisible_by_four(shape: tuple[int, ...], classes: int, rng: np.random.Generator) -> None:
    model = lenet(shape, classes, widths=(4, 5, 12, 9))
    params = model.init(rng, np.float32)
    x = rng.normal(size=(*shape, 3)).astype(np.float32)
    y, cache = model.forward(params, x, Mode(train=True))
    assert (y.shape, y.dtype) == ((classes, 3), np.float32)
    gx, grads = model.backward(params, cache, y)
    assert gx is not None
    assert gx.shape == x.shape
    assert set(grads) == set(model.trainable)
    assert params["fc1.weight"].shape == (12, 5 * (shape[1] // 4) * (shape[2] // 4))


def test_batch_size_does_not_change_evaluation(rng: np.random.Generator) -> None:
    model, x = lenet((1, 8, 8), 3, widths=(3, 4, 8, 6)), rng.normal(size=(1, 8, 8, 7))
    params = model.init(rng, np.float64)
    whole = model.forward(params, x)[0]
    single = np.concatenate([model.forward(params, x[..., n : n + 1])[0] for n in range(7)], axis=1)
    np.testing.assert_allclose(single, whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("shape", "received"), [((3, 30, 32), "30 x 32"), ((3, 32, 6), "32 x 6"), ((1, 0, 4), "0 x 4")], ids=str
)
def test_lenet_refuses_other_sizes(shape: tuple[int, ...], received: str) -> None:
    with pytest.raises(ConfigError, match=rf"lenet: expected an image height and width divisible by 4, .*{received}"):
        lenet(shape, 10)


@pytest.mark.parametrize("widths", [(1, 2, 3), (1, 2, 3, 4, 5), (), (20, 50, 0, 500), (20, -1, 8, 5)], ids=str)
def test_lenet_refuses_other_widths(widths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"lenet: expected 4 positive widths, received \("):
        lenet((3, 32, 32), 10, widths)


@pytest.mark.parametrize("shape", [(3, 5, 7), (11,)], ids=str)
def test_mlp(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    features = int(np.prod(shape))
    model = mlp(shape, 4, widths=(6, 5, 3))
    sizes = [(features, 6), (6, 5), (5, 3), (3, 4)]
    assert trainable(model) == sum(i * j + j for i, j in sizes) + 2 * (6 + 5 + 3)
    assert list(decomposed_layers(model)) == ["fc1", "fc2", "fc3"]
    x = rng.normal(size=(*shape, 2)).astype(np.float32)
    assert model.forward(model.init(rng, np.float32), x)[0].shape == (4, 2)


def test_mlp_widths() -> None:
    assert trainable(mlp((1, 28, 28), 10)) == 784 * 256 + 256 + 512 + 256 * 128 + 128 + 256 + 128 * 10 + 10
    for widths in ((), (5, 0)):
        with pytest.raises(ConfigError, match=r"mlp: expected at least one positive width, received \("):
            mlp((4,), 2, widths)


def test_networks_by_name(rng: np.random.Generator) -> None:
    for name in MODELS:
        first, second = (build(name, (1, 8, 8))(classes) for classes in (3, 5))
        assert "head.weight" in first.trainable
        shapes = [parameters(model)["head.bias"].shape for model in (first, second)]
        assert shapes == [(3,), (5,)]
    assert parameters(build("mlp", (1, 8, 8), (7,))(2))["fc1.weight"].shape == (7, 64)
    with pytest.raises(ConfigError, match=r"model: expected lenet or mlp, received 'resnet99'"):
        build("resnet99", (1, 8, 8))
