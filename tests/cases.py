"""Layers and losses as data: what the checkers of checks.py run over, in every dtype and memory layout.

A case says which layer, on which input, in which mode, and how its numbers are drawn: `normal`; `separate` (no two
equal and none near 0, so that no finite-difference step crosses a kink); or `ties` (few small whole numbers, so that
windows tie and ReLU meets exact zeros, where only the exact tangent of the chosen branch can be compared).
"""

import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

import formulas
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
    ReLU,
    Residual,
    Sequential,
    perturb,
)
from halrp_np.layers.container import Container
from halrp_np.losses import CrossEntropy, Loss, SquaredError

Params = dict[str, Any]
Names = Collection[str] | None

PERTURBED_WINDOWS = [(5, 1, 2), (4, 1, 0), (3, 1, 1), (3, 2, 1), (2, 1, 0), (1, 2, 0)]
"""(kernel, stride, padding) of every perturbed convolution that the paper's networks use."""


class LossLayer(Layer):
    """A loss with fixed targets as a layer without parameters, so that every checker applies to losses too."""

    def __init__(self, loss: Loss, targets: Any) -> None:
        self.loss, self.targets = loss, targets

    def forward(self, params: Params, x: Any, mode: Mode = Mode()) -> tuple[Any, Any]:  # noqa: B008
        return self.loss.value(x, self._targets(x)), x

    def backward(
        self, params: Params, cache: Any, gy: Any, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Any, Params]:
        return (gy * self.loss.grad(cache, self._targets(cache)) if input_gradient else None), {}

    def r_forward(self, params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
        """The value has no batch: its K tangents are (K,)."""
        return (self.loss.grad(cache, self._targets(cache))[:, None] * rx).sum(axis=(0, 2)), rx

    def r_backward(
        self, params: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, *,
        input_gradient: bool = True, wanted: Names = None,
    ) -> tuple[Any, Params]:  # fmt: skip
        if not input_gradient:
            return None, {}
        rgx = rgy[:, None] * self.loss.grad(cache, self._targets(cache))[:, None]
        return (rgx if rcache is None else rgx + gy * self.loss.hess_vec(cache, self._targets(cache), rcache)), {}

    def formula(self, params: Params, x: Any, mode: Mode) -> Any:
        if isinstance(self.loss, CrossEntropy):
            return formulas.cross_entropy(x, self.targets)
        return formulas.squared_error(x, self.targets)

    def _targets(self, x: Any) -> Any:
        return self.targets if self.targets.dtype.kind == "i" else self.targets.astype(x.dtype)


@dataclass(frozen=True)
class Case:
    """One layer at one random point."""

    name: str
    layer: Layer
    x_shape: tuple[int, ...]
    train: bool = False
    values: str = "normal"
    rank: int = 2

    @property
    def smooth(self) -> bool:
        """Whether finite differences have a derivative to find."""
        return self.values != "ties"

    def mode(self) -> Mode:
        """The mode afresh: dropout draws the same mask in each call."""
        return Mode(train=self.train, dropout=np.random.default_rng(3) if self.train else None)

    def draw(self, dtype: Any = np.float64) -> tuple[Params, Any, Any]:
        """Parameters, input and cotangent: the same numbers in float64 and, rounded, in float32."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        params = {name: _parameter(rng, name, shape) for name, shape in shapes(self.layer, self.rank).items()}
        x = _input(rng, self.x_shape, self.values)
        y, _ = self.layer.forward(params, x, self.mode())
        gy = rng.normal(size=np.shape(y))
        params = {name: value.astype(dtype) for name, value in params.items()}
        return params, x.astype(dtype), np.asarray(gy, dtype)


def shapes(layer: Layer, rank: int) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and buffer, by name."""
    if isinstance(layer, Container):
        return {f"{n}.{e}": s for n, inner in layer.layers.items() for e, s in shapes(inner, rank).items()}
    if isinstance(layer, PerturbedLinear | PerturbedConv2d):
        J, I = layer.base.outputs, layer.base.inputs
        weight = shapes(layer.base, rank)["weight"]
        return {"weight": weight, "R": (J,), "S": (I,), "A": (rank, I), "B": (J, rank), "bias": (J,)}
    return {name: value.shape for name, value in layer.init(np.random.default_rng(0), np.float64).items()}


def _parameter(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Any:
    """Normal numbers, but a positive variance."""
    return rng.uniform(0.5, 2.0, size=shape) if name.endswith("running_var") else rng.normal(size=shape)


def _input(rng: np.random.Generator, shape: tuple[int, ...], values: str) -> Any:
    """An input whose entries are normal, separate or tied."""
    if values == "ties":
        return rng.integers(-1, 2, size=shape).astype(np.float64)
    if values == "separate":
        count = int(np.prod(shape))
        return (rng.permutation(count) - count // 2 + 0.5).reshape(shape) / 8
    return rng.normal(size=shape)


def nested(*, train_dropout: float = 0.0) -> Sequential:
    """A small network with a container in a container, one of every kind of layer."""
    block = Sequential({"conv": Conv2d(2, 3, 3, padding=1), "norm": BatchNorm2d(3), "relu": ReLU()})
    tail = {"flatten": Flatten(), "fc": Linear(12, 5), "norm": BatchNorm1d(5), "drop": Dropout(train_dropout)}
    return Sequential({"block": block, "pool": MaxPool2d(2), "tail": Sequential(tail), "head": Linear(5, 3)})


def residual(*, classes: int = 3) -> Sequential:
    """A small residual network for images (2, 4, 5): an identity block, and one that a projection halves."""
    same = Sequential({"conv": Conv2d(3, 3, 3, padding=1), "norm": BatchNorm2d(3), "relu": ReLU()})
    half = Sequential({"conv": Conv2d(3, 4, 3, stride=2, padding=1), "norm": BatchNorm2d(4)})
    projection = Sequential({"conv": Conv2d(3, 4, 1, stride=2), "norm": BatchNorm2d(4)})
    stem = Sequential({"conv": Conv2d(2, 3, 3, padding=1), "norm": BatchNorm2d(3), "relu": ReLU()})
    blocks = {"same": Residual(same), "relu1": ReLU(), "half": Residual(half, projection), "relu2": ReLU()}
    tail = {"pool": AvgPool2d(2), "flatten": Flatten(), "head": Linear(4, classes)}
    return Sequential({"stem": stem, **blocks, **tail})


def _conv(kernel: int, stride: int, padding: int) -> Case:
    return Case(f"conv k{kernel} s{stride} p{padding}", Conv2d(3, 4, kernel, stride, padding), (3, 7, 6, 5))


def _perturbed_conv(kernel: int, stride: int, padding: int, rank: int = 2) -> Case:
    layer = PerturbedConv2d(Conv2d(3, 4, kernel, stride, padding))
    return Case(f"perturbed conv k{kernel} s{stride} p{padding} r{rank}", layer, (3, 7, 6, 5), rank=rank)


_LABELS = np.array([2, 0, 3, 3, 1, 2, 0])
_TARGETS = np.random.default_rng(8).normal(size=(4, 7))

LAYERS = [
    Case("linear", Linear(5, 4), (5, 7)),
    Case("linear of one sample", Linear(3, 2), (3, 1)),
    *(_conv(*window) for window in [*PERTURBED_WINDOWS, (1, 1, 0), (3, 3, 2), (6, 2, 1), (2, 3, 0)]),
    Case("conv of one image the size of its kernel", Conv2d(2, 3, 4), (2, 4, 4, 1)),
    *(
        Case(f"batchnorm{kind} {what}", norm(4, track=track), shape, train=train)
        for kind, norm, shape in (("1d", BatchNorm1d, (4, 9)), ("2d", BatchNorm2d, (4, 3, 2, 5)))
        for what, track, train in (("train", True, True), ("eval", True, False), ("untracked eval", False, False))
    ),
    Case("batchnorm1d with large eps", BatchNorm1d(3, eps=0.5), (3, 6), train=True),
    Case("relu", ReLU(), (5, 7), values="separate"),
    Case("relu at zero", ReLU(), (2, 4, 3, 5), values="ties"),
    Case("maxpool 2/2", MaxPool2d(2), (3, 6, 4, 5), values="separate"),
    Case("maxpool 2/2 with remainder", MaxPool2d(2), (2, 5, 7, 3), values="separate"),
    Case("maxpool 3/2 overlapping", MaxPool2d(3, 2), (2, 7, 8, 3), values="separate"),
    Case("maxpool 3/1 overlapping", MaxPool2d(3, 1), (2, 5, 6, 3), values="separate"),
    Case("maxpool 2/3 with gaps", MaxPool2d(2, 3), (2, 8, 6, 3), values="separate"),
    Case("maxpool 2/2 tied", MaxPool2d(2), (3, 6, 5, 4), values="ties"),
    Case("maxpool 3/2 tied", MaxPool2d(3, 2), (3, 7, 8, 4), values="ties"),
    Case("avgpool 2/2", AvgPool2d(2), (3, 6, 4, 5)),
    Case("avgpool 3/2 with remainder", AvgPool2d(3, 2), (2, 8, 7, 3)),
    Case("avgpool 3/1 overlapping", AvgPool2d(3, 1), (2, 5, 6, 3)),
    Case("dropout", Dropout(0.4), (6, 9), train=True),
    Case("dropout of images", Dropout(0.2), (2, 3, 4, 5), train=True),
    Case("dropout eval", Dropout(0.4), (6, 9)),
    Case("dropout 0", Dropout(0.0), (6, 9), train=True),
    Case("flatten", Flatten(), (2, 3, 4, 5)),
    Case("nested train", nested(train_dropout=0.3), (2, 4, 5, 6), train=True),
    Case("nested eval", nested(), (2, 4, 5, 6)),
    Case("nested perturbed train", perturb(nested(train_dropout=0.3)), (2, 4, 5, 6), train=True),
    Case("nested perturbed eval", perturb(nested()), (2, 4, 5, 6)),
    Case("residual identity", Residual(Conv2d(3, 3, 3, padding=1)), (3, 4, 5, 4)),
    Case("residual identity over nothing", Residual(Flatten(), Flatten()), (2, 3, 2, 4)),
    Case("residual projection", Residual(Conv2d(3, 2, 3, 2, 1), Conv2d(3, 2, 1, 2)), (3, 5, 4, 3)),
    Case("residual batchnorm train", Residual(BatchNorm1d(4), Linear(4, 4)), (4, 7), train=True),
    Case("nested residual train", residual(), (2, 4, 5, 6), train=True),
    Case("nested residual eval", residual(), (2, 4, 5, 6)),
    Case("nested residual perturbed", perturb(residual()), (2, 4, 5, 6), train=True),
    *(Case(f"perturbed linear r{rank}", PerturbedLinear(Linear(5, 4)), (5, 7), rank=rank) for rank in (0, 1, 2, 4)),
    *(_perturbed_conv(*window) for window in PERTURBED_WINDOWS),
    *(_perturbed_conv(3, 2, 1, rank) for rank in (0, 1)),
]

LOSSES = [
    Case("cross-entropy", LossLayer(CrossEntropy(), _LABELS), (4, 7)),
    Case("cross-entropy of one sample", LossLayer(CrossEntropy(), _LABELS[:1]), (4, 1)),
    Case("cross-entropy of equal logits", LossLayer(CrossEntropy(), _LABELS), (4, 7), values="ties"),
    Case("squared error", LossLayer(SquaredError(), _TARGETS), (4, 7)),
]

CASES = {case.name: case for case in [*LAYERS, *LOSSES]}
assert len(CASES) == len(LAYERS) + len(LOSSES)
