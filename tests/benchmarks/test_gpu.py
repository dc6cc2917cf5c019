"""Runs on a GPU, and on its stand-in: as on the CPU, stopped and resumed to the same bytes, and verified first."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tiny
from halrp_np import resume, run
from halrp_np.backend import Device, ops
from halrp_np.benchmarks import RunInterruptedError, verify
from halrp_np.benchmarks.catalog import open_stream
from halrp_np.errors import DeviceError
from host_cuda import HostGraph, compiler, installed


@pytest.fixture(scope="module", params=["stand-in", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request: pytest.FixtureRequest) -> Iterator[str]:
    """What `--device gpu` is: the host's compiler, or a GPU."""
    if request.param == "real":
        yield "real"
        return
    if compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    with installed():
        yield "stand-in"


def accuracies(folder: Path) -> str:
    return (folder / "accuracy.csv").read_text(encoding="utf-8")


def test_a_run_is_that_of_the_cpu(gpu: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[int] = []
    launch = HostGraph.launch
    monkeypatch.setattr(HostGraph, "launch", lambda self: (recorded.append(1), launch(self))[1])
    found = run(tiny.config(data_dir, device="gpu", dtype="float64"), tmp_path / "gpu")
    assert recorded or gpu == "real"
    assert accuracies(found) == accuracies(run(tiny.config(data_dir, dtype="float64"), tmp_path / "cpu"))


@pytest.mark.usefixtures("gpu")
def test_a_run_stopped_anywhere_ends_with_the_same_bytes(data_dir: Path, tmp_path: Path) -> None:
    chosen = tiny.config(data_dir, device="gpu")
    expected = tiny.contents(run(chosen, tmp_path / "whole"))
    for stop in range(1, tiny.STEPS, 4):
        folder = tmp_path / str(stop)
        with pytest.raises(RunInterruptedError):
            run(chosen, folder, tiny.StopAt(stop))
        resume(folder)
        tiny.assert_same_bytes(folder, expected)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_verified_gpu_says_how_far_it_is_from_the_cpu(dtype: str, data_dir: Path, tmp_path: Path) -> None:
    reporter = tiny.StopAt()
    run(tiny.config(data_dir, device="gpu", dtype=dtype, stop_after=1), tmp_path / "run", reporter, verify_device=True)
    (note,) = [note for note in reporter.notes if note.startswith("verified: gpu:0 and cpu, 6 steps in ")]
    assert dtype in note


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_computes_something_else_is_refused_before_anything_is_written(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = ops._cupy_column().adam_flat

    def half(theta: Any, grad: Any, m: Any, v: Any, factors: Any, *rest: Any) -> None:
        true(theta, grad, m, v, factors * Device("gpu").to_device(np.array([1, 1, 1, 1, 0.5, 1, 1, 1])), *rest)

    monkeypatch.setattr(ops._cupy_column(), "adam_flat", half)
    with pytest.raises(
        DeviceError, match=r"--verify-device: expected the same steps .* received gpu:0 and cpu, 6 steps"
    ):
        run(tiny.config(data_dir, device="gpu"), tmp_path / "run", verify_device=True)
    assert not (tmp_path / "run").exists()


def test_the_cpu_is_compared_with_the_readable_column(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HALRP_NP_KERNELS", raising=False)
    chosen = tiny.config(data_dir, dtype="float64")
    found = verify.agreement(chosen, open_stream(chosen)[0], Device("cpu"), steps=4)
    assert "HALRP_NP_KERNELS" not in os.environ
    assert str(found).startswith("cpu (fast) and cpu (reference), 4 steps in float64: the largest difference of a loss")
    assert 0 <= found.loss < 1e-10
    assert not verify.Agreement(found.sides, "float64", 4, float("nan"), 0.0, 0.0).holds
