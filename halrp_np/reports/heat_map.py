"""A heat map in a picture: colours that the colour-blind tell apart, numbers where they have room."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..typing import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS = 14
"""Up to so many columns, the cells of a heat map hold their numbers."""

DARK, LIGHT = "#010101", "#ffffff"
"""On coloured cells, whatever the page's theme."""


def map_height(rows: int) -> float:
    """Inches of a heat map with so many rows."""
    return min(0.9 + 0.25 * max(rows, 4), 6.5)


def heat_map(axes: Axes, values: Array, texts: Sequence[Sequence[str]], rows: Sequence[str], label: str) -> None:
    """A heat map with rows from above; numbers in its cells where they have room."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    found = values[np.isfinite(values)]
    low, high = float(found.min()), float(found.max())
    scale = Normalize(low, high if high > low else low + 1)
    colors = colormaps["cividis"]
    for (row, column), value in np.ndenumerate(values):
        if not math.isfinite(value):
            continue
        color = colors(scale(value))
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, edgecolor="none"))
        if values.shape[1] <= CELLS:
            ink = (
                DARK if 0.2126 * color[0] ** 2.2 + 0.7152 * color[1] ** 2.2 + 0.0722 * color[2] ** 2.2 > 0.18 else LIGHT
            )
            text = texts[row][column]
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=6 if len(text) > 4 else 6.5)
    axes.set_xlim(-0.5, values.shape[1] - 0.5)
    axes.set_ylim(values.shape[0] - 0.5, -0.5)
    step = -(-values.shape[0] // 24)
    axes.set_yticks(range(0, values.shape[0], step), list(rows)[::step])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    _scale(axes, colors, scale, label)


def _scale(axes: Axes, colors: Any, scale: Any, label: str) -> None:
    """What the colours of a map mean, in 24 steps."""
    from matplotlib.patches import Rectangle

    bar = axes.inset_axes((1.03, 0.0, 0.03, 1.0))
    edges = np.linspace(scale.vmin, scale.vmax, 25)
    for low, high in itertools.pairwise(edges):
        bar.add_patch(Rectangle((0, low), 1, high - low, facecolor=colors(scale((low + high) / 2)), edgecolor="none"))
    bar.set_ylim(scale.vmin, scale.vmax)
    bar.set_xticks([])
    bar.grid(False)
    bar.spines[:].set_visible(False)
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position("right")
    bar.set_ylabel(label)
