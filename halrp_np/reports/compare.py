"""Groups of runs side by side: means over orders and seeds, paired tests against a reference, CSV and LaTeX."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, ResumeError, nearest
from ..files import write_whole
from ..runs import as_text
from ..runs.tables import table_text
from .groups import Group, by_benchmark, grouped, title_of, unequal
from .results import RunResult
from .statistics import Mean, Paired, corrected, mean_of, paired


@dataclass(frozen=True)
class Measure:
    """One column: its name in CSV, its heading with the unit, what a value is multiplied with there, its decimals."""

    name: str
    heading: str
    scale: float = 1.0
    decimals: int = 2
    tested: bool = False


MEASURES = (
    Measure("acc", "ACC (%)", tested=True),
    Measure("bwt", "BWT", tested=True),
    Measure("forgetting_chaudhry", "forgetting", tested=True),
    Measure("growth_released", "released (%)", 100.0),
    Measure("growth_honest", "honest (%)", 100.0),
    Measure("growth_bytes", "bytes (%)", 100.0),
    Measure("seconds", "time (s)", decimals=1),
)
"""What is compared. Growth and time are shown only: a test would ask whether a cost differs by chance."""

CSV_HEADER = (
    *("benchmark", "group", "method", "preset", "model", "data", "settings", "orders", "seeds", "measure"),
    *("runs", "mean", "standard_error", "undefined", "reference", "pairs", "difference"),
    *("t_p", "t_p_holm", "flip_p", "flip_p_holm", "test_undefined"),
)


@dataclass(frozen=True, eq=False)
class Row:
    """One group: its means by measure, and its tests against the reference, none for the reference itself."""

    group: Group
    means: dict[str, Mean]
    tests: dict[str, Paired]


@dataclass(frozen=True, eq=False)
class Comparison:
    """The groups of one benchmark; `reference` is None where no group of it goes by that name."""

    title: str
    reference: str | None
    rows: list[Row]
    warnings: list[str]
    notes: list[str]


def comparisons(results: Sequence[RunResult], reference: str | None = None) -> list[Comparison]:
    """The groups of each benchmark, each beside the reference of the same benchmark.

    `reference` names a group, by its name or by words in it that no other group has; the default is the method
    halrp, rather under the preset paper and with few changed settings, or without it the first group.

    Raises: ConfigError when no group goes by that name.
    """
    parts = [(title_of(runs[0]), *grouped(runs)) for runs in by_benchmark(results).values()]
    chosen = [_reference(groups, reference) for _, groups, _ in parts]
    if not any(chosen):
        names = list(dict.fromkeys(group.name for _, groups, _ in parts for group in groups))
        near = nearest(reference or "", names)
        raise ConfigError(
            "reference",
            expected=f"the name of one group: {', '.join(names)}",
            received=repr(reference),
            next_step=f"Did you mean '{near}'?" if near else "Choose one of these.",
        )
    found = zip(parts, chosen, strict=True)
    return [_comparison(title, groups, one, notes) for (title, groups, notes), one in found]


def value_of(run: RunResult, name: str) -> tuple[float | None, str]:
    """One measure of a run, and why there is none.

    Raises: ResumeError for a summary.json that is not as every run writes it.
    """
    try:
        return _value(run.summary, name)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResumeError(
            str(run.path / "summary.json"),
            expected=f"{name} where every run writes it",
            received=f"none ({type(error).__name__}: {error})",
            next_step="The file is damaged: restore it from a copy, or run again in a new folder.",
        ) from error


def write_comparison_csv(path: str | os.PathLike[str], found: Iterable[Comparison]) -> None:
    """A line for each group and measure; growth as a share, as in summary.json.

    Raises: StorageError when the file cannot be written.
    """
    rows = [
        _csv_row(comparison, row, measure) for comparison in found for row in comparison.rows for measure in MEASURES
    ]
    write_whole(path, table_text(CSV_HEADER, rows, os.fspath(path)))


def write_comparison_latex(path: str | os.PathLike[str], found: Sequence[Comparison]) -> None:
    """One table for the package booktabs; an asterisk marks sign-flip p values below 0.05 after Holm's correction.

    Raises: StorageError when the file cannot be written.
    """
    lines = [
        "% needs \\usepackage{booktabs}; * sign-flip test against the reference, p < 0.05 after Holm's correction",
        "\\begin{tabular}{l" + "r" * len(MEASURES) + "}",
        "\\toprule",
        " & ".join(["", *(latex(measure.heading) for measure in MEASURES)]) + " \\\\",
    ]
    for comparison in found:
        mark = f" (reference: {comparison.reference})" if comparison.reference and len(comparison.rows) > 1 else ""
        heading = f"\\emph{{{latex(comparison.title + mark)}}}"
        lines += ["\\midrule", f"\\multicolumn{{{len(MEASURES) + 1}}}{{l}}{{{heading}}} \\\\"]
        for row in comparison.rows:
            cells = [_latex_cell(row, measure) for measure in MEASURES]
            lines.append(" & ".join([latex(row.group.name), *cells]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", ""]
    write_whole(path, "\n".join(lines))


def latex(text: str) -> str:
    """Text with every character that LaTeX takes for a command written out."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    }
    return "".join(special.get(letter, letter) for letter in text)


