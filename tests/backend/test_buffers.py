"""Buffers: handed out again only when nobody refers to them, within their limits, from any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halrp_np.backend import buffers

BIG = buffers.SMALL + 4096


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_is_used_again_once_nobody_refers_to_it() -> None:
    pool = buffers.Pool()
    first = pool.take(BIG)
    where = address(first)
    second = pool.take(BIG)
    assert address(second) != where
    del first
    assert address(pool.take(BIG)) == where
    assert pool.created == 2


@pytest.mark.parametrize("keep", [lambda a: a[::7], lambda a: a.view(np.float32).reshape(2, -1).T, lambda a: a[5:6]])
def test_any_view_keeps_its_buffer(keep) -> None:  # type: ignore[no-untyped-def]
    pool = buffers.Pool()
    array = pool.take(BIG)
    array[:] = 7
    view = keep(array)
    before = view.copy()
    del array
    pool.take(BIG)[:] = 9
    np.testing.assert_array_equal(view, before)


def test_free_buffers_are_bounded_and_the_longest_unused_goes_first() -> None:
    pool = buffers.Pool(kept=3 * BIG)
    arrays = [pool.take(BIG + k) for k in range(3)]
    places = [address(array) for array in arrays]
    del arrays
    pool.take(BIG + 1)  # the first is now the longest unused
    held = pool.take(BIG + 3)
    assert pool.held() <= 3 * BIG + held.size
    again = pool.take(BIG + 1)
    assert address(again) == places[1]


def test_of_equal_buffers_the_right_one_goes() -> None:
    pool = buffers.Pool(kept=2 * BIG)
    held = pool.take(BIG)
    held[:] = 3
    others = [pool.take(BIG) for _ in range(3)]
    places = [address(other) for other in others]
    del others
    pool.take(BIG + 1)
    assert pool.held() <= 3 * BIG + 1
    assert (held == 3).all()
    assert address(pool.take(BIG)) in places


@given(st.integers(1, 5), st.integers(0, 40000), st.sampled_from([np.float32, np.float64, np.uint8]))
def test_arrays_are_what_was_asked_for(rows: int, columns: int, kind: type) -> None:
    array = buffers.empty((rows, columns), kind)
    assert array.shape == (rows, columns)
    assert array.dtype == kind
    assert array.flags.c_contiguous
    assert array.flags.writeable
    if array.nbytes > buffers.SMALL:
        assert address(array) % buffers.LINE == 0
    assert not buffers.zeros((rows, columns), kind).any()
    assert buffers.empty_like(array).shape == array.shape


def test_threads_never_share_a_buffer() -> None:
    pool = buffers.Pool()

    def work(number: int) -> bool:
        for _ in range(200):
            array = pool.take(BIG)
            array[:] = number
            if not (array == number).all():
                return False
        return True

    with ThreadPoolExecutor(4) as workers:
        assert all(workers.map(work, range(4)))
