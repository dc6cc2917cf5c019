"""run --verify-device: a line before the run, or a refusal and no folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from halrp_np.benchmarks import verify

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """There must be something to hold against the readable kernels."""
    monkeypatch.setenv("HALRP_NP_KERNELS", "fast")


def test_it_says_how_far_apart_the_two_sides_are(tiny: list[str], invoke: Invoke) -> None:
    result = invoke("run", *tiny, "--verify-device", "--set", "stop_after=1", "--out", "r")
    assert result.exit_code == 0, result.output
    assert "verified: cpu (fast) and cpu (reference)" in " ".join(result.output.split())
    assert Path("r/accuracy.csv").exists()


def test_too_far_apart_is_an_error(tiny: list[str], invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(verify.LIMITS, "float32", (-1.0, 0.1))
    result = invoke("run", *tiny, "--verify-device", "--out", "r")
    assert result.exit_code == 2, result.output
    assert result.output.startswith("error: --verify-device: expected the same steps up to rounding, received cpu")
    assert not Path("r").exists()


def test_the_readable_kernels_are_not_held_against_themselves(
    tiny: list[str], invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALRP_NP_KERNELS", "reference")
    result = invoke("run", *tiny, "--verify-device", "--out", "r")
    assert result.exit_code == 2, result.output
    assert "both sides the same" in result.output
