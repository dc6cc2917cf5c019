"""Pictures are written whole and alike each time, need no display, and refuse a path before the work is done."""

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest

from halrp_np import reports
from halrp_np.curvature.eigen import SpectralDensity, spectral_density
from halrp_np.curvature.finite_difference import CheckResult, Rung
from halrp_np.errors import ConfigError, StorageError
from halrp_np.reports import picture, plots

Draw = Callable[[Path], None]


def a_result(name: str, *, passed: bool = True, kinks: int = 2, error: float | None = None) -> CheckResult:
    """A check whose ladder is a V, or level at `error`, and whose longest steps cross kinks."""
    steps = [10.0**-power for power in range(2, 9)]
    rungs = tuple(
        Rung(h, h * h + 1e-15 / h if error is None else error, 3 if number < kinks else 0)
        for number, h in enumerate(steps)
    )
    return CheckResult("hvp", name, passed, 1e-10, 1e-5, 1e-7, rungs, 0, 1, "")


def bound_rows(layer: str, size: int = 6) -> list[Any]:
    """Rows of a bound report, from the shortest truncation to none at all."""
    rows = []
    for rank in range(size + 1):
        d = float(size - rank)
        values = {"measured": 0.02 * d, "gradient_term": -0.001 * d, "quadratic_term": 0.01 * d, "delta_squared": d}
        bound = {"spectral_bound": 0.1 * d, "frobenius_bound": 0.3 * d, "frobenius_stderr": 0.02 * d}
        rows.append(SimpleNamespace(layer=layer, rank=rank, size=size, crossed=int(rank < 2), **values, **bound))
    return rows


def a_density(seed: int) -> SpectralDensity:
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(60, 60))
    return spectral_density(matrix + matrix.T, probes=3, steps=8, generator=generator)


KINDS: dict[str, Draw] = {
    "ladders": lambda path: reports.ladders([a_result("fc.weight"), a_result("fc.bias")], path),
    "bounds": lambda path: reports.bounds(bound_rows("fc"), path),
    "spectra": lambda path: reports.spectra({"conv": a_density(0), "fc": a_density(1), "head": a_density(2)}, path),
}
HEADS = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


