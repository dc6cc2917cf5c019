"""The networks layer by layer as the paper has them, the image sizes and widths they take, and errors."""

from typing import Any

import numpy as np
import pytest

from halrp_np.errors import ConfigError
from halrp_np.layers import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Layer,
    Linear,
    MaxPool2d,
    Mode,
    Sequential,
    decomposed_layers,
)
from halrp_np.models import MODELS, alexnet, build, large_lenet, lenet, mlp, resnet18

NARROW = {
    "lenet": (2, 3, 5, 4),
    "large-lenet": (2, 3, 5, 4),
    "mlp": (5, 4),
    "alexnet": (2, 3, 4, 6, 5),
    "resnet18": (2, 3, 3, 4),
}


def parameters(model: Sequential) -> dict[str, np.ndarray]:
    return model.init(np.random.default_rng(0), np.float32)


def trainable(model: Sequential) -> int:
    params = parameters(model)
    return sum(params[name].size for name in model.trainable)


def sizes(layer: Layer) -> tuple[int, ...]:
    """Inputs, outputs, kernel, stride and padding of a convolution."""
    assert isinstance(layer, Conv2d)
    return layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding


def kinds(model: Sequential) -> list[str]:
    """The types of all layers in network order, in short."""
    short = {"Conv2d": "conv", "BatchNorm2d": "norm", "BatchNorm1d": "norm", "MaxPool2d": "pool", "Linear": "linear"}
    names = [type(layer).__name__ for _, layer in model.walk()]
    return [short.get(name, name.lower()) for name in names]


def test_lenet_is_the_papers() -> None:
    """Kernel, stride, padding and pooling, from the table of layers."""
    layers = dict(lenet((3, 32, 32), 10).walk())
    assert sizes(layers["conv1"]) == (3, 20, 5, 1, 2)
    assert sizes(layers["conv2"]) == (20, 50, 5, 1, 2)
    for name in ("pool1", "pool2"):
        pool = layers[name]
        assert isinstance(pool, MaxPool2d)
        assert (pool.kernel, pool.stride) == (2, 2)
    norms = [layer for layer in layers.values() if isinstance(layer, BatchNorm1d | BatchNorm2d)]
    assert [(norm.channels, norm.track) for norm in norms] == [(20, True), (50, True), (800, True), (500, True)]
    convolutional, full = ["conv", "norm", "relu", "pool"], ["linear", "norm", "relu"]
    assert kinds(lenet((3, 32, 32), 10)) == [*convolutional * 2, "flatten", *full * 2, "linear"]


@pytest.mark.parametrize(("side", "features"), [(32, 8192), (28, 6272)])
def test_large_lenet_is_a_wide_lenet(side: int, features: int) -> None:
    layers = dict(large_lenet((1, side, side), 12).walk())
    assert list(layers) == list(dict(lenet((1, side, side), 12).walk()))
    assert (sizes(layers["conv1"]), sizes(layers["conv2"])) == ((1, 64, 5, 1, 2), (64, 128, 5, 1, 2))
    linear: Any = [layers[name] for name in ("fc1", "fc2", "head")]
    assert [(fc.inputs, fc.outputs) for fc in linear] == [(features, 2500), (2500, 1500), (1500, 12)]


@pytest.mark.parametrize(("side", "features"), [(32, 1024), (64, 9216)])
def test_alexnet_is_the_papers(side: int, features: int) -> None:
    model = alexnet((3, side, side), 10)
    layers: dict[str, Any] = dict(model.walk())
    convolutions = [sizes(layers[f"conv{number}"]) for number in (1, 2, 3)]
    assert convolutions == [(3, 64, 4, 1, 0), (64, 128, 3, 1, 0), (128, 256, 2, 1, 0)]
    linear = [layers[name] for name in ("fc1", "fc2", "head")]
    assert [(fc.inputs, fc.outputs) for fc in linear] == [(features, 2048), (2048, 2048), (2048, 10)]
    assert [layers[f"drop{number}"].rate for number in range(1, 6)] == [0.2, 0.2, 0.5, 0.5, 0.5]
    assert all((layers[f"pool{number}"].kernel, layers[f"pool{number}"].stride) == (2, 2) for number in (1, 2, 3))
    convolutional, full = ["conv", "norm", "relu", "dropout", "pool"], ["linear", "norm", "relu", "dropout"]
    assert kinds(model) == [*convolutional * 3, "flatten", *full * 2, "linear"]


