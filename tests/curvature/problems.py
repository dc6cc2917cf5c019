"""Small networks with a loss and data, as the tests of curvature need them: few parameters, every kind of layer."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cases import Names, Params, residual, shapes
from halrp_np.layers import Dropout, Layer, Linear, Mode, ReLU, Sequential, perturb
from halrp_np.losses import CrossEntropy, Loss, SquaredError
from halrp_np.models import lenet, mlp


@dataclass(frozen=True)
class Problem:
    """A network, its loss and one batch at random parameters."""

    name: str
    model: Sequential
    x_shape: tuple[int, ...]
    train: bool = False
    outputs: int = 3
    loss: Loss = CrossEntropy()
    seed: int = 4

    def mode(self) -> Mode:
        """The mode afresh: dropout draws the same mask in each call."""
        return Mode(train=self.train, dropout=np.random.default_rng(3) if self.train else None)

    def draw(self, dtype: Any = np.float64, samples: int = 7) -> tuple[Params, Any, Any]:
        """Parameters of a usual size, inputs, and targets."""
        rng = np.random.default_rng([self.seed, zlib.crc32(self.name.encode())])
        params = {name: usual(rng, name, shape).astype(dtype) for name, shape in shapes(self.model, 2).items()}
        x = rng.normal(size=(*self.x_shape, samples)).astype(dtype)
        if isinstance(self.loss, CrossEntropy):
            return params, x, rng.integers(self.outputs, size=samples)
        return params, x, rng.normal(size=(self.outputs, samples)).astype(dtype)

    def gradient(self, params: Params, x: Any, targets: Any, names: Sequence[str]) -> Any:
        """The gradient of the mean loss in the names, one after the other: two passes of the network, no operator."""
        outputs, cache = self.model.forward(params, x, self.mode())
        _, grads = self.model.backward(params, cache, self.loss.grad(outputs, targets))
        return np.concatenate([grads[name].ravel() for name in names])


def usual(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Any:
    """Numbers that keep activations near 1, most units alive, and variances and gains away from 0."""
    if name.endswith(("gamma", "running_var", ".R", ".S")):
        return rng.uniform(0.5, 1.5, size=shape)
    if len(shape) > 1:
        return rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
    return rng.normal(0.3 if name.endswith("beta") else 0.0, 0.3, size=shape)


def small_lenet() -> Sequential:
    """318 parameters."""
    return lenet((1, 8, 8), 3, widths=(2, 3, 4, 4))


def dropped() -> Sequential:
    """Dropout between two layers."""
    return Sequential({"fc1": Linear(5, 6), "relu": ReLU(), "drop": Dropout(0.4), "head": Linear(6, 3)})


PROBLEMS = {
    problem.name: problem
    for problem in [
        Problem("mlp eval", mlp((6,), 3, (5, 4)), (6,)),
        Problem("mlp train", mlp((6,), 3, (5, 4)), (6,), train=True),
        Problem("mlp squared error", mlp((6,), 3, (5, 4)), (6,), loss=SquaredError()),
        Problem("lenet eval", small_lenet(), (1, 8, 8)),
        Problem("lenet train", small_lenet(), (1, 8, 8), train=True),
        Problem("perturbed lenet eval", perturb(small_lenet()), (1, 8, 8)),
        Problem("perturbed lenet train", perturb(small_lenet()), (1, 8, 8), train=True),
        Problem("residual eval", residual(), (2, 4, 5)),
        Problem("residual train", residual(), (2, 4, 5), train=True),
        Problem("dropout train", dropped(), (5,), train=True),
    ]
}


class Spy(Layer):
    """The identity, which counts what passes: batch sizes on the way forward, numbers of tangents both ways."""

    def __init__(self) -> None:
        self.forgets()

    def forgets(self) -> None:
        """Start counting again."""
        self.batches: list[int] = []
        self.backwards = 0
        self.up: list[int] = []
        self.down: list[int] = []

    def forward(self, params: Params, x: Any, mode: Mode = Mode()) -> tuple[Any, Any]:  # noqa: B008
        self.batches.append(x.shape[-1])
        return x, x

    def backward(
        self, params: Params, cache: Any, gy: Any, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Any, Params]:
        self.backwards += 1
        return (gy if input_gradient else None), {}

    def r_forward(self, params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
        self.up.append(rx.shape[-2])
        return rx, None

    def r_backward(
        self, params: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, *,
        input_gradient: bool = True, wanted: Names = None,
    ) -> tuple[Any, Params]:  # fmt: skip
        self.down.append(rgy.shape[-2])
        return (rgy if input_gradient else None), {}


class Walks:
    """A collection of batches that counts how often it is walked through."""

    def __init__(self, batches: Sequence[tuple[Any, Any]]) -> None:
        self.batches, self.count = batches, 0

    def __iter__(self) -> Any:
        self.count += 1
        return iter(self.batches)
