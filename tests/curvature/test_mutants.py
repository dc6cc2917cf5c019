"""The tests of the checks: derivatives wrong on purpose, each of which a check must fail, beside right twins that pass.

A mutant is a copy of one layer of a network whose class puts a mistake before the layer's own passes.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import cases
from curvature import mistakes
from curvature.mistakes import batchnorm, forgets, ignores_rgy, loses_gx, scaled, spoiled, turned
from curvature.problems import Problem
from halrp_np.curvature import check_gradient, check_hvp, check_symmetry, finite_difference
from halrp_np.layers import Mode, perturb
from halrp_np.losses import CrossEntropy

Params = dict[str, Any]

NETWORKS = {
    "nested": cases.nested(train_dropout=0.3),
    "perturbed": perturb(cases.nested(train_dropout=0.3)),
    "residual": cases.residual(),
}


@pytest.fixture(autouse=True)
def _coarse_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second rung, which is enough to tell a V from a line, and faster."""
    monkeypatch.setattr(finite_difference, "STEPS", finite_difference.STEPS[::2])


def mode(train: bool) -> Mode:
    return Mode(train=train, dropout=np.random.default_rng(3))


@lru_cache
def point(network: str) -> tuple[Params, tuple[Any, Any]]:
    """Random parameters, inputs and labels."""
    params, x, labels = Problem(network, NETWORKS[network], (2, 4, 5)).draw(samples=6)
    return params, (x, labels)


# ---- what must be caught --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """A mistake in one layer of a network, and the column of the Hessian in which it shows."""

    network: str
    path: str
    mistake: str
    mixin: type
    column: str
    train: bool = True
    symmetric: bool = False

    def __str__(self) -> str:
        return f"{self.network} {self.path}: {self.mistake}"


def product_rule(network: str, path: str, below: str) -> list[Mutant]:
    """Every term of r_forward and r_backward of one layer, each dropped; x moves with what is `below`, if anything is.

    A shift (bias, beta) shows in evaluation: in train mode the next BatchNorm takes it away, and nothing is wrong.
    """
    trainable = dict(NETWORKS[network].walk())[path].trainable
    columns = {name: f"{path}.{name}" for name in trainable} | ({"x": below} if below else {})
    found = []
    for what, column in columns.items():
        shift = what in ("bias", "beta")
        wheres = ["forward"] if shift or not below else ["forward", "backward"]  # a shift moves no derivative
        found += [
            Mutant(network, path, f"r{what} forgotten {where}", forgets(what, where), column, not shift)
            for where in wheres
        ]
        found += [Mutant(network, path, f"rgy forgotten in {what}", ignores_rgy(what), column, not shift)]
    return found


def flipped(W: Any) -> Any:
    return W[:, :, ::-1, ::-1]


def transposed(W: Any) -> Any:
    return W.swapaxes(2, 3)


CONV, FC, STEM = "block.conv.weight", "tail.fc.weight", "stem.conv.weight"
TANGENTS = [
    *product_rule("nested", "block.conv", ""),
    *product_rule("nested", "block.norm", CONV),
    *product_rule("nested", "tail.fc", CONV),
    *product_rule("nested", "tail.norm", FC),
    *product_rule("nested", "head", FC),
    *product_rule("residual", "half.body.conv", STEM),
    *product_rule("residual", "half.shortcut.conv", STEM),
    *product_rule("perturbed", "block.conv", ""),
    *product_rule("perturbed", "tail.fc", "block.conv.A"),
    Mutant("perturbed", "tail.fc", "no rR W S in the gradient of S", mistakes.NoCrossTerm, "tail.fc.R"),
    Mutant("perturbed", "block.conv", "no rR W S in the gradient of S", mistakes.NoCrossTerm, "block.conv.R"),
    Mutant("residual", "half.body.conv", "kernel flipped forward", turned(flipped, "r_forward"), STEM),
    Mutant("residual", "half.body.conv", "kernel flipped backward", turned(flipped, "r_backward"), STEM),
    Mutant("residual", "half.body.conv", "kernel transposed forward", turned(transposed, "r_forward"), STEM),
    Mutant("residual", "half.body.conv", "kernel transposed backward", turned(transposed, "r_backward"), STEM),
    *(
        Mutant("nested", "tail.norm", f"without {term}", batchnorm(term), column, symmetric=term == "rx̂ mean(g x̂)")
        for term, column in mistakes.BATCHNORM_TERMS.items()
    ),
    Mutant("residual", "relu2", "no mask forward", mistakes.Through, STEM),
    Mutant("residual", "relu2", "no mask backward", mistakes.ThroughBack, STEM),
    Mutant("nested", "tail.drop", "no mask forward", mistakes.Through, FC),
    Mutant("nested", "tail.drop", "no mask backward", mistakes.ThroughBack, FC),
    Mutant("nested", "pool", "the mean for the maximum", mistakes.Averages, CONV),
    Mutant("nested", "tail.flatten", "another order", mistakes.UpsideDown, CONV),
    Mutant("residual", "pool", "no mean", mistakes.Sums, STEM),
    Mutant("residual", "same", "no shortcut forward", mistakes.NoShortcut, STEM),
    Mutant("residual", "same", "no shortcut backward", mistakes.NoShortcutBack, STEM),
]
GRADIENTS = [
    Mutant("residual", "half.body.conv", "kernel flipped", turned(flipped, "backward"), STEM),
    Mutant("residual", "half.body.conv", "kernel transposed", turned(transposed, "backward"), STEM),
    Mutant("residual", "half.shortcut.conv", "no gradient", loses_gx(0.0), STEM),
    Mutant("residual", "relu2", "no mask", loses_gx(), STEM),
    Mutant("residual", "same", "no shortcut", loses_gx(-1.0), STEM),
    Mutant("nested", "tail.drop", "no mask", loses_gx(), FC),
    Mutant("nested", "tail.norm", "statistics held constant", mistakes.Constant, FC),
    Mutant("nested", "pool", "spread over the window", mistakes.Spreads, CONV),
]
SCALED = {
    f"{path}.{name}": (network, path, name)
    for network in ("perturbed", "nested")
    for path, layer in NETWORKS[network].walk()
    for name in layer.trainable
}


