"""The readable column of the table of ops against loops and SciPy that know nothing of it."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.signal import correlate
from scipy.special import log_softmax

from halrp_np.backend import reference

WINDOWS = [((2, 6, 5, 3), (3, 2, 3, 3), 1, 1), ((1, 7, 7, 2), (2, 1, 5, 5), 2, 2), ((2, 5, 6, 1), (2, 2, 2, 3), 3, 0)]
CONVOLUTIONS = pytest.mark.parametrize(("x_shape", "w_shape", "stride", "padding"), WINDOWS)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * max(1.0, float(np.abs(expected).max())))


def scipy_conv(x: np.ndarray, w: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """One image and one output channel at a time, all channels at once by a 3-D correlation."""
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    images = [
        [correlate(padded[..., n], w[o], mode="valid")[0, ::stride, ::stride] for n in range(x.shape[3])]
        for o in range(w.shape[0])
    ]
    return np.moveaxis(np.array(images), 1, -1)


@CONVOLUTIONS
def test_convolution(x_shape: Any, w_shape: Any, stride: int, padding: int, rng: np.random.Generator) -> None:
    x, w = rng.normal(size=x_shape), rng.normal(size=w_shape)
    close(reference.conv2d(x, w, stride, padding), scipy_conv(x, w, stride, padding))


@CONVOLUTIONS
def test_convolution_gradients(x_shape: Any, w_shape: Any, stride: int, padding: int, rng: np.random.Generator) -> None:
    """Each output entry hands its gradient to the entries it was made of, one by one."""
    x, w = rng.normal(size=x_shape), rng.normal(size=w_shape)
    gy = rng.normal(size=scipy_conv(x, w, stride, padding).shape)
    gx, gws = np.zeros(x_shape), np.zeros((x_shape[3], *w_shape))
    for o, u, v, n in np.ndindex(gy.shape):
        for i, c, d in np.ndindex(*w_shape[1:]):
            a, b = u * stride - padding + c, v * stride - padding + d
            if 0 <= a < x_shape[1] and 0 <= b < x_shape[2]:
                gx[i, a, b, n] += w[o, i, c, d] * gy[o, u, v, n]
                gws[n, o, i, c, d] += x[i, a, b, n] * gy[o, u, v, n]
    close(reference.conv2d_grad_input(gy, w, x_shape, stride, padding), gx)
    close(reference.conv2d_grad_weight(gy, x, w_shape, stride, padding), gws.sum(axis=0))
    close(reference.conv2d_weight_squares(gy, x, w_shape, stride, padding), (gws**2).sum(axis=0))


def test_matmul(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(3, 4)), rng.normal(size=(4, 5))
    expected = [[math.fsum(a[i, k] * b[k, j] for k in range(4)) for j in range(5)] for i in range(3)]
    close(reference.matmul(a, b), np.array(expected))


def test_batchnorm(rng: np.random.Generator) -> None:
    """A dense Jacobian for each channel: ∂y_i/∂x_j = γ/σ (δ_ij - 1/M - x̂_i x̂_j/M)."""
    M, eps = 7, 1e-3
    x, gy, gamma, beta = (rng.normal(size=shape) for shape in [(3, M), (3, M), (3,), (3,)])
    y, mean, var = reference.batchnorm_train(x, gamma, beta, eps)
    gx, ggamma, gbeta = reference.batchnorm_backward(gy, x, gamma, mean, var, eps)
    for c in range(3):
        mu = math.fsum(x[c]) / M
        spread = math.fsum((entry - mu) ** 2 for entry in x[c]) / M
        sigma = math.sqrt(spread + eps)
        normal = np.array([(entry - mu) / sigma for entry in x[c]])
        close([mean[c], var[c]], np.array([mu, spread]))
        close(y[c], gamma[c] * normal + beta[c])
        jacobian = gamma[c] / sigma * (np.eye(M) - 1 / M - np.outer(normal, normal) / M)
        close(gx[c], jacobian.T @ gy[c])
        close([ggamma[c], gbeta[c]], np.array([math.fsum(gy[c] * normal), math.fsum(gy[c])]))
    applied = [[scale * entry + shift for entry in row] for row, scale, shift in zip(x, gamma, beta, strict=True)]
    close(reference.batchnorm_apply(x, gamma, beta), np.array(applied))


def test_relu_has_derivative_0_at_0() -> None:
    x = np.array([-1.5, -0.0, 0.0, 1e-300, 2.0])
    np.testing.assert_array_equal(reference.relu(x), [0, 0, 0, 1e-300, 2])
    np.testing.assert_array_equal(reference.relu_backward(reference.relu(x), np.arange(2.0, 7.0)), [0, 0, 0, 5, 6])


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (2, 3), (3, 1)])
def test_pooling_takes_the_first_maximum(kernel: int, stride: int, rng: np.random.Generator) -> None:
    x = rng.integers(3, size=(2, 7, 8, 3)).astype(float)  # windows tie
    rows, cols = ((n - kernel) // stride + 1 for n in x.shape[1:3])
    y, argmax = reference.maxpool2d(x, kernel, stride)
    gy = rng.normal(size=(2, rows, cols, 3))
    gx = np.zeros(x.shape)
    assert y.shape == argmax.shape == gy.shape
    for c, u, v, n in np.ndindex(gy.shape):
        window = [x[c, u * stride + i, v * stride + j, n] for i in range(kernel) for j in range(kernel)]
        first = window.index(max(window))
        assert (y[c, u, v, n], argmax[c, u, v, n]) == (max(window), first)
        gx[c, u * stride + first // kernel, v * stride + first % kernel, n] += gy[c, u, v, n]
    close(reference.maxpool2d_backward(gy, argmax, x.shape, kernel, stride), gx)


def test_softmax_cross_entropy_of_huge_logits(rng: np.random.Generator) -> None:
    logits, labels = 500 * rng.normal(size=(6, 9)), rng.integers(6, size=9)
    loss, probabilities = reference.softmax_cross_entropy(logits, labels)
    expected = log_softmax(logits, axis=0)
    close(loss, -expected[labels, np.arange(9)])
    close(probabilities, np.exp(expected))
    close(probabilities.sum(axis=0), np.ones(9))


def test_adam_entry_by_entry_over_three_steps(rng: np.random.Generator) -> None:
    theta, m, v = rng.normal(size=4), np.zeros(4), np.zeros(4)
    theta[2] = 0.0
    expected = [(float(value), 0.0, 0.0) for value in theta]
    for step in (1, 2, 3):
        grad = rng.normal(size=4)
        bias = (0.1 / (1 - 0.9**step), (1 - 0.999**step) ** -0.5)
        factors = np.array([0.9, 1 - 0.9, 0.999, 1 - 0.999, *bias, 1e-8, 10.0])
        reference.adam_flat(theta, grad, m, v, factors, np.array([4]), *np.array([[0.3], [0.2], [1.0]]))
        for k, (t, first, second) in enumerate(expected):
            g = 10 * (grad[k] + 0.3 * np.sign(t) + 0.2 * (t - 1))
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
            corrected, root = first / (1 - 0.9**step), math.sqrt(second / (1 - 0.999**step))
            expected[k] = (t - 0.1 * corrected / (root + 1e-8), first, second)
        close(np.stack([theta, m, v], axis=1), np.array(expected))


def test_augmented_images_one_by_one(rng: np.random.Generator) -> None:
    """As a loader does it: pad the raw image with zeros, crop, mirror, then normalise each channel."""
    pad, shape, count = 2, (3, 5, 4), 40
    images, table = rng.integers(256, size=(6, 3, 5, 4)).astype(np.uint8), rng.normal(size=(3, 256))
    rows, source, table_row = rng.integers(6, size=count), np.arange(60, dtype=np.int32), np.arange(3).repeat(20)
    corners, mirrored = rng.integers(0, 2 * pad + 1, (count, 2)), rng.integers(0, 2, count)
    moves = np.concatenate([corners - pad, mirrored[:, None]], axis=1)
    found = reference.gather_augmented(images.reshape(6, 60), rows, source, table, table_row, moves, shape)
    for n, (top, left) in enumerate(corners):
        padded = np.pad(images[rows[n]], ((0, 0), (pad, pad), (pad, pad)))
        crop = padded[:, top : top + 5, left : left + 4]
        crop = crop[:, :, ::-1] if mirrored[n] else crop
        expected = np.stack([table[c][crop[c]] for c in range(3)])
        np.testing.assert_array_equal(found[:, n], expected.ravel())


def test_gathered_images(rng: np.random.Generator) -> None:
    images = rng.integers(256, size=(5, 6)).astype(np.uint8)
    rows, source = np.array([4, 0, 4]), np.array([3, 3, 0, 5], np.int32)
    table, table_row = rng.normal(size=(2, 256)), np.array([1, 0, 0, 1], np.uint8)
    found = reference.gather_images(images, rows, source, table, table_row)
    expected = [[table[table_row[d], images[rows[n], source[d]]] for n in range(3)] for d in range(4)]
    np.testing.assert_array_equal(found, expected)
