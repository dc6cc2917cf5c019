"""The CUDA sources as far as no GPU is needed: every kernel that is launched exists, and NVRTC compiles them all."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from halrp_np.backend import ops
from halrp_np.backend.cuda_source import SUBJECTS, source
from host_cuda import kernels

BACKEND = Path(ops.__file__).parent
TREES = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(BACKEND.glob("cupy_*.py"))]
KERNELS = {real: kernels(source(real)) for real in ("float", "double")}

VIRTUAL = (70, 75, 80, 86, 89, 90, 100, 120)
"""The architectures that the wheels of CUDA 12 and 13 serve between them (13 starts at 75), as instructions."""
REAL = (80, 90)
"""Those compiled to machine code too, which is where too many registers or too much shared memory would show."""


def test_every_launched_kernel_is_written_and_every_written_one_launched() -> None:
    nodes = [node for tree in TREES for node in ast.walk(tree)]
    calls = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "launch"]
    names = [call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)]
    assert len(names) == len(calls) == len(set(names))
    assert set(names) == set(KERNELS["float"]) == set(KERNELS["double"])


def test_nothing_is_added_atomically() -> None:
    assert not re.search(r"\batomic\w*\(", source("float"))


def test_no_subject_speaks_of_one_precision() -> None:
    """Kernels compute in `real`, and in double where digits would be lost; a literal of type float would hide there."""
    assert not [match for text in SUBJECTS for match in re.findall(r"\bfloat\b|\d\.\d*f\b", text)]


def compiled(real: str, option: str, *more: str) -> tuple[Any, Any]:
    """NVRTC and a program that it has compiled, or a skip."""
    cupy = pytest.importorskip("cupy", reason="CuPy, which finds NVRTC, is not installed", exc_type=ImportError)
    nvrtc = cupy.cuda.nvrtc
    try:
        version = nvrtc.getVersion()
    except Exception as error:  # the wheel without the CUDA toolkit's libraries
        pytest.skip(f"NVRTC does not load: {error}")
    number = int(option.rpartition("_")[2])
    if number not in nvrtc.getSupportedArchs():
        pytest.skip(f"NVRTC {version} does not serve {number}")
    program = nvrtc.createProgram(source(real), "kernels.cu", (), ())
    try:
        nvrtc.compileProgram(program, (option, "-std=c++17", *more))
    except Exception:
        pytest.fail(nvrtc.getProgramLog(program))
    return nvrtc, program


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("architecture", VIRTUAL)
def test_nvrtc_compiles_every_kernel(real: str, architecture: int) -> None:
    nvrtc, program = compiled(real, f"--gpu-architecture=compute_{architecture}")
    text = nvrtc.getPTX(program)
    text = text.decode() if isinstance(text, bytes) else text
    assert set(re.findall(r"\.entry (\w+)\(", text)) == set(KERNELS[real])
    assert (".f64" in text) if real == "double" else (".f32" in text)


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("architecture", REAL)
def test_no_kernel_needs_more_registers_than_there_are(real: str, architecture: int) -> None:
    """What does not fit is spilled to memory, which is slow; sums of a convolution must stay in registers."""
    nvrtc, program = compiled(real, f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v")
    log = nvrtc.getProgramLog(program)
    assert set(re.findall(r"Compiling entry function '(\w+)'", log)) == set(KERNELS[real])
    assert set(re.findall(r"(\d+) bytes spill stores", log)) == {"0"}
