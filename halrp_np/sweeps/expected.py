"""What the runs of a sweep will take on this machine, from a few steps of each network that occurs in them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from ..benchmarks import RunConfig, open_stream
from ..benchmarks.catalog import STREAM_SETTINGS
from ..errors import HalrpError
from ..timing.estimate import Estimate, StepTimes
from ..timing.rates import kind_of, measured
from .plan import Job

Progress = Callable[[int, int], None]

BASE_STEPS = ("stl", "mtl", "finetune", "l2", "ewc", "bn")
"""Methods whose steps are those of the plain network."""


def expected_seconds(jobs: Sequence[Job], progress: Progress | None = None) -> dict[str, float | None]:
    """Seconds of each job by its name, run alone on all cores; None on a GPU, or without its data.

    Training and evaluation count; choosing ranks, Fisher information, reading and saving are left out.
    """
    sizes: dict[Hashable, Estimate | None] = {}
    times: dict[Hashable, StepTimes] = {}
    found: dict[str, float | None] = {}
    for number, job in enumerate(jobs):
        if progress is not None:
            progress(number, len(jobs))
        stream = _stream_of(job.config)
        if stream not in sizes:
            sizes[stream] = _estimate(job.config)
        estimate = sizes[stream]
        if estimate is None or job.config.device.startswith("gpu"):
            found[job.name] = None
            continue
        estimate = replace(estimate, config=job.config)
        kind = kind_of(estimate)
        if kind not in times:
            times[kind] = measured(estimate)
        found[job.name] = seconds_of(estimate, times[kind])
    if progress is not None:
        progress(len(jobs), len(jobs))
    return found


def seconds_of(estimate: Estimate, times: StepTimes) -> float:
    """Seconds of a run by its method: HALRP warms up on the plain network, BE is perturbed, the others are plain."""
    method = estimate.config.method
    if method == "halrp":
        return estimate.seconds(times)
    first, *later = (estimate.steps_of_task(position) for position in range(len(estimate.images)))
    step = times.base_step if method in BASE_STEPS else times.low_rank_step
    answered = [validation + test for _, validation, test in estimate.images]
    asked = sum(answered)
    if method in ("finetune", "l2", "ewc"):  # an old task's network moves with every new one
        asked = sum(sum(answered[: position + 1]) for position in range(len(answered)))
    return first * times.base_step + sum(later) * step + asked * times.image


def _stream_of(config: RunConfig) -> Hashable:
    """The settings on which the sizes of a stream depend."""
    keys = ("benchmark", "data", "data_dir", "order", "stop_after", *STREAM_SETTINGS)
    return tuple(getattr(config, key) for key in keys)


def _estimate(config: RunConfig) -> Estimate | None:
    """The sizes of the tasks to be learned, if the data is there."""
    try:
        stream, _ = open_stream(config)
    except HalrpError:
        return None
    tasks = stream.tasks[: config.stop_after or None]
    images = tuple((len(task.train), len(task.validation), len(task.test)) for task in tasks)
    return Estimate(config, tasks[0].classes, tasks[0].train.shape, images)