def test_alexnet_maps(rng: np.random.Generator) -> None:
    """The height of the map after each convolution and each pooling, at both sizes of the paper."""
    for side, expected in ((32, [29, 14, 12, 6, 5, 2]), (64, [61, 30, 28, 14, 13, 6])):
        model, found = alexnet((3, side, side), 2, (1, 1, 1, 3, 3)), []
        x, params = rng.normal(size=(3, side, side, 2)), parameters(model)
        for name, layer in model.layers.items():
            x, _ = layer.forward({entry: params[f"{name}.{entry}"] for entry in layer.names()}, x)
            found += [x.shape[1]] if isinstance(layer, Conv2d | MaxPool2d) else []
        assert found == expected


CONVOLUTIONS = {
    0: (3, 32, 3, 1, 1),
    **dict.fromkeys((3, 6, 9, 12), (32, 32, 3, 1, 1)),
    15: (32, 64, 3, 2, 1),
    18: (64, 64, 3, 1, 1),
    20: (32, 64, 1, 2, 0),
    **dict.fromkeys((22, 25), (64, 64, 3, 1, 1)),
    28: (64, 128, 3, 2, 1),
    31: (128, 128, 3, 1, 1),
    33: (64, 128, 1, 2, 0),
    **dict.fromkeys((35, 38), (128, 128, 3, 1, 1)),
    41: (128, 256, 3, 2, 1),
    44: (256, 256, 3, 1, 1),
    46: (128, 256, 1, 2, 0),
    **dict.fromkeys((48, 51), (256, 256, 3, 1, 1)),
}
"""ResNet18's, by their places in the released code's flat list of layers."""


def test_resnet18_is_the_papers() -> None:
    model = resnet18((3, 32, 32), 10)
    layers = dict(model.walk())
    decomposed = decomposed_layers(model)
    assert [sizes(layer) for layer in decomposed.values()] == list(CONVOLUTIONS.values())
    shortcuts = [name for name in decomposed if "shortcut" in name]
    assert shortcuts == [f"block{number}.shortcut.conv" for number in (3, 5, 7)]
    stem, body, tail = ["conv", "norm", "relu"], ["conv", "norm", "relu", "conv", "norm"], ["avgpool2d", "flatten"]
    same, half = [*body, "relu"], [*body, "conv", "norm", "relu"]
    assert kinds(model) == [*stem, *same * 2, *(half + same) * 3, *tail, "linear"]
    for name, layer in decomposed.items():  # each has a normalisation of its own, of its channels
        norm: Any = layers[name.replace("conv", "norm")]
        assert (norm.channels, norm.track) == (sizes(layer)[1], True)
    pool, head = layers["pool"], layers["head"]
    assert isinstance(pool, AvgPool2d)
    assert isinstance(head, Linear)
    assert (pool.kernel, pool.stride, head.inputs) == (2, 2, 1024)
    larger = resnet18((3, 64, 64), 10).layers["head"]
    assert isinstance(larger, Linear)
    assert larger.inputs == 4096


