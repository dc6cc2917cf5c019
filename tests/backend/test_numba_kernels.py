"""The Numba column against the readable one in float64: every op, odd shapes, both types, both memory layouts."""

import inspect
import tracemalloc
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import strided
from halrp_np.backend import gemm_conv, jit, numba_kernels, ops, reference
from halrp_np.errors import ShapeError
from halrp_np.training.optimizer import adam_factors

CONVOLUTIONS = [  # C, O, H, W, N, kh, kw, stride, padding
    (3, 20, 9, 11, 17, 5, 5, 1, 2),  # outputs fill their blocks; pixels and lanes do not
    (7, 11, 8, 8, 33, 3, 3, 2, 1),
    (2, 3, 7, 7, 5, 1, 1, 2, 0),  # a stride beyond the kernel: pixels that no output sees
    (4, 6, 12, 10, 16, 7, 7, 2, 3),
    (1, 1, 5, 5, 1, 3, 3, 1, 0),  # one image: im2col in float32 too
    (5, 4, 6, 5, 40, 3, 3, 3, 2),
    (2, 3, 6, 6, 16, 2, 2, 1, 3),  # padding beyond the kernel
    (3, 4, 16, 16, 20, 4, 4, 3, 5),
    (2, 7, 6, 9, 16, 2, 5, 2, 1),  # a kernel that is not square
    (2, 3, 4, 4, 0, 3, 3, 1, 1),  # no image at all
]


