"""Runs of a sweep on a Dask cluster that is there already: one task a run, its folder copied back when it has ended."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..backend.ops import kernels_in_use
from ..errors import ConfigError, HalrpError
from ..files import storage_error, write_whole
from ..runs import config as resolver
from .folders import Progress
from .local import LOGS, found_and_waiting, outcome_of
from .outcome import Outcome, Row, Watcher
from .parcel import pack, unpack
from .plan import Job

CONNECT, PATIENCE = 15.0, 60.0
"""Seconds to wait for the scheduler's first word, and for a worker or the scheduler to come back."""

PAUSE = 0.5  # seconds between two looks at the tasks
TRIES = 3  # of a run whose workers keep dying; each is a few workers long, as the scheduler's allowed-failures says


def run_on_cluster(jobs: Sequence[Job], out: Path, *, scheduler: str, watcher: Watcher | None = None) -> list[Outcome]:
    """As `run_here`, on the cluster of this scheduler: the same folders, but for times, costs and environment.json.

    A run whose worker dies is begun again on another one. After Ctrl-C what has not ended is cancelled: what it did
    since it was sent out is lost.

    Raises: as `run_here`; ConfigError without the extra `dask`; HalrpError when the scheduler cannot be reached, has
    no worker for a minute, or its workers have another version of this package or none.
    """
    watcher = watcher or Watcher()
    outcomes, waiting = found_and_waiting(jobs, out)
    if not waiting:
        return [outcomes[job.name] for job in jobs]
    with _connected(scheduler) as client:
        _check_workers(client, scheduler)
        sending = Sending(client, scheduler, out, waiting)
        try:
            while sending.futures:
                time.sleep(PAUSE)
                outcomes.update(sending.collect())
                watcher.look([sending.row(job, outcomes.get(job.name)) for job in jobs])
        except KeyboardInterrupt:
            sending.cancel()
            for job in waiting:
                reason = "cancelled; run it again for the rest"
                outcomes.setdefault(job.name, Outcome(job, out / job.name, "stopped", reason))
            watcher.look([sending.row(job, outcomes.get(job.name)) for job in jobs])
    return [outcomes[job.name] for job in jobs]


class Sending:
    """The runs that are out on the cluster."""

    def __init__(self, client: Any, scheduler: str, out: Path, jobs: Sequence[Job]) -> None:
        self.client, self.scheduler, self.out = client, scheduler, out
        self.topic = f"halrp-np-{uuid.uuid4().hex}"
        self.jobs = {job.name: job for job in jobs}
        self.tries = dict.fromkeys(self.jobs, 0)
        self.heard: dict[str, tuple[float, Progress]] = {}  # since when a run goes on, and how far it is
        self.alive = time.monotonic()  # when a worker was there for the last time
        self.sharing = _sharing(client)
        client.subscribe_topic(self.topic, self._hear)
        self.futures: dict[str, Any] = {}
        for job in jobs:
            self.send(job)

    def send(self, job: Job) -> None:
        """Send one run out, with its folder if it had begun."""
        from .remote import Order, deliver

        self.tries[job.name] += 1
        record: dict[str, Any] = resolver.as_record(job.config)
        begun = pack(self.out / job.name)
        order = Order(job.name, record, kernels_in_use(), begun, self.topic, self.sharing)
        key = f"{job.name}-{self.topic[-8:]}-{self.tries[job.name]}"
        self.futures[job.name] = self.client.submit(deliver, order, key=key, pure=False)

    def collect(self) -> dict[str, Outcome]:
        """The outcomes that have come in, their folders in place.

        Raises: HalrpError when scheduler or workers are gone for long.
        """
        self._check_alive()
        found: dict[str, Outcome] = {}
        for name, future in list(self.futures.items()):
            if future.status not in ("finished", "error"):
                continue
            del self.futures[name]
            outcome = self._failed(name, future) if future.status == "error" else self._received(name, future)
            future.release()
            if outcome is not None:
                found[name] = outcome
        return found

    def row(self, job: Job, outcome: Outcome | None) -> Row:
        """How one job of the sweep stands."""
        if outcome is not None:
            return Row(job, outcome.state, None, outcome.seconds)
        if job.name not in self.heard:
            return Row(job, "waiting", Progress(), 0.0)
        since, progress = self.heard[job.name]
        return Row(job, "running", progress, time.monotonic() - since)

    def cancel(self) -> None:
        """Give up all that is still out; the workers' processes stop at their next step."""
        with contextlib.suppress(Exception):  # a cluster that is gone has nothing to cancel
            self.client.cancel(list(self.futures.values()), force=True)
        self.futures.clear()

    def _received(self, name: str, future: Any) -> Outcome:
        """Keep what a run sent back: its log, and its folder in one step."""
        job, folder, log = self.jobs[name], self.out / name, self.out / LOGS / f"{name}.log"
        delivery = future.result()
        try:
            try:
                log.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise storage_error(log, error) from error
            write_whole(log, delivery.log)
            if delivery.parcel is not None:
                unpack(delivery.parcel, folder)
        except HalrpError as error:
            return Outcome(job, folder, "failed", str(error), log, delivery.seconds)
        return outcome_of(job, folder, log, delivery.code, delivery.seconds)

    def _failed(self, name: str, future: Any) -> Outcome | None:
        """What to tell of a task that failed; None when it goes out again, because its workers died."""
        import distributed

        error, job = future.exception(), self.jobs[name]
        if isinstance(error, distributed.KilledWorker):
            if self.tries[name] < TRIES:
                self.heard.pop(name, None)
                self.send(job)
                return None
            reason = f"every worker that took it died: {error.last_worker.address} was the last of many"
        else:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(job, self.out / name, "failed", reason)

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        """A run tells how far it is."""
        told = event[1]
        name = told["name"]
        since, _ = self.heard.get(name, (time.monotonic(), None))
        self.heard[name] = since, Progress(told["learned"], told["tasks"], told["epochs"])

    def _check_alive(self) -> None:
        """Refuse to wait any longer once scheduler or workers are gone for long."""
        now = time.monotonic()
        lost = self.client.status != "running" or any(
            one.status in ("cancelled", "lost") for one in self.futures.values()
        )
        if not lost:
            with contextlib.suppress(Exception):  # the scheduler may go at any moment: then it is lost next time
                if self.client.nthreads():
                    self.alive = now
        if now - self.alive > PATIENCE:
            raise _unreachable(self.scheduler, "an answer") if lost else _no_worker(self.scheduler)


