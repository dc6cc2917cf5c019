"""Every example runs, ends well within a minute, and says what it should."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SAYS = {
    "00_one_layer_by_hand.py": [
        "row scaling",
        "singular values",
        "central differences",
        "task 1 is untouched",
        "All checks hold.",
    ],
    "01_two_tasks.py": ["rank"],
    "02_hessian_vector_product.py": ["By hand", "By the library", "central differences", "kink", "All checks hold."],
    "03_bound.py": ["Tightness", "holds", "violated: kinks", "violated: the gradient term", "All checks hold."],
    "04_compare_methods.py": ["accuracy matrix", "forgetting", "task 0, 0 have changed", "conv1.A"],
}


def _run(script: str, folder: Path) -> str:
    """The example's output, run as a user runs it, in a folder of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / script)],
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_listed_here() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(SAYS)


@pytest.mark.parametrize("script", sorted(SAYS))
def test_example_runs_and_explains_itself(script: str, tmp_path: Path) -> None:
    printed = _run(script, tmp_path)
    for words in SAYS[script]:
        assert words in printed


def test_the_first_example_prints_the_same_twice(tmp_path: Path) -> None:
    first = "00_one_layer_by_hand.py"
    assert _run(first, tmp_path) == _run(first, tmp_path)