def random_conv(rng: np.random.Generator, case: tuple[int, ...], dtype: Any) -> tuple[np.ndarray, ...]:
    """x, w and a cotangent gy of one convolution."""
    channels, outputs, height, width, batch, kh, kw, stride, padding = case
    rows, columns = (reference.output_size(n, k, stride, padding) for n, k in ((height, kh), (width, kw)))
    shapes = (channels, height, width, batch), (outputs, channels, kh, kw), (outputs, rows, columns, batch)
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def assert_close(got: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Same shape, and no entry further off than `tolerance` of the largest one."""
    assert got.shape == expected.shape
    assert np.abs(got - expected).max(initial=0) <= tolerance * np.abs(expected).max(initial=0)


def tolerance_of(dtype: Any, float32: float = 1e-5) -> float:
    """The rounding error that a sum of a few hundred products may have."""
    return float32 if dtype == np.float32 else 1e-12


def double(*arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays in float64, for the reference."""
    return [array.astype(np.float64) for array in arrays]


def check_conv(x: np.ndarray, w: np.ndarray, gy: np.ndarray, stride: int, padding: int) -> None:
    """The three maps of one convolution against the reference, the inputs left as they were."""
    before, tolerance = [array.copy() for array in (x, w, gy)], tolerance_of(x.dtype)
    x64, w64, gy64 = double(x, w, gy)
    y = numba_kernels.conv2d(x, w, stride, padding)
    gx = numba_kernels.conv2d_grad_input(gy, w, x.shape, stride, padding)
    gw = numba_kernels.conv2d_grad_weight(gy, x, w.shape, stride, padding)
    squares = numba_kernels.conv2d_weight_squares(gy, x, w.shape, stride, padding)
    assert y.dtype == gx.dtype == gw.dtype == squares.dtype == x.dtype
    assert_close(squares, reference.conv2d_weight_squares(gy64, x64, w.shape, stride, padding), tolerance)
    assert_close(y, reference.conv2d(x64, w64, stride, padding), tolerance)
    assert_close(gx, reference.conv2d_grad_input(gy64, w64, x.shape, stride, padding), tolerance)
    assert_close(gw, reference.conv2d_grad_weight(gy64, x64, w.shape, stride, padding), tolerance)
    for array, old in zip((x, w, gy), before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_every_named_twin_has_the_signature_of_its_reference() -> None:
    for name, row in ops.TABLE.items():
        if row.numba is not None:
            twin = inspect.signature(getattr(numba_kernels, row.numba))
            assert list(twin.parameters) == list(inspect.signature(row.reference).parameters), name


def test_a_kernel_compiles_where_nothing_can_be_cached(monkeypatch) -> None:
    def refuse(*, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(jit, "njit", refuse)
    assert jit.compiled()(lambda x: x / 0)(1.0) == np.inf


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_maps(rng, dtype, layout, case) -> None:
    x, w, gy = (layout(array) for array in random_conv(rng, case, dtype))
    check_conv(x, w, gy, *case[-2:])


@settings(max_examples=60)
@given(
    st.tuples(*(st.integers(1, high) for high in (4, 12, 9, 9, 34, 4, 4))),
    st.integers(1, 3),
    st.integers(0, 4),
    st.integers(0, 2**32 - 1),
)
def test_convolution_maps_on_any_shape(sizes, stride, padding, seed) -> None:
    channels, outputs, height, width, batch, kh, kw = sizes
    case = (channels, outputs, max(height, kh), max(width, kw), batch, kh, kw, stride, padding)
    check_conv(*random_conv(np.random.default_rng(seed), case, np.float32), stride, padding)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_im2col_serves_any_batch_in_float32(rng, case) -> None:
    """The wrappers send it small batches only."""
    x, w, gy = random_conv(rng, case, np.float32)
    stride, padding = case[-2:]
    x64, w64, gy64 = double(x, w, gy)
    assert_close(gemm_conv.correlate(x, w, stride, padding), reference.conv2d(x64, w64, stride, padding), 1e-5)
    gx = gemm_conv.correlate_adjoint(gy, w, x.shape, stride, padding)
    assert_close(gx, reference.conv2d_grad_input(gy64, w64, x.shape, stride, padding), 1e-5)
    gw = gemm_conv.correlate_weight(gy, x, w.shape, stride, padding)
    assert_close(gw, reference.conv2d_grad_weight(gy64, x64, w.shape, stride, padding), 1e-5)


@pytest.mark.parametrize("order", ["CC", "CF", "FC", "FF", "SS"])
@pytest.mark.parametrize(
    "shape",
    [(3, 4, 5), (1, 1, 1), (5, 7, 1), (6, 1, 9), (4, 9, 20), (13, 300, 70), (41, 65, 64), (100, 20, 129), (3, 0, 9)],
)
def test_matmul_in_any_layout(rng, dtype, shape, order) -> None:
    layouts = {"C": np.ascontiguousarray, "F": np.asfortranarray, "S": strided}
    rows, depth, columns = shape
    a = layouts[order[0]](rng.standard_normal((rows, depth)).astype(dtype))
    b = layouts[order[1]](rng.standard_normal((depth, columns)).astype(dtype))
    got = numba_kernels.matmul(a, b)
    assert got.dtype == dtype
    assert_close(got, a.astype(np.float64) @ b.astype(np.float64), tolerance_of(dtype))


@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (7, 1003), (20, 4096)])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_batchnorm_statistics_survive_a_large_mean(rng, dtype, layout, shape, mean) -> None:
    x = layout((rng.standard_normal(shape) + mean).astype(dtype))
    gamma, beta = (rng.standard_normal(shape[0]).astype(dtype) for _ in range(2))
    gy = layout(rng.standard_normal(shape).astype(dtype))
    tolerance = 1e-6 if dtype == np.float32 else 1e-11
    got = numba_kernels.batchnorm_train(x, gamma, beta, 1e-5)
    y, mean64, var64 = reference.batchnorm_train(*double(x, gamma, beta), 1e-5)
    for array, expected in zip(got, (y, mean64, var64), strict=True):
        assert array.dtype == dtype
        assert_close(array, expected, tolerance)
    stored = [array.astype(dtype) for array in (mean64, var64)]
    gradients = numba_kernels.batchnorm_backward(gy, x, gamma, *stored, 1e-5)
    exact = reference.batchnorm_backward(*double(gy, x, gamma, *stored), 1e-5)
    scale = max(np.abs(array).max() for array in exact)
    for array, expected in zip(gradients, exact, strict=True):
        assert array.dtype == dtype
        assert np.abs(array - expected).max() <= 5 * tolerance * scale


def test_batchnorm_apply(rng, dtype, layout) -> None:
    x = layout(rng.standard_normal((7, 103)).astype(dtype))
    scale, shift = (rng.standard_normal(7).astype(dtype) for _ in range(2))
    got = numba_kernels.batchnorm_apply(x, scale, shift)
    assert_close(got, reference.batchnorm_apply(*double(x, scale, shift)), tolerance_of(dtype, 1e-6))


def test_relu_and_its_gradient(rng, dtype, layout) -> None:
    x = layout(rng.integers(-2, 3, (5, 4, 3, 7)).astype(dtype))  # zeros among them
    gy = layout(rng.standard_normal(x.shape).astype(dtype))
    y = numba_kernels.relu(x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(numba_kernels.relu_backward(y, gy), np.where(x > 0, gy, 0))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 2), (3, 1), (2, 3)])
