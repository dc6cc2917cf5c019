"""A device: where arrays live, and the one place where they cross to and from the host."""

from __future__ import annotations

import importlib
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import DeviceError
from ..typing import Array

INSTALL_HINT = "Install CuPy for your CUDA version: pip install 'halrp_np[cuda12]' (or cuda13), or use --device cpu."


@lru_cache(maxsize=1)
def import_cupy() -> tuple[ModuleType | None, str]:
    """CuPy and an empty reason when it works with at least one GPU, else None and the reason, kept for later."""
    try:
        cupy = importlib.import_module("cupy")
    except Exception as error:  # a broken CUDA installation raises many kinds; all mean "no GPU here"
        return None, f"CuPy cannot be imported ({type(error).__name__}: {error})"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        return None, f"CuPy finds no CUDA driver or device ({error})"
    return (cupy, "") if count > 0 else (None, "CuPy finds no CUDA device")


class Device:
    """Where a computation runs: `cpu`, `gpu`, `gpu:1`, or `auto` (a GPU if there is one, else the CPU, said in `note`).

    Attributes: `name` (cpu, gpu:0, ...), `xp` (its array module), `note` (why `auto` fell back, else empty).
    Raises: DeviceError for an unknown name, or when `gpu` is asked for and absent (it never falls back).
    """

    def __init__(self, name: str = "cpu") -> None:
        self.note = ""
        self.xp: Any
        kind, _, number = name.partition(":")
        if kind not in ("cpu", "gpu", "auto") or (number and (kind != "gpu" or not number.isdigit())):
            raise DeviceError(
                "--device", expected="cpu, gpu, gpu:N or auto", received=repr(name), next_step="Choose one of these."
            )
        if kind == "auto":
            cupy, reason = import_cupy()
            kind = "cpu" if cupy is None else "gpu"
            self.note = "" if cupy is not None else f"no GPU is used: {reason}"
        if kind == "cpu":
            self.name, self.xp = "cpu", np
        else:
            self.name, self.xp = _open_gpu(name, int(number or 0))

    def to_device(self, array: Array) -> Array:
        """The array on this device, dtype unchanged; a host array is copied, an array already here is returned."""
        if self.name == "cpu":
            return np.asarray(to_host(array))
        with self.xp.cuda.Device(self.index):
            return self.xp.asarray(array)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """The array as NumPy, dtype unchanged."""
        return to_host(array)

    @property
    def index(self) -> int:
        """The GPU's number; 0 on the CPU."""
        return int(self.name.partition(":")[2] or 0)

    def synchronize(self) -> None:
        """Wait until every queued kernel has finished."""
        if self.name != "cpu":
            self.xp.cuda.Device(self.index).synchronize()

    def memory(self) -> int:
        """The most bytes held so far: by CuPy's pool on a GPU, by the whole process on the CPU."""
        if self.name != "cpu":
            return int(self.xp.get_default_memory_pool().total_bytes())
        return peak_resident_bytes()

    def __repr__(self) -> str:
        return f"Device({self.name!r})"


def _open_gpu(name: str, index: int) -> tuple[str, Any]:
    """The GPU of that number made current, or a DeviceError with the stored reason and the install line."""
    cupy, reason = import_cupy()
    if cupy is None:
        raise DeviceError("--device gpu", expected="a CUDA GPU and CuPy", received=reason, next_step=INSTALL_HINT)
    count = cupy.cuda.runtime.getDeviceCount()
    if index >= count:
        raise DeviceError(
            f"--device {name}", expected=f"a number below {count}", received=str(index), next_step="Use gpu:0."
        )
    cupy.cuda.Device(index).use()
    return f"gpu:{index}", cupy


def array_module(array: Array) -> Any:
    """The module whose functions apply to this array: NumPy, CuPy, or what its `__array_namespace__` names.

    Raises: DeviceError when it is no array at all.
    """
    if isinstance(array, np.ndarray | np.generic):
        return np
    if type(array).__module__.partition(".")[0] == "cupy":
        return importlib.import_module("cupy")
    namespace = getattr(array, "__array_namespace__", None)
    if namespace is None:
        raise DeviceError(
            "array_module",
            expected="an array",
            received=type(array).__name__,
            next_step="Convert it with numpy.asarray or Device.to_device.",
        )
    return namespace()


def to_host(array: Array) -> np.ndarray[Any, Any]:
    """The array as NumPy (the only crossing from a device to the host), dtype unchanged."""
    if isinstance(array, np.ndarray | np.generic):
        return np.asarray(array)
    get = getattr(array, "get", None)  # CuPy's own name for the crossing
    return np.asarray(array) if get is None else np.asarray(get())


def peak_resident_bytes() -> int:
    """The largest resident size this process has had, in bytes; 0 where the platform does not say."""
    try:
        import resource
        import sys
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
