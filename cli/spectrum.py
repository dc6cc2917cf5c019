"""`halrp-np spectrum`: the eigenvalues of each layer's Hessian, as densities, in a table and a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import click

import halrp_np

from .subject import Told, chosen, described, one_of, open_mode, open_subject, say_json, subject_options, waiting, whole
from .threads import threads_option

WHERE = "halrp-np spectrum"
DTYPES, DTYPE = ("float32", "float64"), "Precision.  [default: float32]"
PRODUCTS = 30
"""Spent on the trace and the norm of a layer, beside those on its density."""


@click.command("spectrum")
@subject_options(batch=32)
@click.option("--probes", metavar="N", default="4", callback=whole(2), help="Random starts.  [default: 4]")
@click.option("--steps", metavar="N", default="30", callback=whole(1), help="Products each.  [default: 30]")
@click.option("--dtype", metavar="float32|float64", default="float32", callback=one_of(*DTYPES), help=DTYPE)
@threads_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output, nothing else there.")
@click.option("--plot", "picture", metavar="FILE", help="Picture.  [default: spectrum.png; with --json none]")
def spectrum_command(probes: int, steps: int, dtype: str, as_json: bool, picture: str | None, **flags: Any) -> None:
    """Draw the density of the eigenvalues of each layer's weight Hessian.

    It is estimated from products with the Hessian, by stochastic Lanczos quadrature.
    """
    picture = picture or (None if as_json else "spectrum.png")
    if picture is not None:
        halrp_np.reports.check_picture_path(picture)
    subject, note = open_subject(WHERE, flags, dtype)
    names = chosen(WHERE, subject.model, flags["layers"], ("weight",))
    if not as_json:
        announce(subject, flags, note, dtype, len(names), probes, steps)
    rows = rows_of(subject, names, flags, probes, steps)
    if as_json:
        layers = [document_of(row) for row in rows]
        say_json("spectrum", {**described(subject, flags), "dtype": dtype, "plot": picture, "layers": layers})
    else:
        show(rows)
    if picture is not None:
        halrp_np.reports.spectra({row["name"]: row["density"] for row in rows}, picture)
        if not as_json:
            drawn(picture)


def announce(subject: Any, flags: dict[str, Any], note: str, dtype: str, layers: int, probes: int, steps: int) -> None:
    """What is looked at, and what it will cost."""
    from .screen import LOUD, open_console, say

    console = open_console()
    if note:
        say(console, note, LOUD)
    say(console, f"{subject.title}; {flags['mode']} mode, {dtype}", whole=True)
    each = probes * steps + PRODUCTS
    cost = f"{probes} x {steps} for the density, {PRODUCTS} for trace and norm"
    what = "1 layer" if layers == 1 else f"{layers} layers"
    say(console, f"{what}, at most {each:,} products with its Hessian each ({cost}): {layers * each:,} in all")


def rows_of(subject: Any, names: Sequence[str], flags: dict[str, Any], probes: int, steps: int) -> list[dict[str, Any]]:
    """Density, trace and norm of each layer's Hessian."""
    curvature, streams = halrp_np.curvature, halrp_np.Streams(flags["seed"])
    point = (subject.model, subject.params, subject.loss, subject.data)
    each, rows = probes * steps + PRODUCTS, []
    with waiting("products with the Hessian") as bar:
        for number, name in enumerate(names):
            operator = curvature.HessianOperator(*point, names=[name], mode=open_mode(flags))
            generator, told = streams.generator("probe", number), within(bar, number * each, len(names) * each)
            density = curvature.spectral_density(
                operator, probes=probes, steps=steps, generator=generator, progress=told
            )
            told = within(bar, number * each + probes * steps, len(names) * each)
            trace, square = curvature.trace_and_frobenius(
                operator, products=PRODUCTS, generator=generator, progress=told
            )
            row = {"name": name, "density": density, "trace": trace, "frobenius_norm": curvature.square_root(square)}
            rows.append({**row, "parameters": operator.shape[0], "products": density.products + trace.products})
    return rows


def within(bar: Told | None, before: int, whole: int) -> Told | None:
    """The bar's progress from that of a part."""
    return None if bar is None else lambda done, total: bar(before + done, whole)


def drawn(picture: str) -> None:
    """Where the picture is."""
    from .screen import open_console, say

    say(open_console(), f"drawn in {picture}", whole=True)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The table."""
    from .screen import open_console, say, say_table

    columns = ("layer", "parameters", "trace", "‖H‖_F", "smallest", "largest", "products")
    lines = [
        (
            row["name"],
            f"{row['parameters']:,}",
            *(f"{brief(row[name].value, 4)} ± {brief(row[name].stderr, 1)}" for name in ("trace", "frobenius_norm")),
            *(brief(value, 3) for value in extremes(row["density"])),
            row["products"],
        )
        for row in rows
    ]
    console = open_console()
    say_table(console, "Eigenvalues of each layer's Hessian", columns, lines, words=("layer",))
    say(console, "±: one standard error; smallest, largest: seen by Lanczos, which approaches them from within")


def brief(value: float, digits: int) -> str:
    """A number in so many digits, from 100 on without decimals."""
    return f"{value:.{digits}g}" if abs(value) < 100 else f"{value:,.0f}"


def extremes(density: Any) -> tuple[float, float]:
    """The outermost eigenvalues that Lanczos has seen."""
    return float(density.nodes.min()), float(density.nodes.max())


def document_of(row: dict[str, Any]) -> dict[str, Any]:
    """A layer as JSON values."""
    density, (smallest, largest) = row["density"], extremes(row["density"])
    curve = {name: getattr(density, name).tolist() for name in ("grid", "density", "stderr", "nodes", "weights")}
    estimates = {name: dataclasses.asdict(row[name]) for name in ("trace", "frobenius_norm")}
    return {**row, **estimates, "density": curve, "smallest": smallest, "largest": largest}
