"""How many threads the CPU kernels run on: Numba's, while BLAS has one, since its workers would spin against them.

No result depends on the number: every sum has a fixed order.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import ConfigError

VARIABLE = "NUMBA_NUM_THREADS"
"""Where Numba reads, as it is loaded, how many threads it may start."""
_CGROUP = Path("/sys/fs/cgroup")


_SPINS = "30000"
"""How often a worker of OpenMP looks for work before it sleeps: for about 1 ms, longer than the gaps in a step. By
default it looks much longer, uses its time up waiting, and on a busy machine is away when work comes: beside one other
process a step then took two to three times as long."""


def processors() -> int:
    """The processors this process may run on, as Numba counts them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores() -> int:
    """The processors this process may run on, within the share that its container is given."""
    share = _container_share()
    return max(1, processors() if share is None else min(processors(), int(share + 0.5)))


def _container_share() -> float | None:
    """Processors' worth of time that the container's limit allows, None without a limit or where no file tells."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:  # the older layout
        quota, period = (
            (_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
        )
        return None if int(quota) < 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None


_wanted: list[int] = []


def use_threads(count: int) -> None:
    """Run the CPU kernels of this process on `count` threads from now on.

    Raises: ConfigError for less than 1, or more than there are processors or than NUMBA_NUM_THREADS allows.
    """
    numba = sys.modules.get("numba")
    started = os.environ.get(VARIABLE, "") if numba is None else str(numba.config.NUMBA_NUM_THREADS)
    most = int(started) if started.isdigit() else processors()
    if not 1 <= count <= most:
        raise ConfigError(
            "threads",
            expected=f"1 to {most}, {f'as {VARIABLE} says' if VARIABLE in os.environ else 'the processors there are'}",
            received=str(count),
            next_step="Choose one of these; without the option every usable processor works.",
        )
    _wanted[:] = [count]
    if numba is not None:
        numba.set_num_threads(count)


def wait_briefly() -> None:
    """Have OpenMP's workers sleep soon, unless the user says how they should wait; before OpenMP is loaded."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def settle() -> None:
    """Give Numba, which has just been loaded, the number of threads that was asked for, or all usable ones."""
    import numba

    most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    default = most if VARIABLE in os.environ else min(most, usable_cores())
    numba.set_num_threads(_wanted[0] if _wanted else default)
