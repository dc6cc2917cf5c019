"""The readable definition of every op in the table, in any array module: the oracle of the fast columns.

Arrays are batch-last: images (C, H, W, N), features (D, N); weights are (O, I, kh, kw) and (O, I). Ties are decided
here and nowhere else: ReLU'(0) = 0, a max-pool window passes its gradient to its first maximum.
"""

from __future__ import annotations

import sys
from typing import Any

from ..typing import Array, Shape
from . import reference_blocks
from .device import array_module


def matmul(a: Array, b: Array) -> Array:
    """a b, for (M, K) and (K, N)."""
    return a @ b


def linear(x: Array, W: Array, bias: Array | None = None, scale: Array | None = None) -> Array:
    """W (scale ⊙ x) + bias, for x (I, N), W (J, I), bias (J,) and scale (I,), one entry a row; None is 0, or 1."""
    y = W @ (x if scale is None else scale[:, None] * x)
    return y if bias is None else y + bias[:, None]


def linear_add(y: Array, scale: Array, x: Array, W: Array, bias: Array | None = None) -> Array:
    """scale ⊙ y + W x + bias, for y (J, N), scale (J,), x (I, N), W (J, I) and bias (J,)."""
    return scale[:, None] * y + linear(x, W, bias)


def row_dots(a: Array, b: Array) -> Array:
    """Σ_n a[i, n] b[i, n], for (I, N) and (I, N)."""
    return (a * b).sum(axis=1)


def effective_weight(W: Array, R: Array, S: Array, low_rank: Array) -> Array:
    """R[j] W[j, i, ...] S[i] + low_rank[j, i], for W (J, I, ...), R (J,), S (I,) and low_rank (J, I)."""
    window = (1,) * (W.ndim - 2)
    rows, columns = R.reshape(-1, 1, *window), S.reshape(-1, *window)
    return rows * W * columns + low_rank.reshape(*low_rank.shape, *window)


def window_sums(gW: Array, W: Array) -> tuple[Array, Array]:
    """Σ gW ⊙ W and Σ gW over the window of (J, I, ...), both (J, I)."""
    rows = (gW.shape[0], gW.shape[1], -1)
    return (gW * W).reshape(rows).sum(axis=2), gW.reshape(rows).sum(axis=2)


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


