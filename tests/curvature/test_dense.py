"""Explicit matrices: every column in its place, blocks that do not divide the order, refusals."""

from typing import Any

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

from curvature.spectra import Counted, OnDevice, matrix
from halrp_np.backend import to_host
from halrp_np.curvature.dense import BLOCK, LARGEST, dense_matrix
from halrp_np.errors import ConfigError, ShapeError


@pytest.mark.parametrize("size", [1, 2, BLOCK, BLOCK + 1, 37])
def test_it_is_the_matrix(size: int, dtype: Any, rng: np.random.Generator) -> None:
    """Not symmetric on purpose: a transposed result would not pass."""
    op = Counted(rng.normal(size=(size, size)).astype(dtype))
    found = dense_matrix(op)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, op.A)
    assert (op.products, op.widest) == (size, min(size, BLOCK))


def test_a_scipy_operator_and_a_plain_matrix(rng: np.random.Generator) -> None:
    A = rng.normal(size=(20, 20))
    np.testing.assert_array_equal(dense_matrix(aslinearoperator(A)), A)
    np.testing.assert_array_equal(dense_matrix(A), A)


def test_on_a_device(dtype: Any) -> None:
    op = OnDevice(matrix(np.arange(1.0, 21.0), dtype))
    np.testing.assert_array_equal(to_host(dense_matrix(op)), op.A)


def test_progress_reaches_the_end() -> None:
    told: list[tuple[int, int]] = []
    dense_matrix(Counted(np.eye(37)), progress=lambda done, total: told.append((done, total)))
    assert told == [(16, 37), (32, 37), (37, 37)]


class Huge:
    shape, dtype = (LARGEST + 1, LARGEST + 1), np.dtype(np.float32)

    def __matmul__(self, v: Any) -> Any:
        raise AssertionError("no product should be asked for")


def test_large_ones_are_refused_before_any_product() -> None:
    with pytest.raises(ConfigError, match=r"^dense_matrix: expected .*5000.*5001.*0\.1 GB.*spectral_density"):
        dense_matrix(Huge())


@pytest.mark.parametrize("A", [np.ones((3, 4)), np.eye(3, dtype=int), np.ones(3), np.ones((0, 0))])
def test_what_is_no_symmetric_operator_of_floats(A: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"^dense_matrix: expected a square operator of floats"):
        dense_matrix(A)
