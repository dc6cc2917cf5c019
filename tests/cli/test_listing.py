"""The table of benchmarks, with and without the time they take here, and tables that fit a terminal."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from click.testing import Result
from halrp_np_cli.screen import fitted, say_table
from rich.console import Console

import halrp_np
from halrp_np.benchmarks.table import ROWS
from halrp_np.timing import Estimate, StepTimes

Invoke = Callable[..., Result]


def refuse(*_: object) -> None:
    raise AssertionError("nothing is to be measured")


def ten_a_second(rows: Sequence[Estimate], progress: Any) -> list[StepTimes]:
    """Times as if every step took a tenth of a second."""
    return [StepTimes(0.1, 0.1, 0.001) for _ in rows]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def test_the_table_needs_no_measurement(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halrp_np.timing, "step_times", refuse)
    shown = invoke("list", "benchmarks").stdout
    assert shown in invoke("list").stdout
    for benchmark, model in ROWS:
        assert benchmark == "*.toml" or re.search(rf"^{benchmark} +{model} ", shown, re.MULTILINE)
    for row in (
        "pmnist lenet 10 of 10 3x32x32 2,995,620 164% 60%",
        "cifar100-superclass lenet 20 of 5 3x32x32 2,993,115 344% 20%",
        "omniglot-rotation large-lenet 100 of 12 1x32x32 24,466,988",
        "five-datasets resnet18 5 of 10 3x32x32 2,807,690",
        "tinyimagenet-40 alexnet 40 of 5 3x64x64 23,300,421",
        "cifar100-split lenet 128 20 1 640",
        "five-datasets alexnet 128 12 1 1,260 to 5,484",
    ):
        assert re.search(rf"^{row.replace(' ', ' +')}", shown, re.MULTILINE), row
    assert "Expected time" not in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_the_time_is_shown_when_it_is_asked_for(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halrp_np.timing, "step_times", ten_a_second)
    for words in (["--benchmarks"], ["benchmarks", "--benchmarks"]):
        result = invoke("list", *words)
        assert result.exit_code == 0, result.output
        plain, _, times = result.stdout.partition("Expected time on this machine's CPU\n")
        assert plain.strip() == invoke("list", "benchmarks").stdout.strip()
        # 10 tasks of 640 steps, 0.1 s each, and 92,000 images, 0.001 s each
        assert re.search(r"^cifar100-split +lenet +10\.0 +10\.0 +1,000 +12 min 12 s$", times, re.MULTILINE)
        assert max(len(line) for line in result.stdout.splitlines()) <= 80
        assert "Methods" not in result.stdout


def test_ctrl_c_ends_a_measurement(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(halrp_np.timing, "step_times", interrupted)
    result = invoke("list", "--benchmarks")
    assert (result.exit_code, result.stderr.strip()) == (130, "stopped")
    assert "2,995,620" in result.stdout


# ---- tables -------------------------------------------------------------------------------------------------------


def shown(width: int, columns: Sequence[str], rows: Sequence[Sequence[object]], words: Sequence[str]) -> list[str]:
    """The lines of a table on a terminal of that width, without its title."""
    file = io.StringIO()
    say_table(Console(file=file, width=width, force_terminal=True, color_system=None), "Title", columns, rows, words)
    return [line.rstrip() for line in file.getvalue().splitlines()[2:]]


def test_the_widest_column_gives_way() -> None:
    assert fitted([5, 30, 20], [5, 4, 4], 60) == [5, 30, 20]
    assert fitted([5, 30, 20], [5, 4, 4], 45) == [5, 20, 20]
    assert fitted([5, 30, 20], [5, 4, 4], 35) == [5, 15, 15]
    assert fitted([5, 30, 20], [5, 25, 4], 35) == [5, 25, 5]
    assert fitted([5, 30, 20], [5, 25, 19], 10) == [5, 25, 19]


@pytest.mark.parametrize("width", [60, 40, 30, 5])
def test_words_wrap_and_numbers_stay_whole(width: int) -> None:
    rows = [["an-unbreakable-name", "several words that can be broken", "12,345,678"]]
    lines = shown(width, ("name", "what", "count"), rows, ("name", "what"))
    text = " ".join(" ".join(lines[2:]).split())
    assert set(text.split()) == {str(word) for cell in rows[0] for word in str(cell).split()}
    assert max(map(len, lines)) <= max(width, 19 + 2 + 7 + 2 + 10)