@pytest.mark.parametrize("batch", [0, 1, 19, 32])
def test_maxpool_takes_the_first_of_equal_entries(rng, dtype, layout, kernel, stride, batch) -> None:
    x = layout(rng.integers(0, 4, (3, 9, 8, batch)).astype(dtype))  # ties in most windows
    y, argmax = numba_kernels.maxpool2d(x, kernel, stride)
    y_reference, argmax_reference = reference.maxpool2d(x, kernel, stride)
    np.testing.assert_array_equal(y, y_reference)
    np.testing.assert_array_equal(argmax, argmax_reference)
    assert argmax.dtype == argmax_reference.dtype
    gy = layout(rng.standard_normal(y.shape).astype(dtype))
    gx = numba_kernels.maxpool2d_backward(gy, layout(argmax), x.shape, kernel, stride)
    assert_close(gx, reference.maxpool2d_backward(gy, argmax, x.shape, kernel, stride), tolerance_of(dtype, 1e-6))


@pytest.mark.parametrize("shape", [(10, 0), (1, 5), (11, 23), (200, 3)])
def test_softmax_cross_entropy(rng, dtype, layout, shape) -> None:
    logits = layout((rng.standard_normal(shape) * 30).astype(dtype))
    labels = rng.integers(0, shape[0], shape[1])
    loss, probabilities = numba_kernels.softmax_cross_entropy(logits, labels)
    expected = reference.softmax_cross_entropy(logits.astype(np.float64), labels)
    assert loss.dtype == probabilities.dtype == dtype
    assert_close(loss, expected[0], tolerance_of(dtype, 1e-6))
    assert_close(probabilities, expected[1], tolerance_of(dtype, 4e-6))


def flat_parameters(rng: np.random.Generator, sizes: list[int], dtype: Any) -> list[np.ndarray]:
    """Arguments of adam_flat for segments of these sizes; a few entries of theta are 0, where the sign is 0."""
    ends = np.cumsum(sizes)
    theta, grad, m, v = (rng.standard_normal(ends[-1]).astype(dtype) for _ in range(4))
    theta[::7] = 0
    penalties = [rng.random(ends.size).astype(dtype) for _ in range(3)]
    return [theta, grad, m, abs(v), adam_factors(1e-3, 3, scale=0.7).astype(dtype), ends, *penalties]


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9000) | st.just(8192), min_size=1, max_size=8),
    dtype=st.sampled_from([np.float32, np.float64]),
    layout=st.sampled_from([np.ascontiguousarray, strided]),
    seed=st.integers(0, 99),
)
def test_adam_gives_every_segment_its_own_penalty(sizes, dtype, layout, seed) -> None:
    arguments = flat_parameters(np.random.default_rng(seed), sizes, dtype)
    exact = [array.astype(np.float64) if array.dtype == dtype else array for array in arguments]
    own = [layout(array.copy()) for array in arguments]
    numba_kernels.adam_flat(*own)
    reference.adam_flat(*exact)
    for k, (array, expected) in enumerate(zip(own, exact, strict=True)):
        if k in (0, 2, 3):
            assert_close(array, expected, tolerance_of(dtype, 1e-6))
        else:
            np.testing.assert_array_equal(array, arguments[k])


def gather_case(rng: np.random.Generator, dtype: Any, count: int) -> tuple[np.ndarray, ...]:
    """Arguments of gather_images: 50 images of 30 pixels, 41 outputs, 3 tables."""
    images = rng.integers(0, 256, (50, 30)).astype(np.uint8)
    source, kind = rng.integers(0, 30, 41).astype(np.int32), rng.integers(0, 3, 41).astype(np.uint8)
    return images, rng.integers(0, 50, count), source, rng.standard_normal((3, 256)).astype(dtype), kind


@pytest.mark.parametrize("count", [0, 1, 37])
def test_gather_images(rng, dtype, layout, count) -> None:
    arguments = [layout(array) for array in gather_case(rng, dtype, count)]
    got = numba_kernels.gather_images(*arguments)
    np.testing.assert_array_equal(got, reference.gather_images(*arguments))
    assert got.dtype == dtype


def augmented_case(
    rng: np.random.Generator, dtype: Any, count: int, shape: tuple[int, int, int] = (3, 6, 5), stored: int = 30
) -> tuple[np.ndarray, ...]:
    """Arguments of gather_augmented but for the shape: 50 images, moves past every border, 3 tables."""
    size = int(np.prod(shape))
    images, source = rng.integers(0, 256, (50, stored)).astype(np.uint8), (np.arange(size) % stored).astype(np.int32)
    table, kind = rng.standard_normal((3, 256)).astype(dtype), rng.integers(0, 3, size).astype(np.uint8)
    moves = np.concatenate([rng.integers(-8, 9, (count, 2)), rng.integers(0, 2, (count, 1))], axis=1)
    return images, rng.integers(0, 50, count), source, table, kind, moves


