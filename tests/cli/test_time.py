"""`halrp-np time`: its tables and its JSON, wrong words, and what Ctrl-C leaves behind."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import halrp_np

Invoke = Callable[..., Result]
SMALL = ("--batch", "4", "--widths", "2,3,8,6", "--ranks", "1,2,3,2", "--rounds", "2", "--threads", "1")


def test_json_is_one_object_with_a_key_for_each_thing(invoke: Invoke) -> None:
    result = invoke("time", *SMALL, "--ops", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    for name in ("base_step", "low_rank_step", "evaluation", "block_hvp"):
        row = found[name]
        assert row["ours_quartiles"][0] <= row["ours_ms"] <= row["ours_quartiles"][1]
        assert row["ours_count"] == 2 * 3
        assert row["of_floor"] == pytest.approx(row["ours_ms"] / row["floor_ms"])
        assert "torch_ms" not in row
        assert {"op", "shape", "calls", "ms", "share"} <= set(found["ops"][name][0])
    assert found["floor"]["gflops"] > 0
    assert found["floor"]["gbytes"] > 0
    assert found["machine"]["kernels"] == "reference"
    assert (found["settings"]["batch"], found["settings"]["ranks"]) == (4, [1, 2, 3, 2])
    assert found["format"] == "halrp-np time"


def test_against_torch_adds_ratios(invoke: Invoke) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    result = invoke("time", *SMALL, "--what", "base_step,evaluation", "--against", "torch", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    for name in ("base_step", "evaluation"):
        row = found[name]
        assert row["ratio"] == pytest.approx(row["torch_ms"] / row["ours_ms"])
        assert {"ours_quartiles", "torch_quartiles", "ratio_quartiles", "ratio_range"} <= set(row)
        assert row["difference"] < 1e-3
    assert set(found["base_step"]["others"]) == {"fused Adam"}


def made_up(*names: str) -> dict[str, Any]:
    """What a measurement could have found."""
    floor = {"compute_floor_ms": 25.0, "memory_floor_ms": 10.0, "of_floor": 2.0}
    ours = {"ours_ms": 50.0, "ours_quartiles": [49.0, 51.0], **floor}
    theirs = {"torch_ms": 125.0, "torch_quartiles": [120.0, 130.0], "ratio": 2.5, "ratio_quartiles": [2.4, 2.6]}
    seconds = {"cold_s": 40.0, "cold_quartiles": [39.0, 41.0], "ours_s": 10.0, "ours_quartiles": [9.0, 11.0]}
    whole = {**seconds, **theirs, "torch_s": 25.0, "ours_peak_bytes": 10**9, "ours_accuracy": [90.0, 91.5]}
    late = {"second_ms": 40.0, "second_quartiles": [39.0, 41.0], "tenth_ms": 40.4, "tenth_quartiles": [39.0, 42.0]}
    row = {"op": "relu", "shape": "2x3", "calls": 2, "ms": 9.0, "share": 0.9, "gflops": None, "gbytes": 12.0}
    found = {
        "base_step": {**ours, **theirs, "others": {"fused Adam": theirs}},
        "evaluation": {**ours, **theirs},
        "task": whole,
        "start": seconds,
        "late_task": {**late, "ratio": 1.01, "ratio_quartiles": [0.99, 1.02]},
        "ops": {"base_step": [row, {**row, "share": 0.001}, {"op": "outside ops", "shape": "", "calls": 0, **TENTH}]},
    }
    processor = {"model": "a processor"}
    rest = {"machine": {"kernels": "fast", "processor": processor}, "memory": {"ours_peak_bytes": 10**9}}
    return {name: found[name] for name in names} | rest | {"floor": {"gflops": 300.0, "gbytes": 20.0}}


TENTH = {"ms": 1.0, "share": 0.1}


def test_tables_hold_every_figure(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made_up("base_step", "evaluation", "task", "start", "late_task", "ops")
    asked = []
    monkeypatch.setattr(halrp_np.timing, "measure", lambda settings, **how: asked.append((settings, how)) or found)
    result = invoke("time", "--what", "all", "--against", "torch", "--ops", "--threads", "1")
    assert result.exit_code == 0, result.output
    ((settings, how),) = asked
    assert settings.what == halrp_np.timing.WHAT
    assert how["against_torch"]
    assert how["with_ops"]
    text = " ".join(result.stdout.split())
    for part in (
        "a processor, 1 thread, 10 rounds",
        "300 GFLOP/s in registers, 20.0 GB/s",
        "base step 50.0 (49.0-51.0) 125.0 (120.0-130.0) 2.50 (2.40-2.60) 25.0 10.0 2.0",
        "fused Adam 125.0",
        "40.0 (39.0-41.0) 10.0 (9.0-11.0) 25.0 (120.0-130.0) 2.50",
        "accuracy after both tasks, halrp_np: 90.0 % 91.5 %",
        "40.0 (39.0-41.0) 40.4 (39.0-42.0) 1.01 (0.99-1.02)",
        "relu 2x3 2 9.00 90.0% 12.0",
        "1 smaller ones 2 9.00 0.1%",
        "outside ops 1.00 10.0%",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--what", "base_stop"), "Did you mean base_step?"),
        (("--what", ""), "expected some of base_step"),
        (("--against", "tensorflow"), "expected torch, received 'tensorflow'"),
        (("--ranks", "3,twenty"), "whole numbers like 3,20,60,60"),
        (("--ranks", "3,20,60"), "expected 4 ranks, at least 1 and at most 3,20,800,500, received 3,20,60"),
        (("--ranks", "4,20,60,60"), "at most 3,20,800,500"),
        (("--widths", "20,50"), "4 positive widths"),
        (("--batch", "1"), "a whole number at least 2"),
        (("--rounds", "none"), "a whole number at least 1"),
        (("--epochs", "1"), "a whole number at least 2"),
        (("--threads", "100000"), "cores of this machine"),
        (("--device", "tpu"), "cpu, gpu, gpu:N or auto"),
        (("--jsn",), "Did you mean --json?"),
    ],
)
def test_a_word_that_makes_no_sense_is_refused(invoke: Invoke, words: tuple[str, ...], says: str) -> None:
    result = invoke("time", *words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not result.stdout


def test_without_torch_it_says_how_to_get_it(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest)
    )
    result = invoke("time", *SMALL, "--against", "torch")
    assert result.exit_code == 2
    assert "pip install torch==2.13.0" in result.stderr


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_ctrl_c_ends_with_130_and_leaves_no_process(tmp_path: Path) -> None:
    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs Linux's /proc to see children")
    # A shell starts what it runs in the background with SIGINT ignored, and so its children: here it counts again.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heard}; import sys; from halrp_np_cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "time", *SMALL, "--rounds", "1000000", "--what", "evaluation"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        while not children(process.pid):
            assert process.poll() is None
            time.sleep(0.02)
        (child,) = children(process.pid)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)  # a loaded machine may still be importing
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert said.decode().split() == ["stopped"]
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
