"""What every layer and loss computes, written a second time in plain NumPy without any derivative.

Each formula is analytic in real and complex numbers (comparisons look at the real part only), so that the exact
derivative along a tangent is the imaginary part of one evaluation at a point moved by a tiny imaginary step: no
truncation, no cancellation, and nothing in common with the layers' own derivatives. A perturbed convolution is written
in the two-branch form of the paper, not as the dense kernel that the layer uses.
Reference: Squire and Trapp, Using complex variables to estimate derivatives of real functions (1998).
"""

import math
from typing import Any

import numpy as np

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
    Sequential,
)
from halrp_np.layers.norm import BatchNorm

Params = dict[str, Any]
TINY_STEP = 1e-150


def formula(layer: Layer, p: Params, x: Any, mode: Mode) -> Any:
    """The output of a layer at parameters p and input x, batch last."""
    if isinstance(layer, Sequential):
        for name, inner in layer.layers.items():
            x = formula(inner, {n: p[f"{name}.{n}"] for n in inner.names()}, x, mode)
        return x
    if isinstance(layer, Residual):
        branches = [
            formula(inner, {n: p[f"{name}.{n}"] for n in inner.names()}, x, mode)
            for name, inner in layer.layers.items()
        ]
        return branches[0] + (branches[1] if len(branches) > 1 else x)
    if isinstance(layer, BatchNorm):
        return batchnorm(layer, p, x, mode)
    if isinstance(layer, Dropout):
        return x if not mode.train else x * dropout_mask(layer.rate, x.shape, mode)
    if isinstance(layer, MaxPool2d | AvgPool2d):
        return pool(x, layer.kernel, layer.stride, "max" if isinstance(layer, MaxPool2d) else "mean")
    simple = {Linear: linear, Conv2d: conv, PerturbedLinear: perturbed_linear, PerturbedConv2d: two_branches}
    if type(layer) in simple:
        return simple[type(layer)](layer, p, x)
    if isinstance(layer, ReLU):
        return np.where(x.real > 0, x, 0)
    if isinstance(layer, Flatten):
        return np.stack([x[..., n].ravel() for n in range(x.shape[-1])], axis=-1)
    value: Any = layer.formula(p, x, mode)  # a layer that a test made up brings its own
    return value


def directional(layer: Layer, p: Params, x: Any, mode: Mode, dp: Params, dx: Any) -> Any:
    """The exact derivative of `formula` along (dp, dx)."""
    step = 1j * TINY_STEP
    moved = {name: value + step * dp[name] if name in dp else value for name, value in p.items()}
    return formula(layer, moved, x + step * dx, mode).imag / TINY_STEP


def linear(layer: Linear, p: Params, x: Any) -> Any:
    """W x + b."""
    return np.einsum("ji,in->jn", p["weight"], x) + p["bias"][:, None]


def windows(x: Any, kernel: int, stride: int, padding: int) -> Any:
    """Every window of the zero-padded images, (C, H', W', k, k, N), cut out one by one."""
    channels, height, width, batch = x.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding, batch), x.dtype)
    padded[:, padding : padding + height, padding : padding + width] = x
    rows, columns = ((n + 2 * padding - kernel) // stride + 1 for n in (height, width))
    cut = np.empty((channels, rows, columns, kernel, kernel, batch), x.dtype)
    for u in range(rows):
        for v in range(columns):
            cut[:, u, v] = padded[:, u * stride : u * stride + kernel, v * stride : v * stride + kernel]
    return cut


def correlate(x: Any, W: Any, stride: int, padding: int) -> Any:
    """Σ_{i,c,d} W[j,i,c,d] x[i, us-p+c, vs-p+d, n]."""
    return np.einsum("jicd,iuvcdn->juvn", W, windows(x, W.shape[2], stride, padding))


def conv(layer: Conv2d, p: Params, x: Any) -> Any:
    """W * x + b."""
    return correlate(x, p["weight"], layer.stride, layer.padding) + p["bias"][:, None, None, None]


def perturbed_linear(layer: PerturbedLinear, p: Params, x: Any) -> Any:
    """The effective weight R W S + B A, formed entry by entry, times x."""
    K = np.einsum("j,ji,i->ji", p["R"], p["weight"], p["S"]) + np.einsum("jr,ri->ji", p["B"], p["A"])
    return np.einsum("ji,in->jn", K, x) + p["bias"][:, None]


def two_branches(layer: PerturbedConv2d, p: Params, x: Any) -> Any:
    """R ⊙ (W * (S ⊙ x)) + b, and beside it: 1x1 map A, sum over each zero-padded window, 1x1 map B."""
    base = layer.base
    scaled = correlate(x * p["S"][:, None, None, None], p["weight"], base.stride, base.padding)
    inner = np.einsum("ri,ihwn->rhwn", p["A"], x)
    box = windows(inner, base.kernel, base.stride, base.padding).sum(axis=(3, 4))
    outer = np.einsum("jr,ruvn->juvn", p["B"], box)
    return p["R"][:, None, None, None] * scaled + p["bias"][:, None, None, None] + outer


def batchnorm(layer: BatchNorm, p: Params, x: Any, mode: Mode) -> Any:
    """γ (x - μ)/√(σ² + ε) + β with the batch's statistics, or the running ones in evaluation where they are tracked."""
    column = (-1, *([1] * (x.ndim - 1)))
    axes = tuple(range(1, x.ndim))
    if mode.train or not layer.track:
        mean = x.mean(axis=axes, keepdims=True)
        var = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
    else:
        mean, var = p["running_mean"].reshape(column), p["running_var"].reshape(column)
    return p["gamma"].reshape(column) * (x - mean) / np.sqrt(var + layer.eps) + p["beta"].reshape(column)


def pool(x: Any, kernel: int, stride: int, kind: str) -> Any:
    """The mean of every window, or its first largest entry, row by row."""
    cut = windows(x, kernel, stride, 0)
    flat = cut.reshape(*cut.shape[:3], -1, cut.shape[5])
    if kind == "mean":
        return flat.sum(axis=3) / kernel**2
    first = flat.real.argmax(axis=3)  # argmax takes the first of equals
    return np.take_along_axis(flat, first[:, :, :, None], axis=3)[:, :, :, 0]


def dropout_mask(rate: float, shape: tuple[int, ...], mode: Mode) -> Any:
    """Kept entries and their gain: two numbers of the mode's stream, hashed with each entry's place, one by one."""
    assert mode.dropout is not None
    first, second = (int(number) for number in mode.dropout.integers(2**32, size=2, dtype=np.uint32))
    hashed = [_hashed(_hashed(place ^ first) ^ second) for place in range(math.prod(shape))]
    return np.array([number >= rate * 2**32 - 0.5 for number in hashed]).reshape(shape) / (1.0 - rate)


def _hashed(number: int) -> int:
    """Wellons' lowbias32, in whole numbers of any size cut to 32 bits."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        number = (number ^ number >> shift) * factor & 0xFFFFFFFF
    return number ^ number >> 16


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Mean of -log softmax(logits)[label], sample by sample."""
    losses = []
    for n, label in enumerate(labels):
        shifted = logits[:, n] - logits[:, n].real.max()
        losses.append(np.log(np.exp(shifted).sum()) - shifted[label])
    return np.array(losses).mean()


def squared_error(outputs: Any, targets: Any) -> Any:
    """Mean over samples of ½ Σ_k (output - target)²."""
    return np.array([0.5 * ((outputs[:, n] - targets[:, n]) ** 2).sum() for n in range(outputs.shape[1])]).mean()
