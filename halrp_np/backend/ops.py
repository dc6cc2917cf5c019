"""The table of hot loops: one row an op, a column for each way to run it.

`reference` is the readable definition in any array module; `numba` and `cupy` hold the names of its twins, and an
explicit None says that the reference serves there. Arrays choose the column: NumPy arrays run the Numba twin (or the
reference under HALRP_NP_KERNELS=reference), CuPy arrays the CuPy twin, any other array module the reference.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import ConfigError, DeviceError
from ..typing import Array, Shape
from . import reference, threads
from .device import array_module


@dataclass(frozen=True)
class Row:
    """One op: its readable definition and whether it has a twin on the CPU and on the GPU."""

    reference: Callable[..., Any]
    numba: str | None
    cupy: str | None


TABLE: dict[str, Row] = {
    "matmul": Row(reference.matmul, "matmul", "matmul"),
    "linear": Row(reference.linear, "linear", "linear"),
    "linear_add": Row(reference.linear_add, "linear_add", "linear_add"),
    "row_dots": Row(reference.row_dots, "row_dots", "row_dots"),
    "effective_weight": Row(reference.effective_weight, "effective_weight", None),  # small
    "window_sums": Row(reference.window_sums, "window_sums", None),
    "conv2d": Row(reference.conv2d, "conv2d", "conv2d"),
    "conv2d_grad_input": Row(reference.conv2d_grad_input, "conv2d_grad_input", "conv2d_grad_input"),
    "conv2d_grad_weight": Row(reference.conv2d_grad_weight, "conv2d_grad_weight", "conv2d_grad_weight"),
    "conv2d_weight_squares": Row(reference.conv2d_weight_squares, "conv2d_weight_squares", None),
    "batchnorm_train": Row(reference.batchnorm_train, "batchnorm_train", "batchnorm_train"),
    "batchnorm_apply": Row(reference.batchnorm_apply, "batchnorm_apply", "batchnorm_apply"),
    "batchnorm_backward": Row(reference.batchnorm_backward, "batchnorm_backward", "batchnorm_backward"),
    "norm_relu": Row(reference.norm_relu, "norm_relu", "norm_relu"),
    "norm_relu_backward": Row(reference.norm_relu_backward, "norm_relu_backward", "norm_relu_backward"),
    "relu": Row(reference.relu, "relu", "relu"),
    "relu_backward": Row(reference.relu_backward, "relu_backward", "relu_backward"),
    "add": Row(reference.add, "add", "add"),
    "dropout": Row(reference.dropout, "dropout", "dropout"),
    "dropout_again": Row(reference.dropout_again, "dropout_again", "dropout_again"),
    "avgpool2d": Row(reference.avgpool2d, "avgpool2d", None),  # at the end of a network, where images are small
    "avgpool2d_backward": Row(reference.avgpool2d_backward, "avgpool2d_backward", None),
    "maxpool2d": Row(reference.maxpool2d, "maxpool2d", "maxpool2d"),
    "maxpool2d_backward": Row(reference.maxpool2d_backward, "maxpool2d_backward", "maxpool2d_backward"),
    "maxpool2d_take": Row(reference.maxpool2d_take, "maxpool2d_take", "maxpool2d_take"),
    "conv_block": Row(reference.conv_block, "conv_block", "conv_block"),
    "conv_block_backward": Row(reference.conv_block_backward, "conv_block_backward", "conv_block_backward"),
    "conv_block_apply": Row(reference.conv_block_apply, "conv_block_apply", "conv_block_apply"),
    "softmax_cross_entropy": Row(reference.softmax_cross_entropy, "softmax_cross_entropy", "softmax_cross_entropy"),
    "adam_flat": Row(reference.adam_flat, "adam_flat", "adam_flat"),
    "pull": Row(reference.pull, "pull", "pull"),
    "gather_images": Row(reference.gather_images, "gather_images", "gather_images"),
    "gather_augmented": Row(reference.gather_augmented, "gather_augmented", "gather_augmented"),
}


COLUMNS = ("fast", "reference", "winograd")
"""What HALRP_NP_KERNELS may say; `winograd` is `fast` with Winograd convolutions, 6 to 18 times the rounding error."""

_fast_math: ContextVar[bool] = ContextVar("fast_math", default=False)


@contextmanager
def fast_math(wanted: bool) -> Iterator[None]:
    """Within, `winograd` takes the place of `fast`, if wanted."""
    token = _fast_math.set(wanted)
    try:
        yield
    finally:
        _fast_math.reset(token)


def kernels_in_use() -> str:
    """`fast`, `reference` or `winograd`, from HALRP_NP_KERNELS and `fast_math`.

    Raises: ConfigError for any other value.
    """
    value = os.environ.get("HALRP_NP_KERNELS", "fast")
    if value not in COLUMNS:
        raise ConfigError(
            "HALRP_NP_KERNELS",
            expected=" or ".join(COLUMNS),
            received=repr(value),
            next_step="Unset it, or set it to one of these.",
        )
    return "winograd" if value == "fast" and _fast_math.get() else value


@lru_cache(maxsize=1)
def _numba_column() -> Any:
    """The module of Numba twins; loading it settles the threads: Numba's as many as are usable, BLAS one."""
    from threadpoolctl import threadpool_limits

    threads.wait_briefly()
    module = importlib.import_module(".numba_kernels", __package__)
    threads.settle()
    threadpool_limits(limits=1, user_api="blas")
    return module


