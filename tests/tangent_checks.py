"""Checkers of the tangent passes, beside those of checks.py; each raises AssertionError with a message of its own.

A result is called "y" (of r_forward), "x" or a parameter's name (of r_backward); a tangent is called by what moves:
"x", a parameter's name, "gy", or "all" of them. test_tangent_checks_bite.py holds every checker to catching
deliberately wrong passes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cases import Case, Params
from checks import STEPS, assert_all_close, assert_close
from formulas import directional
from halrp_np.backend import Device, to_host
from halrp_np.layers import Layer


def spread(shape: tuple[int, ...], K: int) -> tuple[int, ...]:
    """The shape of K tangents of an array with a batch: (..., N) becomes (..., K, N), and () becomes (K,)."""
    return (*shape[:-1], K, *shape[-1:])


def column(values: Any, k: int) -> Any:
    """One of the tangents that `spread` arranges."""
    return values[..., k, :] if values.ndim > 1 else values[k]


def stacked(values: list[Any]) -> Any:
    """The tangents from their columns."""
    return np.stack(values, axis=-2 if values[0].ndim else 0)


@dataclass(frozen=True)
class Tangent:
    """K directions in which parameters, input and cotangent move."""

    rparams: Params
    rx: Any
    rgy: Any

    def only(self, name: str) -> "Tangent":
        """What is called `name` moves, everything else stands still."""
        if name == "all":
            return self
        still = np.zeros_like(self.rgy)
        if name == "gy":
            return Tangent({}, None, self.rgy)
        return Tangent({}, self.rx, still) if name == "x" else Tangent({name: self.rparams[name]}, None, still)

    def column(self, k: int) -> "Tangent":
        """The k-th direction alone, still with its axis."""
        rx, rgy = (None if a is None else stacked([column(a, k)]) for a in (self.rx, self.rgy))
        return Tangent({name: r[k : k + 1] for name, r in self.rparams.items()}, rx, rgy)

    def mapped(self, function: Callable[[Any], Any]) -> "Tangent":
        """The function of every array."""
        rparams = {name: function(r) for name, r in self.rparams.items()}
        return Tangent(rparams, None if self.rx is None else function(self.rx), function(self.rgy))


@dataclass(frozen=True)
class Point:
    """A layer's arguments, and the directions in which they move."""

    params: Params
    x: Any
    gy: Any
    r: Tangent

    def arrays(self) -> dict[str, Any]:
        """Everything by a name to print."""
        moving = {f"tangent of {name}": r for name, r in self.r.rparams.items()}
        return {
            **self.params,
            "x": self.x,
            "gy": self.gy,
            "tangent of x": self.r.rx,
            "tangent of gy": self.r.rgy,
        } | moving

    def mapped(self, function: Callable[[Any], Any]) -> "Point":
        """The function of every array."""
        params = {name: function(value) for name, value in self.params.items()}
        return Point(params, function(self.x), function(self.gy), self.r.mapped(function))

    def moved(self, name: str, h: float, k: int = 0) -> tuple[Params, Any, Any]:
        """Parameters, input and cotangent after a step h along the k-th direction of what is called `name`."""
        r = self.r.only(name)
        params = {n: value + h * r.rparams[n][k] if n in r.rparams else value for n, value in self.params.items()}
        return params, self.x if r.rx is None else self.x + h * column(r.rx, k), self.gy + h * column(r.rgy, k)


def draw(case: Case, K: int = 2, dtype: Any = np.float64) -> Point:
    """The case's point with K random directions: the same numbers in float64 and, rounded, in float32."""
    params, x, gy = case.draw(dtype)
    rng = np.random.default_rng(13)
    rx, rgy = (rng.uniform(-1, 1, size=spread(np.shape(a), K)) for a in (x, gy))
    rparams = {name: rng.uniform(-1, 1, size=(K, *params[name].shape)) for name in case.layer.trainable}
    return Point(params, x, gy, Tangent(rparams, rx, rgy).mapped(lambda a: np.asarray(a, dtype)))


