"""Checkers shared by the tests of layers and losses; each raises AssertionError with a message of its own.

test_checks_bite.py holds every one of them to catching deliberately wrong code.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cases import Case, Params
from formulas import directional, formula
from halrp_np.backend import Device, to_host
from halrp_np.layers import Layer, Mode

STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Finite-difference steps: truncation falls as h² from the left, rounding rises as 1/h from the right."""

Passes = tuple[Any, Any, Params, Params]


def run(layer: Layer, case: Case, params: Params, x: Any, gy: Any) -> Passes:
    """Output, input gradient, parameter gradients and new buffers."""
    y, cache = layer.forward(params, x, case.mode())
    gx, grads = layer.backward(params, cache, gy)
    return y, gx, grads, layer.new_buffers(params, cache)


def named(passes: Passes) -> dict[str, Any]:
    """All results of `run` by a name to print."""
    y, gx, grads, buffers = passes
    parts = {f"gradient of {name}": value for name, value in grads.items()}
    return {"output": y, "input gradient": gx, **parts, **{f"new {name}": value for name, value in buffers.items()}}


def assert_close(message: str, found: Any, expected: Any, tolerance: float, least: float = 1e-3) -> None:
    """Same shape, and entries that differ by at most tolerance times the largest expected entry, or times `least`."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"{message}: shape {found.shape}, expected {expected.shape}"
    error = np.abs(found - expected).max(initial=0.0)
    scale = max(np.abs(expected).max(initial=0.0), least)
    assert error <= tolerance * scale, f"{message}: error {error:.2e} beside entries up to {scale:.2e}"


def assert_all_close(what: str, found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    """assert_close for all results of `run`; what is exactly 0 may be off by the rounding of its neighbours."""
    assert set(found) == set(expected), f"{what}: {sorted(found)}, expected {sorted(expected)}"
    least = 0.1 * max(float(np.abs(value).max(initial=0.0)) for value in expected.values())
    for name, value in found.items():
        assert_close(f"{what} in {name}", value, expected[name], tolerance, least)


def smallest_scale(gx: Any, grads: Params) -> float:
    """What errors are at least compared with: a gradient that is exactly 0 (a bias below BatchNorm) is all rounding."""
    return 1e-3 * max(float(np.abs(gradient).sum()) for gradient in (gx, *grads.values()))


def check_value(layer: Layer, case: Case) -> None:
    """forward is the formula, to rounding."""
    params, x, _ = case.draw()
    y, _ = layer.forward(params, x, case.mode())
    assert_close("forward differs from the formula", y, formula(case.layer, params, x, case.mode()), 1e-12)


def check_adjoint(layer: Layer, case: Case) -> None:
    """backward is the adjoint of the formula's derivative, variable by variable, to 1e-12 in float64.

    Math: ⟨gy, J v⟩ = ⟨g, v⟩ for a random tangent v of the input or of one parameter alone; J v is exact (complex step).
    """
    params, x, gy = case.draw()
    rng = np.random.default_rng(11)
    _, gx, grads, _ = run(layer, case, params, x, gy)
    assert set(grads) == set(layer.trainable), f"gradients of {sorted(grads)}, trainable {sorted(layer.trainable)}"
    floor = smallest_scale(gx, grads)
    for name, gradient in {"x": gx, **grads}.items():
        v = rng.normal(size=(x if name == "x" else params[name]).shape)
        assert gradient.shape == v.shape, f"not the adjoint in {name}: shape {gradient.shape}, expected {v.shape}"
        dp, dx = ({}, v) if name == "x" else ({name: v}, np.zeros(x.shape))
        Jv = directional(case.layer, params, x, case.mode(), dp, dx)
        error = abs(np.sum(gy * Jv) - np.sum(gradient * v))
        scale = max(np.abs(gy * Jv).sum(), np.abs(gradient * v).sum(), floor)
        assert error <= 1e-12 * scale, f"not the adjoint in {name}: relative error {error / scale:.2e}"


def check_same_number(products: list[Any], tolerance: float) -> None:
    """Inner products, each given as its terms, are one number relative to the sum of absolute terms."""
    values = [float(np.sum(terms, dtype=np.float64)) for terms in products]
    scale = max(float(np.abs(terms).sum()) for terms in products)
    error = max(values) - min(values)
    assert error <= tolerance * scale, f"not adjoint to one another: relative error {error / scale:.2e}"


def check_finite_differences(layer: Layer, case: Case) -> None:
    """backward agrees with central differences of forward along random directions, over a ladder of steps.

    The smallest error is below 1e-8 of what is summed. For smooth functions the error also falls a hundredfold from the
    first step to the second as long as it is truncation: a wrong derivative has the same error at every step.
    """
    assert case.smooth, "a tie has no derivative that differences could find"
    params, x, gy = case.draw()
    rng = np.random.default_rng(12)
    _, gx, grads, _ = run(layer, case, params, x, gy)
    floor = smallest_scale(gx, grads)
    for name, gradient in {"x": gx, **grads}.items():
        point = x if name == "x" else params[name]
        v = rng.uniform(-1.0, 1.0, size=point.shape)

        def along(h: float, name: str = name, point: Any = point, v: Any = v) -> Any:
            moved = params if name == "x" else {**params, name: point + h * v}
            return layer.forward(moved, point + h * v if name == "x" else x, case.mode())[0]

        errors, exact = [], float(np.sum(gradient * v))
        for h in STEPS:
            terms = gy * (along(h) - along(-h)) / (2 * h)
            scale = max(np.abs(terms).sum(), np.abs(gradient * v).sum(), floor)
            errors.append(abs(float(np.sum(terms)) - exact) / scale)
        ladder = f"finite differences disagree in {name}: " + ", ".join(f"{error:.1e}" for error in errors)
        assert min(errors) < 1e-8, ladder
        if case.values == "normal" and "nested" not in case.name and errors[0] > 1e-7:
            assert errors[1] < errors[0] / 50, f"{ladder} (no second-order slope)"


def check_purity(layer: Layer, case: Case, dtype: Any, layout: Callable[[Any], Any]) -> None:
    """No argument is modified, a repeated pass returns the same bits, dtypes and shapes are kept, caches last."""
    params, x, gy = case.draw(dtype)
    params, x, gy = {name: layout(value) for name, value in params.items()}, layout(x), layout(gy)
    kept = {name: value.copy() for name, value in params.items()}, x.copy(), gy.copy()
    y, cache = layer.forward(params, x, case.mode())
    gx, grads = layer.backward(params, cache, gy)
    first = {name: np.array(value) for name, value in named((y, gx, grads, layer.new_buffers(params, cache))).items()}
    again = named((y, *layer.backward(params, cache, gy), layer.new_buffers(params, cache)))
    for name, value in again.items():
        np.testing.assert_array_equal(value, first[name], f"a second backward pass changed: {name}")
    for name, value in named(run(layer, case, params, x, gy)).items():
        np.testing.assert_array_equal(value, first[name], f"a repeated pass changed: {name}")
        assert value.dtype == dtype, f"dtype {value.dtype} from {np.dtype(dtype)}: {name}"
    assert all(grads[name].shape == params[name].shape for name in layer.trainable), "a gradient has another shape"
    skipped, same = layer.backward(params, cache, gy, input_gradient=False)
    assert skipped is None, "an input gradient that nobody asked for"
    for name, value in same.items():
        np.testing.assert_array_equal(value, grads[name], f"without the input gradient changed: {name}")
    for name, before in kept[0].items():
        np.testing.assert_array_equal(params[name], before, f"argument modified: {name}")
    np.testing.assert_array_equal(x, kept[1], "argument modified: x")
    np.testing.assert_array_equal(gy, kept[2], "argument modified: gy")


def check_layout(layer: Layer, case: Case, dtype: Any, layout: Callable[[Any], Any]) -> None:
    """Memory order changes no result beyond rounding."""
    params, x, gy = case.draw(dtype)
    expected = named(run(layer, case, params, x, gy))
    found = named(run(layer, case, {n: layout(value) for n, value in params.items()}, layout(x), layout(gy)))
    assert_all_close("memory layout makes a difference", found, expected, 1e-5 if dtype == np.float32 else 1e-13)


def check_running_statistics(layer: Layer, params: Params, x: Any) -> None:
    """A train-mode pass moves the running statistics by the momentum to the batch's mean and unbiased variance."""
    _, cache = layer.forward(params, x, Mode(train=True))
    found = layer.new_buffers(params, cache)
    rows = x.reshape(len(x), -1).astype(np.float64)
    batch = {"running_mean": rows.mean(axis=1), "running_var": rows.var(axis=1, ddof=1)}
    momentum = layer.momentum  # type: ignore[attr-defined]  # a BatchNorm, or a mutant of one
    expected = {name: (1 - momentum) * params[name] + momentum * value for name, value in batch.items()}
    assert_all_close("running statistics differ", found, expected, 1e-5 if x.dtype == np.float32 else 1e-12)


def check_precision(layer: Layer, case: Case, device: Device | None = None, tolerance: float = 2e-5) -> None:
    """float32, on any device, agrees with float64 on the host at the same (rounded) point."""
    device = device or Device("cpu")
    params, x, gy = case.draw(np.float32)
    there = {name: device.to_device(value) for name, value in params.items()}
    found = named(run(layer, case, there, device.to_device(x), device.to_device(gy)))
    wide = {name: value.astype(np.float64) for name, value in params.items()}
    expected = named(run(case.layer, case, wide, x.astype(np.float64), gy.astype(np.float64)))
    found = {name: to_host(value) for name, value in found.items()}
    assert all(value.dtype == np.float32 for value in found.values()), "float32 is not kept"
    assert_all_close("float32 differs from float64", found, expected, tolerance)
