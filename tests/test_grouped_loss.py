"""The cross-entropy within groups of classes: each group's own cross-entropy, whatever the other logits are."""

from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Device, to_host
from halrp_np.errors import ConfigError, ShapeError
from halrp_np.losses import CrossEntropy, GroupedCrossEntropy
from strict import StrictDevice

GROUPS = np.array([0, 0, 0, 4, 4, 1, 0, 1])
"""Groups may lie apart, and be numbered anyhow."""
SAMPLES = 23


def problem(dtype: Any = np.float64, size: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of every class."""
    draw = np.random.default_rng(0)
    logits = size * draw.normal(size=(GROUPS.size, SAMPLES))
    return logits.astype(dtype), np.concatenate([np.arange(8), draw.integers(8, size=SAMPLES - 8)])


def by_group(logits: np.ndarray, labels: np.ndarray, r: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Value, gradient and second derivative, each group's from CrossEntropy on its own rows and samples."""
    value, gradient, bent = 0.0, np.zeros_like(logits), np.zeros_like(r)
    for group in np.unique(GROUPS):
        rows, columns = np.flatnonzero(group == GROUPS), np.flatnonzero(GROUPS[labels] == group)
        own, at = logits[np.ix_(rows, columns)], np.searchsorted(rows, labels[columns])
        share = columns.size / labels.size
        one, g = CrossEntropy().value_and_grad(own, at)
        value += share * float(one)
        gradient[np.ix_(rows, columns)] = share * g
        tangents = np.ascontiguousarray(r[rows][:, :, columns])
        bent[np.ix_(rows, np.arange(r.shape[1]), columns)] = share * CrossEntropy().hess_vec(own, at, tangents)
    return value, gradient, bent


@pytest.mark.parametrize("size", [3.0, 1e4])
def test_it_is_each_groups_own_cross_entropy(dtype: Any, size: float, device_name: str) -> None:
    (logits, labels), device = problem(dtype, size), Device(device_name)
    r = np.random.default_rng(1).normal(size=(8, 3, SAMPLES)).astype(dtype)
    loss = GroupedCrossEntropy(GROUPS)
    value, gradient, bent = by_group(logits.astype(np.float64), labels, r.astype(np.float64))
    placed = device.to_device(logits), device.to_device(labels)
    found, g = (to_host(part) for part in loss.value_and_grad(*placed))
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    assert found.dtype == g.dtype == dtype
    np.testing.assert_allclose(found, value, rtol=rtol)
    np.testing.assert_allclose(g, gradient, rtol=0, atol=rtol / SAMPLES)
    assert not g[GROUPS[:, None] != GROUPS[labels]].any()
    moved = to_host(loss.hess_vec(*placed, device.to_device(r)))
    assert moved.dtype == dtype
    np.testing.assert_allclose(moved, bent, rtol=0, atol=rtol / SAMPLES)
    assert loss.value(*placed) == found
    np.testing.assert_array_equal(to_host(loss.grad(*placed)), g)


def test_with_one_group_it_is_the_cross_entropy_to_the_bit(dtype: Any) -> None:
    logits, labels = problem(dtype)
    r = np.random.default_rng(1).normal(size=(8, 3, SAMPLES)).astype(dtype)
    loss, plain = GroupedCrossEntropy([7] * 8), CrossEntropy()
    for a, b in zip(loss.value_and_grad(logits, labels), plain.value_and_grad(logits, labels), strict=True):
        assert a.tobytes() == b.tobytes()
    assert loss.hess_vec(logits, labels, r).tobytes() == plain.hess_vec(logits, labels, r).tobytes()


def test_gradient_and_curvature_are_the_differences_of_the_value() -> None:
    (logits, labels), loss, h = problem(), GroupedCrossEntropy(GROUPS), 1e-5
    r = np.random.default_rng(2).normal(size=logits.shape)
    slope = (loss.value(logits + h * r, labels) - loss.value(logits - h * r, labels)) / (2 * h)
    np.testing.assert_allclose((loss.grad(logits, labels) * r).sum(), slope, rtol=1e-8)
    bent = (loss.grad(logits + h * r, labels) - loss.grad(logits - h * r, labels)) / (2 * h)
    np.testing.assert_allclose(loss.hess_vec(logits, labels, r[:, None, :])[:, 0], bent, rtol=0, atol=1e-10)


def test_it_agrees_with_torch() -> None:
    torch: Any = pytest.importorskip("torch")
    logits, labels = problem()
    z = torch.tensor(logits.T, requires_grad=True)
    masked = z.masked_fill(torch.tensor(GROUPS[None, :] != GROUPS[labels][:, None]), -torch.inf)
    value = torch.nn.functional.cross_entropy(masked, torch.tensor(labels))
    value.backward()
    found, gradient = GroupedCrossEntropy(GROUPS).value_and_grad(logits, labels)
    np.testing.assert_allclose(found, value.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, z.grad.numpy().T, rtol=1e-10, atol=1e-15)


def test_what_other_groups_say_has_no_part() -> None:
    (logits, labels), loss = problem(), GroupedCrossEntropy(GROUPS)
    expected = loss.value_and_grad(logits, labels)
    outside = GROUPS[:, None] != GROUPS[labels]
    for worst in (1e300, -1e300, np.inf, np.nan):
        for a, b in zip(loss.value_and_grad(np.where(outside, worst, logits), labels), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    inside = logits.copy()
    inside[labels[5], 5] = np.nan
    assert np.isnan(loss.value(inside, labels))


def test_nothing_is_changed_and_any_layout_is_read(dtype: Any) -> None:
    (logits, labels), loss = problem(dtype), GroupedCrossEntropy(GROUPS)
    before = logits.copy()
    expected = loss.value_and_grad(logits, labels)
    turned = np.asfortranarray(logits)
    for a, b in zip(loss.value_and_grad(turned, labels.astype(np.uint8)), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(logits, before)
    np.testing.assert_array_equal(loss.groups, GROUPS)


def test_on_a_device_nothing_crosses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALRP_NP_KERNELS", "reference")
    (logits, labels), device, loss = problem(), StrictDevice(), GroupedCrossEntropy(GROUPS)
    r = np.random.default_rng(1).normal(size=(8, 3, SAMPLES))
    arrays = [device.to_device(array) for array in (logits, labels, r)]
    for a, b in zip(loss.value_and_grad(*arrays[:2]), loss.value_and_grad(logits, labels), strict=True):
        np.testing.assert_array_equal(to_host(a), b)
    np.testing.assert_array_equal(to_host(loss.hess_vec(*arrays)), loss.hess_vec(logits, labels, r))


@pytest.mark.parametrize("groups", [[], [[0, 1]], [0.0, 1.0], 3])
def test_groups_that_are_no_row_of_integers(groups: Any) -> None:
    with pytest.raises(ConfigError, match="GroupedCrossEntropy: expected the number of its group for every class"):
        GroupedCrossEntropy(groups)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ((7, 4), [0, 1, 2, 3], r"expected logits \(8, N\), a row a class, received shape \(7, 4\)"),
        ((8, 4), [0, 1, 2, 8], r"expected labels in 0\.\.7, received 0\.\.8"),
        ((8, 4), [0, -1, 2, 3], r"expected labels in 0\.\.7, received -1\.\.3"),
        ((8, 4), [0, 1, 2], r"received outputs \(8, 4\) and targets \(3,\)"),
        ((8, 4), [0.0, 1.0, 2.0, 3.0], "expected integer labels"),
    ],
)
def test_arrays_that_do_not_fit(logits: tuple[int, ...], labels: list[Any], message: str) -> None:
    loss, ways = GroupedCrossEntropy(GROUPS), []
    ways.append(lambda z, y: loss.value_and_grad(z, y))
    ways.append(lambda z, y: loss.hess_vec(z, y, np.zeros((8, 2, 4))))
    for way in ways:
        with pytest.raises(ShapeError, match=f"GroupedCrossEntropy: .*{message}"):
            way(np.zeros(logits), np.array(labels))


def test_tangents_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"GroupedCrossEntropy: expected tangents \(8, K, 4\)"):
        GroupedCrossEntropy(GROUPS).hess_vec(np.zeros((8, 4)), np.arange(4), np.zeros((8, 4)))