def test_resnet18_adds_before_it_rectifies(rng: np.random.Generator) -> None:
    """Block by block from its parts: convolution, norm, ReLU, convolution, norm; plus the shortcut; ReLU."""
    model = resnet18((3, 16, 16), 4, (2, 3, 3, 2))
    params = model.init(rng, np.float64)
    layers = dict(model.walk())

    def apply(x: Any, *names: str) -> Any:
        for name in names:
            x, _ = layers[name].forward({entry: params[f"{name}.{entry}"] for entry in layers[name].names()}, x)
        return x

    images = rng.normal(size=(3, 16, 16, 2))
    x = np.maximum(apply(images, "conv0", "norm0"), 0)
    for number in range(1, 9):
        inside = np.maximum(apply(x, f"block{number}.body.conv1", f"block{number}.body.norm1"), 0)
        y = apply(inside, f"block{number}.body.conv2", f"block{number}.body.norm2")
        if number in (3, 5, 7):
            x = apply(x, f"block{number}.shortcut.conv", f"block{number}.shortcut.norm")
        x = np.maximum(y + x, 0)
    means = x.reshape(2, 1, 2, 1, 2, 2).mean(axis=(2, 4)).reshape(2, 2)
    logits = params["head.weight"] @ means + params["head.bias"][:, None]
    np.testing.assert_allclose(model.forward(params, images)[0], logits, rtol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_normalisation_by_the_batch_leaves_no_statistics(name: str, rng: np.random.Generator) -> None:
    """Evaluation then depends on what else is in the batch, as it does in the released AlexNet."""
    running, batch = (build(name, (3, 32, 32), NARROW[name], norm=norm)(4) for norm in ("running", "batch"))
    assert running.trainable == batch.trainable
    assert (len(running.buffers) > 0, batch.buffers) == (True, ())
    x, params = rng.normal(size=(3, 32, 32, 6)), batch.init(rng, np.float64)
    whole, part = batch.forward(params, x)[0], batch.forward(params, x[..., :3])[0]
    assert np.abs(whole[:, :3] - part).max() > 1e-3 * np.abs(whole).max()


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
    ("name", "shape", "message"),
    [
        *(
            ("lenet", (3, *size), rf"lenet: expected an image height and width divisible by 4, received {text}\.")
            for size, text in (((30, 32), "30 x 32"), ((32, 6), "32 x 6"), ((0, 4), "0 x 4"))
        ),
        (
            "large-lenet",
            (1, 30, 32),
            r"large-lenet: expected an image height and width divisible by 4, received 30 x 32\.",
        ),
        *(
            ("resnet18", (3, *size), rf"resnet18: expected .* width divisible by 16, received {text}\. Resize or pad")
            for size, text in (((32, 24), "32 x 24"), ((8, 32), "8 x 32"), ((28, 28), "28 x 28"), ((0, 16), "0 x 16"))
        ),
        *(
            ("alexnet", (3, *size), rf"alexnet: expected images of at least 19 x 19, received {text}\. Resize or pad")
            for size, text in (((18, 32), "18 x 32"), ((64, 18), "64 x 18"), ((2, 2), "2 x 2"))
        ),
    ],
)
def test_images_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, shape)(10)


@pytest.mark.parametrize(
    ("name", "shape"), [("lenet", (1, 4, 8)), ("alexnet", (2, 19, 22)), ("resnet18", (1, 16, 32))], ids=str
)
def test_the_smallest_images(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    model = build(name, shape, NARROW[name])(4)
    x = rng.normal(size=(*shape, 3))
    assert model.forward(model.init(rng, np.float64), x)[0].shape == (4, 3)


@pytest.mark.parametrize(("name", "count"), [("lenet", 4), ("large-lenet", 4), ("resnet18", 4), ("alexnet", 5)])
def test_widths_that_do_not_fit_are_refused(name: str, count: int) -> None:
    good = (5,) * count
    for widths in (good[:-1], (*good, 5), (*good[:-1], 0), (-1, *good[1:])):
        with pytest.raises(ConfigError, match=rf"{name}: expected {count} positive widths, received \("):
            build(name, (3, 32, 32), widths)(10)


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


def test_networks_by_name() -> None:
    assert list(MODELS) == ["lenet", "mlp", "alexnet", "resnet18", "large-lenet"]
    for name in MODELS:
        first, second = (build(name, (1, 32, 32), NARROW[name])(classes) for classes in (3, 5))
        assert "head.weight" in first.trainable
        shapes = [parameters(model)["head.bias"].shape for model in (first, second)]
        assert shapes == [(3,), (5,)]
    assert parameters(build("mlp", (1, 8, 8), (7,))(2))["fc1.weight"].shape == (7, 64)
    known = "lenet or mlp or alexnet or resnet18 or large-lenet"
    with pytest.raises(ConfigError, match=rf"model: expected {known}, received 'resnet99'"):
        build("resnet99", (1, 8, 8))
    with pytest.raises(ConfigError, match=r"norm: expected running or batch, received 'layer'"):
        build("lenet", (1, 8, 8), norm="layer")
