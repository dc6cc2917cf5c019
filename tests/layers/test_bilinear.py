"""The three bilinear maps of the linear layer and the convolution are one another's adjoints, exactly."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checks import check_same_number
from formulas import correlate
from halrp_np.layers import conv, linear

TOLERANCE = {np.float32: 3e-5, np.float64: 1e-12}


@pytest.mark.parametrize("sizes", [(4, 5, 7), (1, 5, 7), (4, 1, 7), (4, 5, 1), (17, 33, 40)])
def test_linear(sizes: tuple[int, ...], dtype: Any, layout: Callable[[Any], Any], rng: np.random.Generator) -> None:
    J, I, N = sizes
    gy, x, W = (layout(rng.normal(size=shape).astype(dtype)) for shape in ((J, N), (I, N), (J, I)))
    products = [gy * linear.apply(x, W), x * linear.grad_input(gy, W), W * linear.grad_weight(gy, x)]
    assert all(product.dtype == dtype for product in products)
    check_same_number(products, TOLERANCE[dtype])


WINDOWS = [(5, 1, 2), (4, 1, 0), (3, 1, 1), (3, 2, 1), (2, 1, 0), (1, 2, 0), (1, 1, 0), (2, 3, 0), (3, 1, 3), (6, 2, 1)]


def conv_products(
    sizes: tuple[int, ...], window: tuple[int, int, int], dtype: Any, layout: Callable[[Any], Any], rng: Any
) -> tuple[Any, Any, list[Any]]:
    """y, its definition, and the three inner products for random arrays of sizes (J, I, H, W, N)."""
    J, I, H, W, N = sizes
    kernel, stride, padding = window
    x = layout(rng.normal(size=(I, H, W, N)).astype(dtype))
    weight = layout(rng.normal(size=(J, I, kernel, kernel)).astype(dtype))
    y = conv.apply(x, weight, stride, padding)
    gy = layout(rng.normal(size=y.shape).astype(dtype))
    gx = conv.grad_input(gy, weight, x.shape, stride, padding)
    gW = conv.grad_weight(gy, x, weight.shape, stride, padding)
    assert y.dtype == gx.dtype == gW.dtype == dtype
    assert gx.shape == x.shape
    assert gW.shape == weight.shape
    return y, correlate(x, weight, stride, padding), [gy * y, x * gx, weight * gW]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_convolution(
    window: tuple[int, int, int], dtype: Any, layout: Callable[[Any], Any], rng: np.random.Generator
) -> None:
    y, expected, products = conv_products((4, 3, 8, 7, 5), window, dtype, layout, rng)
    np.testing.assert_allclose(y, expected, rtol=0, atol=TOLERANCE[dtype] * np.abs(expected).max())
    check_same_number(products, TOLERANCE[dtype])


@settings(max_examples=60)
@given(
    st.tuples(*(st.integers(1, n) for n in (5, 4, 9, 9, 20))),
    st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 3)),
    st.integers(0, 2**32 - 1),
)
def test_convolution_of_any_size(sizes: tuple[int, ...], window: tuple[int, int, int], seed: int) -> None:
    kernel, stride, padding = window
    padding = max(padding, (kernel - min(sizes[2:4]) + 1) // 2)  # the window fits into the padded image
    rng = np.random.default_rng(seed)
    y, expected, products = conv_products(sizes, (kernel, stride, padding), np.float64, np.asarray, rng)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12 * max(np.abs(expected).max(), 1.0))
    check_same_number(products, 1e-12)
