"""--threads and --fast-math: what they refuse, and that the one changes nothing and the other says what it did."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]


@pytest.mark.parametrize("number", ["0", "-2", "two", "1.5", str(10**6)])
@pytest.mark.parametrize("command", [("run",), ("resume", "nowhere"), ("check", "grad"), ("spectrum",)])
def test_an_impossible_number_of_threads_is_refused(command: tuple[str, ...], number: str, invoke: Invoke) -> None:
    result = invoke(*command, "--threads", number)
    assert result.exit_code == 2, result.output
    assert "threads" in result.output
    assert number in result.output
    assert not list(Path.cwd().iterdir())


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors")
def test_no_result_depends_on_the_threads(tiny: list[str], invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALRP_NP_KERNELS", "fast")
    words = [word if word != "mlp" else "lenet" for word in tiny]
    words[words.index("widths=8")] = "widths=4,6,40,20"
    for threads in ("1", "2"):
        result = invoke("run", *words, "--threads", threads, "--out", threads)
        assert result.exit_code == 0, result.output
    for name in ("accuracy.csv", "ranks.csv", "capacity.csv", "metrics.jsonl"):
        assert Path("1", name).read_bytes() == Path("2", name).read_bytes(), name


@pytest.mark.parametrize("other", [("--dtype", "float64"), ()], ids=["float64", "reference kernels"])
def test_fast_math_is_refused_where_it_would_do_nothing(
    other: tuple[str, ...], tiny: list[str], invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    if other:
        monkeypatch.setenv("HALRP_NP_KERNELS", "fast")
    result = invoke("run", *tiny, "--fast-math", *other, "--out", "r")
    assert result.exit_code == 2, result.output
    assert "fast_math: expected device=cpu, dtype=float32" in result.output
    assert not Path("r").exists()


def test_a_run_with_fast_math_says_so_and_is_resumed_with_it(
    tiny: list[str], invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALRP_NP_KERNELS", "fast")
    result = invoke("run", *tiny, "--fast-math", "--set", "stop_after=1", "--out", "r")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("r/config.json").read_text())["config"]["fast_math"] is True
    assert json.loads(Path("r/environment.json").read_text())["kernels"] == "winograd"
    assert invoke("resume", "r").exit_code == 0