def movable(layer: Layer) -> list[str]:
    """What moves a layer's output: its input, its parameters, and all at once."""
    return ["x", *layer.trainable, *(["all"] if layer.trainable else [])]


def tangents(layer: Layer, case: Case, at: Point, **options: Any) -> dict[str, Any]:
    """The results of both tangent passes at a point, by name."""
    _, cache = layer.forward(at.params, at.x, case.mode())
    _, gys = layer.cotangents(at.params, cache, at.gy)
    found, rcache = {}, None
    if at.r.rparams or at.r.rx is not None:
        found["y"], rcache = layer.r_forward(at.params, cache, at.r.rparams, at.r.rx)
    found["x"], rgrads = layer.r_backward(at.params, cache, rcache, gys, at.r.rgy, **options)
    return {**found, **rgrads}


def gradients(layer: Layer, case: Case, params: Params, x: Any, gy: Any) -> dict[str, Any]:
    """The results of the backward pass, by name."""
    _, cache = layer.forward(params, x, case.mode())
    gx, grads = layer.backward(params, cache, gy)
    return {"x": gx, **grads}


def largest(results: dict[str, Any]) -> float:
    """The largest entry of all results."""
    return max(float(np.abs(value).max(initial=0.0)) for value in results.values())


def check_r_forward(layer: Layer, case: Case) -> None:
    """r_forward is the formula's exact (complex-step) derivative to 1e-12, for each tangent alone and for all."""
    at = draw(case)
    found = {name: tangents(layer, case, replace(at, r=at.r.only(name)))["y"] for name in movable(layer)}
    least = 0.1 * largest(found)
    for name, ry in found.items():
        r = at.r.only(name)
        for k in range(2):
            dp, dx = {n: v[k] for n, v in r.rparams.items()}, np.zeros(at.x.shape) if r.rx is None else column(r.rx, k)
            expected = directional(case.layer, at.params, at.x, case.mode(), dp, dx)
            assert_close(f"r_forward is not the tangent along {name}", column(ry, k), expected, 1e-12, least)


def check_r_backward(layer: Layer, case: Case) -> None:
    """r_backward agrees with central differences of backward over a ladder of steps, each tangent alone and all.

    The smallest error is below 1e-8 of the largest entry. For smooth functions it falls a hundredfold from the first
    step to the second as long as it is truncation: a wrong tangent has the same error at every step.
    """
    assert case.smooth, "a tie has no derivative that differences could find"
    at = draw(case, K=1)
    scale = largest(gradients(layer, case, at.params, at.x, at.gy))
    for moving in dict.fromkeys(["gy", *movable(layer), "all"]):
        exact = {n: r for n, r in tangents(layer, case, replace(at, r=at.r.only(moving))).items() if n != "y"}
        assert set(exact) == {"x", *case.layer.trainable}, f"tangents of {sorted(exact)}"
        errors: dict[str, list[float]] = {name: [] for name in exact}
        for h in STEPS:
            up, down = (gradients(layer, case, *at.moved(moving, sign * h)) for sign in (1, -1))
            for name, r in exact.items():
                difference = (up[name] - down[name]) / (2 * h)
                value = r[0] if name != "x" else column(r, 0)
                assert value.shape == difference.shape, f"tangent of {name}: {value.shape}, not {difference.shape}"
                largest_entry = max(np.abs(difference).max(initial=0.0), np.abs(value).max(initial=0.0), 0.01 * scale)
                errors[name].append(float(np.abs(difference - value).max(initial=0.0) / largest_entry))
        for name, ladder in errors.items():
            check_ladder(f"the tangent of {name} is wrong along {moving}", ladder, case)


