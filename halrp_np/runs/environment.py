"""What a run's numbers and times may depend on outside its configuration; nothing that names a person or a machine."""

import os
import platform
from importlib import metadata
from pathlib import Path

import numpy as np

from .plain_json import Json

_PACKAGES = ("halrp-np", "numpy", "scipy", "numba", "llvmlite", "threadpoolctl", "safetensors")
_CUPY_WHEELS = ("cupy-cuda13x", "cupy-cuda12x", "cupy")
_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMBA_THREADING_LAYER",
)


def environment(device: str = "cpu", kernels: str = "fast") -> dict[str, Json]:
    """Describe interpreter, packages, BLAS, processor and thread settings; imports nothing heavy.

    `kernels` names the column of the table of hot loops in use. Absent packages and variables are null. Host name, user
    name and paths are left out on purpose.
    """
    packages = {name: _version(name) for name in _PACKAGES}
    packages["cupy"] = next((version for name in _CUPY_WHEELS if (version := _version(name))), None)
    return {
        "device": device,
        "kernels": kernels,
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "system": {"name": platform.system(), "release": platform.release(), "machine": platform.machine()},
        "processor": {"model": _processor(), "cores": os.cpu_count(), "cores_usable": _usable_cores()},
        "packages": packages,
        "blas": _blas(),
        "variables": {name: os.environ.get(name) for name in _VARIABLES},
    }


def _version(package: str) -> str | None:
    """Read a version from the installed metadata, without importing the package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Name the processor's model; `platform.processor` is empty or vague on Linux."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _usable_cores() -> int | None:
    """Count the cores this process may run on, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _blas() -> dict[str, Json]:
    """Name the BLAS that NumPy was built with, if it says; its report also holds build paths, which are left out."""
    report: Json = np.show_config(mode="dicts")
    blas = report.get("Build Dependencies", {}).get("blas", {})
    return {key: blas.get(key) for key in ("name", "version")}