def conv2d_weight_squares(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """Σ_n g_n² entry by entry, with g_n the adjoint of conv2d in w from sample n alone: of shape w_shape."""
    xp = array_module(x)
    out, channels, kh, kw = w_shape
    _, rows, cols, batch = gy.shape
    padded = xp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    a = xp.ascontiguousarray(xp.moveaxis(gy, -1, 0)).reshape(batch, out, rows * cols)
    squares = xp.zeros(w_shape, dtype=gy.dtype)
    for i in range(kh):
        for j in range(kw):
            tap = padded[:, tap_slice(i, rows, stride), tap_slice(j, cols, stride)]
            tap = xp.ascontiguousarray(xp.moveaxis(tap, -1, 0)).reshape(batch, channels, rows * cols)
            g = a @ tap.swapaxes(1, 2)  # (N, O, C)
            squares[:, :, i, j] = (g * g).sum(axis=0)
    return squares


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


def norm_relu(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    """y = max(γ (x - mean)/√(var + eps) + β, 0) over the rows of x (C, M), with mean (C,) and biased variance (C,)."""
    normal, mean, var = batchnorm_train(x, gamma, beta, eps)
    return relu(normal), mean, var


def norm_relu_backward(
    gy: Array, y: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """Gradients of norm_relu in x, γ and β, from its output y and statistics: where y is 0 none comes through."""
    return batchnorm_backward(relu_backward(y, gy), x, gamma, mean, var, eps)


def add(a: Array, b: Array, rectify: bool = False) -> Array:
    """a + b for arrays of one shape, rectified or not: where two branches of a network meet."""
    return relu(a + b) if rectify else a + b


def dropout(x: Array, seed: tuple[int, int], rate: float) -> tuple[Array, Array]:
    """y = x ⊙ kept / (1 - rate), and kept itself, uint8: 1 with probability 1 - rate, else 0.

    Math: entry k, in C order, is kept if h(h(k ⊕ s₀) ⊕ s₁) >= rate 2³² in 32-bit numbers: `mixed_bits` is h. Every
    column forms the same mask from the same seed, and no draw passes from the host to a device.
    Shapes: x any; seed: two numbers below 2³².
    """
    xp = array_module(x)
    places = xp.arange(x.size, dtype="uint32")
    kept = mixed_bits(mixed_bits(places ^ seed[0]) ^ seed[1]) >= dropout_limit(rate)
    kept = kept.astype("uint8").reshape(x.shape)
    return dropout_again(x, kept, rate), kept


def mixed_bits(h: Array) -> Array:
    """A bijection of 32-bit numbers that changes half of the bits where one changes (Wellons' lowbias32)."""
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    return h ^ (h >> 16)


def dropout_limit(rate: float) -> int:
    """The least 32-bit number that is kept."""
    return min(round(rate * 2**32), 2**32 - 1)


def dropout_again(r: Array, kept: Array, rate: float) -> Array:
    """r ⊙ kept / (1 - rate) with the mask of a forward pass (..., N), for r (..., N) or K tangents (..., K, N)."""
    mask = kept.astype(r.dtype) * (1.0 / (1.0 - rate))
    return r * (mask if r.ndim == mask.ndim else mask[..., None, :])


def avgpool2d(x: Array, kernel: int, stride: int) -> Array:
    """The mean of each kernel x kernel window; x (C, H, W, N) -> (C, Ho, Wo, N)."""
    rows, cols = output_size(x.shape[1], kernel, stride, 0), output_size(x.shape[2], kernel, stride, 0)
    taps = [(tap_slice(i, rows, stride), tap_slice(j, cols, stride)) for i in range(kernel) for j in range(kernel)]
    total = x[:, taps[0][0], taps[0][1]]
    for down, across in taps[1:]:
        total = total + x[:, down, across]
    return total * (1.0 / kernel**2)


def avgpool2d_backward(gy: Array, x_shape: Shape, kernel: int, stride: int) -> Array:
    """The adjoint of avgpool2d: gy / kernel² over each window."""
    gx = array_module(gy).zeros(x_shape, dtype=gy.dtype)
    share = gy * (1.0 / kernel**2)
    for i in range(kernel):
        for j in range(kernel):
            gx[:, tap_slice(i, gy.shape[1], stride), tap_slice(j, gy.shape[2], stride)] += share
    return gx


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


def conv_block(
    x: Array, w: Array, bias: Array, gamma: Array, beta: Array, eps: float, stride: int, padding: int, pool: int,
    rectify: bool = True,
) -> tuple[Array, Array, Array, Any]:  # fmt: skip
    """y = maxpool(max(batchnorm(w * x + bias), 0)), the batch's mean and variance, and what the backward pass needs.

    Math: z = conv2d(x, w) + bias, n = batchnorm_train(z; γ, β, eps), r = max(n, 0) or n without `rectify`, y = r or its
    largest entries in windows of pool x pool, one beside the other. `saved` is for the same column's backward pass.
    Shapes: x (C, H, W, N), w (O, C, kh, kw), bias, gamma, beta, mean, var (O,), y (O, H', W', N).
    """
    return reference_blocks.forward(sys.modules[__name__], x, w, bias, gamma, beta, eps, stride, padding, pool, rectify)


def conv_block_backward(
    gy: Array, saved: Any, input_gradient: bool = True, weight_gradient: bool = True
) -> tuple[Array | None, Array | None, Array, Array]:
    """Gradients (gx, gw, gγ, gβ) of conv_block, gx and gw if asked for; the bias has none: the mean takes it away."""
    return reference_blocks.backward(sys.modules[__name__], gy, saved, input_gradient, weight_gradient)


def conv_block_apply(
    x: Array, w: Array, bias: Array, stride: int, padding: int, pool: int, rectify: bool = True
) -> Array:
    """maxpool(max(w * x + bias, 0)): conv_block where the normalisation is part of w and bias."""
    return reference_blocks.apply(sys.modules[__name__], x, w, bias, stride, padding, pool, rectify)


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Loss of each sample (N,) and class probabilities (K, N), for logits (K, N) and integer labels (N,)."""
    xp = array_module(logits)
    shifted = logits - logits.max(axis=0)
    log_sum = xp.log(xp.exp(shifted).sum(axis=0))
    loss = log_sum - shifted[labels, xp.arange(logits.shape[1])]
    return loss, xp.exp(shifted - log_sum)


def adam_flat(
    theta: Array,
    grad: Array,
    m: Array,
    v: Array,
    factors: Array,
    ends: Array,
    l1: Array,
    l2: Array,
    centre: Array,
) -> None:
    """One Adam update of flat theta with moments m, v, all three in place; each segment has a penalty of its own.

    Math: factors β1, 1-β1, β2, 1-β2, a = lr/(1-β1ⁿ), b = 1/√(1-β2ⁿ), ε, scale for update number n = 1, 2, ...;
    g = scale (grad + l1 sign(θ) + l2 (θ - centre)), m ← β1 m + (1-β1) g, v ← β2 v + (1-β2) g², θ ← θ - a m / (b√v + ε).
    Shapes: theta, grad, m, v (P,), factors (8,), ends (S,) whole numbers: segment s is ends[s-1] .. ends[s] - 1.
    """
    xp = array_module(theta)
    beta1, other1, beta2, other2, rate, root, eps, scale = (factors[k] for k in range(8))
    s = xp.searchsorted(ends, xp.arange(theta.size), side="right")  # the segment of every entry
    g = scale * (grad + l1[s] * xp.sign(theta) + l2[s] * (theta - centre[s]))
    m *= beta1
    m += other1 * g
    v *= beta2
    v += other2 * g * g
    theta -= rate * m / (root * xp.sqrt(v) + eps)


def pull(grad: Array, theta: Array, strength: Array, centre: Array) -> None:
    """grad += strength ⊙ (θ - centre) in place: the gradient of ½ Σ strength ⊙ (θ - centre)²; all (P,)."""
    grad += strength * (theta - centre)


def gather_images(images: Array, rows: Array, source: Array, table: Array, table_row: Array) -> Array:
    """Pixels looked up, reordered and normalised in one go: (D, N), batch last.

    Math: out[d, n] = table[table_row[d], images[rows[n], source[d]]].
    Shapes: images (M, P) uint8, rows (N,), source (D,), table (K, 256), table_row (D,).
    """
    pixels: Any = images[rows][:, source].T  # (D, N)
    return table[table_row[:, None], pixels]


def gather_augmented(
    images: Array, rows: Array, source: Array, table: Array, table_row: Array, moves: Array, shape: Shape
) -> Array:
    """gather_images of pixels that have moved: each image is shifted within a border of zeros, then mirrored.

    Math: out[c, y, x, n] = table[table_row[c, y, x], raw[c, y + dy, x' + dx]] with (dy, dx, mirrored) = moves[n],
    x' = W-1-x where mirrored, else x; raw[c, i, j] = images[rows[n], source[c, i, j]], and 0 outside of the image.
    Shapes: shape = (C, H, W); moves (N, 3) whole numbers; source and table_row (D,) with D = C·H·W; others as there.
    """
    xp = array_module(images)
    channels, height, width = shape
    x = xp.arange(width)[:, None]
    i = xp.arange(height)[:, None] + moves[:, 0]  # (H, N)
    j = xp.where(moves[:, 2] != 0, width - 1 - x, x) + moves[:, 1]  # (W, N)
    inside = ((i >= 0) * (i < height))[:, None] * ((j >= 0) * (j < width))  # (H, W, N), all four
    at = xp.where(inside, i[:, None] * width + j, 0)
    raw = images[rows, source.reshape(channels, height * width)[:, at]]  # (C, H, W, N)
    pixels = xp.where(inside, raw, xp.zeros_like(raw))
    return table[table_row.reshape(channels, height, width, 1), pixels].reshape(channels * height * width, -1)
