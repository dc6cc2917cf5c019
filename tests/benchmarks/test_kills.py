"""kill -9 at random moments, in processes of their own: each resumed, and the folder ends with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks import tiny

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    "HALRP_NP_KERNELS": "reference",  # what is killed here is the writing of files; so no process waits for a compiler
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def start(data: Path, out: Path, *limit: str) -> subprocess.Popen[str]:
    command = [sys.executable, tiny.__file__, str(data), str(out), *limit]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def killed(data: Path, out: Path, lines: int, delay: float) -> bool:
    """Run or go on, and kill after so many lines of its report and a moment; False when it had already finished."""
    with start(data, out) as process:
        assert process.stdout is not None
        for _ in range(lines):
            if not process.stdout.readline():
                break
        threading.Event().wait(delay)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        return process.returncode == -signal.SIGKILL


def finished(data: Path, out: Path, *limit: str) -> None:
    with start(data, out, *limit) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def reference(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("reference") / "run"
    finished(data_dir, out)
    return tiny.contents(out)


def test_three_kills_on_one_way(data_dir: Path, reference: dict[str, bytes], tmp_path: Path) -> None:
    draw = random.Random(1)
    for _ in range(3):
        assert killed(data_dir, tmp_path / "run", draw.randint(2, 7), draw.uniform(0, 0.01))
    finished(data_dir, tmp_path / "run")
    tiny.assert_same_bytes(tmp_path / "run", reference)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_twenty_kills_each_resumed(number: int, data_dir: Path, reference: dict[str, bytes], tmp_path: Path) -> None:
    draw = random.Random(100 + number)
    killed(data_dir, tmp_path / "run", draw.randint(1, 28), draw.uniform(0, 0.02))
    finished(data_dir, tmp_path / "run")
    tiny.assert_same_bytes(tmp_path / "run", reference)


@pytest.mark.slow
def test_twenty_kills_on_one_way(data_dir: Path, reference: dict[str, bytes], tmp_path: Path) -> None:
    """Some of them before the first step is done; then it starts again or goes on, as the folder says."""
    draw, kills = random.Random(7), 0
    while kills < 20 and killed(data_dir, tmp_path / "run", draw.randint(1, 3), draw.uniform(0, 0.02)):
        kills += 1
    finished(data_dir, tmp_path / "run")
    tiny.assert_same_bytes(tmp_path / "run", reference)
    assert kills >= 5


def test_a_limit_on_file_size_is_named_and_the_run_goes_on_without_it(
    data_dir: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    """The state outgrows 400,000 bytes in task 1: a refusal of the system itself, in the middle of a write."""
    pytest.importorskip("resource")
    sizes = sorted(len(content) for name, content in reference.items() if name.endswith(".safetensors"))
    with start(data_dir, tmp_path / "run", str(sizes[-1] - 1000)) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "StorageError" in errors
    assert "File too large" in errors
    assert (tmp_path / "run" / "config.json").exists()
    finished(data_dir, tmp_path / "run")
    tiny.assert_same_bytes(tmp_path / "run", reference)