def check_ladder(message: str, errors: list[float], case: Case) -> None:
    """Errors over STEPS as a true derivative has them."""
    message = f"{message}: " + ", ".join(f"{error:.1e}" for error in errors)
    assert min(errors) < 1e-8, message
    if case.values == "normal" and "nested" not in case.name and errors[0] > 1e-7:
        assert errors[1] < errors[0] / 50, f"{message} (no second-order slope)"


def check_symmetry(layer: Layer, case: Case) -> None:
    """⟨u, H v⟩ = ⟨v, H u⟩ to 1e-11, where H is the second derivative of ⟨gy, forward⟩ in input and parameters."""
    at = draw(case, K=2)
    still = replace(at.r, rgy=np.zeros_like(at.r.rgy))
    found = tangents(layer, case, replace(at, r=still))
    terms = [
        np.concatenate([
            (column(at.r.rx, u) * column(found["x"], v)).ravel(),
            *((at.r.rparams[name][u] * found[name][v]).ravel() for name in layer.trainable),
        ])
        for u, v in ((0, 1), (1, 0))
    ]  # fmt: skip
    least = 1e-3 * largest(gradients(layer, case, at.params, at.x, at.gy))  # a second derivative of 0 is all rounding
    scale = max(least, *(float(np.abs(part).sum()) for part in terms))
    error = abs(float(terms[0].sum() - terms[1].sum()))
    assert error <= 1e-11 * scale, f"the second derivative is not symmetric: relative error {error / scale:.2e}"


def check_linear(layer: Layer, case: Case) -> None:
    """Without rcache r_backward is backward of K cotangents; with it, the two parts add up."""
    at = draw(case, K=3)
    plain = tangents(layer, case, replace(at, r=at.r.only("gy")))
    for k in range(3):
        expected = gradients(layer, case, at.params, at.x, column(at.r.rgy, k))
        found = {name: column(r, k) if name == "x" else r[k] for name, r in plain.items()}
        assert_all_close("r_backward without rcache is not backward", found, expected, 1e-13)
    still = replace(at.r, rgy=np.zeros_like(at.r.rgy))
    bent, whole = tangents(layer, case, replace(at, r=still)), tangents(layer, case, at)
    bent = {name: r + plain.get(name, 0.0) for name, r in bent.items()}
    assert_all_close("the parts of r_backward do not add up", bent, whole, 1e-12)


def check_columns(layer: Layer, case: Case) -> None:
    """Seven tangents together are seven tangents one by one."""
    at = draw(case, K=7)
    together = tangents(layer, case, at)
    for k in range(7):
        alone = tangents(layer, case, replace(at, r=at.r.column(k)))
        found = {name: stacked([column(r, k)]) if name in "xy" else r[k : k + 1] for name, r in together.items()}
        assert_all_close(f"tangent {k} of 7 differs from the same alone", found, alone, 1e-13)


def check_absent_is_zero(layer: Layer, case: Case) -> None:
    """A name left out and rx None mean a tangent of zeros."""
    at = draw(case)
    for moving in movable(layer):
        short = replace(at.r.only(moving), rgy=at.r.rgy)
        zeros = at.r.mapped(np.zeros_like)
        rx = zeros.rx if short.rx is None else short.rx
        full = Tangent({**zeros.rparams, **short.rparams}, rx, at.r.rgy)
        found, expected = (tangents(layer, case, replace(at, r=r)) for r in (short, full))
        assert_all_close(f"only the tangent of {moving}, the others absent, differs", found, expected, 1e-13)


