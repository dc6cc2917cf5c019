"""The GPU column on the host's compiler: the same parity tests as on a GPU, and what only a stand-in can tell."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.test_ops import (  # noqa: F401 - collected here a second time, with this module's device
    CASES,
    Case,
    by_reference,
    doubled,
    laid_out,
    results,
    test_every_column_agrees_with_the_reference,
    test_what_is_not_finite_shows,
    test_writing_in_place_spares_what_lies_between,
)
from halrp_np.backend import Device, ops, reference, to_host
from halrp_np.backend.cuda_source import source
from halrp_np.errors import ShapeError
from host_cuda import HostKernel, compiler, installed, kernels


@pytest.fixture(scope="module")
def device_name() -> Iterator[str]:
    """The stand-in in place of a GPU."""
    if compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    with installed():
        yield "gpu"


def on_host(*parts: Any) -> list[Any]:
    """The arrays on the host."""
    return [None if part is None else to_host(part) for part in parts]


def assert_close(found: list[Any], expected: list[Any], dtype: Any) -> None:
    """To rounding, relative to the largest entry of each array."""
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert a.shape == b.shape
            tolerance = (2e-5 if dtype == np.float32 else 1e-11) * np.abs(b).max(initial=1e-3)
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


# ---- products and convolutions of any size --------------------------------------------------------------------------

SIDES = st.integers(1, 140)


@given(rows=SIDES, inner=st.integers(1, 600), cols=SIDES, turned=st.tuples(st.booleans(), st.booleans()))
def test_a_product_of_any_size(rows: int, inner: int, cols: int, turned: tuple[bool, bool], device_name: str) -> None:
    rng = np.random.default_rng(rows * inner + cols)
    a, b = rng.normal(size=(rows, inner)), rng.normal(size=(inner, cols))
    device = Device(device_name)
    x, y = (
        device.to_device(m.T.copy()).T if turn else device.to_device(m) for m, turn in zip((a, b), turned, strict=True)
    )
    assert_close(on_host(ops.matmul(x, y)), [a @ b], np.float64)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int, int]:
    """Shapes of an image and a kernel, stride and padding."""
    kh, kw, stride, padding = (draw(st.integers(low, 4)) for low in (1, 1, 1, 0))
    least = (max(1, kh - 2 * padding), max(1, kw - 2 * padding))
    height, width = (size + draw(st.integers(0, 6)) for size in least)
    batch = draw(st.sampled_from([1, 3, 32, 129]))
    channels, outs = draw(st.integers(1, 4)), draw(st.integers(1, 17))
    return (channels, height, width, batch), (outs, channels, kh, kw), stride, padding


@given(shapes=convolutions())
def test_a_convolution_of_any_size(shapes: Any, device_name: str) -> None:
    x_shape, w_shape, stride, padding = shapes
    rng = np.random.default_rng(sum(x_shape) + sum(w_shape))
    x, w = rng.normal(size=x_shape), rng.normal(size=w_shape)
    y = reference.conv2d(x, w, stride, padding)
    gy = rng.normal(size=y.shape)
    place = Device(device_name).to_device
    found = on_host(
        ops.conv2d(place(x), place(w), stride, padding),
        ops.conv2d_grad_input(place(gy), place(w), x_shape, stride, padding),
        ops.conv2d_grad_weight(place(gy), place(x), w_shape, stride, padding),
    )
    expected = [
        y,
        reference.conv2d_grad_input(gy, w, x_shape, stride, padding),
        reference.conv2d_grad_weight(gy, x, w_shape, stride, padding),
    ]
    assert_close(found, expected, np.float64)


# ---- the block ------------------------------------------------------------------------------------------------------

BLOCKS = [
    ((3, 9, 7, 17), (5, 3, 3, 3), {"stride": 1, "padding": 1, "pool": 2}),
    ((2, 6, 7, 9), (3, 2, 2, 3), {"stride": 2, "padding": 3, "pool": 1}),
    ((1, 8, 8, 33), (4, 1, 5, 5), {"stride": 1, "padding": 2, "pool": 3, "rectify": False}),
    ((2, 7, 7, 130), (9, 2, 1, 1), {"stride": 1, "padding": 0, "pool": 2}),
    ((2, 5, 5, 4), (2, 2, 5, 5), {"stride": 1, "padding": 0, "pool": 1, "rectify": False}),
]


def block_inputs(x: tuple[int, ...], w: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> list[Any]:
    """x, w, bias, gamma of both signs and beta; whole numbers in x, so that windows tie."""
    images = rng.integers(-2, 3, size=x)
    return [array.astype(dtype) for array in (images, *(rng.normal(size=s) for s in (w, w[:1], w[:1], w[:1])))]


@pytest.mark.parametrize(("x", "w", "options"), BLOCKS)
def test_the_block_both_ways(
    x: tuple[int, ...], w: tuple[int, ...], options: dict[str, Any], dtype: Any, device_name: str,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    host = block_inputs(x, w, dtype, rng)
    place = Device(device_name).to_device
    expected = reference.conv_block(*doubled(host), eps=1e-3, **options)
    found = ops.conv_block(*map(place, host), eps=1e-3, **options)
    assert_close(on_host(*found[:3]), list(expected[:3]), dtype)
    gy = rng.normal(size=expected[0].shape).astype(dtype)
    for wanted in (True, False):
        ways = [
            reference.conv_block_backward(gy.astype(np.float64), expected[3], input_gradient=wanted),
            on_host(*ops.conv_block_backward(place(gy), found[3], input_gradient=wanted)),
        ]
        assert_close(ways[1], list(ways[0]), dtype)
    plain = reference.conv_block_apply(*doubled(host)[:3], **options)
    assert_close(on_host(ops.conv_block_apply(*map(place, host[:3]), **options)), [plain], dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", range(5))
def test_what_is_not_finite_spoils_the_block(
    which: int, value: float, device_name: str, rng: np.random.Generator
) -> None:
    x, w, options = BLOCKS[0]
    host = block_inputs(x, w, np.float32, rng)
    host[which].flat[0] = value
    with np.errstate(all="ignore"):
        expected = reference.conv_block(*host, eps=1e-3, **options)[0]
    found = to_host(ops.conv_block(*map(Device(device_name).to_device, host), eps=1e-3, **options)[0])
    assert np.isfinite(found).all() == np.isfinite(expected).all()
    assert not np.isnan(expected).any() or np.isnan(found).any()


@pytest.mark.parametrize("change", range(5))
def test_a_block_refuses_shapes_that_do_not_fit(change: int, device_name: str, rng: np.random.Generator) -> None:
    x, w, options = BLOCKS[0]
    host = block_inputs(x, w, np.float32, rng)
    host[change] = host[change][1:]
    with pytest.raises(ShapeError, match="conv_block"):
        ops.conv_block(*map(Device(device_name).to_device, host), eps=1e-3, **options)


# ---- what only the stand-in can tell --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_result_depends_on_the_order_of_the_threads(
    case: Case, device_name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two barriers every thread may run before every other; a barrier that is missing shows here."""
    place, host = Device(device_name).to_device, case.draw(rng, np.float32)
    forwards = results(case, [place(array.copy()) for array in host])
    monkeypatch.setattr(HostKernel, "backwards", True)
    for a, b in zip(forwards, results(case, [place(array.copy()) for array in host]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_result_of_a_block_depends_on_the_order_of_the_threads(
    device_name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w, options = BLOCKS[0]
    host, place, ways = block_inputs(x, w, np.float32, rng), Device(device_name).to_device, []
    for backwards in (False, True):
        monkeypatch.setattr(HostKernel, "backwards", backwards)
        y, mean, var, saved = ops.conv_block(*map(place, host), eps=1e-3, **options)
        ways.append(on_host(y, mean, var, *ops.conv_block_backward(y, saved)))
    for a, b in zip(*ways, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_stand_in_notices_a_missing_barrier(device_name: str) -> None:
    code = (
        source("float")
        .replace("__syncthreads();  // the last sum has been read", "")
        .replace(
            "        __syncthreads();\n        if ((int)threadIdx.x < half) share",
            "        if ((int)threadIdx.x < half) share",
        )
    )
    assert code != source("float")
    module, place = __import__("cupy").RawModule(code=code), Device(device_name).to_device
    a = place(np.arange(64, dtype=np.float32)[None])
    sums = []
    for backwards in (False, True):
        HostKernel.backwards = backwards
        out = place(np.zeros(1, np.float32))
        module.get_function("row_dots")((1, 1), (64,), (a, a, out, np.int32(1), np.int64(64)))
        sums.append(float(to_host(out)[0]))
    HostKernel.backwards = False
    assert sums[0] != sums[1]


def test_the_stand_in_notices_a_kernel_that_leaves_its_array(device_name: str) -> None:
    module, place = __import__("cupy").RawModule(code=source("float")), Device(device_name).to_device
    x, y = (place(np.zeros(size, np.float32)) for size in (9, 8))
    with pytest.raises(AssertionError, match="relu wrote behind an array"):
        module.get_function("relu")((1, 1), (32,), (x, y, np.int64(9)))
    with pytest.raises(AssertionError, match="relu: wide from"):
        module.get_function("relu")((1, 1), (32,), (x, y, np.int32(8)))


def test_every_kernel_runs_here(device_name: str, rng: np.random.Generator) -> None:
    HostKernel.launches.clear()
    place = Device(device_name).to_device
    for case in CASES:
        results(case, [place(array.copy()) for array in case.draw(rng, np.float32)])
    x, w, options = BLOCKS[0]
    y, _, _, saved = ops.conv_block(*map(place, block_inputs(x, w, np.float32, rng)), eps=1e-3, **options)
    ops.conv_block_backward(y, saved)
    assert set(HostKernel.launches) == set(kernels(source("float")))