@contextlib.contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    """A client of the scheduler, closed at the end; with it go all tasks that nobody else waits for."""
    try:
        import distributed
    except ImportError as error:
        raise ConfigError(
            "--scheduler",
            expected="the package `distributed`",
            received="none installed",
            next_step="Install the extra: pip install 'halrp_np[dask]'.",
        ) from error
    try:
        client: Any = distributed.Client(scheduler, timeout=CONNECT, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as error:  # TimeoutError is an OSError
        raise _unreachable(scheduler, " ".join(str(error).split())) from error
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):  # its end is no reason to lose what has come
            client.close(timeout=CONNECT)


def _check_workers(client: Any, scheduler: str) -> None:
    """Wait for the first worker, and refuse a cluster whose workers have not this version of the package."""
    from .remote import version

    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise _no_worker(scheduler) from error
    try:
        versions: dict[str, Any] = client.run(version, on_error="return")
    except ImportError as error:
        versions = {"its workers": error}
    for address, found in versions.items():
        if found != version():
            raise ConfigError(
                f"--scheduler {scheduler}: {address}",
                expected=f"halrp_np {version()}, as here",
                received=f"halrp_np {found}" if isinstance(found, str) else f"none ({found})",
                next_step="Install the same version of halrp_np on every machine of the cluster.",
            )


def _sharing(client: Any) -> dict[str, int]:
    """How many tasks the workers of each machine run at a time."""
    found: dict[str, int] = {}
    for address, threads in client.nthreads().items():
        machine = address.rpartition(":")[0]
        found[machine] = found.get(machine, 0) + threads
    return found


def _unreachable(scheduler: str, received: str) -> HalrpError:
    return HalrpError(
        f"--scheduler {scheduler}",
        expected="a Dask scheduler that answers",
        received=f"none ({received})",
        next_step="Check its address and that it runs, then run the same command again: finished runs are kept.",
    )


def _no_worker(scheduler: str) -> HalrpError:
    return HalrpError(
        f"--scheduler {scheduler}",
        expected="workers",
        received=f"none for {PATIENCE:.0f} seconds",
        next_step="Start some (dask worker ADDRESS), then run the same command again: finished runs are kept.",
    )
