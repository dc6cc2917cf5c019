"""The process in which halrp_np is timed: it answers a line of JSON with a line of JSON, until its input ends.

    python -m halrp_np.timing.serve PROBLEM DEVICE THREADS

Orders: {"do": "time", "what": NAME, "repeats": N} gives milliseconds; "result" writes what one call computes;
"breakdown" gives the ops of a call; "floor" the machine's best rates; "memory" the largest size of this process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any, TextIO

import numpy as np

from ..backend import Device
from ..errors import HalrpError
from .breakdown import breakdown
from .floor import Floor, measure_floor
from .workloads import Problem, Workload, workloads


class Server:
    """Everything of STEPS, ready to be called."""

    def __init__(self, problem: str, device: str, threads: str) -> None:
        self.device, self.threads = Device(device), int(threads)
        self.makers = workloads(Problem.load(problem), self.device)
        self.made: dict[str, Workload] = {}

    def workload(self, name: str) -> Workload:
        """The thing of that name, made once."""
        if name not in self.made:
            self.made[name] = self.makers[name]()
        return self.made[name]

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do what the order says."""
        call = self.workload(order["what"]).call if "what" in order else None
        if order["do"] == "time" and call:
            return {"ms": [self.milliseconds(call) for _ in range(1 + order["repeats"])][1:]}  # the first one warms up
        if order["do"] == "result":
            np.savez(order["out"], **self.workload(order["what"]).result())
            return {}
        if order["do"] == "breakdown" and call:
            floor = Floor(**order["floor"]) if order["floor"] else None
            whole, rows = breakdown(call, floor, order["repeats"], self.device.synchronize)
            return {"whole": whole, "rows": rows}
        if order["do"] == "floor":
            floor = measure_floor(self.device, self.threads)
            return {"flops": floor.flops, "bytes": floor.bytes}
        return {"bytes": self.device.memory()}

    def milliseconds(self, call: Any) -> float:
        """One call, to its end on the device."""
        self.device.synchronize()
        begin = time.perf_counter()
        call()
        self.device.synchronize()
        return 1e3 * (time.perf_counter() - begin)


def main() -> None:
    """Serve until the parent closes our input, which it also does by ending; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    server = None
    for line in sys.stdin:
        try:
            server = server or Server(*sys.argv[1:4])
            reply = server.answer(json.loads(line))
        except HalrpError as error:
            fields = {key: getattr(error, key) for key in ("where", "expected", "received", "next_step")}
            reply = {"error": {"kind": type(error).__name__, **fields}}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
