"""Losses: value, gradient and second derivative through the checkers of the layers, their mean, stability, errors."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import checks
from cases import LOSSES, Case
from halrp_np.backend import Device, to_host
from halrp_np.errors import ShapeError
from halrp_np.losses import CrossEntropy, SquaredError, sample_weight


@pytest.fixture(params=LOSSES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def test_value_is_the_formula(case: Case) -> None:
    checks.check_value(case.layer, case)


def test_gradient_is_the_adjoint(case: Case) -> None:
    checks.check_adjoint(case.layer, case)


@pytest.mark.parametrize("case", [case for case in LOSSES if case.smooth], ids=lambda case: case.name)
def test_gradient_agrees_with_finite_differences(case: Case) -> None:
    checks.check_finite_differences(case.layer, case)


def test_pure(case: Case, dtype: Any, layout: Callable[[Any], Any]) -> None:
    checks.check_purity(case.layer, case, dtype, layout)
    checks.check_layout(case.layer, case, dtype, layout)


def test_float32_agrees_with_float64(case: Case) -> None:
    checks.check_precision(case.layer, case)


def test_value_and_grad_is_both(rng: np.random.Generator) -> None:
    logits, labels, targets = rng.normal(size=(4, 5)), rng.integers(0, 4, size=5), rng.normal(size=(4, 5))
    for loss, against in ((CrossEntropy(), labels), (SquaredError(), targets)):
        value, gradient = loss.value_and_grad(logits, against)
        assert value == loss.value(logits, against)
        np.testing.assert_array_equal(gradient, loss.grad(logits, against))


def test_batches_of_three_and_four_make_one_of_seven(rng: np.random.Generator) -> None:
    """The reduction is the mean over samples, in value and gradient, whatever the number of classes."""
    logits, labels, targets = rng.normal(size=(5, 7)), rng.integers(0, 5, size=7), rng.normal(size=(5, 7))
    for loss, against in ((CrossEntropy(), labels), (SquaredError(), targets)):
        value, gradient = loss.value_and_grad(logits, against)
        parts = [(n, loss.value_and_grad(logits[:, n], against[..., n])) for n in (slice(0, 3), slice(3, 7))]
        np.testing.assert_allclose((3 * parts[0][1][0] + 4 * parts[1][1][0]) / 7, value, rtol=1e-14)
        joined = np.concatenate([3 * parts[0][1][1], 4 * parts[1][1][1]], axis=1) / 7
        np.testing.assert_allclose(gradient, joined, rtol=1e-13, atol=1e-17)
    assert sample_weight(7) == 1 / 7


def explicit_hessian(loss: Any, outputs: Any) -> Any:
    """∂²L/∂outputs² sample by sample, (N, C, C): (diag p - p pᵀ)/N, or 1/N."""
    classes, samples = outputs.shape
    if isinstance(loss, SquaredError):
        return np.stack([np.eye(classes)] * samples) / samples
    p = np.exp(outputs) / np.exp(outputs).sum(axis=0)
    return np.stack([np.diag(q) - np.outer(q, q) for q in p.T]) / samples


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.name)
@pytest.mark.parametrize("K", [1, 7])
def test_second_derivative_is_the_explicit_matrix(case: Case, K: int, layout: Callable[[Any], Any], dtype: Any) -> None:
    _, outputs, _ = case.draw(dtype)
    loss, targets = case.layer.loss, case.layer.targets  # type: ignore[attr-defined]
    r = np.random.default_rng(4).normal(size=(outputs.shape[0], K, outputs.shape[1])).astype(dtype)
    against = targets if targets.dtype.kind == "i" else targets.astype(dtype)
    before = r.copy()
    found = loss.hess_vec(layout(outputs), against, layout(r))
    expected = np.einsum("nij,jkn->ikn", explicit_hessian(loss, outputs.astype(np.float64)), r)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=(1e-6 if dtype == np.float32 else 1e-14) * abs(r).max())
    np.testing.assert_array_equal(r, before)


def test_second_derivative_of_batches_of_three_and_four(rng: np.random.Generator) -> None:
    """The mean over samples again: parts weighted by their samples make the whole."""
    outputs, r, labels = rng.normal(size=(5, 7)), rng.normal(size=(5, 2, 7)), rng.integers(0, 5, size=7)
    for loss, against in ((CrossEntropy(), labels), (SquaredError(), rng.normal(size=(5, 7)))):
        parts = [
            (n.stop - n.start) * loss.hess_vec(outputs[:, n], against[..., n], r[..., n])
            for n in (slice(0, 3), slice(3, 7))
        ]
        whole = loss.hess_vec(outputs, against, r)
        np.testing.assert_allclose(np.concatenate(parts, axis=-1) / 7, whole, rtol=1e-13, atol=1e-17)


def test_second_derivative_of_the_cross_entropy_knows_no_shift(rng: np.random.Generator) -> None:
    """H 1 = 0, 1ᵀ H = 0, and vᵀHv ≥ 0: shifting all logits of a sample changes nothing, and the loss is convex."""
    logits, labels, r = 30 * rng.normal(size=(5, 6)), rng.integers(0, 5, size=6), rng.normal(size=(5, 40, 6))
    loss = CrossEntropy()
    np.testing.assert_allclose(loss.hess_vec(logits, labels, np.full((5, 1, 6), 2.0)), 0.0, atol=1e-16)
    moved = loss.hess_vec(logits, labels, r)
    np.testing.assert_allclose(moved.sum(axis=0), 0.0, atol=1e-15)
    assert (r * moved).sum(axis=(0, 2)).min() >= 0


@pytest.mark.parametrize(
    ("loss", "targets"), [(CrossEntropy(), np.zeros(7, int)), (SquaredError(), np.zeros((4, 7)))], ids=["ce", "se"]
)
@pytest.mark.parametrize("shape", [(4, 7), (4, 2, 6), (3, 2, 7), (4, 7, 2)])
def test_tangents_that_do_not_fit(loss: Any, targets: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=rf"{type(loss).__name__}.*\(4, K, 7\).*{re.escape(str(shape))}"):
        loss.hess_vec(np.zeros((4, 7)), targets, np.zeros(shape))


def test_known_values() -> None:
    logits = np.zeros((4, 3))
    value, gradient = CrossEntropy().value_and_grad(logits, np.array([0, 1, 3]))
    np.testing.assert_allclose(value, np.log(4.0), rtol=1e-15)
    np.testing.assert_allclose(gradient[:, 2], np.array([0.25, 0.25, 0.25, -0.75]) / 3, rtol=1e-15)
    outputs = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_allclose(SquaredError().value(outputs, np.zeros((2, 2))), 7.5, rtol=1e-15)


def test_huge_logits_stay_finite(dtype: Any) -> None:
    logits = np.array([[1e4, -1e4, 3.0], [-1e4, 1e4, 3.0]], dtype)
    value, gradient = CrossEntropy().value_and_grad(logits, np.array([0, 0, 1]))
    np.testing.assert_allclose(value, (2e4 + np.log(2.0)) / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.array([[0, -1, 0.5], [0, 1, -0.5]]) / 3, atol=1e-7)
    assert value.dtype == gradient.dtype == dtype


def test_a_nan_logit_reaches_the_loss(dtype: Any) -> None:
    logits = np.zeros((3, 2), dtype)
    logits[1, 0] = np.nan
    assert np.isnan(CrossEntropy().value(logits, np.array([0, 0])))


def test_shifting_all_logits_of_a_sample_changes_nothing(rng: np.random.Generator) -> None:
    logits, labels = rng.normal(size=(5, 6)), rng.integers(0, 5, size=6)
    value, gradient = CrossEntropy().value_and_grad(logits, labels)
    shifted = CrossEntropy().value_and_grad(logits + rng.normal(size=6), labels)
    np.testing.assert_allclose(shifted[0], value, rtol=1e-13)
    np.testing.assert_allclose(shifted[1], gradient, rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(gradient.sum(axis=0), 0.0, atol=1e-16)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
def test_any_integer_labels(kind: Any, device_name: str, rng: np.random.Generator) -> None:
    device, logits, labels = Device(device_name), rng.normal(size=(5, 6)), rng.integers(0, 5, size=6)
    found = CrossEntropy().value_and_grad(device.to_device(logits), device.to_device(labels.astype(kind)))
    for a, b in zip(found, CrossEntropy().value_and_grad(logits, labels), strict=True):
        np.testing.assert_allclose(to_host(a), b, rtol=1e-12)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "message"),
    [
        (CrossEntropy(), (4, 7), np.zeros(6, int), r"CrossEntropy: expected .*\(C, N\).*\(4, 7\) and .*\(6,\)"),
        (CrossEntropy(), (4,), np.zeros(4, int), r"CrossEntropy: .*received outputs \(4,\)"),
        (CrossEntropy(), (4, 0), np.zeros(0, int), r"CrossEntropy: .*N ≥ 1, received outputs \(4, 0\)"),
        (CrossEntropy(), (4, 4), np.zeros((4, 1), int), r"CrossEntropy: .*targets \(N,\).*targets \(4, 1\)"),
        (CrossEntropy(), (4, 7), np.zeros((), int), r"CrossEntropy: .*targets \(\)"),
        (CrossEntropy(), (4, 7), np.zeros(7), r"CrossEntropy: expected integer labels, received dtype float64"),
        (SquaredError(), (4, 7), np.zeros((4, 6)), r"SquaredError: .*targets \(C, N\).*targets \(4, 6\)"),
        (SquaredError(), (4, 7), np.zeros((3, 7)), r"SquaredError: expected targets \(4, 7\), received shape \(3, 7\)"),
        (SquaredError(), (4, 7), np.zeros(7), r"SquaredError: .*received outputs \(4, 7\) and targets \(7,\)"),
    ],
    ids=lambda value: None,
)
def test_errors(loss: Any, outputs: tuple[int, ...], targets: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        loss.value_and_grad(np.zeros(outputs), targets)
