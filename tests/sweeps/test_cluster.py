"""Runs on a local Dask cluster of two workers: the same folders as here, whatever happens to a worker."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from halrp_np.errors import ConfigError, HalrpError
from halrp_np.sweeps import Outcome, Row, Watcher, execute
from sweeps import runs

distributed = pytest.importorskip("distributed")
cluster = pytest.importorskip("halrp_np.sweeps.cluster")

WAIT = 60.0  # seconds within which anything here has happened


@pytest.fixture
def workers() -> Iterator[Any]:
    """A cluster of two processes, each of which is started again when it dies."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as found:
        yield found


@pytest.fixture
def empty() -> Iterator[Any]:
    """A scheduler without a worker."""
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as found:
        yield found


class Call(Watcher):
    """Calls a function once, when a run is seen to have begun; keeps the states that were seen."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self.act, self.acted, self.seen = act, False, set[str]()

    def look(self, rows: Sequence[Row]) -> None:
        self.seen |= {row.state for row in rows}
        if not self.acted and any(row.progress is not None and row.progress.tasks for row in rows):
            self.acted = True
            self.act()


def states(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.state for outcome in outcomes]


def kill_a_busy_worker(address: str) -> None:
    """kill -9 of a worker's process that has a run."""
    with distributed.Client(address, set_as_default=False) as client:
        busy = [worker for worker, keys in client.processing().items() if keys]
        pids = client.run(os.getpid, workers=busy[:1])
        os.kill(pids[busy[0]], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:distributed")
def test_twelve_runs_with_a_worker_killed_in_the_middle(data_dir: Path, tmp_path: Path, workers: Any) -> None:
    jobs = runs.jobs(data_dir, methods=["halrp", "stl", "ewc", "be"], seeds=3)
    assert states(execute(jobs, tmp_path / "here", at_once=2)) == ["done"] * 12
    watcher = Call(lambda: kill_a_busy_worker(workers.scheduler_address))
    outcomes = execute(jobs, tmp_path / "there", scheduler=workers.scheduler_address, watcher=watcher)
    assert watcher.acted
    assert states(outcomes) == ["done"] * 12, [outcome.reason for outcome in outcomes]
    runs.assert_same(tmp_path / "there", runs.contents(tmp_path / "here", jobs), jobs)
    assert watcher.seen >= {"running", "waiting", "done"}
    assert all(outcome.log is not None and "learned" in outcome.log.read_text() for outcome in outcomes)
    assert states(execute(jobs, tmp_path / "there", scheduler="tcp://127.0.0.1:1")) == ["found"] * 12


@pytest.mark.slow
def test_one_fails_one_goes_on_and_the_rest_is_done(data_dir: Path, tmp_path: Path, workers: Any) -> None:
    """What broke off here is continued there."""
    often = {"checkpoint_seconds": 0.0}
    good = runs.jobs(data_dir, seeds=2, settings=often)
    bad = runs.jobs(data_dir.parent / "nowhere", settings={**often, "data": "full"})
    expected = execute(good, tmp_path / "here", at_once=2)
    assert states(expected) == ["done", "done"]
    first = tmp_path / "there" / good[0].name
    stopped_after_task_0(good[0], first)
    outcomes = execute([*bad, *good], tmp_path / "there", scheduler=workers.scheduler_address)
    assert states(outcomes) == ["failed", "done", "done"]
    assert "nowhere" in outcomes[0].reason
    runs.assert_same(tmp_path / "there", runs.contents(tmp_path / "here", good), good)
    assert outcomes[1].log is not None
    assert "task 0 learned" not in outcomes[1].log.read_text()


def stopped_after_task_0(job: Any, folder: Path) -> None:
    """The job's folder, as it is after a Ctrl-C in task 1."""
    from halrp_np.benchmarks import Reporter, RunInterruptedError, run

    class StopInTask1(Reporter):
        def step(self, plan: Any, step: int, steps: int) -> None:
            if plan.task == 1:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(RunInterruptedError):
        run(job.config, folder, StopInTask1())


@pytest.mark.slow
def test_ctrl_c_cancels_and_the_processes_end(data_dir: Path, tmp_path: Path, workers: Any) -> None:
    jobs = runs.jobs(data_dir, seeds=2, settings={"epochs": 400})
    watcher = Call(lambda: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        outcomes = execute(jobs, tmp_path / "out", scheduler=workers.scheduler_address, watcher=watcher)
    finally:
        signal.signal(signal.SIGINT, before)
    assert states(outcomes) == ["stopped", "stopped"]
    assert not (tmp_path / "out" / jobs[0].name).exists()
    within(WAIT, lambda: not processes_of(jobs[0].name))


@pytest.mark.slow
def test_a_scheduler_whose_client_is_gone_lets_its_runs_go(data_dir: Path, tmp_path: Path, workers: Any) -> None:
    """As after kill -9 of `halrp-np sweep`: the client's connection is cut without a word."""
    from halrp_np.runs import config as resolver
    from halrp_np.sweeps.remote import Order, deliver

    (job,) = runs.jobs(data_dir, settings={"epochs": 400})
    order = Order(job.name, resolver.as_record(job.config), "reference", None, "topic", {})
    client = distributed.Client(workers.scheduler_address, set_as_default=False)
    future = client.submit(deliver, order, pure=False)
    within(WAIT, lambda: bool(processes_of(job.name)))
    client.scheduler_comm.comm.abort()
    within(WAIT, lambda: not processes_of(job.name))
    del future
    client.close(timeout=1)


def processes_of(name: str) -> list[str]:
    """The running processes whose command line names this run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if b"halrp_np.sweeps.worker" in line and name.encode() in line:
            found.append(path.parent.name)
    return found


def within(seconds: float, condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.1)


# ---- a cluster that does not serve ----------------------------------------------------------------------------------


def test_no_scheduler_there(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        with pytest.raises(HalrpError, match=f"--scheduler {address}: expected a Dask scheduler that answers"):
            execute(runs.jobs(data_dir), tmp_path, scheduler=address)


def test_no_worker_there(data_dir: Path, tmp_path: Path, empty: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    with pytest.raises(HalrpError, match=r"expected workers, received none for 0 seconds\. Start some"):
        execute(runs.jobs(data_dir), tmp_path, scheduler=empty.scheduler_address)


def test_another_version_there(data_dir: Path, tmp_path: Path, empty: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    empty.scale(1)
    monkeypatch.setattr(
        distributed.Client, "run", lambda *_, **__: {"tcp://far": "0.0.9", "tcp://near": ModuleNotFoundError("no")}
    )
    with pytest.raises(ConfigError, match=r"tcp://far: expected halrp_np .*, as here, received halrp_np 0\.0\.9"):
        execute(runs.jobs(data_dir), tmp_path, scheduler=empty.scheduler_address)


@pytest.mark.slow
def test_workers_that_go_for_good(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 2.0)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as here:
        watcher = Call(lambda: here.scale(0))
        with pytest.raises(HalrpError, match="expected workers, received none"):
            execute(
                runs.jobs(data_dir, settings={"epochs": 400}),
                tmp_path,
                scheduler=here.scheduler_address,
                watcher=watcher,
            )
    assert watcher.acted


def test_without_dask(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"pip install 'halrp_np\[dask\]'"):
        execute(runs.jobs(data_dir), tmp_path, scheduler="tcp://127.0.0.1:1")