def rounded(value: float, measure: Measure) -> str:
    """A value as a column shows it, never -0.00."""
    return f"{round(value * measure.scale, measure.decimals) + 0.0:.{measure.decimals}f}"


def plus_minus(mean: Mean, measure: Measure) -> str:
    """Mean and standard error as a column shows them, or that there is none."""
    if mean.value is None:
        return "undefined"
    if mean.error is None:
        return rounded(mean.value, measure)
    return f"{rounded(mean.value, measure)} ± {rounded(mean.error, measure)}"


def _value(summary: Mapping[str, Any], name: str) -> tuple[float | None, str]:
    """One measure of a summary.json, and why there is none."""
    if name.startswith("growth_"):
        return float(summary["growth"][name.removeprefix("growth_")]), ""
    if name == "seconds":
        cost = summary["cost"]
        if cost.get("tasks_of_unknown_cost"):
            return None, "the time of some tasks is not known"
        return float(cost["learn_seconds"] + cost["evaluate_seconds"]), ""
    value = summary["metrics"].get(name)
    return (None, str(summary["undefined"][name])) if value is None else (float(value), "")


def _reference(groups: Sequence[Group], name: str | None) -> Group | None:
    """The group that a name means."""
    if name is None:
        own = [group for group in groups if group.settings["method"] == "halrp"]
        return min(own, key=lambda group: (group.settings["preset"] != "paper", len(group.settings)), default=groups[0])
    whole = [group for group in groups if group.name == name]
    words = set(name.split())
    near = whole or [group for group in groups if words and words <= {*group.name.split(), group.settings["preset"]}]
    return near[0] if len(near) == 1 else None


def _comparison(title: str, groups: list[Group], reference: Group | None, notes: list[str]) -> Comparison:
    """Means of every group, and the tests of every group but the reference."""
    tests: dict[str, dict[str, Paired]] = {group.name: {} for group in groups}
    for measure in (measure for measure in MEASURES if measure.tested and reference):
        others = [group for group in groups if group is not reference]
        found = corrected({group.name: _paired(group, reference, measure.name) for group in others})
        for name, test in found.items():
            tests[name][measure.name] = test
    rows = [Row(group, {one.name: _mean(group, one.name) for one in MEASURES}, tests[group.name]) for group in groups]
    return Comparison(title, reference.name if reference else None, rows, unequal(groups), notes)


def _mean(group: Group, name: str) -> Mean:
    """The mean of one measure over all runs of a group; undefined if it is for one of them."""
    values = [value_of(run, name) for run in group.runs.values()]
    missing = next((reason for value, reason in values if value is None), None)
    if missing is not None:
        return Mean(None, None, len(values), missing)
    return mean_of([value for value, _ in values if value is not None])


def _paired(group: Group, reference: Group | None, name: str) -> Paired:
    """The tests of one measure over the runs that share order and seed."""
    others = reference.runs if reference else {}
    pairs = [(value_of(run, name), value_of(others[key], name)) for key, run in group.runs.items() if key in others]
    missing = next((reason for pair in pairs for value, reason in pair if value is None), None)
    if missing is not None:
        return Paired(len(pairs), undefined=missing)
    return paired([own - other for (own, _), (other, _) in pairs if own is not None and other is not None])


def _csv_row(comparison: Comparison, row: Row, measure: Measure) -> list[Any]:
    """One line of the CSV file."""
    group, mean, test = row.group, row.means[measure.name], row.tests.get(measure.name)
    named = [group.settings[key] for key in ("method", "preset", "model", "data")]
    hidden = {"benchmark", "method", "preset", "model", "data"}
    changed = " ".join(f"{key}={as_text(value)}" for key, value in group.settings.items() if key not in hidden)
    line = [comparison.title, group.name, *named, changed, len(group.orders), len(group.seeds), measure.name]
    line += [mean.runs, mean.value, mean.error, mean.undefined, comparison.reference]
    if test is None:
        return line + [None] * 7
    return [*line, test.pairs, test.difference, test.t, test.t_holm, test.flip, test.flip_holm, test.undefined]


def _latex_cell(row: Row, measure: Measure) -> str:
    """One cell: mean and standard error, with an asterisk where the test says so."""
    mean, test = row.means[measure.name], row.tests.get(measure.name)
    if mean.value is None:
        return "--"
    value = rounded(mean.value, measure)
    value = value.replace("-", "$-$")
    error = "" if mean.error is None else f" $\\pm$ {rounded(mean.error, measure)}"
    significant = test is not None and test.flip_holm is not None and test.flip_holm < 0.05
    return f"{value}{error}{'*' if significant else ''}"
