"""The table of hot loops: one row an op, a column for each way to run it.

`reference` is the readable definition in any array module; `numba` and `cupy` hold the names of its twins, and an
explicit None says that the reference serves there. Arrays choose the column: NumPy arrays run the Numba twin (or the
reference under HALRP_NP_KERNELS=reference), CuPy arrays the CuPy twin, any other array module the reference.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import ConfigError, DeviceError
from ..typing import Array, Shape
from . import reference
from .device import array_module


@dataclass(frozen=True)
class Row:
    """One op: its readable definition and whether it has a twin on the CPU and on the GPU."""

    reference: Callable[..., Any]
    numba: str | None
    cupy: str | None


TABLE: dict[str, Row] = {
    "matmul": Row(reference.matmul, "matmul", None),  # cuBLAS already is the fast loop
    "conv2d": Row(reference.conv2d, "conv2d", "conv2d"),
    "conv2d_grad_input": Row(reference.conv2d_grad_input, "conv2d_grad_input", "conv2d_grad_input"),
    "conv2d_grad_weight": Row(reference.conv2d_grad_weight, "conv2d_grad_weight", "conv2d_grad_weight"),
    "batchnorm_train": Row(reference.batchnorm_train, "batchnorm_train", None),
    "batchnorm_apply": Row(reference.batchnorm_apply, "batchnorm_apply", "batchnorm_apply"),
    "batchnorm_backward": Row(reference.batchnorm_backward, "batchnorm_backward", "batchnorm_backward"),
    "relu": Row(reference.relu, "relu", None),  # one pass in CuPy too
    "relu_backward": Row(reference.relu_backward, "relu_backward", "relu_backward"),
    "maxpool2d": Row(reference.maxpool2d, "maxpool2d", "maxpool2d"),
    "maxpool2d_backward": Row(reference.maxpool2d_backward, "maxpool2d_backward", "maxpool2d_backward"),
    "maxpool2d_take": Row(reference.maxpool2d_take, "maxpool2d_take", None),
    "softmax_cross_entropy": Row(reference.softmax_cross_entropy, "softmax_cross_entropy", None),
    "adam_step": Row(reference.adam_step, "adam_step", "adam_step"),
    "gather_images": Row(reference.gather_images, "gather_images", "gather_images"),
}


def kernels_in_use() -> str:
    """`fast` or `reference`, from HALRP_NP_KERNELS.

    Raises: ConfigError for any other value.
    """
    value = os.environ.get("HALRP_NP_KERNELS", "fast")
    if value not in ("fast", "reference"):
        raise ConfigError(
            "HALRP_NP_KERNELS",
            expected="fast or reference",
            received=repr(value),
            next_step="Unset it, or set it to one of these.",
        )
    return value


@lru_cache(maxsize=1)
def _numba_column() -> Any:
    """The module of Numba twins; loading it gives BLAS one thread, since its workers would spin against Numba's."""
    from threadpoolctl import threadpool_limits

    module = importlib.import_module(".numba_kernels", __package__)
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


def _run(name: str, *arrays: Array, **options: Any) -> Any:
    """Run op `name`, refusing arrays of two devices."""
    xp = array_module(arrays[0])
    for array in arrays[1:]:
        if array_module(array) is not xp:
            raise DeviceError(
                name,
                expected=f"every array on one device ({type(arrays[0]).__module__})",
                received=f"also one of {type(array).__module__}",
                next_step="Move it with Device.to_device or Device.to_host first.",
            )
    return implementation(name, xp)(*arrays, **options)


def matmul(a: Array, b: Array) -> Array:
    """See reference.matmul."""
    return _run("matmul", a, b)


def conv2d(x: Array, w: Array, stride: int, padding: int) -> Array:
    """See reference.conv2d."""
    return _run("conv2d", x, w, stride=stride, padding=padding)


def conv2d_grad_input(gy: Array, w: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_input."""
    return _run("conv2d_grad_input", gy, w, x_shape=x_shape, stride=stride, padding=padding)


def conv2d_grad_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """See reference.conv2d_grad_weight."""
    return _run("conv2d_grad_weight", gy, x, w_shape=w_shape, stride=stride, padding=padding)


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


def relu(x: Array) -> Array:
    """See reference.relu."""
    return _run("relu", x)


def relu_backward(y: Array, gy: Array) -> Array:
    """See reference.relu_backward."""
    return _run("relu_backward", y, gy)


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


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """See reference.softmax_cross_entropy."""
    result: tuple[Array, Array] = _run("softmax_cross_entropy", logits, labels)
    return result


def adam_step(theta: Array, grad: Array, m: Array, v: Array, **options: float) -> None:
    """See reference.adam_step: theta, m and v change in place."""
    _run("adam_step", theta, grad, m, v, **options)


def gather_images(images: Array, rows: Array, source: Array, table: Array, table_row: Array) -> Array:
    """See reference.gather_images."""
    return _run("gather_images", images, rows, source, table, table_row)