@lru_cache(maxsize=1)
def _cupy_column() -> Any:
    """The module of CuPy twins."""
    return importlib.import_module(".cupy_kernels", __package__)


def implementation(name: str, xp: Any) -> Callable[..., Any]:
    """The function that runs op `name` on arrays of module `xp` at present."""
    row = TABLE[name]
    if kernels_in_use() == "reference":
        return row.reference
    if xp is np and row.numba is not None:
        function: Callable[..., Any] = getattr(_numba_column(), row.numba)
        return function
    if getattr(xp, "__name__", "") == "cupy" and row.cupy is not None:
        function = getattr(_cupy_column(), row.cupy)
        return function
    return row.reference


def _one_device(name: str, arrays: tuple[Array, ...]) -> Any:
    """The array module of all arrays; DeviceError if they lie on two devices."""
    xp = array_module(arrays[0])
    for array in arrays[1:]:
        if array is not None and array_module(array) is not xp:
            raise DeviceError(
                name,
                expected=f"every array on one device ({type(arrays[0]).__module__})",
                received=f"also one of {type(array).__module__}",
                next_step="Move it with Device.to_device or Device.to_host first.",
            )
    return xp


def _run(name: str, *arrays: Array | None, **options: Any) -> Any:
    """Run op `name`, refusing arrays of two devices."""
    xp = _one_device(name, arrays)
    function = implementation(name, xp)
    if _observers:
        return _observers[-1](name, function, arrays, options)
    return function(*arrays, **options)


Observer = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
_observers: list[Observer] = []


@contextmanager
def observed(around: Observer) -> Iterator[None]:
    """Within, `around(name, function, arrays, options)` runs every op and returns its result: to time and to count."""
    _observers.append(around)
    try:
        yield
    finally:
        _observers.pop()


def matmul(a: Array, b: Array) -> Array:
    """See reference.matmul."""
    return _run("matmul", a, b)


def linear(x: Array, W: Array, bias: Array | None = None, scale: Array | None = None) -> Array:
    """See reference.linear."""
    return _run("linear", x, W, bias, scale)


def linear_add(y: Array, scale: Array, x: Array, W: Array, bias: Array | None = None) -> Array:
    """See reference.linear_add."""
    return _run("linear_add", y, scale, x, W, bias)


def effective_weight(W: Array, R: Array, S: Array, low_rank: Array) -> Array:
    """See reference.effective_weight."""
    return _run("effective_weight", W, R, S, low_rank)


def window_sums(gW: Array, W: Array) -> tuple[Array, Array]:
    """See reference.window_sums."""
    result: tuple[Array, Array] = _run("window_sums", gW, W)
    return result


def row_dots(a: Array, b: Array) -> Array:
    """See reference.row_dots."""
    return _run("row_dots", a, b)


def conv2d(x: Array, w: Array, stride: int, padding: int) -> Array:
    """See reference.conv2d."""
    return _run("conv2d", x, w, stride=stride, padding=padding)


