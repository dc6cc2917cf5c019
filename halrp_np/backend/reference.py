"""The readable definition of every op in the table, in any array module: the oracle of the fast columns.

Arrays are batch-last: images (C, H, W, N), features (D, N); weights are (O, I, kh, kw) and (O, I). Ties are decided
here and nowhere else: ReLU'(0) = 0, a max-pool window passes its gradient to its first maximum.
"""

from __future__ import annotations

from typing import Any

from ..typing import Array, Shape
from .device import array_module


def matmul(a: Array, b: Array) -> Array:
    """a b, for (M, K) and (K, N)."""
    return a @ b


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Number of positions a window takes along one axis."""
    return (size + 2 * padding - kernel) // stride + 1


def im2col(x: Array, kh: int, kw: int, stride: int, padding: int) -> Array:
    """Windows of x (C, H, W, N) side by side: (C kh kw, Ho Wo N)."""
    xp = array_module(x)
    channels, height, width, batch = x.shape
    rows, cols = output_size(height, kh, stride, padding), output_size(width, kw, stride, padding)
    padded = xp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    taps = [padded[:, tap_slice(i, rows, stride), tap_slice(j, cols, stride)] for i in range(kh) for j in range(kw)]
    return xp.stack(taps, axis=1).reshape(channels * kh * kw, rows * cols * batch)  # (C, kh kw, Ho, Wo, N) flattened


def tap_slice(offset: int, count: int, stride: int) -> slice:
    """The input positions that kernel offset `offset` meets, over `count` output positions."""
    return slice(offset, offset + stride * (count - 1) + 1, stride)


def conv2d(x: Array, w: Array, stride: int, padding: int) -> Array:
    """y[o,u,v,n] = Σ_{i,c,d} w[o,i,c,d] x[i, us-p+c, vs-p+d, n]; x (I, H, W, N) -> (O, Ho, Wo, N)."""
    out, _, kh, kw = w.shape
    rows, cols = output_size(x.shape[1], kh, stride, padding), output_size(x.shape[2], kw, stride, padding)
    return (w.reshape(out, -1) @ im2col(x, kh, kw, stride, padding)).reshape(out, rows, cols, x.shape[3])


def conv2d_grad_input(gy: Array, w: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """The adjoint of conv2d in x: gx of shape x_shape."""
    xp = array_module(gy)
    out, channels, kh, kw = w.shape
    _, height, width, batch = x_shape
    rows, cols = gy.shape[1], gy.shape[2]
    taps = (w.reshape(out, -1).T @ gy.reshape(out, -1)).reshape(channels, kh, kw, rows, cols, batch)
    padded = xp.zeros((channels, height + 2 * padding, width + 2 * padding, batch), dtype=gy.dtype)
    for i in range(kh):
        for j in range(kw):
            padded[:, tap_slice(i, rows, stride), tap_slice(j, cols, stride)] += taps[:, i, j]
    return xp.ascontiguousarray(padded[:, padding : padding + height, padding : padding + width])


def conv2d_grad_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """The adjoint of conv2d in w: gw of shape w_shape."""
    out, _, kh, kw = w_shape
    return (gy.reshape(out, -1) @ im2col(x, kh, kw, stride, padding).T).reshape(w_shape)


def batchnorm_train(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    """y = γ (x - mean)/√(var + eps) + β over the rows of x (C, M), with the mean (C,) and the biased variance (C,)."""
    xp = array_module(x)
    mean = x.mean(axis=1)
    centred = x - mean[:, None]
    var = (centred * centred).mean(axis=1)
    y = centred * (gamma / xp.sqrt(var + eps))[:, None] + beta[:, None]
    return y, mean, var


def batchnorm_apply(x: Array, scale: Array, shift: Array) -> Array:
    """scale x + shift, row by row of x (C, M)."""
    return x * scale[:, None] + shift[:, None]


def batchnorm_backward(
    gy: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """Gradients of batchnorm_train, the batch statistics differentiated.

    Math: x̂ = (x - mean)/√(var+eps), gγ = Σ gy x̂, gβ = Σ gy, gx = γ/√(var+eps) (gy - gβ/M - x̂ gγ/M).
    """
    xp = array_module(x)
    count = x.shape[1]
    inverse = 1.0 / xp.sqrt(var + eps)
    normal = (x - mean[:, None]) * inverse[:, None]
    ggamma, gbeta = (gy * normal).sum(axis=1), gy.sum(axis=1)
    gx = (gamma * inverse)[:, None] * (gy - (gbeta / count)[:, None] - normal * (ggamma / count)[:, None])
    return gx, ggamma, gbeta


def relu(x: Array) -> Array:
    """max(x, 0); a NaN stays a NaN."""
    return array_module(x).maximum(x, 0)


def relu_backward(y: Array, gy: Array) -> Array:
    """gy where the output y (..., N) is positive, 0 elsewhere; gy may hold K cotangents (..., K, N)."""
    positive = (y > 0).astype(gy.dtype)
    return gy * (positive if gy.ndim == y.ndim else positive[..., None, :])


def maxpool2d(x: Array, kernel: int, stride: int) -> tuple[Array, Array]:
    """The largest entry of every window of x (C, H, W, N), and its position c*kernel + d in the window (uint8)."""
    xp = array_module(x)
    rows, cols = output_size(x.shape[1], kernel, stride, 0), output_size(x.shape[2], kernel, stride, 0)
    taps = xp.stack(
        [x[:, tap_slice(i, rows, stride), tap_slice(j, cols, stride)] for i in range(kernel) for j in range(kernel)]
    )  # (kernel², C, Ho, Wo, N)
    return taps.max(axis=0), taps.argmax(axis=0).astype("uint8")


def maxpool2d_backward(gy: Array, argmax: Array, x_shape: Shape, kernel: int, stride: int) -> Array:
    """Each window's gradient goes to its first maximum; windows may overlap."""
    xp = array_module(gy)
    rows, cols = gy.shape[1], gy.shape[2]
    gx = xp.zeros(x_shape, dtype=gy.dtype)
    for tap in range(kernel * kernel):
        i, j = divmod(tap, kernel)
        chosen = xp.where(argmax == tap, gy, xp.zeros_like(gy))
        gx[:, tap_slice(i, rows, stride), tap_slice(j, cols, stride)] += chosen
    return gx


