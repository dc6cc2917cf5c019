"""Everything that `halrp-np time` says, as one dictionary."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..runs.environment import environment
from .floor import Floor
from .peer import VARIANTS, check_equal_work, peer_program
from .processes import Worker, thread_variables, worker
from .settings import STEPS, TimeSettings
from .spread import compared, flat, spread
from .whole import WHOLE_MEASURES, our_variables
from .workloads import make_problem

Progress = Callable[[int, int], None]
REPEATS = 3  # of a call in a round, after one that warms up
OPS_REPEATS = 9


def measure(
    settings: TimeSettings, *, against_torch: bool = False, with_ops: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Times, floors and, with `against_torch`, ratios of everything that the settings name; each under its name.

    `with_ops` adds under `ops` where the time of each step goes. `progress` is told (rounds done, all rounds).

    Raises: ConfigError without PyTorch when it is asked for; HalrpError when a process dies or both sides differ.
    """
    if against_torch:
        peer_program("torch_peer.py")  # before anything takes long
    steps = [name for name in settings.what if name in STEPS]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="halrp_np-time-") as folder:
        place = Path(folder)
        if steps:
            found |= _steps(settings, steps, place, against_torch, with_ops, progress or _silent)
        for name in settings.what:
            if name in WHOLE_MEASURES:
                found[name] = WHOLE_MEASURES[name](settings, place, against_torch)
    return {**found, "machine": _machine(settings), "settings": _plain(settings)}


def _steps(
    settings: TimeSettings, steps: list[str], place: Path, against_torch: bool, with_ops: bool, progress: Progress
) -> dict[str, Any]:
    """What is timed in processes that take turns."""
    problem = place / "problem.npz"
    make_problem(settings).save(problem)
    with ExitStack() as processes:
        ours = processes.enter_context(our_worker(settings, problem))
        theirs = processes.enter_context(torch_worker(settings, problem)) if against_torch else None
        found: dict[str, Any] = {name: {} for name in steps}
        if theirs:
            for name in steps:
                found[name]["difference"] = check_equal_work(name, ours, theirs, place)
        before = ours.ask("floor")
        times = _rounds(settings, steps, ours, theirs, progress)
        floor = {key: max(before[key], rate) for key, rate in ours.ask("floor").items()}  # others may have disturbed
        for name in steps:
            found[name] |= _figures(name, times)
            whole, rows = ours.ask("breakdown", what=name, repeats=OPS_REPEATS, floor=floor).values()
            found[name] |= {**whole, "of_floor": found[name]["ours_ms"] / whole["floor_ms"]}
            if with_ops:
                found.setdefault("ops", {})[name] = rows
        memory = {"ours_peak_bytes": ours.ask("memory")["bytes"]}
        memory |= {"torch_peak_bytes": theirs.ask("memory")["bytes"]} if theirs else {}
    rates = Floor(**floor)
    return {**found, "floor": {"gflops": rates.flops / 1e9, "gbytes": rates.bytes / 1e9}, "memory": memory}


def our_worker(settings: TimeSettings, problem: Path) -> Any:
    """The process in which halrp_np is timed."""
    command = [sys.executable, "-m", "halrp_np.timing.serve", str(problem), settings.device, str(settings.threads)]
    return worker("halrp_np", command, our_variables(settings))


def torch_worker(settings: TimeSettings, problem: Path) -> Any:
    """The process in which PyTorch is timed."""
    command = [*peer_program("torch_peer.py"), str(problem), settings.device, str(settings.threads)]
    return worker("PyTorch", command, thread_variables(settings.threads))


def _rounds(
    settings: TimeSettings, steps: list[str], ours: Worker, theirs: Worker | None, progress: Progress
) -> dict[tuple[str, str], list[list[float]]]:
    """The times of every round by side and name; both sides are timed on one thing before the next comes."""
    times: dict[tuple[str, str], list[list[float]]] = {}
    for number in range(settings.rounds):
        progress(number, settings.rounds)
        for name in steps:
            turns = [("ours", ours, name)]
            if theirs:
                turns += [("torch", theirs, what) for what in (name, *(f"{name}:{v}" for v in VARIANTS.get(name, ())))]
            for side, process, what in turns:
                answer = process.ask("time", what=what, repeats=REPEATS)
                times.setdefault((side, what), []).append(answer["ms"])
    progress(settings.rounds, settings.rounds)
    return times


def _figures(name: str, times: dict[tuple[str, str], list[list[float]]]) -> dict[str, Any]:
    """What one thing's times say, the other side's variants under `others`."""
    ours = times["ours", name]
    if ("torch", name) not in times:
        return spread(flat(ours), "ms", "ours")
    others = {variant: compared(ours, times["torch", f"{name}:{variant}"]) for variant in VARIANTS.get(name, ())}
    kept = ("torch_ms", "torch_quartiles", "ratio", "ratio_quartiles", "ratio_range")
    short = {variant: {key: figures[key] for key in kept} for variant, figures in others.items()}
    return compared(ours, times["torch", name]) | ({"others": short} if short else {})


def _machine(settings: TimeSettings) -> dict[str, Any]:
    """What the times depend on."""
    here = environment(settings.device, settings.kernels())
    return {key: here[key] for key in ("device", "kernels", "processor", "system", "packages", "blas")}


def _plain(settings: TimeSettings) -> dict[str, Any]:
    """The settings as JSON values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(settings).items()} | {
        "repeats": REPEATS
    }


def _silent(done: int, total: int) -> None:
    """Nobody listens."""
