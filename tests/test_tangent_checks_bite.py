"""The tests of the tangent tests: wrong tangent passes, and every checker must catch the ones that concern it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tangent_checks
from cases import CASES, Case, LossLayer, Params
from halrp_np.layers import Mode
from halrp_np.losses import CrossEntropy
from tangent_mutants import TERMS, Forgetful, Mutant, RForward, WrittenOut, rescaled

# ---- every term of every product rule -------------------------------------------------------------------------------

PAIRS = [(name, result, source) for name, of in TERMS.items() for result in of for source in of[result].split()]


@pytest.mark.parametrize("name", TERMS)
def test_the_table_of_terms_is_complete(name: str) -> None:
    """A tangent that is not listed beside a result does not move it."""
    case = CASES[name]
    at = tangent_checks.draw(case)
    for source in ["x", *case.layer.trainable, "gy"]:
        moved = tangent_checks.tangents(case.layer, case, replace(at, r=at.r.only(source)))
        found = {result for result, value in moved.items() if np.abs(value).max(initial=0.0) > 1e-12}
        assert found == {result for result, sources in TERMS[name].items() if source in sources.split()}, source


@pytest.mark.parametrize(("name", "result", "source"), PAIRS)
def test_a_forgotten_term_is_caught(name: str, result: str, source: str) -> None:
    case = CASES[name]
    mutant = Forgetful(case.layer, result, source)
    if result == "y":
        with pytest.raises(AssertionError, match=f"r_forward is not the tangent along {source}: error"):
            tangent_checks.check_r_forward(mutant, case)
    else:
        with pytest.raises(AssertionError, match=f"the tangent of {result} is wrong along {source}: "):
            tangent_checks.check_r_backward(mutant, case)


COUPLED = [(name, r, s) for name, r, s in PAIRS if "y" not in (r, s[-1])]


@pytest.mark.parametrize(("name", "result", "source"), COUPLED)
def test_symmetry_bites_where_two_terms_mirror_each_other(name: str, result: str, source: str) -> None:
    """Forgetting ∂²/∂θ∂x in one of the two places breaks the symmetry; forgetting it on the diagonal does not."""
    case = CASES[name]
    mutant = Forgetful(case.layer, result, source)
    if result == source:
        tangent_checks.check_symmetry(mutant, case)
    else:
        with pytest.raises(AssertionError, match="the second derivative is not symmetric"):
            tangent_checks.check_symmetry(mutant, case)


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_a_factor_of_1_0005_is_caught(case: Case) -> None:
    for result in ("y", "x", *case.layer.trainable[:1]):
        if case.rank == 0 and result in ("A", "B"):
            continue
        mutant = rescaled(case.layer, result, 1.0005)
        if result == "y":
            with pytest.raises(AssertionError, match="r_forward is not the tangent along "):
                tangent_checks.check_r_forward(mutant, case)
        elif case.smooth:
            with pytest.raises(AssertionError, match=f"the tangent of {result} is wrong along "):
                tangent_checks.check_r_backward(mutant, case)
        else:
            with pytest.raises(AssertionError, match="r_backward without rcache is not backward"):
                tangent_checks.check_linear(mutant, case)


# ---- batch normalisation written out, term by term ------------------------------------------------------------------

NORM_TERMS = [
    "mean of rgy", "x̂ in front moves", "rgy under the mean", "x̂ under the mean moves", "γ moves", "1/s moves",
    "the bracket moves", "x̂ in ∂γ moves",
]  # fmt: skip
IN_BOTH = ["mean moves", "variance moves"]


def test_batchnorm_written_out_is_right() -> None:
    for check in (tangent_checks.check_r_forward, tangent_checks.check_r_backward, tangent_checks.check_symmetry):
        check(WrittenOut(4), CASES["batchnorm1d train"])


@pytest.mark.parametrize("forgotten", [*NORM_TERMS, *IN_BOTH])
def test_each_term_of_batchnorm_counts(forgotten: str) -> None:
    case, mutant = CASES["batchnorm1d train"], WrittenOut(4, forgotten)
    with pytest.raises(AssertionError, match=r"the tangent of (x|gamma) is wrong along "):
        tangent_checks.check_r_backward(mutant, case)
    if forgotten in IN_BOTH:
        with pytest.raises(AssertionError, match="r_forward is not the tangent along x"):
            tangent_checks.check_r_forward(mutant, case)
    else:
        tangent_checks.check_r_forward(mutant, case)


# ---- mistakes that people make --------------------------------------------------------------------------------------


def transposed_tangent_kernel(params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
    turned = {n: r.swapaxes(3, 4) if n == "weight" else r for n, r in rparams.items()}
    return CASES["conv k3 s1 p1"].layer.r_forward(params, cache, turned, rx)


def own_mask(params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
    return np.maximum(rx, 0), None


def no_mask(params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
    return rx, None


def own_maximum(params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
    """The largest tangent of each window instead of the one at the largest entry."""
    layer = CASES["maxpool 3/2 overlapping"].layer
    return np.stack([layer.forward({}, rx[..., k, :])[0] for k in range(rx.shape[-2])], axis=-2), None


def sum_of_windows(params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
    ry, rcache = CASES["avgpool 2/2"].layer.r_forward(params, cache, rparams, rx)
    return 4 * ry, rcache


def slope_one_at_zero(params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
    return rx * (cache >= 0)[..., None, :], None


WRONG_Y = [
    ("conv k3 s1 p1", transposed_tangent_kernel, "weight"),
    ("relu", own_mask, "x"),
    ("relu at zero", slope_one_at_zero, "x"),
    ("dropout", no_mask, "x"),
    ("maxpool 3/2 overlapping", own_maximum, "x"),
    ("avgpool 2/2", sum_of_windows, "x"),
]


@pytest.mark.parametrize(("name", "r_forward", "source"), WRONG_Y, ids=[f"{f.__name__}" for _, f, _ in WRONG_Y])
def test_wrong_r_forward_is_caught(name: str, r_forward: RForward, source: str) -> None:
    with pytest.raises(AssertionError, match=f"r_forward is not the tangent along {source}: error"):
        tangent_checks.check_r_forward(Mutant(CASES[name].layer, r_forward), CASES[name])


def gradient_kernel_transposed(
    p: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, rgx: Any, r: Params
) -> tuple[Any, Params]:
    return rgx, {**r, "weight": r["weight"].swapaxes(3, 4)}


def unmasked(p: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, rgx: Any, r: Params) -> tuple[Any, Params]:
    return rgy, r


def mean_over_tangents(p: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, rgx: Any, r: Params) -> Any:
    """A sum over the batch that also ran over the tangents."""
    return rgx, {**r, "bias": np.broadcast_to(r["bias"].mean(axis=0), r["bias"].shape)}


def test_wrong_r_backward_is_caught() -> None:
    for name, spoil, result in (
        ("conv k3 s1 p1", gradient_kernel_transposed, "weight"),
        ("relu", unmasked, "x"),
        ("dropout", unmasked, "x"),
    ):
        with pytest.raises(AssertionError, match=f"the tangent of {result} is wrong along gy: "):
            tangent_checks.check_r_backward(Mutant(CASES[name].layer, spoil=spoil), CASES[name])
    case = CASES["linear"]
    mutant = Mutant(case.layer, spoil=mean_over_tangents)
    tangent_checks.check_r_backward(mutant, case)  # with one tangent there is nothing to see
    with pytest.raises(AssertionError, match="tangent 0 of 7 differs from the same alone in bias"):
        tangent_checks.check_columns(mutant, case)


class WrongHessian(CrossEntropy):
    """The second derivative (diag p - p pᵀ)/N with a factor or a term forgotten."""

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake

    def hess_vec(self, logits: Any, labels: Any, r: Any) -> Any:
        p = np.exp(logits - logits.max(axis=0))[:, None]
        p /= p.sum(axis=0)
        outer = p * (p * r).sum(axis=0)
        result = {"diagonal": -outer, "outer product": p * r}.get(self.mistake, p * r - outer)
        return result if self.mistake == "1/N" else result / logits.shape[1]


@pytest.mark.parametrize("mistake", ["diagonal", "outer product", "1/N"])
def test_wrong_second_derivative_of_the_loss_is_caught(mistake: str) -> None:
    case = CASES["cross-entropy"]
    right = LossLayer(WrongHessian(""), case.layer.targets)  # type: ignore[attr-defined]
    wrong = LossLayer(WrongHessian(mistake), case.layer.targets)  # type: ignore[attr-defined]
    tangent_checks.check_r_backward(right, case)
    with pytest.raises(AssertionError, match="the tangent of x is wrong along x: "):
        tangent_checks.check_r_backward(wrong, case)


# ---- what else a pass may do wrong ----------------------------------------------------------------------------------


class Careless(Mutant):
    """Ignores what is wanted and whether the input gradient is asked for."""

    def r_backward(
        self, params: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, **options: Any
    ) -> tuple[Any, Params]:
        options[self.ignores] = {"wanted": None, "input_gradient": True}[self.ignores]
        return self.layer.r_backward(params, cache, rcache, gy, rgy, **options)

    ignores = "wanted"


@pytest.mark.parametrize(("ignores", "message"), [("wanted", "tangents of"), ("input_gradient", "nobody asked for")])
def test_ignored_options_are_caught(ignores: str, message: str) -> None:
    mutant = Careless(CASES["linear"].layer)
    mutant.ignores = ignores
    with pytest.raises(AssertionError, match=message):
        tangent_checks.check_wanted(mutant, CASES["linear"])


def doubles_in_place(params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
    ry, rcache = CASES["linear"].layer.r_forward(params, cache, rparams, rx)
    rx *= 2
    return ry, rcache


def promotes(p: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, rgx: Any, r: Params) -> tuple[Any, Params]:
    return rgx.astype(np.float64), r


def reads_memory_in_order(params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
    return CASES["linear"].layer.r_forward(params, cache, rparams, rx.ravel(order="K").reshape(rx.shape))


def test_purity_check_bites(layout: Callable[[Any], Any]) -> None:
    case = CASES["linear"]
    for mutant, message in (
        (Mutant(case.layer, doubles_in_place), "argument modified: tangent of x|a repeated tangent pass changed"),
        (Mutant(case.layer, spoil=promotes), "tangent of x: dtype float64 from float32"),
    ):
        with pytest.raises(AssertionError, match=message):
            tangent_checks.check_tangent_purity(mutant, case, np.float32, layout)
    mutant = Mutant(case.layer, reads_memory_in_order)
    if layout is np.ascontiguousarray:
        tangent_checks.check_tangent_purity(mutant, case, np.float32, layout)
    else:
        with pytest.raises(AssertionError, match="memory layout makes a difference in y"):
            tangent_checks.check_tangent_purity(mutant, case, np.float32, layout)


def test_precision_check_bites() -> None:
    case = CASES["linear"]

    def coarse(p: Params, cache: Any, rcache: Any, gy: Any, rgy: Any, rgx: Any, r: Params) -> tuple[Any, Params]:
        return rgx.astype(np.float16).astype(rgx.dtype), r

    for spoil, message in ((coarse, "float32 differs from float64 in x"), (promotes, "float32 is not kept")):
        with pytest.raises(AssertionError, match=message):
            tangent_checks.check_tangent_precision(Mutant(case.layer, spoil=spoil), case)


def test_a_tangent_taken_for_another_is_caught() -> None:
    """An absent name that stands for something else than zero."""
    case = CASES["linear"]

    def ones(params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
        count = len(rparams["weight"]) if rx is None else rx.shape[-2]
        return case.layer.r_forward(params, cache, {"bias": np.full((count, 4), 0.25), **rparams}, rx)

    with pytest.raises(AssertionError, match="the others absent, differs in y"):
        tangent_checks.check_absent_is_zero(Mutant(case.layer, ones), case)


def test_mode_is_the_case_own() -> None:
    """The dropout mask is drawn once a forward pass: tangents of another mask are wrong tangents."""
    case = CASES["dropout"]
    other = case.layer.forward({}, case.draw()[1], Mode(train=True, dropout=np.random.default_rng(99)))[1]

    def elsewhere(params: Params, cache: Any, rparams: Params, rx: Any) -> tuple[Any, Any]:
        return case.layer.r_forward(params, other, rparams, rx)

    with pytest.raises(AssertionError, match="r_forward is not the tangent along x"):
        tangent_checks.check_r_forward(Mutant(case.layer, elsewhere), case)
