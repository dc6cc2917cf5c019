"""Runs of layers in one op each: the same network, the same names, fewer passes over memory.

`fuse` is for training: convolution → batch normalisation → ReLU → max pooling becomes one op forward and one backward,
and so does batch normalisation → ReLU of features; a residual block → ReLU ends in one op. `inference` is for
evaluation: a perturbed layer becomes one dense weight, normalisation moves into the weights before it, and convolution
→ ReLU → max pooling is one op. The readable twin of both is the network they were made from; tangents are taken of
that one.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..backend import array_module, ops
from ..errors import ConfigError
from ..typing import Array, Params
from .activations import ReLU
from .base import EVALUATE, Cache, Layer, Mode, Names
from .container import Container, Residual, Sequential
from .conv import Conv2d
from .linear import Linear
from .norm import BatchNorm, BatchNorm1d, BatchNorm2d
from .perturbed import PerturbedConv2d, PerturbedLinear
from .pool import MaxPool2d

Affine: TypeAlias = Conv2d | PerturbedConv2d | Linear | PerturbedLinear


@dataclass(frozen=True, eq=False)
class OfBlock:
    """What a block keeps of a forward pass in train mode: the batch statistics, and its op's own arrays."""

    mean: Array
    var: Array
    count: int
    saved: Any


class ConvBlock(Sequential):
    """Convolution → BatchNorm2d → [ReLU → [MaxPool2d]], one op each way in train mode; else layer by layer.

    Raises: as its layers.
    """

    def __init__(self, layers: dict[str, Layer]) -> None:
        super().__init__(layers)
        kinds = list(layers.values())
        conv, norm, pool = kinds[0], kinds[1], kinds[-1]
        assert isinstance(conv, Conv2d | PerturbedConv2d)
        assert isinstance(norm, BatchNorm2d)
        self.conv, self.norm, self.rectify = conv, norm, len(kinds) > 2
        self.window = pool.kernel if isinstance(pool, MaxPool2d) else 1
        self.conv_name, self.norm_name = list(layers)[:2]

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        plain = self.conv.plain
        rows, columns = plain.y_shape(x)[1:3] if x.ndim == 4 else (1, 1)
        count = rows * columns * x.shape[-1]
        if not mode.train or count == 1:  # a batch of one value has no statistics: the layers say so
            return super().forward(params, x, mode)
        self.conv.check(x)
        own = self.own(params)
        gamma, beta = (params[f"{self.norm_name}.{entry}"] for entry in ("gamma", "beta"))
        y, mean, var, saved = ops.conv_block(
            x,
            self.conv.dense_weight(own),
            own["bias"],
            gamma,
            beta,
            eps=self.norm.eps,
            stride=plain.stride,
            padding=plain.padding,
            pool=self.window,
            rectify=self.rectify,
        )
        return y, OfBlock(mean, var, count, saved)

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        """The bias moves the batch's mean and nothing else, so its gradient is exactly 0."""
        if not isinstance(cache, OfBlock):
            return super().backward(params, cache, gy, input_gradient=input_gradient, wanted=wanted)
        own, bias = self.own(params), f"{self.conv_name}.bias"
        of_weight = {f"{self.conv_name}.{entry}" for entry in self.conv.trainable} - {bias}
        gx, gK, ggamma, gbeta = ops.conv_block_backward(
            gy, cache.saved, input_gradient, weight_gradient=wanted is None or not of_weight.isdisjoint(wanted)
        )
        grads = {bias: array_module(gy).zeros_like(own["bias"])}
        if gK is not None:
            grads |= {f"{self.conv_name}.{name}": g for name, g in self.conv.weight_gradients(own, gK).items()}
        grads |= {f"{self.norm_name}.gamma": ggamma, f"{self.norm_name}.beta": gbeta}
        return gx, {name: g for name, g in grads.items() if wanted is None or name in wanted}

    def new_buffers(self, params: Params, cache: Cache) -> Params:
        if not isinstance(cache, OfBlock):
            return super().new_buffers(params, cache)
        return _moved(self.norm, self.norm_name, params, cache)

    def own(self, params: Params) -> Params:
        """The convolution's parameters, by their short names."""
        return {entry: params[f"{self.conv_name}.{entry}"] for entry in self.conv.names()}