def failed(check: Any, mutant: Mutant, **asked: Any) -> bool:
    """Whether a check of the network with the mistake fails anywhere."""
    params, data = point(mutant.network)
    model = spoiled(NETWORKS[mutant.network], mutant.path, mutant.mixin)
    results = check(model, params, CrossEntropy(), data, mode=mode(mutant.train), **asked)
    assert all("derivative is wrong" in result.note for result in results if not result.passed), results
    return not all(result.passed for result in results)


@pytest.mark.parametrize("mutant", TANGENTS, ids=str)
def test_a_wrong_tangent_is_caught_by_differences_and_by_symmetry(mutant: Mutant) -> None:
    """But for a mistake that leaves the matrix symmetric."""
    assert failed(check_hvp, mutant, names=[mutant.column])
    assert failed(check_symmetry, mutant, names=[mutant.column]) is not mutant.symmetric


@pytest.mark.parametrize("mutant", GRADIENTS, ids=str)
def test_a_wrong_gradient_is_caught(mutant: Mutant) -> None:
    assert failed(check_gradient, mutant, names=[mutant.column])


@pytest.mark.parametrize("column", SCALED)
def test_one_gradient_wrong_by_a_factor_is_caught_by_its_name(column: str) -> None:
    network, path, name = SCALED[column]
    for check, passes in ((check_gradient, "backward"), (check_hvp, "r_backward")):
        assert failed(check, Mutant(network, path, "", scaled(name, passes), column, train=False), names=[column])


TWINS = sorted({(m.network, m.train) for m in [*TANGENTS, *GRADIENTS]})


@pytest.mark.parametrize(("network", "train"), TWINS)
@pytest.mark.parametrize("check", [check_gradient, check_hvp, check_symmetry])
def test_the_right_twins_pass(check: Any, network: str, train: bool) -> None:
    columns = sorted({m.column for m in [*TANGENTS, *GRADIENTS] if (m.network, m.train) == (network, train)})
    assert not failed(check, Mutant(network, "head", "none", mistakes.Faultless, "", train), names=columns)


def test_batchnorm_spelled_out_in_full_passes() -> None:
    mutant = Mutant("nested", "tail.norm", "none", batchnorm("nothing"), "")
    assert not failed(check_hvp, mutant)
    assert not failed(check_symmetry, mutant)


# ---- losses ---------------------------------------------------------------------------------------------------------


class SummedGradient(CrossEntropy):
    def grad(self, logits: Any, labels: Any) -> Any:
        return logits.shape[1] * super().grad(logits, labels)


class SummedCurvature(CrossEntropy):
    def hess_vec(self, logits: Any, labels: Any, r: Any) -> Any:
        return logits.shape[1] * super().hess_vec(logits, labels, r)


class DividedTwice(CrossEntropy):
    def hess_vec(self, logits: Any, labels: Any, r: Any) -> Any:
        return super().hess_vec(logits, labels, r) / logits.shape[1]


class DividedByClasses(CrossEntropy):
    def grad(self, logits: Any, labels: Any) -> Any:
        return super().grad(logits, labels) / len(logits)


class OnlyDiagonal(CrossEntropy):
    """diag(p) r/N without - p (pᵀ r)/N."""

    def hess_vec(self, logits: Any, labels: Any, r: Any) -> Any:
        p = np.exp(logits) / np.exp(logits).sum(axis=0)
        return p[:, None] * r / logits.shape[1]


@pytest.mark.parametrize("loss", [SummedGradient, DividedByClasses, SummedCurvature, DividedTwice, OnlyDiagonal])
def test_a_wrong_loss_is_caught_though_its_hessian_is_symmetric(loss: type) -> None:
    model, (params, data) = NETWORKS["nested"], point("nested")
    check = check_gradient if "grad" in vars(loss) else check_hvp
    for kind, passes in ((loss, False), (CrossEntropy, True)):
        (result,) = check(model, params, kind(), data, names=["head.weight"])
        assert result.passed is passes, result
    assert all(result.passed for result in check_symmetry(model, params, loss(), data))
