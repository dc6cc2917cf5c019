"""Fused ops as the chain of plain ops that they stand for, run with the ops of any column: `reference` or its twins."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..typing import Array


class Kept(NamedTuple):
    """What the chain keeps of its forward pass: the arrays that its backward pass reads, and how it was called."""

    x: Array
    w: Array
    z: Array
    gamma: Array
    mean: Array
    var: Array
    activation: Array  # what was pooled: only its sign counts
    argmax: Array | None
    eps: float
    window: tuple[int, int, int]
    rectify: bool


def forward(
    column: Any, x: Array, w: Array, bias: Array, gamma: Array, beta: Array, eps: float, stride: int, padding: int,
    pool: int, rectify: bool,
) -> tuple[Array, Array, Array, Kept]:  # fmt: skip
    """conv2d + bias → batchnorm_train → relu → maxpool2d."""
    z = column.conv2d(x, w, stride, padding)
    z += bias[:, None, None, None]  # z is ours: no second array
    normal, mean, var = column.batchnorm_train(z.reshape(z.shape[0], -1), gamma, beta, eps)
    activation = normal.reshape(z.shape)
    if rectify:
        activation = column.relu(activation)
    y, argmax = column.maxpool2d(activation, pool, pool) if pool > 1 else (activation, None)
    kept = Kept(x, w, z, gamma, mean, var, activation, argmax, eps, (stride, padding, pool), rectify)
    return y, mean, var, kept


def backward(
    column: Any, gy: Array, kept: Kept, input_gradient: bool, weight_gradient: bool
) -> tuple[Array | None, Array | None, Array, Array]:
    """The same ops' gradients in reverse."""
    stride, padding, pool = kept.window
    z, shape = kept.z, kept.z.shape
    g = gy if kept.argmax is None else column.maxpool2d_backward(gy, kept.argmax, shape, pool, pool)
    if kept.rectify:
        g = column.relu_backward(kept.activation, g)
    rows = (shape[0], -1)
    gz, ggamma, gbeta = column.batchnorm_backward(
        g.reshape(rows), z.reshape(rows), kept.gamma, kept.mean, kept.var, kept.eps
    )
    gz = gz.reshape(shape)
    gw = column.conv2d_grad_weight(gz, kept.x, kept.w.shape, stride, padding) if weight_gradient else None
    gx = column.conv2d_grad_input(gz, kept.w, kept.x.shape, stride, padding) if input_gradient else None
    return gx, gw, ggamma, gbeta


def apply(column: Any, x: Array, w: Array, bias: Array, stride: int, padding: int, pool: int, rectify: bool) -> Array:
    """conv2d + bias → relu → maxpool2d."""
    y = column.conv2d(x, w, stride, padding)
    y += bias[:, None, None, None]
    if rectify:
        y = column.relu(y)
    return column.maxpool2d(y, pool, pool)[0] if pool > 1 else y
