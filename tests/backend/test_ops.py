"""Every row of the table of ops: each column against the reference, on values, types, memory layouts and NaN."""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Device, array_module, ops, reference, to_host
from halrp_np.errors import ConfigError, DeviceError
from op_cases import CASES, Case, rows_without_a_case
from strict import StrictArray, StrictDevice

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=str)


# ---- memory layouts, in any array module ----------------------------------------------------------------------------


def c_order(array: Any) -> Any:
    return array_module(array).ascontiguousarray(array)


def transposed(array: Any) -> Any:
    """Fortran order."""
    return array_module(array).ascontiguousarray(array.T).T


def strided(array: Any) -> Any:
    """Every second entry along each axis of a larger array of sevens."""
    wide = array_module(array).full(tuple(2 * n for n in array.shape), 7, dtype=array.dtype)
    view = wide[tuple(slice(1, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def reversed_view(array: Any) -> Any:
    """Negative strides."""
    turn = tuple(slice(None, None, -1) for _ in array.shape)
    return array_module(array).ascontiguousarray(array[turn])[turn]


LAYOUTS = [c_order, transposed, strided, reversed_view]


@pytest.fixture(params=LAYOUTS, ids=lambda f: f.__name__)
def laid_out(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    function: Callable[[Any], Any] = request.param
    return function


# ---- one call -------------------------------------------------------------------------------------------------------


def results(case: Case, arrays: Any) -> list[np.ndarray]:
    """What the op returns, then what it changed, on the host."""
    parts = case.run(ops, arrays)
    for part in parts:
        assert all(not np.shares_memory(part, a) for a in arrays if isinstance(a, np.ndarray)), "an output is an input"
    return [to_host(part).copy() for part in (*parts, *(arrays[k] for k in case.changed))]


def by_reference(case: Case, arrays: Any) -> list[np.ndarray]:
    """The reference column in the arrays' own precision, whatever the environment says."""
    own = [array.copy() for array in arrays]
    return [*case.run(reference, own), *(own[k] for k in case.changed)]


def doubled(arrays: Any) -> list[np.ndarray]:
    """Floating arrays in float64."""
    return [array.astype(np.float64) if array.dtype.kind == "f" else array for array in arrays]


def assert_values(found: list[np.ndarray], expected: list[np.ndarray], dtype: Any) -> None:
    """Same types and shapes, positions exactly, floats to rounding relative to the largest entry of each array."""
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == (dtype if b.dtype.kind == "f" else b.dtype)
        scale = np.abs(b).max(initial=0) if b.dtype.kind == "f" else 0
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


@EVERY_CASE
def test_every_column_agrees_with_the_reference(
    case: Case, dtype: Any, laid_out: Callable[[Any], Any], device_name: str, rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    host = case.draw(rng, dtype)
    expected = by_reference(case, doubled(host))
    device = Device(device_name)
    for mode in ("fast", "reference"):
        monkeypatch.setenv("HALRP_NP_KERNELS", mode)
        runs = []
        for _ in range(2):
            arrays = [laid_out(device.to_device(array.copy())) for array in host]
            runs.append(results(case, arrays))
            for k in set(range(len(host))) - set(case.changed):
                np.testing.assert_array_equal(to_host(arrays[k]), host[k], err_msg=f"input {k} was changed")
        assert_values(runs[0], expected, dtype)
        for a, b in zip(*runs, strict=True):
            np.testing.assert_array_equal(a, b, err_msg="a second run differs")


def poison(case: Case, host: Any, k: int, value: float, rng: np.random.Generator) -> tuple[list[Any], list[Any]]:
    """The arrays with one bad entry in array k, and what the reference makes of them; a NaN must reach some output."""
    for at in (0, *rng.integers(host[k].size, size=30)):
        arrays = [array.copy() for array in host]
        arrays[k].flat[at] = value
        expected = by_reference(case, arrays)
        if not all(np.isfinite(array).all() for array in expected):
            return arrays, expected
    assert not np.isnan(value), f"the reference loses every NaN of array {k}"
    return arrays, expected  # an infinity may go: the maximum of a window is never -∞, 1/∞ is 0


@EVERY_CASE
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_what_is_not_finite_shows(
    case: Case, value: float, dtype: Any, device_name: str, rng: np.random.Generator
) -> None:
    """In each floating array in turn; in x and gy it spreads no further than in the reference, to other images least.

    It may spread less, since the reference multiplies by zeros (masks, padding) where a twin skips, and for a weight
    the other way round. What is not finite in ReLU's y is no gradient, only a mask.
    """
    device, host = Device(device_name), case.draw(rng, dtype)
    for k in (k for k, array in enumerate(host) if array.dtype.kind == "f"):
        if (case.op, k) in (("relu_backward", 0), ("norm_relu_backward", 1)):
            continue
        with np.errstate(all="ignore"):
            arrays, expected = poison(case, host, k, value, rng)
            found = results(case, [device.to_device(array) for array in arrays])
        assert not np.isnan(value) or any(np.isnan(a).any() for a in found), f"the NaN of input {k} is lost"
        for a, b in zip(found, expected, strict=True):
            assert np.isfinite(b).all() or not np.isfinite(a).all(), f"input {k} is lost"
            if k == 0 or "conv2d" not in case.op:
                assert not (np.isfinite(b) & ~np.isfinite(a)).any(), f"input {k} spreads too far"


def test_writing_in_place_spares_what_lies_between(rng: np.random.Generator, device_name: str) -> None:
    (case, *_) = [case for case in CASES if case.op == "adam_flat"]
    device = Device(device_name)
    arrays = [strided(device.to_device(array)) for array in case.draw(rng, np.float64)]
    ops.adam_flat(*arrays)
    for array in arrays:
        np.testing.assert_array_equal(to_host(array.base)[::2], 7)


# ---- the table ------------------------------------------------------------------------------------------------------


def test_every_row_has_a_case() -> None:
    assert not rows_without_a_case(ops.TABLE)
    assert {case.op for case in CASES} <= set(ops.TABLE)
    assert rows_without_a_case({**ops.TABLE, "new_op": ops.TABLE["relu"]}) == {"new_op"}


def test_every_row_has_a_public_function_of_the_same_parameters() -> None:
    for name, row in ops.TABLE.items():
        expected = list(inspect.signature(row.reference).parameters)
        assert list(inspect.signature(getattr(ops, name)).parameters) == expected


def test_every_gpu_twin_exists_with_the_parameters_of_its_reference() -> None:
    """Read from the source: importing it needs CuPy."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(Path(ops.__file__).parent.glob("cupy_*.py"))]
    bodies = [node for source in sources for node in ast.parse(source).body]
    functions = {node.name: node.args for node in bodies if isinstance(node, ast.FunctionDef)}
    (offered,) = [
        ast.literal_eval(node.value)
        for node in bodies
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    for name, row in ops.TABLE.items():
        if row.cupy is not None:
            args = functions[row.cupy]
            assert [a.arg for a in (*args.args, *args.kwonlyargs)] == list(
                inspect.signature(row.reference).parameters
            ), name
    assert set(offered) == {row.cupy for row in ops.TABLE.values() if row.cupy is not None}


@pytest.mark.parametrize("name", ops.TABLE)
def test_the_environment_chooses_the_column(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ops.TABLE[name]
    monkeypatch.delenv("HALRP_NP_KERNELS", raising=False)
    if row.numba is not None:
        assert ops.implementation(name, np).__module__.startswith("halrp_np.backend.numba_")
    monkeypatch.setenv("HALRP_NP_KERNELS", "reference")
    monkeypatch.setattr(ops, "_numba_column", lambda: pytest.fail("a twin was looked up"))
    assert ops.implementation(name, np) is row.reference


@pytest.mark.parametrize("value", ["numba", "", "Reference"])
def test_an_unknown_choice_is_an_error(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALRP_NP_KERNELS", value)
    with pytest.raises(
        ConfigError, match=f"HALRP_NP_KERNELS: expected fast or reference or winograd, received '{value}'"
    ):
        ops.relu(np.zeros(3))


@pytest.mark.parametrize("column", ["numba", "cupy"])
def test_a_twin_that_is_none_is_never_looked_up(column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HALRP_NP_KERNELS", raising=False)
    monkeypatch.setattr(ops, f"_{column}_column", lambda: pytest.fail("a twin was looked up"))
    xp = np if column == "numba" else SimpleNamespace(__name__="cupy")
    names = [name for name, row in ops.TABLE.items() if getattr(row, column) is None]
    monkeypatch.setitem(ops.TABLE, "new_op", ops.Row(reference.relu, None, None))
    for name in (*names, "new_op"):
        assert ops.implementation(name, xp) is ops.TABLE[name].reference


@pytest.mark.parametrize("name", ["strict", "other"])
def test_another_array_module_runs_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HALRP_NP_KERNELS", raising=False)
    for op, row in ops.TABLE.items():
        assert ops.implementation(op, SimpleNamespace(__name__=name)) is row.reference


FIRST_CASES = [next(case for case in CASES if case.op == name) for name in ops.TABLE]


@pytest.mark.parametrize("case", FIRST_CASES, ids=str)
def test_arrays_of_two_devices_are_refused(case: Case, rng: np.random.Generator) -> None:
    device, host = StrictDevice(), case.draw(rng, np.float64)
    for k in range(len(host)) if len(host) > 1 else ():
        mixed = [device.to_device(a) if j == k else a for j, a in enumerate(host)]
        with pytest.raises(DeviceError, match=r"every array on one device .* Move it with Device\.to_device"):
            case.run(ops, mixed)
        np.testing.assert_array_equal(mixed[0].get() if k == 0 else mixed[0], host[0])
    with pytest.raises(DeviceError, match="expected an array, received list"):
        case.run(ops, [a.tolist() for a in host])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_runs_on_any_array_module(case: Case, rng: np.random.Generator) -> None:
    device, host = StrictDevice(), case.draw(rng, np.float32)
    before = StrictArray.gets
    arrays = [device.to_device(array) for array in host]
    parts = case.run(ops, arrays)
    assert StrictArray.gets == before
    for a, b in zip((*parts, *(arrays[k] for k in case.changed)), by_reference(case, host), strict=True):
        np.testing.assert_array_equal(a.get(), b)
