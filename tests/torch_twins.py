"""The layers of cases.py in PyTorch, whose automatic differentiation is an oracle of its own.

Inside, images are torch's (N, C, H, W) and features (N, D); a perturbed convolution is the released code's chain of
calls: scaled convolution, and 1x1 convolution, average pool times window area, 1x1 convolution.
"""

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from cases import Case, LossLayer, Params
from checks import assert_all_close, named, run
from formulas import dropout_mask
from halrp_np.layers import (
    AvgPool2d,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Mode,
    PerturbedConv2d,
    PerturbedLinear,
    ReLU,
    Residual,
)
from halrp_np.layers.container import Container
from halrp_np.layers.norm import BatchNorm
from halrp_np.losses import CrossEntropy
from tangent_checks import Point, column, draw, tangents

Buffers = dict[str, Any]


def batch_first(array: Any) -> Any:
    """(..., N) as (N, ...)."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 0)) if np.ndim(array) else array


def batch_last(array: Any) -> Any:
    """(N, ...) as (..., N)."""
    return np.moveaxis(array, 0, -1) if np.ndim(array) else array


def check(layer: Layer, case: Case) -> None:
    """All results of a layer are PyTorch's for the case, in float64 at 1e-10."""
    assert_all_close("differs from PyTorch", named(run(layer, case, *case.draw())), oracle(case), 1e-10)


def oracle(case: Case) -> dict[str, Any]:
    """Output, gradients and new running statistics of a case, by the names of checks.named."""
    params, x, gy = case.draw()
    tensors = {name: torch.tensor(value) for name, value in params.items()}
    for name in case.layer.trainable:
        tensors[name].requires_grad_(True)
    tx = torch.tensor(batch_first(x), requires_grad=True)
    moved: Buffers = {}
    y = twin(case.layer, tensors, tx, case.mode(), moved)
    (y * torch.tensor(batch_first(gy))).sum().backward()
    assert tx.grad is not None
    gradients = {f"gradient of {n}": tensors[n].grad.numpy() for n in case.layer.trainable}  # type: ignore[union-attr]
    buffers = {f"new {name}": value.numpy() for name, value in moved.items()}
    output = batch_last(y.detach().numpy())
    return {"output": output, "input gradient": batch_last(tx.grad.numpy()), **gradients, **buffers}


def check_tangents(layer: Layer, case: Case) -> None:
    """Both tangent passes of a layer are PyTorch's for the case, in float64 at 1e-10.

    Math: with Φ(θ, x, gy) = ⟨gy, y(θ, x)⟩ the gradient of ⟨∇Φ, (rθ, rx, rgy)⟩ is (rgθ, rgx, ry): one double backward.
    """
    at = draw(case)
    found = tangents(layer, case, at)
    for k in range(2):
        r = {"x": column(at.r.rx, k), "gy": column(at.r.rgy, k)} | {name: v[k] for name, v in at.r.rparams.items()}
        expected = second_derivatives(case, at, r)
        own = {name: column(value, k) if name in "xy" else value[k] for name, value in found.items()}
        assert_all_close("differs from PyTorch", own, expected, 1e-10)


def second_derivatives(case: Case, at: Point, r: dict[str, Any]) -> dict[str, Any]:
    """The derivative along r of ∇Φ, by the names of tangent_checks.tangents."""
    variables = {name: torch.tensor(at.params[name]) for name in case.layer.trainable}
    variables |= {"x": torch.tensor(batch_first(at.x)), "gy": torch.tensor(batch_first(at.gy))}
    for value in variables.values():
        value.requires_grad_(True)
    fixed = {name: torch.tensor(value) for name, value in at.params.items()}
    y = twin(case.layer, {**fixed, **variables}, variables["x"], case.mode(), {})
    first = torch.autograd.grad((y * variables["gy"]).sum(), list(variables.values()), create_graph=True)
    moving = {name: torch.tensor(batch_first(value) if name in ("x", "gy") else value) for name, value in r.items()}
    along = sum((g * moving[name]).sum() for name, g in zip(variables, first, strict=True))
    second = torch.autograd.grad(along, list(variables.values()))
    *rgrads, rgx, ry = (g.numpy() for g in second)
    return {**dict(zip(case.layer.trainable, rgrads, strict=True)), "x": batch_last(rgx), "y": batch_last(ry)}


