"""What a page says of several runs: each benchmark's groups side by side, then every run by itself."""

from __future__ import annotations

from collections.abc import Sequence

from ..runs import as_text
from . import charts, group_charts
from .compare import MEASURES, Comparison, comparisons, plus_minus, rounded, value_of
from .content import Block, Cell, Command, Facts, Page, Section, Table, Words
from .details import RunDetails
from .groups import Group, title_of
from .run_sections import data_blocks, folder_name, key_figures, own_changes, progress_words, repeat_section, run_title
from .words import counted, duration

DRAWN = 10
"""As many groups are drawn in one picture: more could not be told apart."""

MAPS = 12
"""Up to so many runs, each has its accuracy matrix."""

Anchors = dict[str, str]
"""The anchor of each run's part of the page, by its path."""


def many_page(details: Sequence[RunDetails]) -> Page:
    """The page of several runs."""
    runs = [one.result for one in details]
    finished = [run for run in runs if run.finished]
    anchors = {str(run.path): f"run-{number}" for number, run in enumerate(runs, start=1)}
    lead: list[Block] = list(data_blocks(runs))
    if len(finished) < len(runs):
        text = (
            f"UNFINISHED: {len(runs) - len(finished)} of {len(runs)} runs. They are in no mean; their parts say more."
        )
        lead.append(Words(text, loud=True))
    found = comparisons(finished) if finished else []
    named = list(dict.fromkeys(title_of(run) for run in runs))
    title = f"{counted(len(runs), 'run')} of {', '.join(named)}"
    sections = [
        section
        for number, comparison in enumerate(found)
        for section in _benchmark(comparison, details, f"b{number}-" if len(found) > 1 else "", len(found) > 1)
    ]
    sections.append(_runs_section(runs_of(details), anchors, found))
    return Page(title, lead, sections)


def runs_of(details: Sequence[RunDetails]) -> Sequence[RunDetails]:
    """The runs by the names of their folders."""
    return sorted(details, key=lambda one: (title_of(one.result), folder_name(one.result), str(one.result.path)))


def _benchmark(comparison: Comparison, details: Sequence[RunDetails], prefix: str, several: bool) -> list[Section]:
    """The sections of one benchmark; under one heading of its own where there are several."""
    groups = [row.group for row in comparison.rows]
    drawn = groups[:DRAWN]
    blocks: list[Block] = [_means_table(comparison)]
    blocks.append(
        Words(
            "Forgetting is counted from the best before the end (Chaudhry); released, honest and bytes are growth over "
            "task 0. A group are the runs that differ in the order of tasks and the seed only."
        )
    )
    lines = (*comparison.warnings, *comparison.notes)
    blocks += [Words(f"{line[0].upper()}{line[1:]}.", loud=line.startswith("unfair")) for line in lines]
    for row in comparison.rows:
        for measure in MEASURES:
            mean = row.means[measure.name]
            if mean.value is None:
                blocks.append(Words(f"{measure.heading} of {row.group.name} is undefined: {mean.undefined}."))
    single = [group.name for group in groups if len(group.runs) < 2]
    if single:
        blocks.append(Words(f"No standard error, which needs two runs: {', '.join(single)}."))
    blocks += _tests(comparison)
    if len(groups) > DRAWN:
        blocks.append(Words(f"The pictures show the first {DRAWN} of {len(groups)} groups; the table has all."))
    pictures = (
        group_charts.accuracy_courses(prefix, drawn),
        group_charts.final_accuracies(prefix, drawn),
        group_charts.forgetting_courses(prefix, drawn),
        group_charts.growth_courses(prefix, _growth(drawn, details)),
        group_charts.times(prefix, drawn),
    )
    means = Section(f"{prefix}groups", "Groups side by side", blocks)
    shown = Section(f"{prefix}courses", "In pictures", [picture for picture in pictures if picture is not None])
    if several:
        return [Section(f"{prefix}benchmark", comparison.title, [], [means, shown])]
    return [means, shown]


def _means_table(comparison: Comparison) -> Table:
    """Mean ± standard error of every measure of every group."""
    rows = []
    for row in comparison.rows:
        counts = (len(row.group.orders), len(row.group.seeds), len(row.group.runs))
        cells = [plus_minus(row.means[measure.name], measure) for measure in MEASURES]
        rows.append([row.group.name, *map(str, counts), *cells])
    columns = ("group", "orders", "seeds", "runs", *(measure.heading for measure in MEASURES))
    return Table(f"{comparison.title}: mean ± standard error over the runs of each group", columns, rows, ("group",))


