"""What is said of a stream: the lines of its protocol, and where its data comes from."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from halrp_np_cli.protocol import say_protocol
from halrp_np_cli.screen import say_data
from halrp_np_cli.show import task_heads
from rich.console import Console

Invoke = Callable[..., Result]

FIVE: dict[str, Any] = {
    "benchmark": "five-datasets",
    "data": "cifar10, mnist-60k",
    "tasks": 2,
    "image_shape": [3, 32, 32],
    "order": [1, 0],
    "sizes": [
        {"identity": 1, "name": "mnist", "classes": 10, "train": 48000, "validation": 12000, "test": 10000},
        {"identity": 0, "name": "cifar10", "classes": 12, "train": 40000, "validation": 10000, "test": 10000},
    ],
    "split": "the first 0.2 are for validation",
    "normalisation": {"std": {"mnist": [0.2752], "cifar10": [0.24706, 0.2]}, "divide": 255, "pad": "to 32x32"},
    "augmentation": "none",
    "split_seed": 7,
    "pixels_sha256": "abc",
}


def told(protocol: dict[str, Any], order: object = "A", width: int = 80) -> str:
    """What a terminal of that width shows."""
    file = io.StringIO()
    say_protocol(Console(file=file, width=width, force_terminal=True, color_system=None), protocol, order, 3)
    return file.getvalue()


def data_line(provenance: str) -> list[str]:
    """What is said of the data, in colour."""
    file = io.StringIO()
    say_data(Console(file=file, width=300, force_terminal=True, color_system="standard"), provenance)
    return file.getvalue().splitlines()


def test_a_protocol_is_told_in_a_few_lines() -> None:
    assert told(FIVE).splitlines() == [
        "five-datasets: 2 tasks of 10 to 12 classes, images of 3x32x32",
        "images of a task: 40,000 to 48,000 training, 10,000 to 12,000 validation, 10,000",
        "test",
        "order A: mnist, cifar10",
        "split: the first 0.2 are for validation",
        "normalisation: pad to 32x32; divide 255; std mnist 0.2752, cifar10 0.2471 0.2",
        "augmentation: none",
        "seed 3, split_seed 7",
    ]


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (list(range(100)), "order A: 0 to 99\n"),
        ([1, 0, *range(2, 100)], "order A: 1 0 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 and 76 more"),
    ],
)
def test_long_streams_are_told_by_number(order: list[int], says: str) -> None:
    sizes = [{**FIVE["sizes"][0], "identity": i, "name": f"characters {12 * i} to {12 * i + 11}"} for i in order]
    shown = told({**FIVE, "order": order, "sizes": sizes, "tasks": 100}, width=300)
    assert says in shown
    assert "100 tasks of 10 classes" in shown


def test_what_a_protocol_lacks_is_unknown() -> None:
    for key in FIVE:
        assert "unknown" in told({name: value for name, value in FIVE.items() if name != key}) or key in (
            *("data", "split_seed", "pixels_sha256"),  # said elsewhere, or nothing that every stream has
        )
    assert told({}).count("unknown") == 11


@pytest.mark.parametrize(
    ("provenance", "loud", "says"),
    [
        ("mnist-60k", False, "the official files"),
        ("tiny-imagenet", False, "the official files"),
        ("mnist-5k", True, "a SMALL SAMPLE of MNIST, 5,000 images: these results do not compare with published ones"),
        (
            "tiny-imagenet-synthetic",
            True,
            "SYNTHETIC images made by this package, not tiny-imagenet: these results mean nothing",
        ),
        (
            "svhn-other",
            True,
            "a user's files of svhn's format with OTHER content: results do not compare with published ones",
        ),
        ("birds-custom", True, "the user's own images: results compare with no published ones"),
        ("qqq", True, "of unknown origin"),
        ("unknown", True, "of unknown origin"),
    ],
)
def test_only_official_data_is_told_quietly(provenance: str, loud: bool, says: str) -> None:
    (line,) = data_line(provenance)
    assert f"data: {provenance}, {says}" in line
    assert ("\x1b[1;33m" in line) is loud


def test_several_sets_are_told_kind_by_kind() -> None:
    lines = data_line("cifar10, mnist-60k, svhn-other, fashion-mnist, notmnist-synthetic")
    assert "data: cifar10, mnist-60k, fashion-mnist, the official files" in lines[0]
    assert "OTHER" in lines[1]
    assert "SYNTHETIC" in lines[2]
    assert len(lines) == 3


def test_short_names_stand_over_the_accuracies() -> None:
    assert task_heads(FIVE, [0, 1]) == {0: "0 mnist", 1: "1 cifar10"}
    long = [{**row, "name": "permutation 200"} for row in FIVE["sizes"]]
    assert task_heads({"sizes": long}, [0, 1]) == task_heads({}, [0, 1]) == {0: "task 0", 1: "task 1"}
    assert task_heads(FIVE, [0, 1, 2])[2] == "task 2"  # a table of more tasks than the protocol knows


def test_show_tells_what_the_run_told(invoke: Invoke, tiny: list[str]) -> None:
    began = invoke("run", *tiny, "--out", "out", "--order", "1,0").stdout.splitlines()
    shown = invoke("show", "out").stdout
    start = next(number for number, line in enumerate(began) if line.startswith("pmnist: "))
    lines = began[start : began.index("saving in out")]
    assert "\n".join(lines) in shown
    assert lines[2] == "order 1,0: permutation 100, permutation 1"
    assert len(lines) == 7


def test_synthetic_data_is_loud_from_beginning_to_end(invoke: Invoke) -> None:
    words = ["--quick", "--model", "mlp", "--epochs", "2", "--set", "widths=8", "--set", "stop_after=1"]
    result = invoke("run", "--benchmark", "cifar100-split", *words, "--order", "C", "--train-size", "0.5")
    assert result.exit_code == 0, result.output
    folder = "runs/cifar100-split-halrp-paper-seed0-quick-order-C-mlp"
    (made,) = Path("runs").iterdir()
    assert str(made).startswith(folder)
    assert result.stdout.startswith("data: cifar100-synthetic, ")
    assert "SYNTHETIC images made by this package, not cifar100" in result.stdout
    assert "\norder C: labels 70 to 79, labels 0 to 9, " in result.stdout
    assert "train_size 0.5" in result.stdout
    assert json.loads((made / "config.json").read_text())["protocol"]["data"] == "cifar100-synthetic"
    assert "SYNTHETIC images made by this package, not cifar100" in invoke("show", made).stdout
