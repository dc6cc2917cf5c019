"""Processes that are timed: some answer orders and take turns, others run from their start to their end."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from .. import errors

LAST_LINES = 12  # of what a dead process said


def thread_variables(threads: int) -> dict[str, str]:
    """What tells every library in a process how many threads to use."""
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


@contextmanager
def started(command: Sequence[str], variables: Mapping[str, str], **pipes: Any) -> Iterator[tuple[Any, IO[bytes]]]:
    """A process and the file with what it says on stderr; whatever happens, it has ended when this block is left."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env={**os.environ, **variables}, stderr=said, **pipes)
        try:
            yield process, said
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


class Worker:
    """A process that answers orders, one line of JSON each way.

    Raises: HalrpError with what it said when it dies; the error it met when it tells one.
    """

    def __init__(self, name: str, process: Any, said: IO[bytes]) -> None:
        self.name, self.process, self.said = name, process, said

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer."""
        try:
            self.process.stdin.write(json.dumps({"do": do, **order}).encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise died(self.name, self.process.wait(), self.said)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            fields = answer["error"]
            raise getattr(errors, fields.pop("kind"), errors.HalrpError)(**fields)
        return answer


@contextmanager
def worker(name: str, command: Sequence[str], variables: Mapping[str, str]) -> Iterator[Worker]:
    """A process that answers orders for as long as this block lasts."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with started(command, variables, **pipes) as (process, said):
        yield Worker(name, process, said)


@dataclass(frozen=True)
class Ended:
    """What a process from start to end cost, and what it printed."""

    seconds: float
    peak_bytes: int
    output: bytes


def run_to_end(name: str, command: Sequence[str], variables: Mapping[str, str]) -> Ended:
    """Run a process and time it from its start to its end.

    Raises: HalrpError with what it said when it fails.
    """
    with tempfile.TemporaryFile() as output:
        begin = time.perf_counter()
        with started(command, variables, stdin=subprocess.DEVNULL, stdout=output) as (process, said):
            peak = 0
            if hasattr(os, "wait4"):
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                peak = usage.ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)
            else:
                process.wait()
            seconds = time.perf_counter() - begin
            if process.returncode:
                raise died(name, process.returncode, said)
        output.seek(0)
        return Ended(seconds, peak, output.read())


def died(name: str, code: int, said: IO[bytes]) -> errors.HalrpError:
    """The error for a process that did not end well, with the last lines of what it said."""
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
    ending = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return errors.HalrpError(
        f"time: the process of {name}",
        expected="an answer",
        received=ending + (f", having said:\n  {chr(10).join(lines)}\n" if lines else ", without a word"),
        next_step="See what it said; with less memory in use elsewhere or a smaller --batch it may go further.",
    )
