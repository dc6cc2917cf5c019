"""Both sides must do the same work, and PyTorch must be there; what is not says so."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from halrp_np.errors import ConfigError, HalrpError
from halrp_np.timing import STEPS, peer
from halrp_np.timing.report import our_worker, torch_worker
from timing.small import problem, settings

ARRAYS = {"fc.weight": np.full((4, 4), 1.0), "fc.bias": np.full(4, 1e-9)}


def test_results_within_rounding_pass() -> None:
    near = {"fc.weight": ARRAYS["fc.weight"] * (1 + 1e-5), "fc.bias": -ARRAYS["fc.bias"]}  # a bias of rounding only
    assert peer.compare("base_step", near, ARRAYS) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"fc.weight": ARRAYS["fc.weight"] * 1.1, "fc.bias": ARRAYS["fc.bias"]}, "1.0e-01 in fc.weight"),
        ({"fc.weight": ARRAYS["fc.weight"], "fc.bias": np.full(4, np.nan)}, "nan in fc.bias"),
        ({"fc.weight": ARRAYS["fc.weight"]}, "other names: fc.bias"),
    ],
)
def test_different_results_are_refused(wrong: dict, says: str) -> None:
    with pytest.raises(HalrpError, match=says):
        peer.compare("base_step", wrong, ARRAYS)


def test_no_torch_is_said_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install torch==2\.13\.0"):
        peer.peer_program("torch_peer.py")


def test_an_installation_without_tests_says_to_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(peer, "FOLDER", tmp_path)
    with pytest.raises(ConfigError, match="Run from a clone"):
        peer.peer_program("torch_peer.py")


def test_the_peer_computes_the_same(tmp_path: Path) -> None:
    """Gradients with penalties and scale, outputs and Hessian products; its variants are the same step."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    path = tmp_path / "problem.npz"
    problem().save(path)
    with our_worker(settings(), path) as ours, torch_worker(settings(), path) as theirs:
        for name in STEPS:
            assert peer.check_equal_work(name, ours, theirs, tmp_path) < 1e-3
        for name, variants in peer.VARIANTS.items():
            for variant in variants:
                out = str(tmp_path / "variant.npz")
                theirs.ask("result", what=f"{name}:{variant}", out=out)
                with np.load(out) as a, np.load(tmp_path / f"PyTorch-{name}.npz") as b:
                    assert peer.compare(name, dict(a), dict(b)) < 1e-3
        assert ours.ask("memory")["bytes"] > 0
        assert theirs.ask("memory")["bytes"] > 0
