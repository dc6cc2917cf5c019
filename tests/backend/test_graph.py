"""Recorded work: warmed up, recorded once, replayed; on arrays of another module, or refused, called every time."""

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from halrp_np.backend import to_host
from halrp_np.backend.graph import WARM_UP, Replay
from host_cuda import installed


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.gpu)])
def cupy(request: pytest.FixtureRequest) -> Iterator[Any]:
    """CuPy, or what stands in for it."""
    if request.param == "real":
        yield importlib.import_module("cupy")
        return
    with installed() as module:
        yield module


class Work:
    """total += step, step read at every call; how often the host did it, and whether it may be recorded."""

    def __init__(self, xp: Any, crossing: bool = False) -> None:
        self.xp, self.crossing, self.calls = xp, crossing, 0
        self.total, self.step = xp.zeros((3,)), xp.zeros((3,))

    def __call__(self) -> Any:
        self.calls += 1
        self.total[...] = self.total + self.step
        if self.crossing:
            to_host(self.total)
        return self.total * 2.0


def five(work: Work, notes: list[str]) -> list[np.ndarray]:
    """The results of five calls, the steps 1, 2, 3, 4, 5."""
    replay, found = Replay(work, work.xp, notes.append), []
    for step in range(1, 6):
        work.step[...] = float(step)
        found.append(to_host(replay()).copy())
    return found


EXPECTED = [np.full(3, 2.0 * total) for total in (1, 3, 6, 10, 15)]


def test_it_is_recorded_once_and_replayed(cupy: Any) -> None:
    notes: list[str] = []
    work = Work(cupy)
    np.testing.assert_array_equal(five(work, notes), EXPECTED)
    assert work.calls == WARM_UP + 1
    assert not notes


def test_what_cannot_be_recorded_is_called_every_time_with_one_note(cupy: Any) -> None:
    notes: list[str] = []
    work = Work(cupy, crossing=True)
    np.testing.assert_array_equal(five(work, notes), EXPECTED)
    assert work.calls == 5 + 1  # the refused recording did nothing on the device
    (note,) = notes
    assert note.startswith("training goes on without a CUDA graph, which could not be recorded: ")


def test_on_the_host_it_is_called_every_time() -> None:
    notes: list[str] = []
    work = Work(np, crossing=True)
    np.testing.assert_array_equal(five(work, notes), EXPECTED)
    assert work.calls == 5
    assert not notes
