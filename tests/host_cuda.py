"""A GPU that exists only in the tests: the kernels of cuda_source.py compiled by the host's C++ compiler.

`installed()` puts a module named cupy in place whose arrays are those of strict.py, refusing every silent way to the
host, and whose RawModule runs kernels through host_cuda.h, with the geometry and the arguments that the wrappers give
a GPU. It checks what CuPy does not: the type of every argument against the kernel's own, contiguous arrays, and that
nothing is read or written beside them (reading there gives NaN). What it cannot show: warps, caches, time.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from halrp_np.backend import device as device_module
from halrp_np.backend import ops

HERE = Path(__file__).resolve().parent
SIGNATURE = re.compile(r"__global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(([^)]*)\)\s*\{")
TAKES_STRIDES = {"matmul"}
MARGIN = 256
"""Bytes on either side of an array that no kernel may touch."""


def compiler() -> str | None:
    """A C++ compiler, if there is one."""
    return next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where compiled kernels lie, for this process."""
    return tempfile.TemporaryDirectory(prefix="halrp_np-kernels-")


def _types(parameters: str) -> list[str]:
    """The type of every parameter of a kernel, without const, restrict and the name."""
    plain = re.sub(r"\b(const|__restrict__)\b", "", parameters)
    return [" ".join(part.split()[:-1]).replace(" *", "*") for part in plain.split(",")]


def _launcher(name: str, types: list[str], barriers: bool) -> str:
    """A C function that runs a kernel from an array of pointers to its arguments, as the CUDA driver does."""
    passed = ", ".join(f"*({kind}*)values[{k}]" for k, kind in enumerate(types))
    return (
        f"static void of_{name}(void** values) {{ {name}({passed}); }}\n"
        f'extern "C" int launch_{name}(const unsigned* grid, unsigned block, void** values, int backwards) {{\n'
        f"    kernel = of_{name}; arguments = values;\n"
        f"    return run_grid(grid, block, {str(barriers).lower()}, backwards);\n}}\n"
    )


@cache
def kernels(code: str) -> dict[str, tuple[list[str], bool]]:
    """By name: the types of a kernel's parameters, and whether its threads meet at barriers."""
    starts = [match.start() for match in re.finditer("__global__", code)] + [len(code)]
    found = {}
    for begin, end in itertools.pairwise(starts):
        match = SIGNATURE.match(code, begin)
        assert match, code[begin : begin + 80]
        found[match[1]] = _types(match[2]), bool(re.search(r"__syncthreads|block_sum", code[begin:end]))
    return found


@cache
def _library(code: str) -> ctypes.CDLL:
    """The kernels of a module, compiled."""
    number = len(list(Path(_folder().name).iterdir()))
    source, target = (Path(_folder().name) / f"{number}{end}" for end in (".cpp", ".so"))
    launchers = "".join(_launcher(name, *about) for name, about in kernels(code).items())
    source.write_text(f'#include "{HERE / "host_cuda.h"}"\n{code}\n{launchers}', encoding="utf-8")
    command = [
        str(compiler()),
        "-std=c++17",
        "-O2",
        "-U_FORTIFY_SOURCE",
        "-w",
        "-shared",
        "-fPIC",
        str(source),
        "-o",
        str(target),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(target))


class HostKernel:
    """A kernel that is called as CuPy's."""

    launches: list[str] = []  # noqa: RUF012 - of all kernels, for tests that count
    backwards = False

    def __init__(self, code: str, name: str) -> None:
        self.name, self.code = name, code
        self.types = kernels(code)[name][0]
        self.real = np.float64 if "typedef double real" in code else np.float32

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], values: tuple[Any, ...]) -> None:
        assert len(values) == len(self.types), self.name
        assert len(block) == 1
        assert 1 <= block[0] <= 1024
        assert all(1 <= side <= 65535 for side in grid[1:])
        assert 1 <= grid[0] < 2**31
        tape = sys.modules["cupy"].tape
        if tape is not None:
            tape.append(lambda: self(grid, block, values))
            return
        HostKernel.launches.append(self.name)
        held = [self._argument(kind, value) for kind, value in zip(self.types, values, strict=True)]
        pointers = (ctypes.c_void_p * len(held))(*(slot.ctypes.data for slot, _, _ in held))
        size = (ctypes.c_uint * 3)(*(*grid, 1, 1)[:3])
        failed = _library(self.code)[f"launch_{self.name}"](size, block[0], pointers, int(HostKernel.backwards))
        assert not failed, f"{self.name}: some threads ended while others waited at a barrier"
        for _, room, array in held:
            if array is not None:
                self._return(room, array)

    def _argument(self, kind: str, value: Any) -> tuple[np.ndarray, Any, Any]:
        """What the pointer to an argument points to; of an array also its memory between margins, and itself."""
        real = np.dtype(self.real).name
        scalars = {"int": "int32", "unsigned": "uint32", "wide": "int64", "double": "float64", "real": real}
        if kind in scalars:
            assert np.asarray(value).dtype == scalars[kind], f"{self.name}: {kind} from {type(value)}"
            return np.atleast_1d(value), None, None
        if isinstance(value, np.uintp):
            assert value == 0
            return np.atleast_1d(value), None, None
        wanted = {"real*": real, "four*": real, "wide*": "int64", "double*": "float64", "unsigned char*": "uint8"}
        array = value._data
        assert array.dtype == wanted[kind], f"{self.name}: {kind} from {array.dtype}"
        assert array.flags.c_contiguous or self.name in TAKES_STRIDES, f"{self.name}: an array that is not contiguous"
        low, high = byte_bounds(array)
        room = np.full(high - low + 2 * MARGIN + 64, 255, dtype=np.uint8)
        room = room[-room.ctypes.data % 64 :][: high - low + 2 * MARGIN]
        room[MARGIN : MARGIN + high - low] = np.frombuffer(ctypes.string_at(low, high - low), dtype=np.uint8)
        first = room.ctypes.data + MARGIN + array.ctypes.data - low
        return np.array([first], dtype=np.uintp), room, array

    def _return(self, room: np.ndarray, array: np.ndarray) -> None:
        """Copy what a kernel made of an array back, and see that it made nothing of what lies beside."""
        inside = room[MARGIN:-MARGIN]
        assert (room[:MARGIN] == 255).all(), f"{self.name} wrote in front of an array"
        assert (room[-MARGIN:] == 255).all(), f"{self.name} wrote behind an array"
        if array.flags.c_contiguous and array.flags.writeable:
            array[...] = inside.view(array.dtype).reshape(array.shape)


