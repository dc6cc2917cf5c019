"""Winograd's convolution: its tables exactly, its three maps against float64 within a bound on their rounding."""

from fractions import Fraction

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import strided
from halrp_np.backend import direct_conv, reference, winograd
from halrp_np.backend.simd import LANES
from halrp_np.backend.winograd_tables import KERNELS, OUTPUT, butterfly, tables, transpose

EPS = float(np.finfo(np.float32).eps)


def _times(matrix, x):
    """A matrix of fractions times a vector of them."""
    return [sum((a * b for a, b in zip(row, x, strict=True)), Fraction(0)) for row in matrix]


@pytest.mark.parametrize("r", KERNELS)
def test_the_tables_give_correlation_exactly(r, rng):
    table, n = tables(r), OUTPUT + r - 1
    x, g = ([Fraction(int(v)) for v in rng.integers(-99, 100, size)] for size in (n, r))
    products = [a * b for a, b in zip(_times(table.G, g), _times(table.Bt, x), strict=True)]
    assert _times(table.At, products) == [sum(x[u + i] * g[i] for i in range(r)) for u in range(OUTPUT)]


@pytest.mark.parametrize("r", KERNELS)
def test_half_of_a_butterfly_is_zero_and_it_gives_the_matrix_back(r):
    for matrix in (tables(r).Bt, transpose(tables(r).At)):
        half = butterfly(matrix)
        again = list(half)
        for k in range(1, len(half) - 1, 2):
            again[k] = tuple(a + b for a, b in zip(half[k], half[k + 1], strict=True))
            again[k + 1] = tuple(a - b for a, b in zip(half[k], half[k + 1], strict=True))
            assert all(a * b == 0 for a, b in zip(half[k], half[k + 1], strict=True))
        assert tuple(again) == matrix


@pytest.mark.parametrize("r", KERNELS)
def test_constants_of_the_kernels_are_exact_in_float32(r):
    for matrix in (tables(r).At, tables(r).Bt, butterfly(tables(r).Bt), butterfly(transpose(tables(r).At))):
        assert all(Fraction(float(np.float32(float(value)))) == value for row in matrix for value in row)


# ---- values ---------------------------------------------------------------------------------------------------------


def _matrices(r, map_=lambda a: a):
    """At, G and Bt in float64, through map_."""
    return [map_(np.array([[float(v) for v in row] for row in matrix])) for matrix in tables(r)]


def _tiles(image, side, border, grid):
    """Windows (C, P, Q, N, side, side) at every OUTPUT-th pixel from -border on of (C, H, W, N), zeros outside."""
    near, far = max(0, border), side + OUTPUT * max(grid)
    wide = np.pad(image, ((0, 0), (near, far), (near, far), (0, 0)))[:, near - border :, near - border :]
    view = np.lib.stride_tricks.sliding_window_view(wide, (side, side), axis=(1, 2))
    return view[:, ::OUTPUT, ::OUTPUT][:, : grid[0], : grid[1]]


