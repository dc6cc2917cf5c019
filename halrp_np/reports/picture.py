"""A picture of panels in a grid, drawn without a display and written whole, the same bytes for the same numbers."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..files import storage_error, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 9.0, 110  # inches; some 1000 pixels, of which a README shows 850

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "figure.constrained_layout.h_pad": 0.06,
    "svg.hashsalt": "halrp_np",
}
"""Differences from Matplotlib's own defaults, not from the user's."""

LEFT_OUT: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""By suffix, the metadata that would differ from day to day or from version to version."""


@dataclass(frozen=True)
class Layout:
    """What the panels of a picture have in common."""

    x_label: str
    y_label: str
    columns: int
    height: float  # of a panel, in inches
    share: bool = False  # one range for all panels


def check_picture_path(path: str | os.PathLike[str]) -> None:
    """Refuse a path that no picture can be written to, before the work that the picture is of.

    Raises: ConfigError for another suffix than .png, .svg and .pdf; StorageError where no file can be written.
    """
    target = Path(path)
    if target.suffix.lower() not in LEFT_OUT:
        raise ConfigError(
            str(path),
            expected=f"the name of a picture, which ends in {', '.join(LEFT_OUT)}",
            received=f"the suffix {target.suffix!r}" if target.suffix else "no suffix",
            next_step=f"Call it, for example, {target.stem or 'picture'}.png.",
        )
    try:
        if target.is_dir():
            raise IsADirectoryError(21, "Is a directory", str(target))
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise storage_error(target, error) from error


def draw(path: str | os.PathLike[str], panels: Mapping[str, Callable[[Axes], None]], layout: Layout) -> None:
    """Draw each panel under its title, with one legend above them all, and write the picture.

    Raises: ConfigError for no panel, or as `check_picture_path`; StorageError when the file cannot be written.
    """
    check_picture_path(path)
    if not panels:
        raise ConfigError(str(path), expected="something to draw", received="nothing", next_step="Name other layers.")
    suffix, content = Path(path).suffix.lower(), io.BytesIO()
    with styled():
        _figure(panels, layout).savefig(content, format=suffix[1:], dpi=DPI, metadata=LEFT_OUT[suffix])
    write_whole(path, content.getvalue())


@contextlib.contextmanager
def styled(more: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """The style of every picture, and more, for as long as one is drawn."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # so that no matplotlibrc changes the picture
        matplotlib.rcParams.update({**STYLE, **(more or {})})
        yield


def _figure(panels: Mapping[str, Callable[[Axes], None]], layout: Layout) -> Figure:
    """The panels in rows, under a legend of everything in them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(layout.columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH * (1.0 if columns > 1 else 0.7), 0.8 + layout.height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=layout.share, sharey=layout.share).ravel()
    named: dict[str, Any] = {}
    for axes, (title, drawn) in zip(grid, panels.items(), strict=False):
        axes.set_title(title, loc="left", fontweight="bold")
        drawn(axes)
        axes.minorticks_off()
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes in grid[max(len(panels) - columns, 0) : len(panels)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    figure.supxlabel(layout.x_label, fontsize=10)
    figure.supylabel(layout.y_label, fontsize=10)
    figure.legend(list(named.values()), list(named), loc="outside upper center", ncols=3)
    return figure
