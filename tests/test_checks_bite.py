"""The tests of the tests: deliberately wrong layers, and every checker must catch the ones that concern it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import checks
from cases import CASES, Case, Params, shapes
from halrp_np import losses
from halrp_np.layers import BatchNorm1d, Layer, Linear, Mode, PerturbedLinear, conv, linear

Forward = Callable[[Params, Any, Mode], tuple[Any, Any]]
Backward = Callable[[Params, Any, Any, Any, Params], tuple[Any, Params]]


class Mutant(Layer):
    """A layer whose forward pass is replaced, or the result of whose backward pass is spoiled."""

    def __init__(self, layer: Layer, forward: Forward | None = None, backward: Backward | None = None) -> None:
        self.layer, self.trainable, self.buffers = layer, layer.trainable, layer.buffers
        self._forward, self._backward = forward or layer.forward, backward

    def forward(self, params: Params, x: Any, mode: Mode = Mode()) -> tuple[Any, Any]:  # noqa: B008
        return self._forward(params, x, mode)

    def backward(self, params: Params, cache: Any, gy: Any, *, input_gradient: bool = True) -> tuple[Any, Params]:
        gx, grads = self.layer.backward(params, cache, gy, input_gradient=input_gradient)
        if self._backward is None or not input_gradient:
            return gx, grads
        return self._backward(params, cache, gy, gx, dict(grads))

    def new_buffers(self, params: Params, cache: Any) -> Params:
        return self.layer.new_buffers(params, cache)


def scaled(layer: Layer, factor: float, only: str = "") -> Mutant:
    """Every gradient, or only one, times a factor."""

    def backward(params: Params, cache: Any, gy: Any, gx: Any, grads: Params) -> tuple[Any, Params]:
        spoiled = {name: g * factor if only in ("", name) else g for name, g in grads.items()}
        return (gx * factor if only in ("", "x") else gx), spoiled

    return Mutant(layer, backward=backward)


# ---- a derivative that is slightly wrong, everywhere ----------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_a_factor_of_1_0005_is_caught(case: Case) -> None:
    mutant = scaled(case.layer, 1.0005)
    with pytest.raises(AssertionError, match="not the adjoint in x: relative error"):
        checks.check_adjoint(mutant, case)
    if case.smooth:
        with pytest.raises(AssertionError, match="finite differences disagree in x: "):
            checks.check_finite_differences(mutant, case)


SINGLE = [(case, name) for case in CASES.values() for name in case.layer.trainable if "." not in name and case.rank]


@pytest.mark.parametrize(("case", "name"), SINGLE, ids=lambda value: getattr(value, "name", value))
def test_a_factor_in_one_gradient_is_caught_by_its_name(case: Case, name: str) -> None:
    mutant = scaled(case.layer, 1.0005, only=name)
    for check in (checks.check_adjoint, checks.check_finite_differences):
        with pytest.raises(AssertionError, match=f" in {name}: "):
            check(mutant, case)


# ---- mistakes that people make --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mistake:
    """A spoiled backward pass of one case, and the variable whose gradient it breaks."""

    name: str
    case: Case
    variable: str
    backward: Backward


SQUARE = Case("square perturbed linear", PerturbedLinear(Linear(4, 4)), (4, 6))


def only_first_sample(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return gx, {**g, "bias": gy.reshape(len(gy), -1)[:, 0]}


def flipped_kernel(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return conv.grad_input(gy, p["weight"][:, :, ::-1, ::-1], cache.shape, 1, 1), g


def transposed_window(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return gx, {**g, "weight": g["weight"].swapaxes(2, 3)}


def swapped_factors(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return gx, {**g, "A": g["B"].T, "B": g["A"].T}


def swapped_scalings(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return gx, {**g, "R": g["S"], "S": g["R"]}


def without_low_rank_branch(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return gx - linear.grad_input(linear.grad_input(gy, p["B"]), p["A"]), g


def one_window_position(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    gK = conv.grad_weight(gy, cache[0], p["weight"].shape, 1, 1)
    return gx, {**g, "B": gK.mean(axis=(2, 3)) @ p["A"].T}


def constant_statistics(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return gy * (p["gamma"] / np.sqrt(cache[2] + 1e-5))[:, None], g


def constant_variance(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return (gy - gy.mean(axis=1, keepdims=True)) * (p["gamma"] / np.sqrt(cache[2] + 1e-5))[:, None], g


def without_mean_factor(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return gx * cache.shape[1], g


def without_one_hot(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return np.exp(cache) / np.exp(cache).sum(axis=0) * gy / cache.shape[1], g


def last_of_a_tie(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    """The right entry of each 2/2 window as the layer sees it, moved to the window's other end."""
    half = [2 * (n // 2) for n in gx.shape[1:3]]
    moved = gx.copy()
    moved[:, : half[0], : half[1]] = _turned(gx[:, : half[0], : half[1]])
    return moved, g


def _turned(images: Any) -> Any:
    """Every 2x2 block turned by 180 degrees."""
    turned = np.empty_like(images)
    for i in range(2):
        for j in range(2):
            turned[:, i::2, j::2] = images[:, 1 - i :: 2, 1 - j :: 2]
    return turned


def one_window_wins(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    """Overlapping windows that share their largest entry: the last one overwrites the others."""
    argmax, shape = cache
    gx = np.zeros(shape)
    for c, u, v, n in np.ndindex(*gy.shape):
        i, j = divmod(int(argmax[c, u, v, n]), 3)
        gx[c, 2 * u + i, 2 * v + j, n] = gy[c, u, v, n]
    return gx, g


def everywhere(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return gy, g


def slope_one_at_zero(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return gx + gy * (cache == 0) * (np.arange(cache.size).reshape(cache.shape) % 2), g


def sum_of_windows(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return 4 * gx, g


def without_gain(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return gy * (cache > 0), g


def reversed_pixels(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return gx.swapaxes(1, 2).reshape(gx.shape), g


MISTAKES = [
    Mistake("bias gradient not summed", CASES["linear"], "bias", only_first_sample),
    Mistake("bias gradient not summed over pixels", CASES["conv k3 s1 p1"], "bias", only_first_sample),
    Mistake("kernel flipped in the input gradient", CASES["conv k3 s1 p1"], "x", flipped_kernel),
    Mistake("kernel gradient transposed", CASES["conv k5 s1 p2"], "weight", transposed_window),
    Mistake("A and B swapped", SQUARE, "A", swapped_factors),
    Mistake("R and S swapped", SQUARE, "R", swapped_scalings),
    Mistake("B(Ax) forgotten", CASES["perturbed linear r2"], "x", without_low_rank_branch),
    Mistake("box sum averaged", CASES["perturbed conv k3 s1 p1 r2"], "B", one_window_position),
    Mistake("batch statistics held constant", CASES["batchnorm1d train"], "x", constant_statistics),
    Mistake("batch variance held constant", CASES["batchnorm1d train"], "x", constant_variance),
    Mistake("1/N forgotten", CASES["cross-entropy"], "x", without_mean_factor),
    Mistake("1/N forgotten in the squared error", CASES["squared error"], "x", without_mean_factor),
    Mistake("one-hot forgotten", CASES["cross-entropy"], "x", without_one_hot),
    Mistake("tie to the last entry", CASES["maxpool 2/2 tied"], "x", last_of_a_tie),
    Mistake("wrong entry of a window", CASES["maxpool 2/2"], "x", last_of_a_tie),
    Mistake("overlapping windows overwrite", CASES["maxpool 3/2 overlapping"], "x", one_window_wins),
    Mistake("ReLU without its mask", CASES["relu"], "x", everywhere),
    Mistake("slope at zero", CASES["relu at zero"], "x", slope_one_at_zero),
    Mistake("average without its area", CASES["avgpool 2/2"], "x", sum_of_windows),
    Mistake("dropout without its gain", CASES["dropout"], "x", without_gain),
    Mistake("flattened in another order", CASES["flatten"], "x", reversed_pixels),
]
by_name = pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)


@by_name
def test_adjoint_check_bites(mistake: Mistake) -> None:
    mutant = Mutant(mistake.case.layer, backward=mistake.backward)
    with pytest.raises(AssertionError, match=f"not the adjoint in {mistake.variable}: relative error"):
        checks.check_adjoint(mutant, mistake.case)


@pytest.mark.parametrize("mistake", [m for m in MISTAKES if m.case.smooth], ids=lambda mistake: mistake.name)
def test_finite_differences_bite(mistake: Mistake) -> None:
    mutant = Mutant(mistake.case.layer, backward=mistake.backward)
    with pytest.raises(AssertionError, match=f"finite differences disagree in {mistake.variable}: "):
        checks.check_finite_differences(mutant, mistake.case)


@by_name
def test_torch_oracle_bites(mistake: Mistake) -> None:
    pytest.importorskip("torch", reason="PyTorch, an oracle of the layers, is not installed")
    import torch_twins

    torch_twins.check(mistake.case.layer, mistake.case)
    with pytest.raises(AssertionError, match=r"differs from PyTorch in (input gradient|gradient of )"):
        torch_twins.check(Mutant(mistake.case.layer, backward=mistake.backward), mistake.case)


def test_missing_gradient_is_caught() -> None:
    case = CASES["linear"]
    mutant = Mutant(case.layer, backward=lambda p, cache, gy, gx, g: (gx, {"weight": g["weight"]}))
    with pytest.raises(AssertionError, match=r"gradients of \['weight'\], trainable \['bias', 'weight'\]"):
        checks.check_adjoint(mutant, case)


# ---- wrong values ---------------------------------------------------------------------------------------------------


def test_forgotten_low_rank_branch_in_the_value_is_caught() -> None:
    case = CASES["perturbed linear r2"]

    def forward(params: Params, x: Any, mode: Mode) -> tuple[Any, Any]:
        y, cache = case.layer.forward(params, x, mode)
        return y - params["B"] @ (params["A"] @ x), cache

    mutant = Mutant(case.layer, forward)
    with pytest.raises(AssertionError, match="forward differs from the formula: error"):
        checks.check_value(mutant, case)
    with pytest.raises(AssertionError, match="finite differences disagree in x"):
        checks.check_finite_differences(mutant, case)


@pytest.mark.parametrize("name", ["cross-entropy", "squared error"])
def test_mean_forgotten_in_value_and_gradient_alike_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consistent mistake, which no finite difference can see."""
    case = CASES[name]
    monkeypatch.setattr(losses, "sample_weight", lambda samples: 1.0)
    checks.check_finite_differences(case.layer, case)
    with pytest.raises(AssertionError, match="forward differs from the formula"):
        checks.check_value(case.layer, case)
    with pytest.raises(AssertionError, match="not the adjoint in x"):
        checks.check_adjoint(case.layer, case)


@pytest.mark.parametrize("spoil", ["biased", "momentum", "still"])
def test_wrong_running_statistics_are_caught(spoil: str, rng: np.random.Generator) -> None:
    class Wrong(BatchNorm1d):
        def new_buffers(self, params: Params, cache: Any) -> Params:
            _, mean, var, _ = cache
            keep = {"biased": 0.9, "momentum": 0.1, "still": 1.0}[spoil]
            unbiased = var if spoil == "biased" else var * 8 / 7
            batch = {"running_mean": mean, "running_var": unbiased}
            return {name: keep * params[name] + (1 - keep) * value for name, value in batch.items()}

    params = {name: rng.uniform(0.5, 2.0, size=shape) for name, shape in shapes(BatchNorm1d(3), 0).items()}
    with pytest.raises(AssertionError, match="running statistics differ in running_"):
        checks.check_running_statistics(Wrong(3), params, rng.normal(size=(3, 8)))


# ---- impure, layout-bound and imprecise layers ----------------------------------------------------------------------


class Accumulating(Mutant):
    """Adds up gradients over calls, as many frameworks do."""

    def backward(self, params: Params, cache: Any, gy: Any, *, input_gradient: bool = True) -> tuple[Any, Params]:
        gx, grads = self.layer.backward(params, cache, gy, input_gradient=input_gradient)
        self.total = {n: g + getattr(self, "total", {}).get(n, 0) for n, g in grads.items()}
        return gx, self.total


class Counting(Mutant):
    """Remembers how often it was called."""

    calls = 0

    def forward(self, params: Params, x: Any, mode: Mode = Mode()) -> tuple[Any, Any]:  # noqa: B008
        self.calls += 1
        return self.layer.forward(params, x * self.calls, mode)


class Eager(Mutant):
    """Forms the input gradient unasked."""

    def backward(self, params: Params, cache: Any, gy: Any, *, input_gradient: bool = True) -> tuple[Any, Params]:
        return self.layer.backward(params, cache, gy)


def writes_input(params: Params, x: Any, mode: Mode) -> tuple[Any, Any]:
    np.maximum(x, 0, out=x)
    return x.copy(), x.copy()


def writes_cotangent(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    np.abs(gy, out=gy)
    return gx, g


def writes_parameter(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    np.abs(p["weight"], out=p["weight"])
    return gx, g


def promotes(p: Params, cache: Any, gy: Any, gx: Any, g: Params) -> tuple[Any, Params]:
    return gx * np.float64(1), {name: value.astype(np.float64) for name, value in g.items()}


RELU, LINEAR = CASES["relu at zero"], CASES["linear"]
IMPURE = [
    (RELU, Mutant(RELU.layer, writes_input), "argument modified: x"),
    (RELU, Mutant(RELU.layer, backward=writes_cotangent), "(argument modified: gy|pass changed: input gradient)"),
    (LINEAR, Mutant(LINEAR.layer, backward=writes_parameter), "(argument modified: weight|pass changed)"),
    (LINEAR, Accumulating(LINEAR.layer), "a second backward pass changed: gradient of "),
    (LINEAR, Counting(LINEAR.layer), "a repeated pass changed: output"),
    (LINEAR, Eager(LINEAR.layer), "an input gradient that nobody asked for"),
    (LINEAR, Mutant(LINEAR.layer, backward=promotes), "dtype float64 from float32: "),
]


@pytest.mark.parametrize(("case", "mutant", "message"), IMPURE, ids=[message for _, _, message in IMPURE])
def test_purity_check_bites(case: Case, mutant: Layer, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        checks.check_purity(mutant, case, np.float32, np.ascontiguousarray)


def test_statistics_moved_in_place_are_caught() -> None:
    class InPlace(BatchNorm1d):
        def new_buffers(self, params: Params, cache: Any) -> Params:
            moved = super().new_buffers(params, cache)
            params["running_mean"][...] = moved["running_mean"]
            return moved

    with pytest.raises(AssertionError, match=r"(argument modified|pass changed): (new )?running_mean"):
        checks.check_purity(InPlace(4), CASES["batchnorm1d train"], np.float64, np.ascontiguousarray)


def test_layout_check_bites(layout: Callable[[Any], Any], dtype: Any) -> None:
    """A layer that reads memory in the order it lies."""
    case = CASES["linear"]

    def forward(params: Params, x: Any, mode: Mode) -> tuple[Any, Any]:
        return case.layer.forward(params, x.ravel(order="K").reshape(x.shape), mode)

    mutant = Mutant(case.layer, forward)
    if layout is np.ascontiguousarray:
        checks.check_layout(mutant, case, dtype, layout)  # nothing to see there
    else:
        with pytest.raises(AssertionError, match=r"memory layout makes a difference in (output|gradient of weight)"):
            checks.check_layout(mutant, case, dtype, layout)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_precision_check_bites(kind: Any) -> None:
    case = CASES["linear"]

    def forward(params: Params, x: Any, mode: Mode) -> tuple[Any, Any]:
        y, cache = case.layer.forward(params, x, mode)
        return (y.astype(np.float16).astype(x.dtype) if kind == np.float16 else y.astype(kind)), cache

    message = "float32 differs from float64 in output" if kind == np.float16 else "float32 is not kept"
    with pytest.raises(AssertionError, match=message):
        checks.check_precision(Mutant(case.layer, forward), case)


def test_inner_products_bite(rng: np.random.Generator) -> None:
    gy, x, W = rng.normal(size=(4, 7)), rng.normal(size=(5, 7)), rng.normal(size=(4, 5))
    products = [gy * (W @ x), x * (W.T @ gy), W * (gy @ x.T)]
    checks.check_same_number(products, 1e-12)
    for n in range(3):
        spoiled = [terms * (1.0005 if n == m else 1.0) for m, terms in enumerate(products)]
        with pytest.raises(AssertionError, match="not adjoint to one another: relative error"):
            checks.check_same_number(spoiled, 1e-12)
