"""A run small enough to be stopped at every step: three tasks, two epochs of three steps, a network of two widths.

As a program, `python tiny.py DATA OUT` runs it (or goes on with it) and prints a line for every step, epoch and task.
"""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from halrp_np import RunConfig, resolve_config, resume, run
from halrp_np.benchmarks import Reporter
from halrp_np.methods import METHOD_SETTINGS, settings_used

SETTINGS: dict[str, object] = {
    "model": "mlp",
    "widths": (8, 6),
    "tasks": 3,
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 0.01,
    "rank_cap": 5,
    "prune_values": (1e-4, 0.4),
    "data": "auto",
}
STEPS = 3 * 2 * 3


def write_data(folder: Path, seed: int = 0) -> Path:
    """60 training and 30 test images of MNIST's format, a blurred pattern for each class; returns the folder."""
    draw = np.random.default_rng(seed)
    patterns = np.kron(draw.integers(0, 200, (10, 7, 7)), np.ones((4, 4))).astype(int)
    folder.mkdir(parents=True)
    for part, count in (("train", 60), ("t10k", 30)):
        labels = np.arange(count) % 10
        images = np.clip(patterns[labels] + draw.integers(0, 60, (count, 28, 28)), 0, 255)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    return folder


def config(data: Path, **changes: object) -> RunConfig:
    """Of these settings only what the method reads."""
    foreign = METHOD_SETTINGS - settings_used(str(changes.get("method", "halrp")))
    usual = {key: value for key, value in SETTINGS.items() if key not in foreign}
    return resolve_config(("tiny", {**usual, "data_dir": data, **changes}))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run folder, but for what it cost."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files.pop("timing.json")
    summary = json.loads(files["summary.json"])
    assert {"learn_seconds", "evaluate_seconds", "peak_memory_bytes"} <= set(summary.pop("cost"))
    return {**files, "summary.json": json.dumps(summary).encode()}


def assert_same_bytes(folder: Path, expected: dict[str, bytes]) -> None:
    found = contents(folder)
    assert found.keys() == expected.keys()
    assert not [name for name in found if found[name] != expected[name]]


class StopAt(Reporter):
    """Ctrl-C, as the terminal sends it, after the numbered steps of this process."""

    def __init__(self, *steps: int) -> None:
        self.wanted, self.count, self.notes = steps, 0, []

    def step(self, plan: Any, step: int, steps: int) -> None:
        self.count += 1
        if self.count in self.wanted:
            signal.raise_signal(signal.SIGINT)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Tell(Reporter):
    """A line for everything that happens, flushed at once, for a parent that waits for its moment."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def step(self, plan: Any, step: int, steps: int) -> None:
        self.say(f"step {plan.task} {plan.name} {step}")

    def epoch(self, plan: Any, record: dict[str, Any]) -> None:
        self.say(f"epoch {plan.task} {plan.name}")

    def task(self, position: int, accuracies: list[float], growth: float, ranks: list[int]) -> None:
        self.say(f"task {position}")


def main(data: str, out: str, *limit: str) -> None:
    """Run or go on, saving after every step; with a limit, files may not grow beyond so many bytes."""
    if limit:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit[0]), int(limit[0])))
    reporter = Tell(lambda line: print(line, flush=True))
    reporter.say("ready")
    if (Path(out) / "config.json").exists():
        resume(out, reporter)
    else:
        run(config(Path(data), checkpoint_seconds=0.0), out, reporter)


if __name__ == "__main__":
    main(*sys.argv[1:])
