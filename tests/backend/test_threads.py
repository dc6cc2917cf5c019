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