def twin(layer: Layer, p: Params, x: Any, mode: Mode, moved: Buffers) -> Any:
    """The output of a layer; running statistics after a train-mode call go to `moved`."""
    if isinstance(layer, Container):
        return composed(layer, p, x, mode, moved)
    if isinstance(layer, Linear):
        return functional.linear(x, p["weight"], p["bias"])
    if isinstance(layer, Conv2d):
        return functional.conv2d(x, p["weight"], p["bias"], layer.stride, layer.padding)
    if isinstance(layer, PerturbedLinear):
        scaled = functional.linear(x * p["S"], p["weight"]) * p["R"]
        return scaled + p["bias"] + functional.linear(functional.linear(x, p["A"]), p["B"])
    if isinstance(layer, PerturbedConv2d):
        return two_branches(layer.base, p, x)
    if isinstance(layer, BatchNorm):
        return batchnorm(layer, p, x, mode, moved)
    return plain(layer, x, mode)


def composed(layer: Container, p: Params, x: Any, mode: Mode, moved: Buffers) -> Any:
    """Layers one after the other, or for a residual block beside one another."""
    outputs = [x]
    for name, inner in layer.layers.items():
        below: Buffers = {}
        start = x if isinstance(layer, Residual) else outputs[-1]
        outputs.append(twin(inner, {n: p[f"{name}.{n}"] for n in inner.names()}, start, mode, below))
        moved.update({f"{name}.{n}": value for n, value in below.items()})
    return outputs[-1] + outputs[-2] if isinstance(layer, Residual) else outputs[-1]


def plain(layer: Layer, x: Any, mode: Mode) -> Any:
    """The layers without parameters, and the losses."""
    if isinstance(layer, ReLU):
        return functional.relu(x)
    if isinstance(layer, MaxPool2d):
        return functional.max_pool2d(x, layer.kernel, layer.stride)
    if isinstance(layer, AvgPool2d):
        return functional.avg_pool2d(x, layer.kernel, layer.stride)
    if isinstance(layer, Flatten):
        return torch.flatten(x, 1)
    if isinstance(layer, Dropout):
        if not mode.train or layer.rate == 0:
            return x
        return x * torch.tensor(batch_first(dropout_mask(layer.rate, (*x.shape[1:], x.shape[0]), mode)))
    assert isinstance(layer, LossLayer)
    if isinstance(layer.loss, CrossEntropy):
        return functional.cross_entropy(x, torch.tensor(layer.targets))
    targets = torch.tensor(batch_first(layer.targets))
    return functional.mse_loss(x, targets, reduction="sum") / (2 * len(targets))


def two_branches(base: Conv2d, p: Params, x: Any) -> Any:
    """The released code's two branches."""
    k, stride, padding = base.kernel, base.stride, base.padding
    scaled = functional.conv2d(x * p["S"][:, None, None], p["weight"], None, stride, padding) * p["R"][:, None, None]
    inner = functional.conv2d(x, p["A"][:, :, None, None])
    box = functional.avg_pool2d(inner, k, stride, padding) * k**2
    return scaled + p["bias"][:, None, None] + functional.conv2d(box, p["B"][:, :, None, None])


def batchnorm(layer: BatchNorm, p: Params, x: Any, mode: Mode, moved: Buffers) -> Any:
    """Batch normalisation; torch moves copies of the running statistics."""
    statistics = [p[name].clone() for name in layer.buffers] or [None, None]
    train = mode.train or not layer.track
    y = functional.batch_norm(x, *statistics, p["gamma"], p["beta"], train, layer.momentum, layer.eps)
    if mode.train:
        moved.update(zip(layer.buffers, statistics, strict=False))
    return y
