"""`halrp-np check`: derivatives and the loss bound, held against finite differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

import halrp_np

from .errors import RefusedError, refusal
from .subject import chosen, described, open_mode, open_subject, say_json, subject_options, waiting, wrong
from .threads import threads_option

if TYPE_CHECKING:
    from rich.console import Console

WHERE = "halrp-np check"
KINDS = {
    "grad": "gradient against differences of the loss",
    "hvp": "Hessian-vector products against differences of the gradient",
    "bound": "quadratic term of truncated layers against second differences of the loss",
    "symmetry": "symmetry of the Hessian, uᵀHv = vᵀHu",
}

FEWER = {"resnet18": 1}
"""Images of a deep network: with each one more, steps of a check cross more kinks, until none is left to compare on."""

MEMORY = 2**31
"""Bytes for products with the Hessian: one with all of LargeLeNet's takes 1.5 GiB."""


def ranks_of(ctx: click.Context, param: click.Parameter, value: str | None) -> str | tuple[int, ...] | None:
    """`all`, or whole numbers with commas between; the layers say which they have."""
    if value is None or value == "all":
        return value
    parts = value.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise wrong(ctx, param, "all, or whole numbers like 0,5,20", value, ("all",))
    return tuple(int(part) for part in parts)


@click.command("check")
@click.argument("kind", metavar="[grad|hvp|bound|symmetry]")
@subject_options(batch=4, fewer=FEWER)
@click.option("--ranks", metavar="all|N,N,...", callback=ranks_of, help="Of check bound.  [default: about a dozen]")
@threads_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output, nothing else there.")
@click.option("--plot", "picture", metavar="FILE", help="Draw it, too: .png, .svg or .pdf.")
def check_command(kind: str, as_json: bool, picture: str | None, **flags: Any) -> int:
    """Check derivatives in float64; exit code 1 when one of them is wrong, or could not be checked.

    \b
    grad      the gradient against central differences of the loss
    hvp       Hessian-vector products against central differences of the gradient
    bound     loss change of truncated layers, rank by rank, against its bounds
    symmetry  uᵀHv = vᵀHu
    """
    refuse(kind, picture, flags["ranks"])
    subject, note = open_subject(WHERE, flags)
    results, rows = (bound_results if kind == "bound" else results_of)(kind, subject, flags)
    if as_json:
        say_json("check", content(kind, subject, flags, results, rows))
    else:
        show(kind, subject, flags, note, results, rows)
    if picture is not None:
        draw(picture, results, rows, quiet=as_json)
    if not as_json:
        conclude(results)
    return 0 if all(result.passed for result in results) else 1


def draw(picture: str, results: Sequence[Any], rows: Sequence[Any], *, quiet: bool) -> None:
    """The picture, after everything else: a full disk takes no result with it."""
    from .screen import open_console, say

    if rows:
        halrp_np.reports.bounds(rows, picture)
    else:
        halrp_np.reports.ladders(results, picture)
    if not quiet:
        say(open_console(), f"drawn in {picture}", whole=True)


def refuse(kind: str, picture: str | None, ranks: object) -> None:
    """Refuse an unknown kind, and a picture that cannot be drawn or written, before anything takes long."""
    if kind not in KINDS:
        raise RefusedError(refusal(WHERE, f"one of {', '.join(KINDS)}", kind, KINDS, f"See `{WHERE} --help`."))
    if ranks is not None and kind != "bound":
        raise RefusedError(f"{WHERE} {kind}: expected no --ranks, received some. Only bound cuts layers to ranks.")
    if picture is not None and kind == "symmetry":
        raise RefusedError(f"{WHERE} symmetry: expected no --plot, received one. It takes no steps to draw.")
    if picture is not None:
        halrp_np.reports.check_picture_path(picture)