class HostModule:
    """As cupy.RawModule."""

    def __init__(self, *, code: str) -> None:
        self.code = code

    def get_function(self, name: str) -> HostKernel:
        return HostKernel(self.code, name)


class _Device:
    """As cupy.cuda.Device, of the one there is."""

    def __init__(self, number: int) -> None:
        assert number == 0

    def use(self) -> None:
        """It is in use."""

    def synchronize(self) -> None:
        """Nothing is queued."""

    def __enter__(self) -> None: ...

    def __exit__(self, *about: object) -> None: ...


class HostGraph:
    """As cupy.cuda.Graph: what was recorded, to be done again."""

    def __init__(self, tape: list[Callable[[], Any]]) -> None:
        self.tape = tape

    def launch(self) -> None:
        for part in self.tape:
            part()


class _Stream:
    """As cupy.cuda.Stream; work is done at once, unless it is recorded."""

    def __init__(self, non_blocking: bool = False) -> None:
        self.non_blocking = non_blocking

    def __enter__(self) -> None: ...

    def __exit__(self, *about: object) -> None: ...

    def synchronize(self) -> None:
        """Nothing is queued."""
        assert sys.modules["cupy"].tape is None

    def begin_capture(self) -> None:
        assert self.non_blocking
        assert sys.modules["cupy"].tape is None
        sys.modules["cupy"].tape = []

    def end_capture(self) -> HostGraph:
        tape, sys.modules["cupy"].tape = sys.modules["cupy"].tape, None
        assert tape is not None
        return HostGraph(tape)


def _stand_in() -> ModuleType:
    """strict.py under the name of CuPy, with what the wrappers and Device need besides."""
    spec = importlib.util.spec_from_file_location("cupy", HERE / "strict.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def empty(shape: Any, dtype: Any) -> Any:
        array = np.empty(shape, dtype=dtype)
        array.reshape(-1).view(np.uint8).fill(255)  # NaN, so that an entry that no kernel writes shows
        return module.StrictArray(array)

    for name, value in vars(module.xp).items():
        if not name.startswith("__"):
            setattr(module, name, value)
    module.empty, module.RawModule = empty, HostModule
    module.empty_like = lambda array: empty(array.shape, array.dtype)
    runtime = SimpleNamespace(getDeviceCount=lambda: 1)
    module.cuda = SimpleNamespace(
        runtime=runtime,
        Device=_Device,
        Stream=_Stream,
        MemoryPool=lambda: SimpleNamespace(malloc=None),
        get_current_stream=_Stream,
        using_allocator=lambda allocator: nullcontext(),
    )
    module.get_default_memory_pool = lambda: SimpleNamespace(total_bytes=lambda: 0)
    return module


def _forget() -> None:
    """What was kept of a CuPy, this one or a real one."""
    device_module.import_cupy.cache_clear()
    ops._cupy_column.cache_clear()
    for name in [name for name in sys.modules if name.startswith("halrp_np.backend.cupy_")]:
        del sys.modules[name]


@contextmanager
def installed() -> Iterator[ModuleType]:
    """Within, `Device("gpu")` is the host's compiler."""
    real = sys.modules.get("cupy")
    module = sys.modules["cupy"] = _stand_in()
    _forget()
    try:
        yield module
    finally:
        del sys.modules["cupy"]
        if real is not None:
            sys.modules["cupy"] = real
        _forget()
