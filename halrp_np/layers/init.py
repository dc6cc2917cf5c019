"""Initial values: both weight and bias uniform on ±1/√fan_in, drawn on the host so that every device starts alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..typing import Array, Shape


def uniform_fan_in(generator: np.random.Generator, shape: Shape, fan_in: int, dtype: Any) -> Array:
    """Uniform on ±1/√fan_in; drawn in float64 and rounded, so float32 and float64 networks start at the same point."""
    bound = 1.0 / math.sqrt(fan_in)
    return generator.uniform(-bound, bound, size=shape).astype(dtype)