def _tests(comparison: Comparison) -> list[Block]:
    """The paired tests of every group against the reference, or why there are none."""
    found = [test for row in comparison.rows for test in row.tests.values()]
    if found and all(test.t is None and test.flip is None for test in found):
        reasons = dict.fromkeys(test.undefined for test in found)
        return [Words(f"Paired tests against {comparison.reference} are undefined: {'; '.join(reasons)}.")]
    return [_tests_table(comparison)] if found else []


def _tests_table(comparison: Comparison) -> Table:
    """A row for each test."""
    rows = []
    for row in comparison.rows:
        for measure in MEASURES:
            test = row.tests.get(measure.name)
            if test is None:
                continue
            difference = "undefined" if test.difference is None else rounded(test.difference, measure)
            values = [
                "undefined" if p is None else f"{p:.3g}" for p in (test.t, test.t_holm, test.flip, test.flip_holm)
            ]
            rows.append([f"{row.group.name}, {measure.heading}", str(test.pairs), difference, *values, test.undefined])
    columns = (
        *("group, measure", "pairs", "difference", "t-test p", "after Holm", "sign flips p", "after Holm "),
        "why it is undefined",
    )
    title = f"Paired tests against {comparison.reference}, over runs that share order and seed"
    return Table(title, columns, rows, ("group, measure", "why it is undefined"))


def _growth(groups: Sequence[Group], details: Sequence[RunDetails]) -> dict[str, dict[str, group_charts.Course]]:
    """Growth after each task in percent, by group and convention, for the runs that have a ledger."""
    ledgers = {str(one.result.path): one.capacity or [] for one in details}
    found = {}
    for group in groups:
        lines = {}
        for key in ("growth_released", "growth_honest"):
            runs = [
                {
                    row["after_task"]: 100 * row[key]
                    for row in ledgers[str(run.path)]
                    if row["task"] == row["after_task"]
                }
                for run in group.runs.values()
            ]
            lines[key] = group_charts.course(runs)
        found[group.name] = lines
    return found


def _runs_section(details: Sequence[RunDetails], anchors: Anchors, found: Sequence[Comparison]) -> Section:
    """A table of the runs, each linked to its own part below."""
    groups = {
        str(run.path): row.group.name
        for comparison in found
        for row in comparison.rows
        for run in row.group.runs.values()
    }
    rows = []
    for one in details:
        run = one.result
        cells: list[Cell | str] = [
            Cell(folder_name(run), link=anchors[str(run.path)]),
            *(
                title_of(run),
                groups.get(str(run.path), "in none"),
                as_text(run.config["order"]),
                str(run.config["seed"]),
            ),
        ]
        for measure in MEASURES:
            value = value_of(run, measure.name)[0] if run.learned else None
            cells.append("undefined" if value is None else _cell(value, measure.name, rounded(value, measure)))
        rows.append([*cells, "finished" if run.finished else f"UNFINISHED: {counted(run.learned, 'task')} learned"])
    columns = ("run", "benchmark", "group", "order", "seed", *(measure.heading for measure in MEASURES), "state")
    table = Table(
        "Every run, linked to its key figures", columns, rows, ("run", "benchmark", "group", "order", "state")
    )
    inner = [_run(one, anchors[str(one.result.path)], maps=len(details) <= MAPS) for one in details]
    return Section("runs", "Every run", [table], inner)


def _cell(value: float, name: str, text: str) -> Cell:
    """A measure of a run; time as people say it."""
    return Cell(duration(value) if name == "seconds" else text, value)


def _run(details: RunDetails, anchor: str, *, maps: bool) -> Section:
    """One run in short."""
    run = details.result
    blocks: list[Block] = [] if run.finished else [Words(progress_words(run), loud=True)]
    blocks.append(Words(f"{run_title(run)}, order {as_text(run.config['order'])}."))
    if run.learned:
        blocks.append(key_figures(run))
    changed = ", ".join(f"{key}={as_text(value)}" for key, value in own_changes(run).items()) or "none"
    blocks.append(Facts([("Settings changed", changed), ("Data", str(run.protocol["data"]))]))
    if run.learned and maps:
        picture = charts.accuracy_map(f"{anchor}-", run.accuracy["test"], run.names)
        blocks.append(picture)
    blocks += [block for block in repeat_section(run).blocks if isinstance(block, Command)]
    return Section(anchor, folder_name(run), blocks)