def _forward(x, w, border, size, map_=lambda a: a):
    """Winograd's algorithm in float64 with every matrix and argument through map_: `abs` bounds what is added up."""
    r = w.shape[2]
    At, G, Bt = _matrices(r, map_)
    grid = -(-size[0] // OUTPUT), -(-size[1] // OUTPUT)
    v = np.einsum("ia,cpqnab,jb->cpqnij", Bt, _tiles(map_(x), OUTPUT + r - 1, border, grid), Bt, optimize=True)
    u = np.einsum("ia,ocab,jb->ocij", G, map_(w), G, optimize=True)
    y = np.einsum("ui,ocij,cpqnij,vj->opuqvn", At, u, v, At, optimize=True)
    return y.reshape(len(w), grid[0] * OUTPUT, grid[1] * OUTPUT, -1)[:, : size[0], : size[1]]


def _weight(gy, x, r, padding, map_=lambda a: a):
    """The same for the gradient in w."""
    At, G, Bt = _matrices(r, map_)
    grid = -(-gy.shape[1] // OUTPUT), -(-gy.shape[2] // OUTPUT)
    d, e = _tiles(map_(x), OUTPUT + r - 1, padding, grid), _tiles(map_(gy), OUTPUT, 0, grid)
    v = np.einsum("ia,cpqnab,jb->cpqnij", Bt, d, Bt, optimize=True)
    z = np.einsum("ui,opqnuv,vj->opqnij", At, e, At, optimize=True)
    return np.einsum("ia,opqnij,cpqnij,jb->ocab", G, z, v, G, optimize=True)


def _assert_within_rounding(got, want, magnitude, terms):
    """|got - want| ≤ k ε Σ|terms|, the standard bound of a sum of products in which a term passes k roundings.

    Each of four 1-D transforms rounds a term at most n times, the weights are rounded once, the sum over `terms` values
    rounds once for each.
    """
    assert got.dtype == np.float32
    assert got.shape == want.shape
    excess = np.abs(got - want) - (4 * 8 + 2 + terms) * EPS * magnitude
    assert excess.max(initial=0) <= 0


def _check(x, w, padding):
    """All three maps at x and w, and at a gradient as large as x."""
    r = w.shape[2]
    x64, w64 = x.astype(float), w.astype(float)
    want, y = reference.conv2d(x64, w64, 1, padding), winograd.correlate(x, w, 1, padding)
    size, magnitude = y.shape[1:3], _forward(x64, w64, padding, y.shape[1:3], np.abs)
    np.testing.assert_allclose(_forward(x64, w64, padding, size), want, rtol=0, atol=1e-12 * magnitude.max())
    _assert_within_rounding(y, want, magnitude, len(x))

    gy = (np.random.default_rng(1).standard_normal(y.shape) * np.abs(x).max()).astype(np.float32)
    gy64, swapped = gy.astype(float), w64.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    want = reference.conv2d_grad_input(gy64, w64, x.shape, 1, padding)
    magnitude = _forward(gy64, swapped, r - 1 - padding, x.shape[1:3], np.abs)
    _assert_within_rounding(winograd.correlate_adjoint(gy, w, x.shape, 1, padding), want, magnitude, len(w))

    want = reference.conv2d_grad_weight(gy64, x64, w.shape, 1, padding)
    tiles = -(-size[0] // OUTPUT) * -(-size[1] // OUTPUT) * -(-x.shape[3] // LANES)
    magnitude = _weight(gy64, x64, r, padding, np.abs)
    _assert_within_rounding(winograd.correlate_weight(gy, x, w.shape, 1, padding), want, magnitude, tiles + LANES)


@settings(max_examples=60)
@given(
    r=st.sampled_from(KERNELS),
    channels=st.integers(1, 9),
    outputs=st.integers(1, 12),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    batch=st.integers(1, 40),
    padding=st.integers(0, 7),
    exponent=st.sampled_from([0, 0, 3, 15]),
    seed=st.integers(0, 9),
)
@example(r=5, channels=3, outputs=6, height=2, width=9, batch=2 * LANES, padding=7, exponent=0, seed=0)
@example(r=3, channels=1, outputs=1, height=1, width=1, batch=1, padding=2, exponent=0, seed=0)
@example(r=5, channels=5, outputs=11, height=11, width=10, batch=3 * LANES, padding=2, exponent=0, seed=0)
def test_every_shape_is_right_within_rounding(r, channels, outputs, height, width, batch, padding, exponent, seed):
    """Any remainder of images, outputs, channels and pixels, any padding, any scale of pixels and weights."""
    short = r - 2 * padding
    shape = (channels, max(height, short), max(width, short), batch)
    rng = np.random.default_rng(seed)
    x, w = (
        (rng.standard_normal(size) * 10.0 ** rng.integers(-exponent, exponent + 1, size)).astype(np.float32)
        for size in (shape, (outputs, channels, r, r))
    )
    _check(x, w, padding)


def test_many_channels_and_outputs_pass_the_scratch_limits(rng):
    """More outputs than a task keeps at once, several tiles of tasks for each worker, several parts of the weights."""
    x, w = rng.standard_normal((33, 18, 18, LANES + 3)), rng.standard_normal((47, 33, 5, 5))
    _check(x.astype(np.float32), w.astype(np.float32), 2)


@pytest.mark.parametrize("r", KERNELS)
def test_the_three_maps_are_adjoint(r, rng):
    x, w = rng.standard_normal((5, 11, 9, 20)).astype(np.float32), rng.standard_normal((7, 5, r, r)).astype(np.float32)
    y = winograd.correlate(x, w, 1, 1)
    gy = rng.standard_normal(y.shape).astype(np.float32)
    pairs = (
        (gy, y),
        (winograd.correlate_adjoint(gy, w, x.shape, 1, 1), x),
        (winograd.correlate_weight(gy, x, w.shape, 1, 1), w),
    )
    products = [float(np.vdot(a.astype(float), b.astype(float))) for a, b in pairs]
    scale = np.linalg.norm(gy.astype(float)) * np.linalg.norm(y.astype(float))
    np.testing.assert_allclose(products, products[0], rtol=0, atol=4 * EPS * scale)


@pytest.mark.parametrize("r", KERNELS)
def test_slices_go_in_and_out_as_batches_do(r, rng):
    """Padded slices, spare channels in them, and slices as outputs give the same bits as batches."""
    x, w = rng.standard_normal((6, 9, 10, 37)).astype(np.float32), rng.standard_normal((7, 6, r, r)).astype(np.float32)
    y = winograd.correlate(x, w, 1, 2)
    gy = rng.standard_normal(y.shape).astype(np.float32)
    wide_x = direct_conv.pack_images(x, 8, 2, 3, 15, 17)
    wide_y = direct_conv.pack_images(gy, 10, 0, 0, *y.shape[1:3])
    gw = winograd.weight_gradient(wide_y, wide_x, w.shape, 2)
    np.testing.assert_array_equal(gw, winograd.correlate_weight(gy, x, w.shape, 1, 2))
    gx = winograd.correlate_adjoint(gy, w, x.shape, 1, 2)
    winograd.convolve_adjoint(wide_y, w, 2, winograd.packed(wide_x))
    winograd.convolve(direct_conv.pack_images(x, 6, 0, 0, 9, 10), w, 2, winograd.packed(wide_y))
    for slices, want in ((wide_y, y), (wide_x, gx)):
        array = slices.data.reshape(*slices.shape, LANES)[:, : len(want)]
        array = array[:, :, slices.top :, slices.left :][:, :, : want.shape[1], : want.shape[2]]
        batch = array.transpose(1, 2, 3, 0, 4).reshape(*want.shape[:3], -1)
        np.testing.assert_array_equal(batch[..., : want.shape[3]], want)


def test_results_do_not_depend_on_the_number_of_threads(rng):
    x, w = rng.standard_normal((7, 13, 13, 40)).astype(np.float32), rng.standard_normal((9, 7, 5, 5)).astype(np.float32)
    gy = rng.standard_normal((9, 13, 13, 40)).astype(np.float32)
    results = []
    threads = numba.get_num_threads()
    try:
        for count in {1, threads}:
            numba.set_num_threads(count)
            results.append(
                (
                    winograd.correlate(x, w, 1, 2),
                    winograd.correlate_adjoint(gy, w, x.shape, 1, 2),
                    winograd.correlate_weight(gy, x, w.shape, 1, 2),
                )
            )
    finally:
        numba.set_num_threads(threads)
    for result in results:
        for got, want in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(got, want)


def test_memory_order_does_not_matter(rng):
    x, w = rng.standard_normal((4, 8, 8, 18)).astype(np.float32), rng.standard_normal((5, 4, 3, 3)).astype(np.float32)
    gy = rng.standard_normal((5, 8, 8, 18)).astype(np.float32)
    for plain, other in (
        (winograd.correlate(x, w, 1, 1), winograd.correlate(strided(x), strided(w), 1, 1)),
        (
            winograd.correlate_adjoint(gy, w, x.shape, 1, 1),
            winograd.correlate_adjoint(strided(gy), strided(w), x.shape, 1, 1),
        ),
        (
            winograd.correlate_weight(gy, x, w.shape, 1, 1),
            winograd.correlate_weight(strided(gy), strided(x), w.shape, 1, 1),
        ),
    ):
        np.testing.assert_array_equal(plain, other)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so_and_stays_in_its_image(bad, rng):
    x, w = rng.standard_normal((2, 12, 12, LANES)).astype(np.float32), np.ones((3, 2, 5, 5), dtype=np.float32)
    x[1, 5, 6, 3] = bad
    y = winograd.correlate(x, w, 1, 2)
    assert not np.isfinite(y[:, 3:8, 4:9, 3]).any()
    assert np.isfinite(np.delete(y, 3, axis=3)).all()
    gx = winograd.correlate_adjoint(x, np.ones((2, 3, 5, 5), dtype=np.float32), (3, 12, 12, LANES), 1, 2)
    assert not np.isfinite(gx[:, 3:8, 4:9, 3]).any()
    gw = winograd.correlate_weight(np.ones((3, 12, 12, LANES), dtype=np.float32), x, w.shape, 1, 2)
    assert not np.isfinite(gw[:, 1]).any()
    assert np.isfinite(gw[:, 0]).all()


@pytest.mark.parametrize(
    ("w_shape", "x_shape", "stride", "expected"),
    [
        ((50, 20, 5, 5), (20, 16, 16, 128), 1, True),
        ((64, 64, 3, 3), (64, 16, 16, 64), 1, True),
        ((50, 20, 5, 5), (20, 16, 16, 128), 2, False),
        ((50, 20, 5, 3), (20, 16, 16, 128), 1, False),
        ((50, 20, 7, 7), (20, 16, 16, 128), 1, False),
        ((20, 3, 5, 5), (3, 32, 32, 128), 1, False),  # too few channels to pay for the transforms
        ((256, 256, 3, 3), (256, 4, 4, 64), 1, False),  # too few tiles to pay for that of the weights
        ((50, 20, 5, 5), (20, 64, 64, 1), 1, False),  # most lanes empty
    ],
)
def test_it_serves_where_it_wins(w_shape, x_shape, stride, expected):
    assert winograd.applies(w_shape, x_shape, stride) is expected


@pytest.mark.parametrize(("shape", "outputs", "r"), [((20, 16, 16, 32), 50, 5), ((20, 16, 16, 32), 50, 3)])
def test_rounding_is_a_few_times_that_of_the_direct_kernels(shape, outputs, r, rng):
    """LeNet's second convolution: 6 to 9 times, because the transforms cancel; far below a gradient."""
    x = np.maximum(rng.standard_normal(shape), 0).astype(np.float32)
    w = (rng.standard_normal((outputs, shape[0], r, r)) / np.sqrt(shape[0] * r * r)).astype(np.float32)
    want = reference.conv2d(x.astype(float), w.astype(float), 1, r // 2)
    errors = [np.abs(module.correlate(x, w, 1, r // 2) - want).max() for module in (winograd, direct_conv)]
    assert errors[0] <= 20 * errors[1]
    assert errors[0] <= 1e-4 * np.abs(want).max()
