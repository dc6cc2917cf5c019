"""The PyTorch side: where its programs are, and whether both sides compute the same."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np

from ..errors import ConfigError, HalrpError
from ..typing import Params
from .processes import Worker

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "speed"
VARIANTS = {
    "base_step": ("fused Adam",),
    "low_rank_step": ("fused Adam", "merged"),
    "evaluation": ("folded",),
}
"""What a PyTorch user could do about a step: timed beside the released way, outside the ratio."""

TOLERANCES = {"base_step": 1e-2, "low_rank_step": 1e-2, "evaluation": 1e-4, "block_hvp": 1e-2}
"""‖a - b‖ / ‖b‖ of float32 results. A ReLU or a maximum within rounding of a tie may go the other way in a gradient."""


def peer_program(name: str) -> list[str]:
    """The start of the command line of one of the programs in tests/speed.

    Raises: ConfigError where PyTorch or the program is absent.
    """
    path = FOLDER / name
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(
            "time: --against torch",
            expected="PyTorch",
            received="none installed",
            next_step="Install it: pip install torch==2.13.0. Without --against nothing needs it.",
        )
    if not path.is_file():
        raise ConfigError(
            "time: --against torch",
            expected=f"tests/speed/{name} beside the package",
            received="an installation without tests",
            next_step="Run from a clone: git clone, pip install -e . in it, and halrp-np time there.",
        )
    return [sys.executable, str(path)]


def check_equal_work(what: str, ours: Worker, theirs: Worker, folder: Path) -> float:
    """The largest relative difference between what both compute from the same parameters and batch.

    Raises: HalrpError when they differ: two different things are not worth timing.
    """
    found = []
    for side in (ours, theirs):
        path = folder / f"{side.name}-{what}.npz"
        side.ask("result", what=what, out=str(path))
        with np.load(path) as file:
            found.append({name: file[name] for name in file.files})
    return compare(what, *found)


def compare(what: str, ours: Params, theirs: Params) -> float:
    """The largest ‖a - b‖ / ‖b‖ over all arrays.

    A bias in front of batch statistics has the exact gradient 0, of which each side makes its own rounding: an array
    counts as no smaller than a hundredth of the largest entries (root mean square) among all arrays.

    Raises: HalrpError when an array is missing, or the difference is beyond rounding.
    """
    if ours.keys() != theirs.keys():
        raise _differs(what, f"arrays by other names: {', '.join(sorted(ours.keys() ^ theirs.keys()))}")
    least = 1e-2 * max(float(np.linalg.norm(b)) / b.size**0.5 for b in theirs.values())
    differences: dict[str, float] = {
        name: float(np.linalg.norm(ours[name] - b)) / max(float(np.linalg.norm(b)), least * b.size**0.5)
        for name, b in theirs.items()
    }
    name = max(differences, key=lambda key: (not np.isfinite(differences[key]), differences[key]))
    worst = differences[name]
    if not worst <= TOLERANCES[what]:  # NaN, too
        raise _differs(what, f"a relative difference of {worst:.1e} in {name}")
    return worst


def _differs(what: str, received: str) -> HalrpError:
    """The error for two sides that do different work."""
    return HalrpError(
        f"time: {what}",
        expected="the same result from halrp_np and PyTorch",
        received=received,
        next_step="Nothing was timed. Check the kernels with `halrp-np check grad`, and tests/speed/torch_peer.py.",
    )
