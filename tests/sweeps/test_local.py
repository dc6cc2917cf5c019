"""Runs on this machine: the same folders in one process after the other, at a time, and after every kind of end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from halrp_np.errors import ConfigError, StorageError
from halrp_np.sweeps import Job, Outcome, Row, Watcher, execute, local, standing
from sweeps import runs

ROOT = Path(__file__).resolve().parents[2]
LONG: dict[str, Any] = {"epochs": 400, "checkpoint_seconds": 0.0}  # longer than anything here waits


class Call(Watcher):
    """Calls a function once, when some run has begun."""

    def __init__(self, act: Callable[[], None], begun: int = 1) -> None:
        self.act, self.begun, self.acted = act, begun, False
        self.seen: list[list[str]] = []

    def look(self, rows: Sequence[Row]) -> None:
        self.seen.append([row.state for row in rows])
        started = sum(row.progress is not None and row.progress.tasks > 0 for row in rows)
        if not self.acted and started >= self.begun:
            self.acted = True
            self.act()


def states(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.state for outcome in outcomes]


@pytest.fixture
def _ctrl_c() -> Any:
    """SIGINT as a terminal's process has it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_two_at_a_time_one_of_them_failing_then_found(data_dir: Path, tmp_path: Path) -> None:
    good = runs.jobs(data_dir, settings={"stop_after": 1, "epochs": 1, "warmup_epochs": 1})
    bad = runs.jobs(data_dir.parent / "nowhere", settings={"data": "full"})
    watcher = Call(lambda: None)
    outcomes = execute([*bad, *good], tmp_path, at_once=2, watcher=watcher)
    assert states(outcomes) == ["failed", "done"]
    assert [outcome.job for outcome in outcomes] == [*bad, *good]
    assert "nowhere" in outcomes[0].reason
    assert outcomes[0].reason.startswith("error: ")
    for outcome in outcomes:
        assert outcome.log == tmp_path / "logs" / f"{outcome.job.name}.log"
        assert outcome.log.read_text()
    assert "task 0 learned" in (tmp_path / "logs" / f"{good[0].name}.log").read_text()
    assert ["running", "running"] in watcher.seen
    assert [standing(job, tmp_path) for job in (*bad, *good)] == ["new", "found"]
    before = runs.contents(tmp_path, good)
    assert states(execute(good, tmp_path)) == ["found"]
    runs.assert_same(tmp_path, before, good)


@pytest.mark.usefixtures("_ctrl_c")
def test_ctrl_c_stops_all_with_everything_saved(data_dir: Path, tmp_path: Path) -> None:
    jobs = runs.jobs(data_dir, seeds=3, settings=LONG)
    outcomes = execute(jobs, tmp_path, at_once=2, watcher=Call(interrupt, begun=2))
    assert states(outcomes) == ["stopped"] * 3
    assert [standing(job, tmp_path) for job in jobs] == ["resume", "resume", "new"]
    assert outcomes[2].reason == "stopped before it began"
    for job in jobs[:2]:
        assert (tmp_path / "logs" / f"{job.name}.log").read_text().endswith("stopped\n")


