"""Convolution, normalisation, ReLU and pooling in one op: the slices against the chain of reference ops in float64.

Values are compared where the float32 op makes the choices of the float64 one: inputs are small whole numbers, whose
convolution is exact, so that ties are ties in both, and no normalised value lies near 0.
"""

import os
import subprocess
import sys
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from conftest import strided
from halrp_np.backend import conv_block, numba_kernels, ops, reference, reference_blocks, winograd
from halrp_np.backend.buffers import POOL
from halrp_np.errors import ShapeError

EPS = 1e-5
Arrays = list[np.ndarray]


def draw(rng: np.random.Generator, x: tuple[int, ...], w: tuple[int, ...], dtype: Any = np.float32) -> Arrays:
    """x, w, bias, γ and β; γ of both signs."""
    whole = [rng.integers(-3, 4, shape).astype(dtype) for shape in (x, w)]
    return [*whole, *(rng.standard_normal(w[0]).astype(dtype) for _ in range(3))]


def double(arrays: Arrays) -> Arrays:
    """The arrays in float64."""
    return [array.astype(np.float64) for array in arrays]


def every_output(column: Any, arrays: Arrays, gy: np.ndarray, window: tuple[Any, ...]) -> Arrays:
    """y, mean, var, gx, gw, gγ, gβ, and y in evaluation."""
    y, mean, var, saved = column.conv_block(*arrays, EPS, *window)
    return [y, mean, var, *column.conv_block_backward(gy, saved), column.conv_block_apply(*arrays[:3], *window)]


def assert_close(got: Arrays, expected: Arrays, tolerance: float, least: float = 0.0) -> None:
    """Same shapes, and no entry further off than `tolerance` of the array's largest, or of `least`."""
    for array, exact in zip(got, expected, strict=True):
        assert array.shape == exact.shape
        assert np.abs(array - exact).max(initial=0) <= tolerance * max(np.abs(exact).max(initial=0), least)


def clear_of_zero(arrays: Arrays, window: tuple[Any, ...]) -> bool:
    """Whether ReLU decides every normalised value alike in both precisions."""
    stride, padding, _, rectify = window
    normal = reference.conv_block(*double(arrays), EPS, stride, padding, 1, False)[0]
    return not rectify or bool(np.abs(normal).min() > 1e-4)


@st.composite
def blocks(draw_: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...]]:
    """Shapes of x and w, and (stride, padding, pool, rectify)."""
    kernel, stride = draw_(st.sampled_from([1, 3, 5])), draw_(st.integers(1, 2))
    padding, pool = draw_(st.integers(0, kernel)), draw_(st.integers(1, 3))
    least = max(1, (pool - 1) * stride + kernel - 2 * padding)
    height, width = draw_(st.integers(least, least + 8)), draw_(st.integers(least, least + 8))
    channels, outputs, batch = draw_(st.integers(1, 4)), draw_(st.integers(1, 12)), draw_(st.integers(1, 40))
    return (channels, height, width, batch), (outputs, channels, kernel, kernel), (
        stride, padding, pool, draw_(st.booleans()),
    )  # fmt: skip


