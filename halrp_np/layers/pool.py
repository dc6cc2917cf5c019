"""Pooling of images x (C, H, W, N) over square windows without padding."""

from __future__ import annotations

from ..backend import array_module, ops
from ..errors import ConfigError
from ..typing import Array, Params
from .base import EVALUATE, Cache, Layer, Mode, Names, check_images
from .tangents import fold, unfold


class MaxPool2d(Layer):
    """The largest entry of each window; a tie goes to the first, row by row.

    Shapes: x (C, H, W, N) -> y (C, ⌊(H-k)/s⌋+1, ⌊(W-k)/s⌋+1, N).
    Raises: ConfigError for a window over 16, whose positions a byte cannot number; ShapeError for a smaller image.
    """

    def __init__(self, kernel: int, stride: int | None = None) -> None:
        if not 1 <= kernel <= 16:
            raise ConfigError(
                "MaxPool2d", expected="a window of 1 to 16", received=str(kernel), next_step="Pool in two layers."
            )
        self.kernel, self.stride = kernel, stride or kernel

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        check_images("MaxPool2d", x, None, self.kernel)
        y, argmax = ops.maxpool2d(x, self.kernel, self.stride)
        return y, (argmax, tuple(x.shape))

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        argmax, x_shape = cache
        return (ops.maxpool2d_backward(gy, argmax, x_shape, self.kernel, self.stride) if input_gradient else None), {}

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        """ry = rx at the maximum of each window."""
        assert rx is not None
        where = _repeated(cache[0], rx.shape[-2])
        return unfold(ops.maxpool2d_take(fold(rx), where, self.kernel, self.stride), rx.shape[-2]), None

    def r_backward(
        self,
        params: Params,
        cache: Cache,
        rcache: Cache,
        gy: Cache,
        rgy: Array,
        *,
        input_gradient: bool = True,
        wanted: Names = None,
    ) -> tuple[Array | None, Params]:
        """rgx: each window's rgy at its maximum."""
        if not input_gradient:
            return None, {}
        (argmax, x_shape), count = cache, rgy.shape[-2]
        wide = (*x_shape[:-1], count * x_shape[-1])
        where = _repeated(argmax, count)
        return unfold(ops.maxpool2d_backward(fold(rgy), where, wide, self.kernel, self.stride), count), {}

    def branches(self, cache: Cache) -> list[Array]:
        return [cache[0]]


def _repeated(argmax: Array, count: int) -> Array:
    """The positions of the maxima, once for each of K tangents."""
    xp = array_module(argmax)
    return fold(xp.broadcast_to(argmax[..., None, :], (*argmax.shape[:-1], count, argmax.shape[-1])))


class AvgPool2d(Layer):
    """The mean of each window; linear, so its derivative spreads gy/k² over the window.

    Shapes as MaxPool2d.
    Raises: ShapeError when the image is smaller than the window.
    """

    def __init__(self, kernel: int, stride: int | None = None) -> None:
        self.kernel, self.stride = kernel, stride or kernel

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        check_images("AvgPool2d", x, None, self.kernel)
        return ops.avgpool2d(x, self.kernel, self.stride), tuple(x.shape)

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        return (ops.avgpool2d_backward(gy, cache, self.kernel, self.stride) if input_gradient else None), {}

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        """The mean of each window of rx."""
        assert rx is not None
        return unfold(self.forward(params, fold(rx))[0], rx.shape[-2]), None

    def r_backward(
        self,
        params: Params,
        cache: Cache,
        rcache: Cache,
        gy: Cache,
        rgy: Array,
        *,
        input_gradient: bool = True,
        wanted: Names = None,
    ) -> tuple[Array | None, Params]:
        """rgy/k² over each window."""
        count = rgy.shape[-2]
        rgx, _ = self.backward(params, (*cache[:-1], count * cache[-1]), fold(rgy), input_gradient=input_gradient)
        return (None if rgx is None else unfold(rgx, count)), {}