@pytest.fixture(params=sorted(KINDS))
def draw(request: pytest.FixtureRequest) -> Draw:
    """Each picture in turn."""
    return KINDS[str(request.param)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures made from here on."""
    figures: list[Any] = []
    make = picture._figure
    monkeypatch.setattr(picture, "_figure", lambda *words: figures.append(make(*words)) or figures[-1])
    return figures


def labels(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


# ---- the file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_the_same_numbers_give_the_same_bytes(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    KINDS["bounds"](first)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")  # what Matplotlib would take for the time of day
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)  # a user's own style
    KINDS["bounds"](second)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(HEADS[suffix.lower()])
    assert matplotlib.rcParams["lines.linewidth"] == 9.0


def test_every_kind_is_drawn_and_leaves_one_file(draw: Draw, tmp_path: Path) -> None:
    draw(tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(HEADS[".png"])
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


@pytest.mark.parametrize("name", ["p.gif", "p", "p.png.txt", ".png"])
def test_other_formats_are_refused(name: str, draw: Draw, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in .png, .svg, .pdf"):
        draw(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.png").mkdir()
    with pytest.raises(StorageError, match="Is a directory"):
        reports.check_picture_path(tmp_path / "p.png")


def test_no_folder_to_write_to_is_refused(draw: Draw, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none/p\.png: expected to write it, received 'No such file"):
        draw(tmp_path / "none" / "p.png")


def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:  # the tests may run as root, whom permissions do not stop
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(StorageError, match=r"'Permission denied' from the system\. Choose a folder"):
        reports.check_picture_path(tmp_path / "p.png")


def test_checking_a_path_leaves_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"old")
    reports.check_picture_path(tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interrupt_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "p.png").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        KINDS["bounds"](tmp_path / "p.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("p.png", b"old")]


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    without = CheckResult("symmetry", "fc", True, 0.0, 0.0, 1e-11, (), 0, 1, "")
    for call in (lambda path: reports.ladders([without], path), lambda path: reports.spectra({}, path)):
        with pytest.raises(ConfigError, match="something to draw, received nothing"):
            call(tmp_path / "p.png")


def test_no_display_and_no_global_figure_is_needed(tmp_path: Path) -> None:
    program = "import sys\nfrom halrp_np import reports\nassert 'matplotlib' not in sys.modules\n"
    program += "from halrp_np.reports.picture import Layout, draw\n"
    program += "draw('p.png', {'a': lambda axes: axes.plot([1, 2], label='l')}, Layout('x', 'y', 1, 2.0))\n"
    program += "assert 'matplotlib.pyplot' not in sys.modules\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "MPLBACKEND": "tkagg", "DISPLAY": "", "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


# ---- what is in it --------------------------------------------------------------------------------------------------


def test_a_ladder_is_drawn_with_its_slopes_and_kinks(drawn: list[Any], tmp_path: Path) -> None:
    reports.ladders([a_result("fc.weight", kinks=2), a_result("fc.bias", passed=False, error=0.3)], tmp_path / "p.png")
    (figure,) = drawn
    good, bad = figure.axes
    assert (good.get_title(loc="left"), bad.get_title(loc="left")) == ("fc.weight", "fc.bias")
    assert (good.get_title(loc="right"), bad.get_title(loc="right")) == ("", "failed")
    lines = {line.get_label(): line for line in good.get_lines()}
    np.testing.assert_allclose(lines["error"].get_xdata(), [1e-8, 1e-7, 1e-6, 1e-5, 1e-4])
    np.testing.assert_allclose(lines["across a kink of a ReLU or pool"].get_xdata(), [1e-3, 1e-2])
    assert lines["across a kink of a ReLU or pool"].get_markerfacecolor() == "white"
    for label, slope in (("slope 2: truncation", 2), ("slope -1: rounding", -1)):
        x, y = (np.log(np.asarray(part, float)) for part in lines[label].get_data())
        kept = np.isfinite(y)
        np.testing.assert_allclose(np.polyfit(x[kept], y[kept], 1)[0], slope, atol=1e-6)
        assert label in labels(figure)
    assert set(lines["tolerance"].get_ydata()) == {1e-7}


@pytest.mark.parametrize("error", [0.0, np.inf])
def test_an_error_without_a_logarithm_is_left_out(error: float, drawn: list[Any], tmp_path: Path) -> None:
    reports.ladders([a_result("fc.weight", error=error)], tmp_path / "p.png")
    assert not any(len(line.get_xdata()) and line.get_marker() == "o" for line in drawn[0].axes[0].get_lines())


def test_bounds_are_drawn_against_the_rank(drawn: list[Any], tmp_path: Path) -> None:
    rows = [*bound_rows("conv"), *bound_rows("fc", 4)]
    reports.bounds(rows[::-1], tmp_path / "p.png")
    (figure,) = drawn
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["fc", "conv"]
    panel = figure.axes[0]
    lines = {line.get_label(): line for line in panel.get_lines()}
    np.testing.assert_array_equal(lines["½ ‖H‖₂ ‖Δ‖²"].get_xdata(), [0, 1, 2, 3, 4])
    np.testing.assert_allclose(lines["½ ‖H‖₂ ‖Δ‖²"].get_ydata(), [0.4, 0.3, 0.2, 0.1, np.nan])
    np.testing.assert_allclose(lines["|gᵀΔ|, gradient term"].get_ydata(), [0.004, 0.003, 0.002, 0.001, np.nan])
    np.testing.assert_array_equal(lines["measured |ΔL| across a kink"].get_xdata(), [0, 1])
    np.testing.assert_array_equal(lines["measured |ΔL|"].get_xdata(), [2, 3, 4])
    (band,) = panel.collections
    np.testing.assert_allclose(band.get_paths()[0].get_extents().bounds[3], 0.4 * 3.4 - 0.1 * 2.6, rtol=1e-6)
    assert panel.get_yscale() == "log"


def test_spectra_show_a_single_eigenvalue(drawn: list[Any], tmp_path: Path) -> None:
    """One far eigenvalue of a thousand is above the lower edge of its panel."""
    matrix = np.diag([*np.linspace(0, 1, 999), 50.0])
    density = spectral_density(matrix, probes=2, steps=20, generator=np.random.default_rng(0))
    reports.spectra({"all": density}, tmp_path / "p.png")
    panel = drawn[0].axes[0]
    x, y = next(line for line in panel.get_lines() if line.get_label() == "density").get_data()
    assert y[np.argmin(abs(x - 50.0))] > 3 * panel.get_ylim()[0]
    assert panel.get_yscale() == "log"


def test_the_legend_lies_above_the_panels(drawn: list[Any], draw: Draw, tmp_path: Path) -> None:
    draw(tmp_path / "p.png")
    (figure,) = drawn
    legend = figure.legends[0].get_window_extent()
    assert all(axes.get_window_extent().y1 < legend.y0 for axes in figure.axes)
    assert len(labels(figure)) == len(set(labels(figure)))


def test_the_colours_are_okabe_and_itos() -> None:
    known = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
    assert {plots.BLACK, plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED} <= known