@settings(max_examples=80)
@given(blocks(), st.sampled_from([np.float32, np.float64]), st.booleans(), st.integers(0, 2**32 - 1))
@example(((3, 10, 9, 33), (7, 3, 5, 5), (1, 2, 2, True)), np.float32, False, 0)
@example(((2, 6, 6, 17), (5, 2, 1, 1), (2, 0, 1, True)), np.float32, False, 1)  # pixels that no window meets
def test_any_block(shapes, dtype, apart, seed) -> None:
    x_shape, w_shape, window = shapes
    rng = np.random.default_rng(seed)
    arrays = draw(rng, x_shape, w_shape, dtype)
    assume(clear_of_zero(arrays, window))
    y, *_, saved = reference.conv_block(*double(arrays), EPS, *window)
    assume(saved.z[0].size > 1)
    gy = rng.standard_normal(y.shape).astype(dtype)
    before = [array.copy() for array in (*arrays, gy)]
    own = [strided(array) for array in arrays] if apart else arrays
    got = every_output(numba_kernels, own, strided(gy) if apart else gy, window)
    assert all(array.dtype == dtype for array in got)
    expected = every_output(reference, double(arrays), gy.astype(np.float64), window)
    assert_close(got, expected, 1e-5 if dtype == np.float32 else 1e-11, least=float(np.abs(gy).max()))
    for array, old in zip((*own, gy), before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_slices_serve_float32_and_the_chain_the_rest(rng) -> None:
    for batch, dtype, kind in [
        (32, np.float32, conv_block.Kept),
        (32, np.float64, reference_blocks.Kept),
        (1, np.float32, reference_blocks.Kept if conv_block.LANES > 4 else conv_block.Kept),
    ]:
        arrays = draw(rng, (2, 5, 5, batch), (3, 2, 3, 3), dtype)
        assert isinstance(numba_kernels.conv_block(*arrays, EPS, 1, 1, 1)[3], kind)


@pytest.mark.parametrize("batch", [16, 21])
def test_statistics_survive_a_mean_of_a_thousand_deviations(rng, batch) -> None:
    """By the images, and by the bias; lanes that are no images would move both statistics."""
    x, w, bias, gamma, beta = draw(rng, (2, 9, 9, batch), (6, 2, 3, 3))
    x, w, bias = x / 4 + 1000, abs(w) + 1, bias + 1e5
    y, mean, var, _ = numba_kernels.conv_block(x, w, bias, gamma, beta, EPS, 1, 0, 2, False)
    expected = reference.conv_block(*double([x, w, bias, gamma, beta]), EPS, 1, 0, 2, False)
    assert (expected[1] > 1000 * np.sqrt(expected[2])).all()
    np.testing.assert_allclose(mean, expected[1], rtol=1e-6)
    np.testing.assert_allclose(var, expected[2], rtol=1e-3)
    np.testing.assert_allclose(y, expected[0], atol=2e-3 * np.abs(expected[0]).max())


@pytest.mark.parametrize("gamma", [1.0, -1.0, 0.0])
def test_equal_entries_give_the_first_of_a_window_the_gradient(gamma) -> None:
    """With γ = 0 all normalised values are equal, and gγ looks at the first of every window."""
    rng = np.random.default_rng(3)
    x, w, bias, _, beta = draw(rng, (1, 6, 6, 18), (3, 1, 1, 1))
    arrays = [np.sign(x), w, bias, np.full(3, gamma, np.float32), beta + 5]
    gy = rng.standard_normal((3, 3, 3, 18)).astype(np.float32)
    window = (1, 0, 2, True)
    expected = every_output(reference, double(arrays), gy.astype(np.float64), window)
    assert_close(every_output(numba_kernels, arrays, gy, window), expected, 1e-5, least=10.0)


def test_no_result_depends_on_threads_on_layout_or_on_an_earlier_call(rng) -> None:
    arrays, window = draw(rng, (3, 12, 11, 100), (7, 3, 5, 5)), (1, 2, 2, True)
    gy = rng.standard_normal((7, 6, 5, 100)).astype(np.float32)
    threads = numba.get_num_threads()
    many = every_output(numba_kernels, arrays, gy, window)
    apart = every_output(numba_kernels, [strided(array) for array in arrays], strided(gy), window)
    try:
        numba.set_num_threads(1)
        one = every_output(numba_kernels, arrays, gy, window)
    finally:
        numba.set_num_threads(threads)
    for result, *others in zip(many, apart, one, strict=True):
        for other in others:
            np.testing.assert_array_equal(result, other)


def test_what_is_saved_serves_again_and_new_blocks_do_not_touch_it(rng) -> None:
    arrays, window = draw(rng, (3, 20, 20, 48), (6, 3, 3, 3)), (1, 1, 2, True)
    y, *_, saved = numba_kernels.conv_block(*arrays, EPS, *window)
    gy, kept = rng.standard_normal(y.shape).astype(np.float32), y.copy()
    first = numba_kernels.conv_block_backward(gy, saved)
    for _ in range(3):
        every_output(numba_kernels, draw(rng, (3, 20, 20, 48), (6, 3, 3, 3)), gy, window)
    for a, b in zip(first, numba_kernels.conv_block_backward(gy, saved), strict=True):
        np.testing.assert_array_equal(a, b)
    none, *rest = numba_kernels.conv_block_backward(gy, saved, input_gradient=False)
    assert none is None
    for a, b in zip(first[1:], rest, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(y, kept)


def test_memory_is_taken_from_the_pool_and_used_again(rng) -> None:
    arrays, window = draw(rng, (3, 24, 24, 64), (10, 3, 5, 5)), (1, 2, 2, True)
    gy = rng.standard_normal((10, 12, 12, 64)).astype(np.float32)
    for _ in range(2):
        every_output(numba_kernels, arrays, gy, window)
    created = POOL.created
    every_output(numba_kernels, arrays, gy, window)
    assert POOL.created == created


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("pool", [1, 2])
def test_winograd_runs_inside_a_block(rng, monkeypatch, kernel, pool) -> None:
    monkeypatch.setattr(winograd, "applies", lambda *shapes: True)  # to blocks as small as this too
    arrays, window = draw(rng, (3, 10, 9, 21), (7, 3, kernel, kernel)), (1, kernel // 2, pool, False)
    gy = rng.standard_normal((7, 10 // pool, 9 // pool, 21)).astype(np.float32)
    expected = every_output(reference, double(arrays), gy.astype(np.float64), window)
    with ops.fast_math(True):
        got = every_output(numba_kernels, arrays, gy, window)
        assert numba_kernels.conv_block(*arrays, EPS, *window)[3].fast_math
    # windows whose largest entries are equal may choose another one: compare what no choice enters
    assert_close([got[k] for k in (0, 1, 2, 6, 7)], [expected[k] for k in (0, 1, 2, 6, 7)], 1e-4)
    if pool == 1:
        assert_close(got, expected, 1e-4)


def test_shapes_that_do_not_fit_are_refused(rng) -> None:
    x, w, bias, gamma, beta = draw(rng, (2, 5, 5, 20), (3, 2, 3, 3))
    saved = numba_kernels.conv_block(x, w, bias, gamma, beta, EPS, 1, 1, 2)[3]
    gy = np.zeros((3, 2, 2, 20), dtype=np.float32)
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("conv_block", (x[:1], w, bias, gamma, beta, EPS, 1, 1, 2)),
        ("conv_block", (x, w, bias[:2], gamma, beta, EPS, 1, 1, 2)),
        ("conv_block", (x, w, bias, gamma[:2], beta, EPS, 1, 1, 2)),
        ("conv_block", (x, w, bias, gamma, beta, EPS, 1, 1, 6)),
        ("conv_block_backward", (gy[..., :19], saved)),
        ("conv_block_backward", (gy[:, :1], saved)),
        ("conv_block_apply", (x, w, bias[:2], 1, 1, 2)),
        ("conv_block_apply", (x, w, bias, 1, 1, 6)),
    ]
    for name, arguments in calls:
        with pytest.raises(ShapeError, match=name):
            getattr(numba_kernels, name)(*arguments)


# ---- other processors -----------------------------------------------------------------------------------------------

ELSEWHERE = """
import numpy as np
from halrp_np.backend import numba_kernels as fast, reference, simd

rng = np.random.default_rng(0)

def close(a, b):
    assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max(), np.abs(a - b).max()

for batch, stride, pool in ((19, 1, 2), (8, 2, 1)):
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 9, 8, batch), (7, 3, 3, 3)))
    rows = [rng.standard_normal(7).astype(np.float32) for _ in range(3)]
    own, window = (x, w, *rows), (1e-5, stride, 1, pool)
    y, mean, var, saved = fast.conv_block(*own, *window)
    exact = reference.conv_block(*(array.astype(np.float64) for array in own), *window)
    gy = rng.standard_normal(y.shape).astype(np.float32)
    for a, b in zip((y, mean, var), exact):
        close(a, b)
    for a, b in zip(fast.conv_block_backward(gy, saved), reference.conv_block_backward(gy.astype(float), exact[3])):
        close(a, b)
    z = reference.conv2d(x, w, stride, 1)
    close(fast.conv2d(x, w, stride, 1), z)
    close(fast.conv2d_grad_input(z, w, x.shape, stride, 1), reference.conv2d_grad_input(z, w, x.shape, stride, 1))
    close(fast.conv2d_grad_weight(z, x, w.shape, stride, 1), reference.conv2d_grad_weight(z, x, w.shape, stride, 1))
    close(fast.conv_block_apply(*own[:3], stride, 1, pool), reference.conv_block_apply(*own[:3], stride, 1, pool))
a, b = rng.standard_normal((13, 30)).astype(np.float32), rng.standard_normal((30, 41)).astype(np.float32)
close(fast.matmul(a, b), a @ b)
print("lanes", simd.LANES)
"""


X86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="these are names of x86-64 processors")


def run_for(name: str, features: str, program: str, cache: Any) -> list[str]:
    """The words that a program prints where Numba compiles for this processor."""
    target = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, env={**os.environ, **target}, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@X86
@pytest.mark.parametrize(
    ("name", "features", "lanes"),
    [("skylake-avx512", "", 16), ("haswell", "", 8), ("x86-64", "+avx2,+fma", 8), ("nocona", "", 4)],
)
def test_lanes_are_those_of_the_processor_that_numba_compiles_for(tmp_path, name, features, lanes) -> None:
    program = "from halrp_np.backend import simd; print('lanes', simd.LANES)"
    assert run_for(name, features, program, tmp_path) == ["lanes", str(lanes)]


@X86
@pytest.mark.slow
@pytest.mark.parametrize(("name", "lanes"), [("haswell", 8), ("nocona", 4)])
def test_other_processors_run_the_same_source(tmp_path, name, lanes) -> None:
    assert run_for(name, "", ELSEWHERE, tmp_path) == ["lanes", str(lanes)]


@pytest.mark.parametrize("ratio", [1e4, 1e6])
def test_statistics_do_not_lose_a_spread_far_from_zero(ratio: float) -> None:
    """Values about `ratio` standard deviations from 0, through a convolution that only copies."""
    rng = np.random.default_rng(5)
    x = (ratio + rng.normal(size=(2, 6, 8, 37))).astype(np.float32)
    w, one, none = np.eye(2, dtype=np.float32)[:, :, None, None], np.ones(2, np.float32), np.zeros(2, np.float32)
    y, mean, var, _ = ops.conv_block(x, w, none, one, none, eps=1e-5, stride=1, padding=0, pool=1, rectify=False)
    wide = x.astype(np.float64).reshape(2, -1)
    np.testing.assert_allclose(mean, wide.mean(axis=1), rtol=2e-7)
    np.testing.assert_allclose(var, wide.var(axis=1), rtol=1e-5)
    plain = ops.batchnorm_train(x.reshape(2, -1), one, none, 1e-5)[0]
    np.testing.assert_allclose(y.reshape(2, -1), plain, atol=1e-5)
