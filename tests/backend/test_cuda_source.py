"""The CUDA sources as far as no GPU is needed: every kernel that is launched exists, and NVRTC compiles them all."""

import ast
import re
from pathlib import Path

import pytest

from halrp_np.backend import ops
from halrp_np.backend.cuda_source import SOURCE

KERNELS = set(re.findall(r"__global__ void (\w+)\(", SOURCE))
TREE = ast.parse((Path(ops.__file__).parent / "cupy_kernels.py").read_text(encoding="utf-8"))


def test_every_launched_kernel_is_written_and_every_written_one_launched() -> None:
    calls = [
        node for node in ast.walk(TREE) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_launch"
    ]
    names = [call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)]
    assert len(names) == len(calls) == len(set(names))
    assert set(names) == KERNELS


def test_nothing_is_added_atomically() -> None:
    assert not re.search(r"\batomic\w*\(", SOURCE)


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("architecture", ["compute_75", "compute_90"])
def test_nvrtc_compiles_every_kernel(real: str, architecture: str) -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy, which brings NVRTC, is not installed", exc_type=ImportError)
    nvrtc = cupy.cuda.nvrtc
    try:
        nvrtc.getVersion()
    except Exception as error:  # the wheel without the CUDA toolkit's libraries
        pytest.skip(f"NVRTC does not load: {error}")
    program = nvrtc.createProgram(f"#define BLOCK 256\ntypedef {real} real;\n{SOURCE}", "kernels.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-arch={architecture}",))
    except Exception:
        pytest.fail(nvrtc.getProgramLog(program))
    text = nvrtc.getPTX(program)
    text = text.decode() if isinstance(text, bytes) else text
    assert {name for name in KERNELS if f".entry {name}(" in text} == KERNELS
    assert (".f64" in text) if real == "double" else (".f32" in text)
