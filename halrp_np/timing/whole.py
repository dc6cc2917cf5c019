"""Whole processes: the first steps after a start, a task from start to end, and a late task beside an early one."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..data import load_mnist
from ..errors import DataError
from .peer import peer_program
from .processes import Ended, run_to_end, thread_variables, worker
from .settings import CONSTANTS, TimeSettings
from .spread import compared, spread
from .workloads import make_problem

MOST_ROUNDS = 3
"""Of a whole process: each takes a minute or more."""
FIRST = ("base_step", "low_rank_step", "evaluation")
"""What a start is waited for."""
TASKS, LATE = 10, 9
"""Of the stream in which the task at position LATE is compared with the one at position 1."""
LATE_EPOCHS = 3
VALIDATION_SHARE, EVALUATION_BATCH = 0.2, 256
PATTERN_IMAGES = (4000, 1000)  # for training and testing, as the sample has them


def time_start(settings: TimeSettings, place: Path, against_torch: bool) -> dict[str, Any]:
    """Seconds from the start of a process until it has done one step of each kind and an evaluation.

    Cold: nothing is compiled; warm: all of it lies on disk.
    """
    problem = place / "start.npz"
    make_problem(settings).save(problem)
    ours = [sys.executable, "-m", "halrp_np.timing.serve", str(problem), settings.device, str(settings.threads)]
    cold: list[float] = []
    warm: list[list[float]] = []
    theirs: list[list[float]] = []
    for _ in range(min(settings.rounds, MOST_ROUNDS)):
        with compiled_in(place) as cache:
            variables = {**our_variables(settings), **cache}
            cold.append(_seconds_to_first("halrp_np", ours, variables))
            warm.append([_seconds_to_first("halrp_np", ours, variables)])
        if against_torch:
            command = [*peer_program("torch_peer.py"), str(problem), settings.device, str(settings.threads)]
            theirs.append([_seconds_to_first("PyTorch", command, thread_variables(settings.threads))])
    return _cold_and_warm(cold, warm, theirs)


def time_task(settings: TimeSettings, place: Path, against_torch: bool) -> dict[str, Any]:
    """A base task and a later one as released, from the start of the process to its end, with its peak memory.

    Data, training, warm-up, rank step and evaluation of all tasks seen are inside. Every layer gets the largest of the
    ranks, or as much as it can have, so that both sides do the same; nothing needs to be pruned yet.
    """
    data = write_digits(place / "digits")
    runs: dict[str, list[Ended]] = {"cold": [], "warm": [], "torch": []}
    for number in range(min(settings.rounds, MOST_ROUNDS)):
        with compiled_in(place) as cache:
            for kind in ("cold", "warm"):
                out = place / f"task-{number}-{kind}"
                order = {"config": task_config(settings, data, settings.epochs, 2), "out": str(out)}
                runs[kind].append(_run_ours(order, settings, place, cache))
        if against_torch:
            runs["torch"].append(_run_torch(settings, data, place))
    cold = [run.seconds for run in runs["cold"]]
    found = _cold_and_warm(cold, *([[run.seconds] for run in runs[kind]] for kind in ("warm", "torch")))
    for side, kind in (("ours", "warm"), ("torch", "torch")):
        if runs[kind]:
            found[f"{side}_peak_bytes"] = max(run.peak_bytes for run in runs[kind])
            found[f"{side}_accuracy"] = json.loads(runs[kind][-1].output)["accuracy"]
    return found


def time_late_task(settings: TimeSettings, place: Path, against_torch: bool) -> dict[str, Any]:
    """Low-rank steps of the tenth task beside those of the second, in the training of a stream: milliseconds each."""
    data = write_digits(place / "digits-of-ten")
    early: list[list[float]] = []
    late: list[list[float]] = []
    for number in range(min(settings.rounds, MOST_ROUNDS)):
        order = {"config": task_config(settings, data, LATE_EPOCHS, TASKS), "out": str(place / f"stream-{number}")}
        steps = json.loads(_run_ours(order, settings, place, {}).output)["step_ms"]
        early.append(steps["1"])
        late.append(steps[str(LATE)])
    figures = compared(early, late)  # the later one plays the other side
    renamed = {key.replace("ours_", "second_").replace("torch_", "tenth_"): value for key, value in figures.items()}
    return renamed


WHOLE_MEASURES: dict[str, Callable[[TimeSettings, Path, bool], dict[str, Any]]] = {
    "start": time_start,
    "task": time_task,
    "late_task": time_late_task,
}


def our_variables(settings: TimeSettings) -> dict[str, str]:
    """The environment of our processes."""
    return {**thread_variables(settings.threads), "HALRP_NP_KERNELS": settings.kernels()}


@contextlib.contextmanager
def compiled_in(place: Path) -> Any:
    """An empty folder for compiled kernels, as an environment variable; gone with the block."""
    with tempfile.TemporaryDirectory(dir=place, prefix="kernels-") as folder:
        yield {"NUMBA_CACHE_DIR": folder}


def task_config(settings: TimeSettings, data: Path, epochs: int, tasks: int) -> dict[str, Any]:
    """The first tasks of permuted MNIST as the released code learns them, at ranks that both sides will have."""
    return {
        "preset": "official",
        "data_dir": str(data),
        "data": "auto",
        "device": settings.device,
        "tasks": TASKS,
        "stop_after": tasks,
        "epochs": epochs,
        "batch_size": settings.batch,
        "widths": list(settings.widths),
        "learning_rate": CONSTANTS["lr"],
        "weight_decay": CONSTANTS["weight_decay"],
        "l1": CONSTANTS["l1"],
        "rank_rule": "flat",
        "rank_cap": max(settings.ranks),
        "compare_importances": False,
        "validation_share": VALIDATION_SHARE,
        "evaluation_batch": EVALUATION_BATCH,
    }


def write_digits(folder: Path) -> Path:
    """The embedded sample of MNIST as files, or blurred patterns of its shape where it is not installed."""
    folder.mkdir()
    try:
        mnist = load_mnist("sample")
        parts = [(mnist.train_images[:, 0], mnist.train_labels), (mnist.test_images[:, 0], mnist.test_labels)]
    except DataError:
        draw = np.random.default_rng(0)
        patterns = np.kron(draw.integers(0, 200, (10, 7, 7)), np.ones((4, 4), int))
        parts = []
        for count in PATTERN_IMAGES:
            labels = draw.permutation(count) % 10
            parts.append((np.clip(patterns[labels] + draw.integers(0, 60, (count, 28, 28)), 0, 255), labels))
    for name, (images, labels) in zip(("train", "t10k"), parts, strict=True):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    return folder


def _run_ours(order: dict[str, Any], settings: TimeSettings, place: Path, cache: dict[str, str]) -> Ended:
    """One run of our own, in a process of its own."""
    path = place / "order.json"
    path.write_text(json.dumps(order), encoding="utf-8")
    command = [sys.executable, "-m", "halrp_np.timing.whole_run", str(path)]
    return run_to_end("halrp_np", command, {**our_variables(settings), **cache})


def _run_torch(settings: TimeSettings, data: Path, place: Path) -> Ended:
    """The same in PyTorch."""
    order = {
        "data": str(data),
        "device": settings.device,
        "threads": settings.threads,
        "tasks": TASKS,
        "learn": 2,
        "epochs": settings.epochs,
        "batch": settings.batch,
        "widths": list(settings.widths),
        "rank": max(settings.ranks),
        "validation_share": VALIDATION_SHARE,
        "evaluation_batch": EVALUATION_BATCH,
    }
    path = place / "torch-order.json"
    path.write_text(json.dumps(order), encoding="utf-8")
    return run_to_end("PyTorch", [*peer_program("torch_task.py"), str(path)], thread_variables(settings.threads))


def _seconds_to_first(name: str, command: list[str], variables: dict[str, str]) -> float:
    """From the start of the process until it has done each of FIRST."""
    begin = time.perf_counter()
    with worker(name, command, variables) as process:
        for what in FIRST:
            process.ask("time", what=what, repeats=0)
        return time.perf_counter() - begin


def _cold_and_warm(cold: list[float], warm: list[list[float]], theirs: list[list[float]]) -> dict[str, Any]:
    """Cold times beside warm ones, the latter beside PyTorch's."""
    times = [seconds for one in warm for seconds in one]
    found = compared(warm, theirs, "s") if theirs else spread(times, "s", "ours")
    return {**found, **spread(cold, "s", "cold")}
