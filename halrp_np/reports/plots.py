"""What is drawn of checks, bounds and spectra."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..typing import Array
from .picture import Layout, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..curvature import BoundRow, CheckResult, SpectralDensity

BLACK, BLUE, ORANGE, GREEN, RED, GREY = "#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
"""Okabe and Ito's colours, which the colour-blind tell apart."""

FEW = 24
"""As many ranks are told apart on a linear axis."""

Dots = tuple[Array, Array, Array]


def ladders(results: Sequence[CheckResult], path: str | os.PathLike[str]) -> None:
    """Error of central differences against their step, a panel for each check; hollow where a kink was crossed.

    As the step shrinks, the error falls with slope 2 until rounding raises it again with slope -1: a V.

    Raises: ConfigError without any ladder, or for another suffix than .png, .svg and .pdf; StorageError when the file
    cannot be written.
    """
    panels = {result.name: partial(_ladder, result=result) for result in results if result.ladder}
    draw(path, panels, Layout("step of the finite differences", "relative error", 4, 1.7, share=True))


def bounds(rows: Sequence[BoundRow], path: str | os.PathLike[str]) -> None:
    """Measured loss change beside its second-order bounds, against the rank, a panel for each layer.

    Raises: ConfigError for no rows, or for another suffix than .png, .svg and .pdf; StorageError when the file cannot
    be written.
    """
    names = list(dict.fromkeys(row.layer for row in rows))
    panels = {name: partial(_bound, rows=[row for row in rows if row.layer == name]) for name in names}
    draw(path, panels, Layout("rank kept of the layer's weight", "change of the loss", 2, 2.6))


def spectra(densities: Mapping[str, SpectralDensity], path: str | os.PathLike[str]) -> None:
    """Density of the eigenvalues, a panel for each name.

    Raises: ConfigError for no densities, or for another suffix than .png, .svg and .pdf; StorageError when the file
    cannot be written.
    """
    panels = {name: partial(_spectrum, density=density) for name, density in densities.items()}
    draw(path, panels, Layout("eigenvalue of the Hessian", "density", 2, 2.2))


def _ladder(axes: Axes, result: CheckResult) -> None:
    """One V, with the slopes it should have, the tolerance and the best step."""
    rungs = sorted(result.ladder, key=lambda rung: rung.h)
    h, error = (np.array([getattr(rung, name) for rung in rungs], float) for name in ("h", "error"))
    kinked = np.array([rung.crossed > 0 for rung in rungs])
    shown = np.isfinite(error) & (error > 0)  # the rest has no logarithm
    smooth = shown & ~kinked
    axes.loglog(h[smooth], error[smooth], color=BLUE)
    _dots(axes, (h[shown], error[shown], kinked[shown]), BLUE, "error", "across a kink of a ReLU or pool")
    x, y = h[smooth], error[smooth]
    best = int(np.argmin(y)) if len(y) else 0
    if result.passed:  # what is wrong has no slopes to show
        _slope(axes, x[best:], y[best:], 2, ORANGE, "slope 2: truncation")
        _slope(axes, x[: best + 1], y[: best + 1], -1, GREEN, "slope -1: rounding")
    axes.axhline(result.tolerance, color=RED, linestyle=":", label="tolerance")
    if not result.passed:
        axes.set_title("failed", loc="right", color=RED, fontweight="bold")


def _slope(axes: Axes, h: Array, error: Array, slope: int, color: str, label: str) -> None:
    """A straight line of that slope through the middle of some points, no further up or down than they go."""
    if len(h) > 1:
        x = np.geomspace(h.min(), h.max(), 60)
        y = np.exp(np.median(np.log(error) - slope * np.log(h))) * x**slope
        y = np.where((y > error.min() / 3) & (y < error.max() * 3), y, np.nan)
        axes.loglog(x, y, color=color, linestyle="--", linewidth=1, label=label)


def _bound(axes: Axes, rows: Sequence[BoundRow]) -> None:
    """One layer: what was measured, its second-order terms and the two bounds, from rank 0 up."""
    rows = sorted(rows, key=lambda row: row.rank)
    rank = np.array([row.rank for row in rows])

    def column(name: str) -> Array:
        """A column, with gaps where it has no logarithm."""
        values = np.abs(np.array([getattr(row, name) for row in rows], float))
        return np.where(values > 0, values, np.nan)

    top, error = column("frobenius_bound"), np.nan_to_num(column("frobenius_stderr"))
    axes.fill_between(rank, np.maximum(top - 2 * error, top / 100), top + 2 * error, color=ORANGE, alpha=0.3, lw=0)
    axes.plot(rank, top, color=ORANGE, label="½ ‖H‖$_F$ ‖Δ‖² ± 2 standard errors")
    axes.plot(rank, column("spectral_bound"), color=GREEN, label="½ ‖H‖₂ ‖Δ‖²")
    axes.plot(rank, column("quadratic_term"), color=BLUE, label="½ ΔᵀHΔ, exact")
    axes.plot(rank, column("gradient_term"), color=GREY, linestyle=":", label="|gᵀΔ|, gradient term")
    crossed = np.array([row.crossed > 0 for row in rows])
    _dots(axes, (rank, column("measured"), crossed), BLACK, "measured |ΔL|", "measured |ΔL| across a kink")
    if rank[-1] > FEW:
        axes.set_xscale("symlog", linthresh=1)  # logarithmic, with a place for 0
    else:
        axes.locator_params(axis="x", integer=True)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, position: f"{value:g}")


def _dots(axes: Axes, points: Dots, color: str, smooth: str, kinked: str) -> None:
    """Points, filled where the loss is smooth and hollow where a kink lies on the way."""
    x, y, crossed = points
    axes.plot(x[~crossed], y[~crossed], "o", color=color, label=smooth)
    if crossed.any():
        axes.plot(x[crossed], y[crossed], "o", color=color, markerfacecolor="white", label=kinked)


def _spectrum(axes: Axes, density: SpectralDensity) -> None:
    """One density with its error, down to where the tail of a single eigenvalue is."""
    grid, height, error = (np.asarray(part, float) for part in (density.grid, density.density, density.stderr))
    floor = 0.03 / (density.size * density.width * math.sqrt(2 * math.pi))  # of one eigenvalue's peak
    low, high = (np.maximum(edge, floor / 10) for edge in (height - 2 * error, height + 2 * error))
    axes.plot(grid, np.maximum(height, floor / 10), color=BLUE, label="density")
    axes.fill_between(grid, low, high, color=BLUE, alpha=0.25, lw=0, label="± 2 standard errors over probes")
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor)
