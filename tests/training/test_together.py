"""Examples of several tasks as one: which rows, whose labels, whose random numbers."""

from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Streams, to_host
from halrp_np.errors import ConfigError
from halrp_np.training import Together
from strict import StrictDevice
from training.blobs import Blobs

SIZES = (5, 1, 8)


def parts(dtype: Any = np.float64) -> list[Blobs]:
    return [Blobs(10 * k + 3, size, (2, 3), dtype=dtype) for k, size in enumerate(SIZES)]


def test_a_batch_holds_its_rows_part_by_part(dtype: Any) -> None:
    own = parts(dtype)
    own[0].y = own[0].y.astype(np.uint8)
    together = Together(own, (250, 3, 300))
    assert len(together) == 14
    x, y = together.batch(np.array([13, 0, 4, 6, 2, 5]))
    assert x.dtype == dtype
    assert x.flags.c_contiguous
    assert [part.asked for part in own] == [[[0, 4, 2]], [[0]], [[7, 0]]]
    np.testing.assert_array_equal(x, np.concatenate([own[0].x[..., [0, 4, 2]], own[1].x, own[2].x[..., [7, 0]]], -1))
    labels = [250 + own[0].y[[0, 4, 2]].astype(int), 3 + own[1].y, 300 + own[2].y[[7, 0]]]
    np.testing.assert_array_equal(y, np.concatenate(labels))


def test_all_rows_are_all_parts() -> None:
    own = parts()
    x, y = Together(own, (0, 3, 6)).batch(np.arange(14))
    np.testing.assert_array_equal(x, np.concatenate([part.x for part in own], axis=-1))
    np.testing.assert_array_equal(y, np.concatenate([part.y + 3 * k for k, part in enumerate(own)]))


def test_a_part_that_a_batch_has_no_row_of_is_not_asked() -> None:
    own = parts()
    x, _ = Together(own, (0, 0, 0)).batch(np.array([7, 8]))
    assert x.shape == (2, 3, 2)
    assert [part.asked for part in own] == [[], [], [[1, 2]]]


def test_every_part_draws_from_a_stream_of_its_own() -> None:
    own, again = parts(), parts()
    streams = Streams(4)
    Together(own, (0, 0, 0)).begin_epoch(streams.generator("augment base", 0, 1))
    Together(again, (0, 0, 0)).begin_epoch(streams.generator("augment base", 0, 1))
    drawn = [part.begun for part in own]
    assert drawn == [part.begun for part in again]
    assert all(len(begun) == 1 for begun in drawn)
    assert len({begun[0] for begun in drawn}) == 3


class OnDevice(Blobs):
    """Blobs on the strict device."""

    def batch(self, rows: Any) -> tuple[Any, Any]:
        x, y = super().batch(rows)
        return StrictDevice().to_device(x), StrictDevice().to_device(y)


def test_parts_may_lie_on_a_device() -> None:
    own = [OnDevice(3, 5), OnDevice(4, 6)]
    x, y = Together(own, (0, 3)).batch(np.array([9, 1]))
    np.testing.assert_array_equal(to_host(x), np.stack([own[0].x[:, 1], own[1].x[:, 4]], axis=1))
    np.testing.assert_array_equal(to_host(y), [own[0].y[1], own[1].y[4] + 3])


@pytest.mark.parametrize(("count", "offsets"), [(0, ()), (2, (0,)), (1, (0, 3))])
def test_parts_and_offsets_must_match(count: int, offsets: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="Together: expected at least one part, and an offset for each"):
        Together(parts()[:count], offsets)