class NormReLU(Sequential):
    """BatchNorm1d → ReLU, one op each way in train mode; else layer by layer."""

    def __init__(self, layers: dict[str, Layer]) -> None:
        super().__init__(layers)
        self.norm_name, norm = next(iter(layers.items()))
        assert isinstance(norm, BatchNorm1d)
        self.norm = norm

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        if not mode.train or x.shape[-1] == 1:
            return super().forward(params, x, mode)
        self.norm.check(x)
        gamma, beta = (params[f"{self.norm_name}.{entry}"] for entry in ("gamma", "beta"))
        y, mean, var = ops.norm_relu(x, gamma, beta, self.norm.eps)
        return y, OfBlock(mean, var, x.shape[-1], (x, y))

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        if not isinstance(cache, OfBlock):
            return super().backward(params, cache, gy, input_gradient=input_gradient, wanted=wanted)
        x, y = cache.saved
        gamma = params[f"{self.norm_name}.gamma"]
        gx, ggamma, gbeta = ops.norm_relu_backward(gy, y, x, gamma, cache.mean, cache.var, self.norm.eps)
        grads = {f"{self.norm_name}.gamma": ggamma, f"{self.norm_name}.beta": gbeta}
        return gx, {name: g for name, g in grads.items() if wanted is None or name in wanted}

    def new_buffers(self, params: Params, cache: Cache) -> Params:
        if not isinstance(cache, OfBlock):
            return super().new_buffers(params, cache)
        return _moved(self.norm, self.norm_name, params, cache)


class ResidualReLU(Sequential):
    """Residual → ReLU, whose sum is rectified in the pass that forms it; everything else is layer by layer."""

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        (name, residual), (relu, _) = self.layers.items()
        assert isinstance(residual, Residual)
        own = {entry: params[f"{name}.{entry}"] for entry in residual.names()}
        y, cache = residual.met(own, x, mode, rectify=True)
        return y, {name: cache, relu: y}


def _moved(norm: BatchNorm, name: str, params: Params, cache: OfBlock) -> Params:
    """The running statistics of a block's normalisation, under its name."""
    own = {entry: params[f"{name}.{entry}"] for entry in norm.buffers}
    return {f"{name}.{entry}": v for entry, v in norm.moved(own, cache.mean, cache.var, cache.count).items()}


class Fused(Sequential):
    """A sequence that runs its stages, each some neighbouring layers, in place of its layers.

    Raises: ConfigError when a tangent is asked of a pass in train mode.
    """

    def __init__(self, layers: dict[str, Layer], stages: list[Sequential]) -> None:
        super().__init__(layers)
        self.stages = stages

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        """The caches of layers that ran one by one are where Sequential has them; a block's is under its first."""
        caches: dict[str, Cache] = {}
        for stage in self.stages:
            x, cache = stage.forward(params, x, mode)
            caches |= {next(iter(stage.layers)): cache} if isinstance(cache, OfBlock) else cache
        return x, caches

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        """Chain rule, last stage to first; without `input_gradient` it ends at the first stage with a wanted name."""
        asked = set(self.trainable if wanted is None else wanted)
        g: Array | None = gy
        grads: Params = {}
        first = next((n for n, stage in enumerate(self.stages) if asked.intersection(stage.trainable)), None)
        for n, stage in reversed(list(enumerate(self.stages))):
            if not input_gradient and (first is None or n < first):
                break
            g, own = stage.backward(
                params, _of_stage(stage, cache), g, input_gradient=input_gradient or n != first, wanted=wanted
            )
            grads |= own
        return (g if input_gradient else None), grads

    def new_buffers(self, params: Params, cache: Cache) -> Params:
        moved: Params = {}
        for stage in self.stages:
            moved |= stage.new_buffers(params, _of_stage(stage, cache))
        return moved

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        if any(isinstance(kept, OfBlock) for kept in cache.values()):
            raise ConfigError(
                "tangent",
                expected="a forward pass of the network itself",
                received="a forward pass of its fused twin in train mode",
                next_step="Take the forward pass with the network that was given to fuse().",
            )
        return super().r_forward(params, cache, rparams, rx)


def _of_stage(stage: Sequential, cache: Cache) -> Cache:
    """A block's own cache, or the caches of a stage's layers."""
    first = cache[next(iter(stage.layers))]
    return first if isinstance(first, OfBlock) else {name: cache[name] for name in stage.layers}


_BLOCKS: dict[type[Layer], type[Sequential]] = {
    Conv2d: ConvBlock,
    PerturbedConv2d: ConvBlock,
    BatchNorm1d: NormReLU,
    Residual: ResidualReLU,
}


def fuse(model: Sequential) -> Sequential:
    """The same network under the same names, with its runs of layers as one op each in train mode."""
    layers = {name: _fused(layer) for name, layer in model.layers.items()}
    stages = []
    names = list(layers)
    while names:
        run = _run([layers[name] for name in names[:4]])
        taken, names = names[: max(1, len(run))], names[max(1, len(run)) :]
        stages.append((_BLOCKS[run[0]] if len(run) > 1 else Sequential)({name: layers[name] for name in taken}))
    return Fused(layers, stages)


def _fused(layer: Layer) -> Layer:
    """A container with its sequences fused; any other layer as it is."""
    if isinstance(layer, Sequential):
        return fuse(layer)
    if isinstance(layer, Residual):
        same = copy(layer)
        Container.__init__(same, {name: _fused(child) for name, child in layer.layers.items()})
        return same
    return layer


