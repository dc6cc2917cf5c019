"""What a worker of a Dask cluster does with one run: make or continue its folder, and send the files back."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import distributed

from ..backend.threads import usable_cores
from ..benchmarks import RunConfig
from ..runs import config as resolver
from ..timing.processes import thread_variables
from .folders import Progress, progress
from .local import process_of
from .parcel import Parcel, pack, unpack
from .plan import Job

LOOK = 0.5  # seconds between two looks at the process


@dataclass(frozen=True)
class Order:
    """One run as it is sent out: settings, kernels, the folder as far as it is, and the topic under which to tell.

    `sharing` is how many runs the workers of each machine have at a time, by the machine's address.
    """

    name: str
    record: dict[str, Any]
    kernels: str
    begun: Parcel | None
    topic: str
    sharing: dict[str, int]


@dataclass(frozen=True)
class Delivery:
    """How the process ended, what it said, and its folder if a run was begun."""

    code: int
    log: bytes
    parcel: Parcel | None
    seconds: float


def version() -> str:
    """The version of this package where it is called."""
    return metadata.version("halrp-np")


def deliver(order: Order) -> Delivery:
    """Run one job in a process of its own, in a folder that is gone afterwards.

    When the client or its interest is gone the process is let go, and stops.
    """
    worker: Any = distributed.get_worker()
    machine = worker.address.rpartition(":")[0]
    threads = max(1, usable_cores() // max(1, order.sharing.get(machine, worker.state.nthreads)))
    variables = {**thread_variables(threads), "HALRP_NP_KERNELS": order.kernels}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=worker.local_directory, prefix="halrp-np-") as scratch:
        folder, log = Path(scratch) / order.name, Path(scratch) / "log"
        if order.begun is not None:
            unpack(order.begun, folder)
        job = Job(order.name, resolver.resolve(RunConfig, ("the job", order.record)))
        with open(log, "wb") as said:
            process = process_of(job, folder, variables, said)
        told = None
        try:
            while process.poll() is None:
                time.sleep(LOOK)
                now = progress(folder)
                if now != told:
                    worker.log_event(order.topic, _event(order.name, now))
                    told = now
                if not wanted(worker):
                    break
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait()
        return Delivery(process.returncode, log.read_bytes(), pack(folder), time.monotonic() - began)


def wanted(worker: Any) -> bool:
    """Whether anybody still waits for the task that runs in this thread."""
    task = worker.state.tasks.get(worker.get_current_task())
    return task is not None and task.state != "cancelled"


def _event(name: str, now: Progress) -> dict[str, Any]:
    """How far a run is, as an event of the scheduler."""
    return {"name": name, "learned": now.learned, "tasks": now.tasks, "epochs": now.epochs}
