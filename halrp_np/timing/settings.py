"""What is timed, on what and how often."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ..backend import Device
from ..backend.threads import usable_cores
from ..errors import ConfigError
from ..layers import decomposed_layers
from ..models import lenet

STEPS = ("base_step", "low_rank_step", "evaluation", "block_hvp")
"""What is timed again and again in one process: the default."""
WHOLE = ("start", "task", "late_task")
"""What is timed from the start of a process to its end, or over a stream of ten tasks: takes minutes."""
WHAT = (*STEPS, *WHOLE)

IMAGE, CLASSES = (3, 32, 32), 10
CONSTANTS = {"lr": 1e-3, "gamma": 0.99836, "weight_decay": 1e-3, "l1": 1e-6, "gradient_scale": 10.0}
"""Of permuted MNIST as released: learning rate, its factor a step, both penalties, the factor on every gradient."""


@dataclass(frozen=True)
class TimeSettings:
    """LeNet on 3x32x32 of these widths, at these ranks; a round times every library once, in turn.

    Raises: ConfigError for what cannot be timed; DeviceError for an absent device.
    """

    what: tuple[str, ...] = STEPS
    batch: int = 128
    ranks: tuple[int, ...] = (3, 20, 60, 60)
    widths: tuple[int, ...] = (20, 50, 800, 500)
    threads: int = 0
    """0: as many as this process may use."""
    rounds: int = 10
    epochs: int = 12
    """Of a task, for `task`."""
    device: str = "cpu"
    fast_math: bool = False
    """Convolutions by Winograd's algorithm where it applies, with its larger rounding error."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "threads", self.threads or usable_cores())
        object.__setattr__(self, "device", Device(self.device).name)
        for name in self.what:
            if name not in WHAT:
                raise refused("what", f"some of {', '.join(WHAT)}", name)
        if not self.what or len(set(self.what)) < len(self.what):
            raise refused("what", "at least one thing, each once", ",".join(self.what) or "none")
        for key, least in (("batch", 2), ("threads", 1), ("rounds", 1), ("epochs", 2)):
            if getattr(self, key) < least:
                raise refused(key, f"at least {least}", str(getattr(self, key)))
        if self.threads > usable_cores():
            raise refused("threads", f"at most the {usable_cores()} cores of this machine", str(self.threads))
        if self.fast_math and self.device != "cpu":
            raise refused("fast_math", "the CPU: there are no Winograd convolutions elsewhere", self.device)
        full = self.full_ranks()
        if len(self.ranks) != len(full) or not all(1 <= r <= most for r, most in zip(self.ranks, full, strict=False)):
            most = ",".join(str(rank) for rank in full)
            raise refused("ranks", f"{len(full)} ranks, at least 1 and at most {most}", ",".join(map(str, self.ranks)))

    def full_ranks(self) -> list[int]:
        """The largest rank of each decomposed layer."""
        layers: Any = decomposed_layers(lenet(IMAGE, CLASSES, self.widths)).values()
        return [min(layer.inputs, layer.outputs) for layer in layers]

    def kernels(self) -> str:
        """The value of HALRP_NP_KERNELS for our processes; a reference column that the user asked for stays."""
        asked = os.environ.get("HALRP_NP_KERNELS", "fast")
        return "winograd" if self.fast_math and asked == "fast" else asked


def refused(where: str, expected: str, received: str) -> ConfigError:
    """The refusal of a setting."""
    return ConfigError(f"time: {where}", expected=expected, received=received, next_step="Change it.")
