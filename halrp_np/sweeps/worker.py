"""One run of a sweep in a process of its own: `python -m halrp_np.sweeps.worker FOLDER`, its job on standard input.

The first line of standard input is the job. The rest is a lifeline: when it ends, because whoever started this process
let go of it or died, the run stops at its next step with everything saved, as after Ctrl-C.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from ..benchmarks import Reporter, RunConfig, RunInterruptedError, resume, run
from ..errors import HalrpError
from ..runs import config as resolver
from ..runs.record import CONFIG

STOPPED, UNEXPECTED = 130, 70


class Log(Reporter):
    """Tells a run in lines on standard output, which is the log."""

    def note(self, text: str) -> None:
        print(text, flush=True)

    def epoch(self, plan: Any, record: dict[str, Any]) -> None:
        where = f"task {record['task']}, {record['phase']}, epoch {record['epoch']}/{plan.epochs}"
        print(f"{where}: loss {record['loss']:.4f}", flush=True)

    def task(self, position: int, accuracies: list[float], growth: float, ranks: list[int]) -> None:
        print(f"task {position} learned: mean accuracy {sum(accuracies) / len(accuracies):.2f} %", flush=True)


def main(folder: str) -> int:
    """Run or resume the job in this folder; returns the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background commands are born deaf to it
    try:
        record, path = json.loads(_first_line()), Path(folder)
        threading.Thread(target=_watch_lifeline, daemon=True).start()
        if (path / CONFIG).is_file():
            resume(path, Log())
        else:
            run(resolver.resolve(RunConfig, ("the job", record)), path, Log())
    except (RunInterruptedError, KeyboardInterrupt):
        print("stopped", flush=True)
        return STOPPED
    except HalrpError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    except Exception:
        traceback.print_exc(file=sys.stdout)
        return UNEXPECTED
    return 0


def _first_line() -> bytes:
    """The first line of standard input, read past Python's buffer: a thread that waits in it aborts the exit."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line


def _watch_lifeline() -> None:
    """Ask this process to stop when nobody holds the other end any more."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