def results_of(kind: str, subject: Any, flags: dict[str, Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """A result for each parameter, and no rows."""
    curvature = halrp_np.curvature
    checks: dict[str, Callable[..., Sequence[Any]]] = {
        "grad": curvature.check_gradient,
        "hvp": partial(curvature.check_hvp, memory=MEMORY),
        "symmetry": partial(curvature.check_symmetry, memory=MEMORY),
    }
    names = chosen(WHERE, subject.model, flags["layers"])
    point = (subject.model, subject.params, subject.loss, subject.data)
    with waiting(f"checking {kind}") as progress:
        mode, seed = open_mode(flags), flags["seed"]
        return checks[kind](*point, names=names, mode=mode, seed=seed, progress=progress), []


def bound_results(kind: str, subject: Any, flags: dict[str, Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """A result and some rows, of different ranks, for each layer."""
    curvature, streams = halrp_np.curvature, halrp_np.Streams(flags["seed"])
    layers = [name.rpartition(".")[0] for name in chosen(WHERE, subject.model, flags["layers"], ("weight",))]
    point = (subject.model, subject.params, subject.loss, subject.data)
    common = {"layers": layers, "mode": open_mode(flags), "memory": MEMORY}
    with waiting("truncating") as progress:
        generator = streams.generator("bounds")
        rows = curvature.bound_report(*point, **common, ranks=flags["ranks"], generator=generator, progress=progress)
    with waiting("checking bound") as progress:
        return curvature.check_bound(*point, **common, seed=flags["seed"], progress=progress), rows


def content(kind: str, subject: Any, flags: dict[str, Any], results: Sequence[Any], rows: Sequence[Any]) -> Any:
    """What the JSON document says: every result with every step, every row."""
    return {
        **described(subject, flags),
        "kind": kind,
        "dtype": "float64",
        "passed": all(result.passed for result in results),
        "results": [dataclasses.asdict(result) for result in results],
        **({"rows": [dataclasses.asdict(row) for row in rows]} if kind == "bound" else {}),
    }


def show(
    kind: str,
    subject: Any,
    flags: dict[str, Any],
    note: str,
    results: Sequence[Any],
    rows: Sequence[Any],
) -> None:
    """The tables and the notes."""
    from .screen import LOUD, open_console, say

    console = open_console()
    if note:
        say(console, note, LOUD)
    say(console, f"{subject.title}; {flags['mode']} mode, float64", whole=True)
    if rows:
        show_rows(console, rows)
    show_results(console, kind, results)
    for result in results:
        if result.note:
            say(console, f"{result.name}: {result.note}", None if result.passed else LOUD)


def conclude(results: Sequence[Any]) -> None:
    """The last line: how it ended."""
    from .screen import LOUD, open_console, say

    failed = [result.name for result in results if not result.passed]
    checks = "1 check" if len(results) == 1 else f"{len(results)} checks"
    count = f"{len(failed)} of {checks} failed: {', '.join(failed)}"
    passed = f"all {checks} passed" if len(results) > 1 else f"{checks} passed"
    say(open_console(), count if failed else passed, LOUD if failed else None)


def show_results(console: Console, kind: str, results: Sequence[Any]) -> None:
    """A line for each check."""
    from .screen import say_table

    what = "layer" if kind == "bound" else "parameter"
    columns = [what, "relative error", "at step", "steps across kinks", "tolerance", "verdict"]
    lines = []
    for result in results:
        kinks = sum(rung.crossed > 0 for rung in result.ladder)
        step, kinked = (f"{result.step:.0e}", f"{kinks} of {len(result.ladder)}") if result.ladder else ("", "")
        error, tolerance = f"{result.error:.1e}", f"{result.tolerance:.0e}"
        lines.append([result.name, error, step, kinked, tolerance, "ok" if result.passed else "FAILED"])
    if not any(result.ladder for result in results):
        columns, lines = [columns[i] for i in (0, 1, 4, 5)], [[line[i] for i in (0, 1, 4, 5)] for line in lines]
    say_table(console, f"Check of the {KINDS[kind]}", columns, lines, words=(what, "verdict"))


def show_rows(console: Console, rows: Sequence[Any]) -> None:
    """A table for each layer with a line for each rank, and under it what its verdicts mean in full."""
    from .screen import say, say_table

    columns = ("rank", "measured", "gᵀΔ", "½ΔᵀHΔ", "½‖H‖₂‖Δ‖²", "½‖H‖_F‖Δ‖²", "verdict", "tight", "kinks")
    for layer in dict.fromkeys(row.layer for row in rows):
        own = [row for row in rows if row.layer == layer]
        title = f"{layer}, of full rank {own[0].size}, cut to lower ranks: change of the loss, its terms and bounds"
        say_table(console, title, columns, [cells(row) for row in own], words=("verdict",))
        for verdict in dict.fromkeys(row.verdict for row in own if first_word(row.verdict) != row.verdict):
            ranks = [str(row.rank) for row in own if row.verdict == verdict]
            say(console, f"rank {', '.join(ranks)}: {verdict}")
    say(console, "\ntight: |measured| over the last bound; kinks: share of ReLU and pool branches that changed")


def cells(row: Any) -> list[object]:
    """A row of the bound, as it is printed."""
    terms = (row.measured, row.gradient_term, row.quadratic_term, row.spectral_bound)
    error = f" ± {row.frobenius_stderr / row.frobenius_bound:.1%}" if row.frobenius_bound else ""
    bound = f"{row.frobenius_bound:.1e}{error}"
    kinks = f"{row.crossed_share:.0e}" if row.crossed else "none"
    numbers = [f"{value:.1e}" for value in terms]
    tight = f"{row.tightness:.0e}" if row.frobenius_bound else ""
    return [row.rank, *numbers, bound, first_word(row.verdict), tight, kinks]


def first_word(verdict: str) -> str:
    """Whether it holds, without the reason."""
    return verdict.partition(" ")[0].rstrip(",:")