def subsets(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """No name, each alone, every second one backwards, all."""
    yield from [(), *((name,) for name in names), names[::-2], names]


def check_wanted(layer: Layer, case: Case) -> None:
    """backward and r_backward return just the wanted gradients, equal to those of the full pass, and gx if asked."""
    at = draw(case)
    _, cache = layer.forward(at.params, at.x, case.mode())
    full_gx, full = layer.backward(at.params, cache, at.gy)
    _, rcache = layer.r_forward(at.params, cache, at.r.rparams, at.r.rx)
    all_gx, all_gys = layer.cotangents(at.params, cache, at.gy)
    np.testing.assert_allclose(all_gx, full_gx, rtol=1e-13, err_msg="gx of cotangents differs from gx of backward")
    full_rgx, full_r = layer.r_backward(at.params, cache, rcache, all_gys, at.r.rgy)
    for wanted in subsets(layer.trainable):
        for asked in (True, False):
            options = {"input_gradient": asked, "wanted": wanted}
            gx, found = layer.backward(at.params, cache, at.gy, **options)
            _, gys = layer.cotangents(at.params, cache, at.gy, **options)
            rgx, rfound = layer.r_backward(at.params, cache, rcache, gys, at.r.rgy, **options)
            for kind, part, whole in (("gradients", found, full), ("tangents", rfound, full_r)):
                assert set(part) == set(wanted), f"{kind} of {sorted(part)}, wanted {sorted(wanted)}"
                expected = {name: whole[name] for name in wanted} | {"x": full_gx}
                assert_all_close(f"wanted {kind} differ", {**part, "x": full_gx}, expected, 1e-13)
            if asked:
                np.testing.assert_allclose(gx, full_gx, rtol=1e-12, atol=1e-13, err_msg="gx depends on `wanted`")
                assert_close("rgx depends on `wanted`", rgx, full_rgx, 1e-12)
            else:
                assert gx is None, "an input gradient that nobody asked for"
                assert rgx is None, "an input tangent that nobody asked for"


def check_tangent_purity(layer: Layer, case: Case, dtype: Any, layout: Callable[[Any], Any]) -> None:
    """No argument is modified, repeated passes return the same bits, dtype and shape stay, layout does not matter."""
    at = draw(case, dtype=dtype).mapped(layout)
    before = {name: value.copy() for name, value in at.arrays().items()}
    _, cache = layer.forward(at.params, at.x, case.mode())
    _, gys = layer.cotangents(at.params, cache, at.gy)
    ry, rcache = layer.r_forward(at.params, cache, at.r.rparams, at.r.rx)
    runs = []
    for _ in range(2):
        rgx, rgrads = layer.r_backward(at.params, cache, rcache, gys, at.r.rgy)
        runs.append({name: value.copy() for name, value in {"y": ry, "x": rgx, **rgrads}.items()})
        ry, _ = layer.r_forward(at.params, cache, at.r.rparams, at.r.rx)
    runs.append(tangents(layer, case, at))
    for name, first in runs[0].items():
        shape = {"x": at.r.rx.shape, "y": at.r.rgy.shape}.get(name) or at.r.rparams[name].shape
        assert first.shape == shape, f"tangent of {name}: shape {first.shape}, expected {shape}"
        assert first.dtype == dtype, f"tangent of {name}: dtype {first.dtype} from {np.dtype(dtype)}"
        for again in runs[1:]:
            np.testing.assert_array_equal(again[name], first, f"a repeated tangent pass changed: {name}")
    for name, value in at.arrays().items():
        np.testing.assert_array_equal(value, before[name], f"argument modified: {name}")
    packed = tangents(layer, case, draw(case, dtype=dtype))
    tolerance = 2e-5 if dtype == np.float32 else 1e-12
    assert_all_close("memory layout makes a difference", runs[0], packed, tolerance)


def check_tangent_precision(layer: Layer, case: Case, device: Device | None = None) -> None:
    """float32, on any device, agrees with float64 on the host at the same (rounded) point and directions."""
    device = device or Device("cpu")
    at = draw(case, dtype=np.float32)
    found = tangents(layer, case, at.mapped(device.to_device))
    found = {name: to_host(value) for name, value in found.items()}
    assert all(value.dtype == np.float32 for value in found.values()), "float32 is not kept"
    expected = tangents(case.layer, case, at.mapped(lambda value: value.astype(np.float64)))
    assert_all_close("float32 differs from float64", found, expected, 5e-5)
