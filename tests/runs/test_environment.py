"""environment.json: what a result may depend on outside its configuration, and nobody's name."""

import getpass
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halrp_np.runs.record import RunFolder, environment

ROOT = Path(__file__).resolve().parents[2]


def test_the_environment_says_what_matters_and_names_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    found = environment("gpu:1", "reference")
    assert (found["device"], found["kernels"]) == ("gpu:1", "reference")
    assert found["python"]["version"] == platform.python_version()
    assert found["packages"]["numpy"] == np.__version__
    assert (found["variables"]["OMP_NUM_THREADS"], found["variables"]["MKL_NUM_THREADS"]) == ("3", None)
    assert 1 <= found["processor"]["cores_usable"] <= found["processor"]["cores"]
    assert found["processor"]["model"]
    assert found["blas"]["name"]
    folder.write_json("environment.json", found)
    text = (folder.path / "environment.json").read_text()
    assert folder.read_json("environment.json") == found
    private = [platform.node(), str(Path.home()), str(ROOT), sys.prefix]
    assert not [word for word in private if len(word) > 3 and word in text]
    assert f'"{getpass.getuser()}"' not in text


def test_the_environment_is_told_without_heavy_imports() -> None:
    code = """
        import sys
        from halrp_np.runs.record import environment
        environment()
        print(sorted({"numba", "scipy", "cupy", "matplotlib", "llvmlite", "threadpoolctl"} & set(sys.modules)))
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("report", [{}, {"Build Dependencies": {}}, {"Build Dependencies": {"blas": {}}}])
def test_a_numpy_that_does_not_name_its_blas(report: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "show_config", lambda mode: report)
    assert environment()["blas"] == {"name": None, "version": None}


def test_without_proc_and_affinity_the_environment_is_vaguer(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def without_proc(path: Path, *args: Any, **kwargs: Any) -> str:
        if path == Path("/proc/cpuinfo"):
            raise FileNotFoundError
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", without_proc)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    found = environment()
    assert found["processor"]["cores_usable"] == os.cpu_count()
    assert found["processor"]["model"] == (platform.processor() or platform.machine())
