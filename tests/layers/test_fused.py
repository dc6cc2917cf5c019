"""Fused networks against the networks they were made from: outputs, gradients, statistics, names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from halrp_np.errors import ConfigError, ShapeError
from halrp_np.layers import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    MaxPool2d,
    Mode,
    PerturbedConv2d,
    PerturbedLinear,
    ReLU,
    Residual,
    Sequential,
    fuse,
    inference,
    perturb,
)
from halrp_np.layers.fused import ConvBlock, NormReLU, ResidualReLU
from halrp_np.models import lenet

TRAIN = Mode(train=True)
SHAPE = (3, 8, 8)


def residual() -> Sequential:
    body = Sequential(
        {
            "conv1": Conv2d(4, 4, 3, padding=1),
            "norm1": BatchNorm2d(4),
            "relu": ReLU(),
            "conv2": Conv2d(4, 4, 3, padding=1),
            "norm2": BatchNorm2d(4),
        }
    )
    projection = Sequential({"conv": Conv2d(4, 4, 1, 2), "norm": BatchNorm2d(4)})
    half = Residual(Sequential({"conv": Conv2d(4, 4, 3, 2, 1)}), projection)
    layers = {"stem": Conv2d(3, 4, 3, padding=1), "norm": BatchNorm2d(4), "relu": ReLU(), "block": Residual(body)}
    layers |= {"relu1": ReLU(), "half": half}
    return Sequential({**layers, "pool": AvgPool2d(2), "flatten": Flatten(), "head": Linear(16, 5)})


def without_norm() -> Sequential:
    layers = {"conv": Conv2d(3, 4, 3), "relu": ReLU(), "pool": MaxPool2d(2), "flatten": Flatten()}
    return Sequential({**layers, "fc": Linear(36, 6), "relu2": ReLU(), "head": Linear(6, 5)})


def odd_ends() -> Sequential:
    """Overlapping pooling, strides, statistics that are not tracked, normalisation first: what no op takes in."""
    return Sequential(
        {
            "norm0": BatchNorm2d(3),
            "conv1": Conv2d(3, 4, 3, stride=2, padding=1),
            "norm1": BatchNorm2d(4, track=False),
            "relu1": ReLU(),
            "pool1": MaxPool2d(2, stride=1),
            "flatten": Flatten(),
            "fc": Linear(36, 6),
            "norm2": BatchNorm1d(6),
            "norm3": BatchNorm1d(6),
            "relu3": ReLU(),
            "head": Linear(6, 5),
        }
    )


NETWORKS: dict[str, Callable[[], Sequential]] = {
    "lenet": lambda: lenet(SHAPE, 5, (4, 5, 7, 6)),
    "perturbed lenet": lambda: perturb(lenet(SHAPE, 5, (4, 5, 7, 6))),
    "residual": residual,
    "perturbed residual": lambda: perturb(residual()),
    "without normalisation": without_norm,
    "odd ends": odd_ends,
}


def start(model: Sequential, dtype: type = np.float64) -> dict[str, np.ndarray]:
    """Random parameters, factors of rank 2, and running statistics that have moved."""
    rng = np.random.default_rng(3)
    params = {}
    for name, layer in model.walk():
        if isinstance(layer, PerturbedLinear | PerturbedConv2d):
            weight = layer.plain.init(rng, dtype)
            J, I = weight["weight"].shape[:2]
            own = {**weight, "R": rng.normal(1, 0.2, J), "S": rng.normal(1, 0.2, I)}
            own |= {"A": rng.normal(size=(2, I)), "B": 0.2 * rng.normal(size=(J, 2))}
        else:
            own = layer.init(rng, dtype)
        params |= {f"{name}.{entry}": np.asarray(value, dtype) for entry, value in own.items()}
    for name, value in params.items():
        if "norm" in name:
            draw = rng.uniform(0.5, 2.0, value.shape) if name.endswith("var") else rng.normal(0.3, 1.0, value.shape)
            params[name] = draw.astype(dtype)
    return params


def batch(dtype: type = np.float64, count: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return rng.normal(size=(*SHAPE, count)).astype(dtype), rng.normal(size=(5, count)).astype(dtype)


def close(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, float(abs(value).max(initial=0.0)))
        assert abs(got[name] - value).max(initial=0.0) <= tolerance * scale, name


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_fused_network_computes_the_same(name: str, train: bool) -> None:
    model = NETWORKS[name]()
    params, (x, gy), mode = start(model), batch(), Mode(train=train)
    fused = fuse(model)
    assert (fused.trainable, fused.buffers) == (model.trainable, model.buffers)
    y, cache = model.forward(params, x, mode)
    got, fused_cache = fused.forward(params, x, mode)
    np.testing.assert_allclose(got, y, rtol=1e-10, atol=1e-10)
    gx, grads = model.backward(params, cache, gy)
    fused_gx, fused_grads = fused.backward(params, fused_cache, gy)
    np.testing.assert_allclose(fused_gx, gx, rtol=1e-9, atol=1e-10)
    close(fused_grads, grads, 1e-9)
    close(fused.new_buffers(params, fused_cache), model.new_buffers(params, cache), 1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_only_what_is_wanted_is_returned(name: str) -> None:
    model = NETWORKS[name]()
    params, (x, gy) = start(model), batch()
    fused = fuse(model)
    _, cache = fused.forward(params, x, TRAIN)
    _, everything = fused.backward(params, cache, gy)
    for wanted in ([model.trainable[0]], list(model.trainable[3:5]), ["head.bias"], []):
        gx, grads = fused.backward(params, cache, gy, input_gradient=False, wanted=wanted)
        assert gx is None
        close(grads, {entry: everything[entry] for entry in wanted}, 1e-12)


def test_the_stages_are_what_they_should_be() -> None:
    fused = fuse(lenet(SHAPE, 5, (4, 5, 7, 6)))
    assert [list(stage.layers) for stage in fused.stages] == [
        ["conv1", "norm1", "relu1", "pool1"],
        ["conv2", "norm2", "relu2", "pool2"],
        ["flatten"],
        ["fc1"],
        ["norm3", "relu3"],
        ["fc2"],
        ["norm4", "relu4"],
        ["head"],
    ]
    kinds = [type(stage) for stage in fused.stages]
    assert kinds.count(ConvBlock) == 2
    assert kinds.count(NormReLU) == 2


def test_a_residual_block_and_its_relu_are_one_stage() -> None:
    fused = fuse(NETWORKS["perturbed residual"]())
    kinds = {tuple(stage.layers): type(stage) for stage in fused.stages}
    assert kinds["block", "relu1"] is ResidualReLU
    assert kinds["half",] is Sequential  # no ReLU behind it


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_inference_gives_the_outputs_of_evaluation(name: str, dtype: type) -> None:
    model = NETWORKS[name]()
    params, (x, _) = start(model, dtype), batch(dtype)
    y, _ = model.forward(params, x)
    folded, dense = inference(model, params)
    got, _ = folded.forward(dense, x)
    np.testing.assert_allclose(got, y, rtol=0, atol=(1e-10 if dtype is np.float64 else 2e-5) * abs(y).max())
    assert got.dtype == dtype
    assert not any(entry.endswith((".A", ".R")) for entry in dense)


def test_normalisation_and_factors_leave_the_folded_lenet() -> None:
    model = NETWORKS["perturbed lenet"]()
    folded, dense = inference(model, start(model))
    assert not [name for name in folded.layers if name.startswith("norm")]
    assert sorted(dense) == sorted(
        f"{n}.{e}" for n in ("conv1", "conv2", "fc1", "fc2", "head") for e in ("weight", "bias")
    )


def test_a_fold_does_not_touch_its_inputs() -> None:
    model = NETWORKS["residual"]()
    params = start(model)
    before = {name: value.copy() for name, value in params.items()}
    folded, dense = inference(model, params)
    folded.forward(dense, batch()[0])
    close(params, before, 0.0)


def test_dropout_stays_between_its_neighbours() -> None:
    model = Sequential({"fc": Linear(4, 6), "drop": Dropout(0.5), "norm": BatchNorm1d(6), "relu": ReLU()})
    params = model.init(np.random.default_rng(0), np.float64)
    params["norm.running_mean"] += 0.5
    x = np.random.default_rng(1).normal(size=(4, 7))
    folded, dense = inference(model, params)
    np.testing.assert_allclose(folded.forward(dense, x)[0], model.forward(params, x)[0], rtol=1e-12)
    runs = [m.forward(params, x, Mode(True, np.random.default_rng(2)))[0] for m in (model, fuse(model))]
    np.testing.assert_allclose(*runs, rtol=1e-12)


def test_tangents_are_taken_of_the_network_itself() -> None:
    model = NETWORKS["lenet"]()
    params, (x, _) = start(model), batch()
    fused = fuse(model)
    rparams = {"conv1.weight": np.ones((1, *params["conv1.weight"].shape))}
    with pytest.raises(ConfigError, match="fused twin"):
        fused.r_forward(params, fused.forward(params, x, TRAIN)[1], rparams, None)
    ry = fused.r_forward(params, fused.forward(params, x)[1], rparams, None)[0]
    np.testing.assert_allclose(ry, model.r_forward(params, model.forward(params, x)[1], rparams, None)[0])


@pytest.mark.parametrize("x", [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3))], ids=["channels", "rank"])
def test_wrong_images_are_refused_as_by_the_layers(x: np.ndarray) -> None:
    model = NETWORKS["lenet"]()
    params = start(model)
    with pytest.raises(ShapeError, match="Conv2d: expected images"):
        fuse(model).forward(params, x, TRAIN)
    folded, dense = inference(model, params)
    with pytest.raises(ShapeError, match="Conv2d: expected images"):
        folded.forward(dense, x)


def test_a_batch_of_one_value_is_refused_as_by_the_layers() -> None:
    model = Sequential({"conv": Conv2d(3, 2, 8), "norm": BatchNorm2d(2), "relu": ReLU()})
    params = model.init(np.random.default_rng(0), np.float64)
    with pytest.raises(ShapeError, match="more than one value"):
        fuse(model).forward(params, np.zeros((3, 8, 8, 1)), TRAIN)
