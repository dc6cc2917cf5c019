"""The register-blocked matrix product: any shape, layout and start value against float64, whatever the threads."""

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import strided
from halrp_np.backend import gemm, numba_kernels, simd_gemm
from halrp_np.backend.simd import LANES
from halrp_np.errors import ShapeError

LAYOUTS = {"C": np.ascontiguousarray, "F": np.asfortranarray, "S": strided}
EDGES = [1, 5, 6, 7, 12, 15, 16, 17, 31, 33, 48, 63, 64, 65, 96, 97, 113, 127, 128, 129, 200, 257]
SIZES = st.integers(1, 140) | st.sampled_from(EDGES)


def operands(seed: int, rows: int, depth: int, columns: int, order: str = "CC", dtype: Any = np.float32) -> list[Any]:
    """a, b in the memory layouts of `order`, and a start value a row."""
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(rows, depth)).astype(dtype), draw.normal(size=(depth, columns)).astype(dtype)
    return [LAYOUTS[order[0]](a), LAYOUTS[order[1]](b), draw.normal(size=rows).astype(dtype)]


def assert_product(found: np.ndarray, a: np.ndarray, b: np.ndarray, start: np.ndarray | None, tolerance: float) -> None:
    """Within rounding of the sum of the products' sizes."""
    exact = a.astype(np.float64) @ b.astype(np.float64)
    scale = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)
    if start is not None:
        exact, scale = exact + start[:, None], scale + np.abs(start[:, None])
    assert found.dtype == a.dtype
    assert found.shape == exact.shape
    assert (np.abs(found - exact) <= tolerance * scale).all()


@settings(max_examples=80, deadline=None)
@given(
    rows=SIZES,
    depth=SIZES,
    columns=SIZES,
    order=st.sampled_from(["CC", "CF", "FC", "FF", "CS", "SC", "SS"]),
    with_start=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_and_layout(rows: int, depth: int, columns: int, order: str, with_start: bool, seed: int) -> None:
    a, b, start = operands(seed, rows, depth, columns, order)
    kept = [array.copy() for array in (a, b, start)]
    found = gemm.product(a, b, start if with_start else None)
    assert_product(found, a, b, start if with_start else None, 3e-6)
    for array, before in zip((a, b, start), kept, strict=True):
        np.testing.assert_array_equal(array, before)
    assert not any(np.shares_memory(found, array) for array in (a, b, start))


@settings(max_examples=60, deadline=None)
@given(
    rows=SIZES,
    depth=SIZES,
    columns=SIZES,
    order=st.sampled_from(["CC", "CF", "FC", "SS"]),
    base_order=st.sampled_from("CFS"),
    given_terms=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)
def test_scalings_and_a_base_are_part_of_the_sum(
    rows: int, depth: int, columns: int, order: str, base_order: str, given_terms: tuple[bool, ...], seed: int
) -> None:
    a, b, start = operands(seed, rows, depth, columns, order)
    base, _, _ = operands(seed + 1, rows, columns, 1, base_order + "C")
    (scale,), (base_scale,) = (normal(seed, (1, size)) for size in (depth, rows))
    with_start, with_scale, with_base = given_terms
    terms = {"start": start} if with_start else {}
    if with_scale:
        terms["scale"] = scale
    if with_base:
        terms |= {"base": base, "base_scale": base_scale}
    found = gemm.product(a, b, **terms)
    exact = a.astype(np.float64) @ (b * (scale if with_scale else np.ones(depth))[:, None].astype(np.float64))
    size = np.abs(a).astype(np.float64) @ np.abs(b * (scale if with_scale else np.ones(depth))[:, None])
    for term in ([start[:, None]] if with_start else []) + ([base_scale[:, None] * base] if with_base else []):
        exact, size = exact + term, size + np.abs(term)
    assert found.shape == exact.shape
    assert (np.abs(found - exact) <= 3e-6 * size).all()


def normal(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("order", ["CC", "FC", "CF"])
@pytest.mark.parametrize("shape", [(800, 320, 128), (97, 1030, 100), (320, 800, 32), (7, 100, 1300)])
def test_bits_do_not_depend_on_the_threads(shape: tuple[int, int, int], order: str) -> None:
    a, b, start = operands(0, *shape, order)
    threads = numba.get_num_threads()
    many = gemm.product(a, b, start)
    try:
        numba.set_num_threads(1)
        one = gemm.product(a, b, start)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(many, one)
    np.testing.assert_array_equal(many, gemm.product(np.ascontiguousarray(a), np.ascontiguousarray(b), start))


@pytest.mark.parametrize("order", ["CC", "FC", "CF"])
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_what_is_not_finite_reaches_its_row_or_column_and_no_other(order: str, value: float) -> None:
    a, b, start = operands(1, 19, 140, 83, order)
    for row, column in ((0, 0), (18, 82), (13, 64)):
        bad_a, bad_b, bad_start = a.copy(order="K"), b.copy(order="K"), start.copy()
        bad_a[row, 139] = bad_b[139, column] = bad_start[row] = value
        rows, columns = np.arange(19)[:, None] == row, np.arange(83) == column
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(~np.isfinite(gemm.product(bad_a, b)), rows | np.zeros(83, bool))
            np.testing.assert_array_equal(~np.isfinite(gemm.product(a, bad_b)), columns | np.zeros((19, 1), bool))
            np.testing.assert_array_equal(~np.isfinite(gemm.product(a, b, bad_start)), rows | np.zeros(83, bool))


def test_a_frozen_weight_may_be_read_only() -> None:
    a, b, _ = operands(2, 20, 30, 40)
    a.flags.writeable = False
    assert_product(gemm.product(a, b), a, b, None, 3e-6)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (3, 5, 1), (40, 50, 60)])
@pytest.mark.parametrize("order", ["CC", "FF"])
def test_linear_with_and_without_a_bias(shape: tuple[int, int, int], order: str, dtype: Any) -> None:
    W, x, bias = operands(3, *shape, order, dtype)
    tolerance = 3e-6 if dtype == np.float32 else 1e-14
    assert_product(numba_kernels.linear(x, W, bias), W, x, bias, tolerance)
    assert_product(numba_kernels.linear(x, W), W, x, None, tolerance)
    assert_product(numba_kernels.matmul(W, x), W, x, None, tolerance)


def test_shapes_that_do_not_fit_are_refused() -> None:
    W, x, bias = operands(4, 3, 4, 5)
    with pytest.raises(ShapeError, match="linear"):
        numba_kernels.linear(x[:3], W, bias)
    with pytest.raises(ShapeError, match="linear"):
        numba_kernels.linear(x, W, bias[:2])
    with pytest.raises(ShapeError, match="matmul"):
        numba_kernels.matmul(x, W)


@numba.njit
def turned(x: np.ndarray, y: np.ndarray, step: int) -> None:
    simd_gemm.transpose_tile(x, 3, step, y, 5, step)


def test_a_tile_is_turned_and_nothing_beside_it_written() -> None:
    step = LANES + 3
    x, y = np.arange(LANES * step + 8, dtype=np.float32), np.full(LANES * step + 8, -1, dtype=np.float32)
    turned(x, y, step)
    k, n = np.indices((LANES, LANES))
    np.testing.assert_array_equal(y[5 + k * step + n], x[3 + n * step + k])
    assert (y == -1).sum() == y.size - LANES * LANES