@pytest.mark.parametrize("count", [0, 1, 37])
@pytest.mark.parametrize("stored", [30, 90])
def test_gather_augmented(rng, dtype, layout, count, stored) -> None:
    arguments = [layout(array) for array in augmented_case(rng, dtype, count, stored=stored)]
    got = numba_kernels.gather_augmented(*arguments, (3, 6, 5))
    np.testing.assert_array_equal(got, reference.gather_augmented(*arguments, (3, 6, 5)))
    assert got.dtype == dtype
    arguments[-1] = np.zeros((count, 3), np.int32)
    still = numba_kernels.gather_augmented(*arguments, (3, 6, 5))
    np.testing.assert_array_equal(still, numba_kernels.gather_images(*arguments[:-1]))


def test_images_that_may_not_be_written_are_gathered_without_a_copy(rng) -> None:
    images, *others = augmented_case(rng, np.float32, 9)
    images = np.resize(images, (4000, 30))
    images.flags.writeable = False
    for _ in range(2):
        tracemalloc.start()
        numba_kernels.gather_images(images, *others[:-1])
        numba_kernels.gather_augmented(images, *others, (3, 6, 5))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < images.nbytes
    expected = reference.gather_augmented(images, *others, (3, 6, 5))
    np.testing.assert_array_equal(numba_kernels.gather_augmented(images, *others, (3, 6, 5)), expected)


def test_nan_reaches_every_output_that_depends_on_it(rng, dtype) -> None:
    nan, x = np.nan, rng.standard_normal((2, 6, 6, 17)).astype(dtype)
    w, a = rng.standard_normal((3, 2, 3, 3)).astype(dtype), rng.standard_normal((6, 9)).astype(dtype)
    x[1, 2, 3, 16], a[2, 4] = nan, nan
    seen = np.zeros((3, 6, 6, 17), dtype=bool)
    seen[:, 1:4, 2:5, 16] = True
    np.testing.assert_array_equal(np.isnan(numba_kernels.conv2d(x, w, 1, 1)), seen)
    np.testing.assert_array_equal(np.isnan(numba_kernels.conv2d_grad_input(x, w[:2], x.shape, 1, 1))[:2], seen[:2])
    assert np.isnan(numba_kernels.conv2d_grad_weight(x, x, (2, 2, 3, 3), 1, 1)[1]).all()
    assert np.isnan(numba_kernels.conv2d_weight_squares(x, x, (2, 2, 3, 3), 1, 1)[1]).all()
    b = rng.standard_normal((9, 17)).astype(dtype)
    np.testing.assert_array_equal(np.isnan(numba_kernels.matmul(a, b)).all(axis=1), np.arange(6) == 2)
    np.testing.assert_array_equal(np.isnan(numba_kernels.relu(x)), np.isnan(x))
    pooled, argmax = numba_kernels.maxpool2d(x, 2, 2)
    assert np.isnan(pooled).sum() == 1
    assert (np.isnan(pooled[1, 1, 1, 16]), argmax[1, 1, 1, 16]) == (True, 1)
    y, mean, var = numba_kernels.batchnorm_train(a, a[:, 0], a[:, 0], 1e-5)
    assert np.isnan(y[2]).all()
    assert np.isnan([mean[2], var[2]]).all()
    loss, probabilities = numba_kernels.softmax_cross_entropy(a, np.zeros(9, dtype=np.int64))
    np.testing.assert_array_equal(np.isnan(loss), np.arange(9) == 4)
    assert np.isnan(probabilities[:, 4]).all()


