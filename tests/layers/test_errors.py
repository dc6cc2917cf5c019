"""Wrong shapes, ranks, rates and missing parameters: each error names the place, the wish and what came."""

from typing import Any

import numpy as np
import pytest

from cases import nested, shapes
from halrp_np.errors import ConfigError, HalrpError, ShapeError
from halrp_np.layers import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Mode,
    PerturbedConv2d,
    PerturbedLinear,
    Sequential,
    perturb,
)

WRONG_INPUTS: list[tuple[Layer, tuple[int, ...], str]] = [
    (Linear(3, 2), (4, 5), r"Linear: expected features \(3, N\), batch last, received shape \(4, 5\)"),
    (Linear(3, 2), (5, 3), r"Linear: expected features \(3, N\).*\(5, 3\).*batch on the last axis"),
    (Linear(3, 2), (3,), r"Linear: .*received shape \(3,\)"),
    (Linear(3, 2), (3, 4, 4, 5), r"Linear: .*Flatten images first"),
    (PerturbedLinear(Linear(3, 2)), (4, 5), r"PerturbedLinear: expected features \(3, N\).*\(4, 5\)"),
    (BatchNorm1d(3), (4, 5), r"BatchNorm1d: expected features \(3, N\).*\(4, 5\)"),
    (BatchNorm1d(3), (3, 4, 4, 5), r"BatchNorm1d: .*\(3, 4, 4, 5\)"),
    (BatchNorm2d(3), (4, 6, 6, 5), r"BatchNorm2d: expected images \(3 channels, H, W, N\).*\(4, 6, 6, 5\)"),
    (BatchNorm2d(3), (3, 5), r"BatchNorm2d: .*received shape \(3, 5\)"),
    (Conv2d(3, 2, 5), (1, 8, 8, 2), r"Conv2d: expected images \(3 channels.*\(1, 8, 8, 2\).*channel count"),
    (Conv2d(3, 2, 5), (8, 8, 3), r"Conv2d: .*received shape \(8, 8, 3\)"),
    (Conv2d(3, 2, 5), (3, 4, 8, 2), r"Conv2d: .*H and W at least 5, received shape \(3, 4, 8, 2\)"),
    (Conv2d(3, 2, 5, padding=1), (3, 8, 2, 2), r"Conv2d: .*H and W at least 3, received shape \(3, 8, 2, 2\)"),
    (PerturbedConv2d(Conv2d(3, 2, 5)), (1, 8, 8, 2), r"PerturbedConv2d: expected images \(3 channels"),
    (PerturbedConv2d(Conv2d(3, 2, 5)), (3, 4, 4, 2), r"PerturbedConv2d: .*H and W at least 5"),
    (MaxPool2d(3), (2, 2, 8, 4), r"MaxPool2d: expected images \(any channels.*at least 3, received .*\(2, 2, 8, 4\)"),
    (MaxPool2d(2), (8, 4), r"MaxPool2d: .*received shape \(8, 4\)"),
    (AvgPool2d(3), (2, 8, 2, 4), r"AvgPool2d: .*at least 3, received shape \(2, 8, 2, 4\)"),
    (Flatten(), (12, 5), r"Flatten: expected images \(any channels, H, W, N\).*\(12, 5\)"),
    (nested(), (3, 4, 5, 6), r"Conv2d: expected images \(2 channels"),
    (nested(), (2, 8, 8, 6), r"Linear: expected features \(12, N\), batch last, received shape \(48, 6\)"),
]


@pytest.mark.parametrize(("layer", "shape", "message"), WRONG_INPUTS, ids=lambda value: None)
def test_wrong_inputs(layer: Layer, shape: tuple[int, ...], message: str, rng: np.random.Generator) -> None:
    params = {name: rng.normal(size=size) for name, size in shapes(layer, 2).items()}
    with pytest.raises(ShapeError, match=message):
        layer.forward(params, rng.normal(size=shape), Mode(train=True, dropout=rng))


def test_missing_parameter_names_layer_and_entry(rng: np.random.Generator) -> None:
    model = nested()
    params = model.init(rng, np.float64)
    x = rng.normal(size=(2, 4, 5, 6))
    for gone, message in (
        ("head.bias", r"parameters of head: expected weight, bias, received none called head\.bias"),
        ("block.norm.running_var", r"parameters of block: .*none called block\.norm\.running_var"),
        ("tail.fc.weight", r"none called tail\.fc\.weight.*Start from model\.init"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.forward({name: value for name, value in params.items() if name != gone}, x)


def test_perturbed_network_without_its_factors(rng: np.random.Generator) -> None:
    model = nested()
    with pytest.raises(ConfigError, match=r"parameters of block: .*conv\.R, conv\.S.*none called block\.conv\.R"):
        perturb(model).forward(model.init(rng, np.float64), rng.normal(size=(2, 4, 5, 6)))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_dropout_rate(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"Dropout: expected a rate in \[0, 1\), received"):
        Dropout(rate)


def test_dropout_without_a_stream() -> None:
    message = r"Dropout: expected a random stream in train mode, received none\. Pass Mode\(train=True, dropout="
    with pytest.raises(ConfigError, match=message):
        Dropout(0.5).forward({}, np.zeros((3, 4)), Mode(train=True))
    with pytest.raises(ConfigError, match="random stream"):
        Sequential({"drop": Dropout(0.1)}).forward({}, np.zeros((3, 4)), Mode(train=True))


@pytest.mark.parametrize("kernel", [17, 100])
def test_pool_window_whose_positions_do_not_fit_a_byte(kernel: int) -> None:
    with pytest.raises(HalrpError, match=r"MaxPool2d: expected a window of 1 to 16, received"):
        MaxPool2d(kernel)


def test_errors_stop_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    from halrp_np.backend import ops

    def never(*arguments: Any) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(ops, "conv2d", never)
    with pytest.raises(ShapeError):
        Conv2d(1, 1, 3).forward({}, rng.normal(size=(2, 4, 4, 1)))