def maxpool2d_take(x: Array, argmax: Array, kernel: int, stride: int) -> Array:
    """The entry of every window of x (C, H, W, N) at the position `argmax`: the derivative of maxpool2d."""
    xp = array_module(x)
    rows, cols = argmax.shape[1], argmax.shape[2]
    y = xp.zeros(argmax.shape, dtype=x.dtype)
    for tap in range(kernel * kernel):
        i, j = divmod(tap, kernel)
        y = xp.where(argmax == tap, x[:, tap_slice(i, rows, stride), tap_slice(j, cols, stride)], y)
    return y


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Loss of each sample (N,) and class probabilities (K, N), for logits (K, N) and integer labels (N,)."""
    xp = array_module(logits)
    shifted = logits - logits.max(axis=0)
    log_sum = xp.log(xp.exp(shifted).sum(axis=0))
    loss = log_sum - shifted[labels, xp.arange(logits.shape[1])]
    return loss, xp.exp(shifted - log_sum)


def adam_step(
    theta: Array,
    grad: Array,
    m: Array,
    v: Array,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    l1: float,
    l2: float,
    centre: float,
    scale: float,
) -> None:
    """One Adam update of theta with moments m, v, all three changed in place; `step` counts from 1.

    Math: g = scale (grad + l1 sign(θ) + l2 (θ - centre)), m ← β1 m + (1-β1) g, v ← β2 v + (1-β2) g²,
    θ ← θ - lr/(1-β1ⁿ) m / (√v/√(1-β2ⁿ) + eps).
    """
    xp = array_module(theta)
    g = scale * (grad + l1 * xp.sign(theta) + l2 * (theta - centre))
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    theta -= (lr / (1 - beta1**step)) * m / (xp.sqrt(v) / (1 - beta2**step) ** 0.5 + eps)


def gather_images(images: Array, rows: Array, source: Array, table: Array, table_row: Array) -> Array:
    """Pixels looked up, reordered and normalised in one go: (D, N), batch last.

    Math: out[d, n] = table[table_row[d], images[rows[n], source[d]]].
    Shapes: images (M, P) uint8, rows (N,), source (D,), table (K, 256), table_row (D,).
    """
    pixels: Any = images[rows][:, source].T  # (D, N)
    return table[table_row[:, None], pixels]