def conv2d_grad_input(gy: Array, w: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_input."""
    return _run("conv2d_grad_input", gy, w, x_shape=x_shape, stride=stride, padding=padding)


def conv2d_grad_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_weight."""
    return _run("conv2d_grad_weight", gy, x, w_shape=w_shape, stride=stride, padding=padding)


def conv2d_weight_squares(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_weight_squares."""
    return _run("conv2d_weight_squares", gy, x, w_shape=w_shape, stride=stride, padding=padding)


def batchnorm_train(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    """See reference.batchnorm_train."""
    result: tuple[Array, Array, Array] = _run("batchnorm_train", x, gamma, beta, eps=eps)
    return result


def batchnorm_apply(x: Array, scale: Array, shift: Array) -> Array:
    """See reference.batchnorm_apply."""
    return _run("batchnorm_apply", x, scale, shift)


def batchnorm_backward(
    gy: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """See reference.batchnorm_backward."""
    result: tuple[Array, Array, Array] = _run("batchnorm_backward", gy, x, gamma, mean, var, eps=eps)
    return result


def norm_relu(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    """See reference.norm_relu."""
    result: tuple[Array, Array, Array] = _run("norm_relu", x, gamma, beta, eps=eps)
    return result


def norm_relu_backward(
    gy: Array, y: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """See reference.norm_relu_backward."""
    result: tuple[Array, Array, Array] = _run("norm_relu_backward", gy, y, x, gamma, mean, var, eps=eps)
    return result


def relu(x: Array) -> Array:
    """See reference.relu."""
    return _run("relu", x)


def relu_backward(y: Array, gy: Array) -> Array:
    """See reference.relu_backward."""
    return _run("relu_backward", y, gy)


def add(a: Array, b: Array, rectify: bool = False) -> Array:
    """See reference.add."""
    return _run("add", a, b, rectify=rectify)


def dropout(x: Array, seed: tuple[int, int], rate: float) -> tuple[Array, Array]:
    """See reference.dropout."""
    result: tuple[Array, Array] = _run("dropout", x, seed=seed, rate=rate)
    return result


def dropout_again(r: Array, kept: Array, rate: float) -> Array:
    """See reference.dropout_again."""
    return _run("dropout_again", r, kept, rate=rate)


def avgpool2d(x: Array, kernel: int, stride: int) -> Array:
    """See reference.avgpool2d."""
    return _run("avgpool2d", x, kernel=kernel, stride=stride)


def avgpool2d_backward(gy: Array, x_shape: Shape, kernel: int, stride: int) -> Array:
    """See reference.avgpool2d_backward."""
    return _run("avgpool2d_backward", gy, x_shape=x_shape, kernel=kernel, stride=stride)


def maxpool2d(x: Array, kernel: int, stride: int) -> tuple[Array, Array]:
    """See reference.maxpool2d."""
    result: tuple[Array, Array] = _run("maxpool2d", x, kernel=kernel, stride=stride)
    return result


def maxpool2d_backward(gy: Array, argmax: Array, x_shape: Shape, kernel: int, stride: int) -> Array:
    """See reference.maxpool2d_backward."""
    return _run("maxpool2d_backward", gy, argmax, x_shape=x_shape, kernel=kernel, stride=stride)


def maxpool2d_take(x: Array, argmax: Array, kernel: int, stride: int) -> Array:
    """See reference.maxpool2d_take."""
    return _run("maxpool2d_take", x, argmax, kernel=kernel, stride=stride)


def conv_block(
    x: Array, w: Array, bias: Array, gamma: Array, beta: Array, eps: float, stride: int, padding: int, pool: int,
    rectify: bool = True,
) -> tuple[Array, Array, Array, Any]:  # fmt: skip
    """See reference.conv_block."""
    options = {"eps": eps, "stride": stride, "padding": padding, "pool": pool, "rectify": rectify}
    result: tuple[Array, Array, Array, Any] = _run("conv_block", x, w, bias, gamma, beta, **options)
    return result


def conv_block_backward(
    gy: Array, saved: Any, input_gradient: bool = True, weight_gradient: bool = True
) -> tuple[Array | None, Array | None, Array, Array]:
    """See reference.conv_block_backward; whatever column saved it, the weights are `saved.w`."""
    _one_device("conv_block_backward", (gy, saved.w))
    options = {"input_gradient": input_gradient, "weight_gradient": weight_gradient}
    result: tuple[Array | None, Array | None, Array, Array] = _run("conv_block_backward", gy, saved=saved, **options)
    return result


def conv_block_apply(
    x: Array, w: Array, bias: Array, stride: int, padding: int, pool: int, rectify: bool = True
) -> Array:
    """See reference.conv_block_apply."""
    return _run("conv_block_apply", x, w, bias, stride=stride, padding=padding, pool=pool, rectify=rectify)


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """See reference.softmax_cross_entropy."""
    result: tuple[Array, Array] = _run("softmax_cross_entropy", logits, labels)
    return result


def adam_flat(
    theta: Array, grad: Array, m: Array, v: Array, factors: Array, ends: Array, l1: Array, l2: Array, centre: Array
) -> None:
    """See reference.adam_flat: theta, m and v change in place."""
    _run("adam_flat", theta, grad, m, v, factors, ends, l1, l2, centre)


def pull(grad: Array, theta: Array, strength: Array, centre: Array) -> None:
    """See reference.pull: grad changes in place."""
    _run("pull", grad, theta, strength, centre)


def gather_images(images: Array, rows: Array, source: Array, table: Array, table_row: Array) -> Array:
    """See reference.gather_images."""
    return _run("gather_images", images, rows, source, table, table_row)


def gather_augmented(
    images: Array, rows: Array, source: Array, table: Array, table_row: Array, moves: Array, shape: Shape
) -> Array:
    """See reference.gather_augmented."""
    return _run("gather_augmented", images, rows, source, table, table_row, moves, shape=shape)
