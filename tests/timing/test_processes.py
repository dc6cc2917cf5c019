"""Processes that die, refuse, or are abandoned: the reason is told, and none is left behind."""

import os
import sys
import time
from pathlib import Path

import pytest

from halrp_np.errors import ConfigError, HalrpError
from halrp_np.timing.processes import run_to_end, thread_variables, worker
from halrp_np.timing.report import our_worker
from timing.small import problem, settings

ECHO = "import sys\nfor line in sys.stdin: print('{\"ok\": 1}', flush=True)"
DIES = "import sys; sys.stdin.readline(); sys.exit('no more memory')"


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_worker_answers_and_ends_with_its_block() -> None:
    with worker("echo", python(ECHO), {}) as echo:
        assert echo.ask("anything") == {"ok": 1}
        pid = echo.process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_that_dies_gives_its_last_words() -> None:
    with (
        worker("it", python(DIES), {}) as dying,
        pytest.raises(HalrpError, match=r"process of it: .*code 1(.|\n)*no more memory"),
    ):
        dying.ask("anything")


def test_no_worker_survives_an_interrupt() -> None:
    started = []

    def interrupted() -> None:
        with worker("sleeper", python("import time; time.sleep(60)"), {}) as sleeper:
            started.append(sleeper.process.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_an_error_of_the_other_process_is_the_same_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALRP_NP_KERNELS", "bogus")
    path = tmp_path / "problem.npz"
    problem().save(path)
    with our_worker(settings(), path) as ours, pytest.raises(ConfigError, match=r"HALRP_NP_KERNELS.*bogus"):
        ours.ask("time", what="evaluation", repeats=1)


def test_a_whole_process_is_timed_and_measured() -> None:
    begin = time.perf_counter()
    ended = run_to_end("it", python("import os; print(os.environ['OMP_NUM_THREADS'])"), thread_variables(3))
    assert 0 < ended.seconds <= time.perf_counter() - begin
    assert ended.output.split() == [b"3"]
    assert ended.peak_bytes > 1e6 or not hasattr(os, "wait4")


def test_a_whole_process_that_fails_gives_its_last_words() -> None:
    with pytest.raises(HalrpError, match="no more memory"):
        run_to_end("it", [*python(DIES)], {})
