"""Runs of a sweep on this machine: some at a time, each a process of its own that has its share of the cores."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..backend.threads import usable_cores
from ..files import storage_error
from ..runs import config as resolver
from ..timing.processes import thread_variables
from .folders import Progress, progress, standing
from .outcome import Outcome, Row, Watcher
from .plan import Job
from .worker import STOPPED

LOGS = "logs"
BEGINS = b"== begins"
PAUSE = 0.25  # seconds between two looks at the processes


@dataclass
class Running:
    """A run in progress."""

    job: Job
    folder: Path
    log: Path
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)
    killed: bool = False

    def release(self) -> None:
        """Let go of the lifeline: the run stops at its next step with everything saved."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def kill(self) -> None:
        """End the process at once, unless it has ended by itself."""
        self.killed = self.process.poll() is None
        self.process.kill()
        self.process.wait()

    def outcome(self) -> Outcome:
        """What became of the run, once its process has ended."""
        seconds = time.monotonic() - self.began
        if self.killed:
            reason = "killed; everything up to the last checkpoint is saved"
            return Outcome(self.job, self.folder, "stopped", reason, self.log, seconds)
        return outcome_of(self.job, self.folder, self.log, self.process.returncode, seconds)


def run_here(jobs: Sequence[Job], out: Path, *, at_once: int = 1, watcher: Watcher | None = None) -> list[Outcome]:
    """Make every job's run folder under `out`; those that are finished are left alone, those that broke off go on.

    One failure does not stop the rest. Ctrl-C stops all at their next step, everything saved, and what has not begun
    stays out; a second one kills them.

    Raises: ConfigError, ResumeError or StorageError, before anything is run, for a folder that holds something else.
    """
    watcher = watcher or Watcher()
    outcomes, waiting = found_and_waiting(jobs, out)
    running: list[Running] = []
    threads = max(1, usable_cores() // max(1, min(at_once, len(waiting))))
    try:
        with _stopping(running):
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(start(waiting.pop(0), out, threads))
                time.sleep(PAUSE)
                _collect(running, outcomes)
                watcher.look(_rows(jobs, outcomes, running, out))
    except KeyboardInterrupt:
        _collect(running, outcomes)
        for job in jobs:
            outcomes.setdefault(job.name, Outcome(job, out / job.name, "stopped", "stopped before it began"))
        watcher.look(_rows(jobs, outcomes, running, out))
    return [outcomes[job.name] for job in jobs]


def found_and_waiting(jobs: Sequence[Job], out: Path) -> tuple[dict[str, Outcome], list[Job]]:
    """The outcomes of the jobs that are finished already, by name, and the other jobs.

    Raises: as `standing`.
    """
    outcomes: dict[str, Outcome] = {}
    waiting: list[Job] = []
    for job in jobs:
        if standing(job, out) == "found":
            outcomes[job.name] = Outcome(job, out / job.name, "found")
        else:
            waiting.append(job)
    return outcomes, waiting


def start(job: Job, out: Path, threads: int) -> Running:
    """Start one run in a process of its own; what it says is added to its log.

    Raises: StorageError when the log cannot be written.
    """
    log = out / LOGS / f"{job.name}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        said = open(log, "ab")  # noqa: SIM115 - the process has it after this
    except OSError as error:
        raise storage_error(log, error) from error
    with said:
        said.write(BEGINS + b"\n")
        said.flush()
        return Running(job, out / job.name, log, process_of(job, out / job.name, thread_variables(threads), said))


def process_of(job: Job, folder: Path, variables: Mapping[str, str], said: IO[bytes]) -> subprocess.Popen[bytes]:
    """The process that makes one run folder, with its job handed over, under these variables."""
    process = subprocess.Popen(
        [sys.executable, "-m", "halrp_np.sweeps.worker", os.fspath(folder)],
        env={**os.environ, **variables, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=said,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C comes to this process alone, which lets go of the lifelines
    )
    assert process.stdin is not None
    record: dict[str, Any] = resolver.as_record(job.config)
    with contextlib.suppress(BrokenPipeError):  # it died already: its log says why
        process.stdin.write(json.dumps(record).encode() + b"\n")
        process.stdin.flush()
    return process


def outcome_of(job: Job, folder: Path, log: Path, code: int, seconds: float) -> Outcome:
    """What became of a run that has ended with this exit code."""
    if code == 0:
        return Outcome(job, folder, "done", "", log, seconds)
    if code in (STOPPED, -signal.SIGINT):  # the latter while it was still importing
        return Outcome(job, folder, "stopped", "everything up to the last step is saved", log, seconds)
    return Outcome(job, folder, "failed", last_words(log, code), log, seconds)


def last_words(log: Path, code: int) -> str:
    """The last line that a failed run left in its log since it began."""
    with contextlib.suppress(OSError):
        said = log.read_bytes().rpartition(BEGINS)[2].decode(errors="replace")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        if code > 0 and lines:
            return lines[-1]
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _collect(running: list[Running], outcomes: dict[str, Outcome]) -> None:
    """Take those that have ended out of `running`."""
    for one in [one for one in running if one.process.poll() is not None]:
        one.release()
        running.remove(one)
        outcomes[one.job.name] = one.outcome()


@contextlib.contextmanager
def _stopping(running: list[Running]) -> Iterator[None]:
    """On the way out, whatever the reason, let go of all runs and wait for them; a second Ctrl-C kills them."""
    try:
        yield
    finally:
        for one in running:
            one.release()
        try:
            for one in running:
                one.process.wait()
        except KeyboardInterrupt:
            for one in running:
                one.kill()


def _rows(jobs: Sequence[Job], outcomes: dict[str, Outcome], running: list[Running], out: Path) -> list[Row]:
    """How every job stands now."""
    begun = {one.job.name: one for one in running}
    rows = []
    for job in jobs:
        if job.name in outcomes:
            ended = outcomes[job.name]
            rows.append(Row(job, ended.state, None, ended.seconds))
        elif job.name in begun:
            rows.append(Row(job, "running", progress(out / job.name), time.monotonic() - begun[job.name].began))
        else:
            rows.append(Row(job, "waiting", Progress(), 0.0))
    return rows