def every_result(seed: int, dtype: Any) -> list[np.ndarray]:
    """The outputs of every op that adds something up, on shapes with remainders and large enough to be shared."""
    rng = np.random.default_rng(seed)
    x, w, gy = random_conv(rng, (3, 7, 10, 9, 140, 3, 3, 1, 1), dtype)
    rows, gamma = rng.standard_normal((5, 9001)).astype(dtype), rng.standard_normal(5).astype(dtype)
    y, mean, var = numba_kernels.batchnorm_train(rows, gamma, gamma, 1e-5)
    pooled, argmax = numba_kernels.maxpool2d(x, 3, 2)
    return [
        numba_kernels.conv2d(x, w, 1, 1),
        numba_kernels.conv2d_grad_input(gy, w, x.shape, 1, 1),
        numba_kernels.conv2d_grad_weight(gy, x, w.shape, 1, 1),
        numba_kernels.conv2d_weight_squares(gy, x, w.shape, 1, 1),
        numba_kernels.matmul(rows.reshape(-1, 5)[:801].T, rows.reshape(-1, 5)[:801]),
        numba_kernels.matmul(rows.T[:1000], rows[:, :1301]),
        numba_kernels.matmul(rows.reshape(-1)[:39000].reshape(60, 650), rows.reshape(-1)[:39000].reshape(650, 60)),
        y, mean, var, *numba_kernels.batchnorm_backward(y, rows, gamma, mean, var, 1e-5),
        numba_kernels.maxpool2d_backward(pooled, argmax, x.shape, 3, 2),
        *numba_kernels.softmax_cross_entropy(rows, rng.integers(0, 5, 9001)),
        numba_kernels.gather_augmented(*augmented_case(rng, dtype, 700), (3, 6, 5)),
    ]  # fmt: skip


def test_no_result_depends_on_the_number_of_threads(dtype) -> None:
    threads = numba.get_num_threads()
    many = every_result(5, dtype)
    try:
        numba.set_num_threads(1)
        one = every_result(5, dtype)
    finally:
        numba.set_num_threads(threads)
    for a, b in zip(many, one, strict=True):
        np.testing.assert_array_equal(a, b)


def test_shapes_that_do_not_fit_are_refused_before_a_kernel_runs(rng) -> None:
    x, w, gy = random_conv(rng, (2, 3, 5, 5, 4, 3, 3, 1, 1), np.float32)
    rows, column = rng.standard_normal((4, 6)), rng.standard_normal(4)
    images, order, source, table, kind = gather_case(rng, np.float32, 7)
    augmented = augmented_case(rng, np.float32, 7)
    theta, grad, m, v, factors, ends, *penalties = flat_parameters(rng, [3, 4], np.float32)
    calls: list[tuple[str, tuple[Any, ...], dict[str, float]]] = [
        ("matmul", (rows, rows), {}),
        ("conv2d", (x[:1], w, 1, 1), {}),
        ("conv2d", (x[:, :2, :2], w, 1, 0), {}),
        ("conv2d_grad_input", (gy[:, :4], w, x.shape, 1, 1), {}),
        ("conv2d_grad_weight", (gy[..., :3], x, w.shape, 1, 1), {}),
        ("conv2d_weight_squares", (gy[..., :3], x, w.shape, 1, 1), {}),
        ("batchnorm_train", (rows, column[:3], column, 1e-5), {}),
        ("batchnorm_apply", (rows, column, column[:3]), {}),
        ("batchnorm_backward", (rows[:, :5], rows, column, column, column, 1e-5), {}),
        ("relu_backward", (rows, rows[:3]), {}),
        ("maxpool2d", (x, 6, 1), {}),
        ("maxpool2d_backward", (x, x, x.shape, 2, 2), {}),
        ("softmax_cross_entropy", (rows, np.full(6, 4)), {}),
        ("softmax_cross_entropy", (rows, np.full(6, -1)), {}),
        ("adam_flat", (theta, grad[:3], m, v, factors, ends, *penalties), {}),
        ("adam_flat", (theta, grad, m, v, factors[:7], ends, *penalties), {}),
        ("adam_flat", (theta, grad, m, v, factors, ends + 1, *penalties), {}),
        ("adam_flat", (theta, grad, m, v, factors, ends[:1], *penalties), {}),
        ("pull", (grad, theta, m, v[:3]), {}),
        ("pull", (rows, rows, rows, rows), {}),
        ("gather_images", (images, order + 50, source, table, kind), {}),
        ("gather_images", (images, order, source - 30, table, kind), {}),
        ("gather_images", (images, order, source, table[:1], kind), {}),
        ("gather_augmented", (*augmented, (3, 5, 6, 1)), {}),
        ("gather_augmented", (*augmented, (3, 6, 6)), {}),
        ("gather_augmented", (*augmented[:-1], augmented[-1][:5], (3, 6, 5)), {}),
        ("gather_augmented", (*augmented[:-1], augmented[-1].astype(np.float32), (3, 6, 5)), {}),
        ("gather_augmented", (augmented[0], augmented[1] + 50, *augmented[2:], (3, 6, 5)), {}),
    ]
    for name, arguments, options in calls:
        with pytest.raises(ShapeError, match=name):
            getattr(numba_kernels, name)(*arguments, **options)
