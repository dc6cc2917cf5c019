"""What runs are expected to take: by steps and images, each method in its own way."""

from pathlib import Path

import pytest

from halrp_np.sweeps import expected, expected_seconds
from halrp_np.timing import StepTimes
from sweeps import runs

TIMES = StepTimes(base_step=1.0, low_rank_step=100.0, image=1e-4)


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Times as given, and what was measured."""
    asked: list[object] = []

    def stand_in(row: object) -> StepTimes:
        asked.append(row)
        return TIMES

    monkeypatch.setattr(expected, "measured", stand_in)
    return asked


def test_each_method_takes_its_own_steps(data_dir: Path, measured: list[object]) -> None:
    """Three tasks of 48 training images in batches of 16, two epochs: 6 steps a task; 12 + 30 images are asked for."""
    asked, again = 42e-4, 42e-4 * (1 + 2 + 3)
    jobs = runs.jobs(data_dir, methods=["halrp", "stl", "mtl", "bn", "finetune", "ewc", "be"], seeds=2)
    found = expected_seconds(jobs)
    by_method = {job.config.method: found[job.name] for job in jobs if job.config.method != "halrp"}
    assert by_method == pytest.approx(
        {
            "stl": 18 + 3 * asked,
            "mtl": 18 + 3 * asked,
            "bn": 18 + 3 * asked,
            "finetune": 18 + again,
            "ewc": 18 + again,
            "be": 6 + 1200 + 3 * asked,
        }
    )
    assert len(measured) <= 2  # of one network, one batch


def test_halrp_warms_up_on_the_plain_network(data_dir: Path) -> None:
    (job,) = runs.jobs(data_dir, settings={"warmup_epochs": 1})
    seconds = expected_seconds([job])[job.name]
    assert seconds is not None
    assert seconds == pytest.approx(6 + 2 * (3 + 300), abs=0.1)


def test_nothing_is_said_without_data_or_of_a_gpu(data_dir: Path, measured: list[object]) -> None:
    jobs = runs.jobs(data_dir.parent / "nowhere", settings={"data": "full"})
    jobs += runs.jobs(data_dir, settings={"device": "gpu"})
    assert list(expected_seconds(jobs).values()) == [None, None]
    assert measured == []


def test_progress_is_told(data_dir: Path) -> None:
    told: list[tuple[int, int]] = []
    expected_seconds(runs.jobs(data_dir, seeds=2), lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]
