"""How fast a run goes, counted in images that were really used."""

from types import SimpleNamespace

import pytest
from halrp_np_cli import progress
from halrp_np_cli.progress import Pace

PLAN = SimpleNamespace(task=0, name="base", epochs=2, batch=32)


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def begun(images: int) -> Pace:
    pace = Pace(epochs=2, stop_after=0)
    pace.stream({"sizes": [{"train": images}]})
    return pace


def rates(pace: Pace, clock: Clock, steps: int, start: int = 0) -> list[float | None]:
    """Steps of a second each, told in the training loop's order; the rate of each epoch."""
    found = []
    for step in range(start + 1, 2 * steps + 1):
        clock.now += 1.0
        if step % steps == 0:
            found.append(pace.epoch(PLAN, {"epoch": step // steps, "steps": steps}))
        pace.step(PLAN, step, 2 * steps)
    return found


@pytest.mark.parametrize(
    ("images", "steps", "used"),
    [(100, 4, 100), (100, 3, 96), (96, 3, 96)],
    ids=["short last batch", "last batch dropped", "whole batches"],
)
def test_every_image_is_counted_once(images: int, steps: int, used: int, clock: Clock) -> None:
    assert rates(begun(images), clock, steps) == [used / steps, used / steps]


def test_a_resume_counts_from_where_it_began(clock: Clock) -> None:
    pace = begun(100)
    assert rates(pace, clock, 4, start=2) == [(100 - 2 * 32) / 2, 100 / 4]
    assert pace.seconds_left() == 0


def test_epochs_told_again_have_no_rate(clock: Clock) -> None:
    pace = begun(100)
    clock.now += 1.0
    assert pace.epoch(PLAN, {"epoch": 1, "steps": 4}) is None
    assert rates(pace, clock, 4, start=4) == [100 / 4]


def test_tasks_of_other_sizes_take_other_times(clock: Clock) -> None:
    """A hundred images a second: task 0 shows its 400 twice, and of the three tasks two are to be learned."""
    pace = Pace(epochs=2, stop_after=2)
    pace.stream({"sizes": [{"train": 400}, {"train": 1000}, {"train": 9000}]})
    assert pace.total == 2 * 1400
    plan = SimpleNamespace(task=0, name="base", epochs=2, batch=100)
    for step in range(1, 9):
        clock.now += 1.0
        if step % 4 == 0:
            pace.epoch(plan, {"epoch": step // 4, "steps": 4})
        pace.step(plan, step, 8)
    assert pace.done == 800
    assert pace.seconds_left() == pytest.approx(20)
    later = SimpleNamespace(task=1, name="warm-up", epochs=1, batch=100)
    clock.now += 5.0
    pace.step(later, 5, 10)
    assert pace.done == 800 + 500
    pace.epoch(later, {"epoch": 1, "steps": 10})
    pace.step(SimpleNamespace(task=1, name="perturbation", epochs=1, batch=100), 1, 10)
    assert pace.done == 800 + 1000 + 100
