"""Threads: how many are usable, and asking for a number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from halrp_np.backend import threads
from halrp_np.errors import ConfigError


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_a_containers_share_counts(
    files: dict[str, str], share: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n", encoding="ascii")
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert threads._container_share() == share
    assert threads.usable_cores() == (8 if share is None else max(1, int(share + 0.5)))


@pytest.mark.parametrize("count", [0, -1, 10**6])
def test_impossible_numbers_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="threads: expected 1 to"):
        threads.use_threads(count)


SCRIPT = """
import numpy as np
import halrp_np
halrp_np.use_threads(1)
from halrp_np.backend import ops
ops.relu(np.ones(4))
import numba
assert numba.get_num_threads() == 1, numba.get_num_threads()
if numba.config.NUMBA_NUM_THREADS > 1:
    halrp_np.use_threads(2)
    assert numba.get_num_threads() == 2
"""


def test_the_number_holds_before_numba_is_loaded_and_after() -> None:
    env = {name: value for name, value in os.environ.items() if name not in (threads.VARIABLE, "HALRP_NP_KERNELS")}
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, env=env)


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "30000"), ({"OMP_WAIT_POLICY": "active"}, None), ({"GOMP_SPINCOUNT": "7"}, "7")]
)
def test_workers_wait_as_the_user_says_or_briefly(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    threads.wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process to a processor")
def test_a_pinned_process_has_as_many_as_it_is_given() -> None:
    script = """
import os, halrp_np
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
try:
    halrp_np.use_threads(2)
except halrp_np.HalrpError as error:
    print(error)
"""
    env = {name: value for name, value in os.environ.items() if name != threads.VARIABLE}
    said = subprocess.run([sys.executable, "-c", script], check=True, env=env, capture_output=True, text=True).stdout
    assert "threads: expected 1 to 1" in said