@pytest.mark.usefixtures("_ctrl_c")
def test_a_second_ctrl_c_kills(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs here are deaf to the first one."""
    deaf = [sys.executable, "-c", "import time; time.sleep(600)"]
    started = [subprocess.Popen(deaf, stdin=subprocess.PIPE) for _ in range(2)]
    waiting = iter(started)
    monkeypatch.setattr(local, "process_of", lambda *_: next(waiting))
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    monkeypatch.setattr(local, "_collect", once_interrupted(local._collect))
    outcomes = execute(runs.jobs(data_dir, seeds=2), tmp_path, at_once=2)
    timer.join()
    assert states(outcomes) == ["stopped", "stopped"]
    assert {outcome.reason for outcome in outcomes} == {"killed; everything up to the last checkpoint is saved"}
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


def once_interrupted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, the first call of which is answered by Ctrl-C."""
    calls: list[Any] = []

    def call(*words: Any) -> Any:
        calls.append(words)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return function(*words)

    return call


def test_a_folder_of_other_settings_is_refused_before_anything_is_run(data_dir: Path, tmp_path: Path) -> None:
    first, second = runs.jobs(data_dir, settings={"stop_after": 1, "epochs": 1, "warmup_epochs": 1}, seeds=2)
    assert states(execute([second], tmp_path)) == ["done"]
    (tmp_path / second.name).rename(tmp_path / first.name)
    with pytest.raises(ConfigError, match=rf"{first.name}: seed: expected a run with seed = 0, received .* seed = 1"):
        execute([second, first], tmp_path)
    assert not (tmp_path / second.name).exists()
    (tmp_path / second.name).mkdir()
    (tmp_path / second.name / "thesis.tex").write_text("")
    with pytest.raises(StorageError, match="expected a new or empty folder"):
        execute([second], tmp_path)


def test_the_setting_of_another_method_may_differ(data_dir: Path, tmp_path: Path) -> None:
    (job,) = runs.jobs(data_dir, settings={"stop_after": 1, "epochs": 1, "warmup_epochs": 1})
    assert states(execute([job], tmp_path)) == ["done"]
    path = tmp_path / job.name / "config.json"
    content = json.loads(path.read_text())
    content["config"]["ewc_strength"] = 12345.0
    path.write_text(json.dumps(content))
    assert standing(job, tmp_path) == "found"


def test_only_a_folder_with_its_summary_is_finished(data_dir: Path, tmp_path: Path) -> None:
    """A kill may come after the last line of metrics.jsonl and before the tables."""
    (job,) = runs.jobs(data_dir, settings={"stop_after": 1, "epochs": 1, "warmup_epochs": 1})
    execute([job], tmp_path)
    before = runs.contents(tmp_path, [job])
    (tmp_path / job.name / "summary.json").unlink()
    assert standing(job, tmp_path) == "resume"
    assert states(execute([job], tmp_path)) == ["done"]
    runs.assert_same(tmp_path, before, [job])


@pytest.mark.parametrize(("at_once", "runs_waiting", "each"), [(1, 5, 8), (2, 5, 4), (3, 5, 2), (3, 2, 4), (20, 20, 1)])
def test_cores_are_shared_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data_dir: Path, at_once: int, runs_waiting: int, each: int
) -> None:
    asked: list[dict[str, str]] = []

    def process_of(job: Job, folder: Path, variables: dict[str, str], said: Any) -> Any:
        asked.append(variables)
        return subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)

    monkeypatch.setattr(local, "process_of", process_of)
    monkeypatch.setattr(local, "usable_cores", lambda: 8)
    monkeypatch.setattr(local, "PAUSE", 0.01)
    execute(runs.jobs(data_dir, seeds=runs_waiting), tmp_path, at_once=at_once)
    assert {variables["NUMBA_NUM_THREADS"] for variables in asked} == {str(each)}
    assert {variables["OPENBLAS_NUM_THREADS"] for variables in asked} == {str(each)}


# ---- twelve runs, however they come about -------------------------------------------------------------------------

SWEEP: dict[str, Any] = {"methods": ["halrp", "stl", "ewc", "be"], "seeds": 3, "settings": {"checkpoint_seconds": 0.0}}


@pytest.fixture(scope="module")
def expected(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of twelve runs, one after the other."""
    out, jobs = tmp_path_factory.mktemp("alone"), runs.jobs(data_dir, **SWEEP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HALRP_NP_KERNELS", "reference")
        assert states(execute(jobs, out)) == ["done"] * 12
    return runs.contents(out, jobs)


@pytest.mark.slow
def test_twelve_runs_at_a_time_are_the_same(data_dir: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    jobs = runs.jobs(data_dir, **SWEEP)
    assert states(execute(jobs, tmp_path, at_once=2)) == ["done"] * 12
    runs.assert_same(tmp_path, expected, jobs)


@pytest.mark.slow
@pytest.mark.usefixtures("_ctrl_c")
def test_twelve_runs_interrupted_again_and_again(data_dir: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    jobs = runs.jobs(data_dir, **SWEEP)
    ends = []
    for begun in (1, 2):
        ends += states(execute(jobs, tmp_path, at_once=2, watcher=Call(interrupt, begun)))
    assert "stopped" in ends
    assert states(execute(jobs, tmp_path, at_once=2)).count("failed") == 0
    runs.assert_same(tmp_path, expected, jobs)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_twelve_runs_whose_sweep_is_killed(
    data_dir: Path, tmp_path: Path, expected: dict[str, bytes], number: signal.Signals
) -> None:
    """Whatever becomes of the process that has the sweep, those of the runs end by themselves and save."""
    jobs = runs.jobs(data_dir, **SWEEP)
    program = (
        "import sys; from pathlib import Path; from sweeps import runs, test_local;"
        "from halrp_np.sweeps import execute;"
        "jobs = runs.jobs(Path(sys.argv[1]), **test_local.SWEEP);"
        "print(test_local.states(execute(jobs, Path(sys.argv[2]), at_once=2)))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-c", program, str(data_dir), str(tmp_path)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE) as process:
        within(60, lambda: len(list(tmp_path.glob("*/metrics.jsonl"))) >= 3)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    within(60, lambda: not processes_below(tmp_path))
    assert (b"stopped" in said) == (number == signal.SIGINT)
    assert "new" in [standing(job, tmp_path) for job in jobs]
    assert states(execute(jobs, tmp_path, at_once=2)).count("failed") == 0
    runs.assert_same(tmp_path, expected, jobs)


def processes_below(out: Path) -> list[str]:
    """The processes of runs in this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if b"halrp_np.sweeps.worker" in line and str(out).encode() in line:
            found.append(path.parent.name)
    return found


def within(seconds: float, condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