def _run(layers: list[Layer]) -> list[type[Layer]]:
    """The types of the layers at the front that one op runs; one type where none does."""
    kinds = [type(layer) for layer in layers]
    follow: list[tuple[type[Layer], ...]]
    if kinds[0] in (Conv2d, PerturbedConv2d):
        follow = [(BatchNorm2d,), (ReLU,), (MaxPool2d,)]
    elif kinds[0] in (BatchNorm1d, Residual):
        follow = [(ReLU,)]
    else:
        return kinds[:1]
    length = 1
    for layer, wanted in zip(layers[1:], follow, strict=False):
        if type(layer) not in wanted or (isinstance(layer, MaxPool2d) and layer.stride != layer.kernel):
            break
        length += 1
    return kinds[:length]


class Inference(Sequential):
    """A network of which only outputs are asked, nothing kept: convolution → [ReLU → [MaxPool2d]] in one op.

    It runs in evaluation mode whatever is asked, and has no derivatives: `inference` made it from one that does.
    """

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        entries = list(self.layers.items())
        while entries:
            (name, layer), follow = entries[0], [other for _, other in entries[1:3]]
            length = 1
            if isinstance(layer, Conv2d):
                length += _pooled_relu(follow)
                window = follow[1].kernel if length == 3 and isinstance(follow[1], MaxPool2d) else 1
                layer.check(x)
                weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
                x = ops.conv_block_apply(x, weight, bias, layer.stride, layer.padding, window, rectify=length > 1)
            else:
                own = {entry: params[f"{name}.{entry}"] for entry in layer.names()}
                if isinstance(layer, Residual) and follow and isinstance(follow[0], ReLU):
                    length, x = 2, layer.met(own, x, EVALUATE, rectify=True)[0]
                else:
                    x = layer.forward(own, x, EVALUATE)[0]
            entries = entries[length:]
        return x, None


def _pooled_relu(follow: list[Layer]) -> int:
    """How many of the layers after a convolution its op takes in: ReLU, and max pooling after it."""
    if not follow or not isinstance(follow[0], ReLU):
        return 0
    pool = follow[1] if len(follow) > 1 else None
    return 2 if isinstance(pool, MaxPool2d) and pool.stride == pool.kernel else 1


def inference(model: Sequential, params: Params) -> tuple[Inference, Params]:
    """The network that gives the outputs of `model` in evaluation mode, and its parameters: merged, folded, dense.

    Math: of a normalisation after y = W x + b: W' = s W, b' = s (b - μ) + β, with s = γ/√(σ² + ε) and b' in float64.
    """
    layers: dict[str, Layer] = {}
    dense: Params = {}
    entries = list(model.layers.items())
    for n, (name, layer) in enumerate(entries):
        following = entries[n + 1] if n + 1 < len(entries) else ("", None)
        before = entries[n - 1][1] if n else None
        if isinstance(layer, Conv2d | PerturbedConv2d | Linear | PerturbedLinear):
            layers[name] = layer.plain
            own = {entry: params[f"{name}.{entry}"] for entry in layer.names()}
            weight, bias = layer.dense_weight(own), own["bias"]
            if _folds(layer, following[1]):
                weight, bias = _folded(weight, bias, following[0], following[1], params)
            dense |= {f"{name}.weight": weight, f"{name}.bias": bias}
        elif not _folds(before, layer):
            layers[name], own = _for_inference(name, layer, params)
            dense |= own
    return Inference(layers), dense


def _for_inference(name: str, layer: Layer, params: Params) -> tuple[Layer, Params]:
    """A container folded inside, any other layer as it is; with its parameters under the network's names."""
    own = {entry: params[f"{name}.{entry}"] for entry in layer.names()}
    if isinstance(layer, Sequential):
        layer, own = inference(layer, own)
    elif isinstance(layer, Residual):
        parts = {child: _for_inference(child, inner, own) for child, inner in layer.layers.items()}
        same = copy(layer)
        Container.__init__(same, {child: inner for child, (inner, _) in parts.items()})
        layer, own = same, {entry: value for _, below in parts.values() for entry, value in below.items()}
    return layer, {f"{name}.{entry}": value for entry, value in own.items()}


def _folds(layer: Layer | None, norm: Layer | None) -> bool:
    """Whether a normalisation by running statistics can move into the layer before it."""
    return isinstance(layer, Affine) and isinstance(norm, BatchNorm) and norm.track


def _folded(weight: Array, bias: Array, name: str, norm: Layer | None, params: Params) -> tuple[Array, Array]:
    """Weight and bias that take in the normalisation after them."""
    assert isinstance(norm, BatchNorm)
    gamma, beta, mean, var = (
        params[f"{name}.{entry}"].astype(np.float64) for entry in ("gamma", "beta", "running_mean", "running_var")
    )
    scale = gamma / array_module(var).sqrt(var + norm.eps)
    shift = scale * (bias - mean) + beta
    rows = scale.astype(weight.dtype).reshape(-1, *(1,) * (weight.ndim - 1))
    return rows * weight, shift.astype(bias.dtype)
