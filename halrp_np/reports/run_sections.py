"""What a page says of one run: what it was, what it found, and how it came to that."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from ..benchmarks import BENCHMARKS
from ..methods import METHOD_SETTINGS, METHODS, settings_used
from ..runs import as_text
from ..runs.record import RunFolder
from . import charts
from .compare import value_of
from .content import Block, Command, Facts, Figures, Section, Table, Words
from .details import RunDetails
from .groups import title_of
from .results import RunResult
from .run_changes import changes_section
from .run_ledgers import curvature_section, growth_section, missing_rows, ranks_section, time_section
from .words import GROWTH_WORDS, MEASURE_WORDS, OFFICIAL, counted, duration, fixed, kinds_of_data, percent

FLAGS = ("benchmark", "method", "preset", "model", "seed", "order", "device", "dtype")
"""The settings that a command line names by flags of their own."""

OTHER_WORDS = {"fwt": "FWT: what earlier tasks do for a task before it is learned"}
"""Measures that no run defines."""

NOT_REPEATED = ("data_dir",)
"""Settings that belong to the machine: whoever repeats a run has another."""


def run_title(run: RunResult) -> str:
    """Benchmark, method, preset and seed of a run."""
    config = run.config
    return f"{title_of(run)}, {config['method']}, preset {config['preset']}, seed {config['seed']}"


def folder_name(run: RunResult) -> str:
    """The name of a run's folder."""
    return run.path.resolve().name


def run_lead(run: RunResult) -> list[Block]:
    """What must not be overlooked: data that is not the official, a run that is not finished."""
    blocks: list[Block] = list(data_blocks([run]))
    if not run.finished:
        blocks.append(Words(progress_words(run), loud=True))
    return blocks


def data_blocks(runs: Sequence[RunResult]) -> list[Words]:
    """A paragraph for each kind of data, loud unless it is the official one."""
    names = dict.fromkeys(name for run in runs for name in str(run.protocol["data"]).split(", "))
    return [
        Words(f"Data: {', '.join(sets)}, {words}.", loud=words != OFFICIAL)
        for words, sets in kinds_of_data(", ".join(names)).items()
    ]


def progress_words(run: RunResult) -> str:
    """How far an unfinished run is, and how to go on."""
    asked = min(run.config["stop_after"] or run.protocol["tasks"], run.protocol["tasks"])
    last: dict[str, Any] = next(iter(RunFolder(run.path).read_metrics()[-1:]), {})
    within = (
        f", in task {last.get('task')} {last.get('phase')} epoch {last.get('epoch')} done" if "epoch" in last else ""
    )
    return (
        f"UNFINISHED: {run.learned} of {counted(asked, 'task')} learned{within}. What follows is what there is so far; "
        f"halrp-np resume {shlex.quote(folder_name(run))} goes on from there."
    )


def key_figures(run: RunResult) -> Figures:
    """Accuracy, forgetting, growth and time."""
    entries = []
    for name, label, unit, note in (
        ("acc", "Accuracy", " %", "on all tasks at the end, mean (ACC)"),
        ("bwt", "Backward transfer", "", "points on earlier tasks since each was learned (BWT)"),
        ("forgetting_chaudhry", "Forgetting", "", "points from the best before the end"),
    ):
        value, why = value_of(run, name)
        entries.append(
            (label, "undefined" if value is None else f"{fixed(value)}{unit}", note if value is not None else why)
        )
    for name, label in (("released", "Growth, released"), ("honest", "Growth, honest"), ("bytes", "Growth, bytes")):
        value, why = value_of(run, f"growth_{name}")
        words = GROWTH_WORDS[name].removeprefix("growth over task 0, ")
        entries.append((label, "undefined" if value is None else percent(value), f"over task 0, {words}"))
    seconds, why = value_of(run, "seconds")
    entries.append(("Time", why if seconds is None else duration(seconds), "learning and evaluating"))
    return Figures(entries)


def about_section(details: RunDetails, prefix: str = "") -> Section:
    """What was run, and on what."""
    run = details.result
    config, protocol = run.config, run.protocol
    known = BENCHMARKS.get(str(config["benchmark"]))
    method = METHODS.get(str(config["method"]))
    told = (method.__doc__ or "").strip().splitlines()[0] if method else "not a method of this version"
    named = {*FLAGS, "tasks"} if known is None or not known.tasks else set(FLAGS)
    changed = [f"{key}={as_text(value)}" for key, value in own_changes(run).items() if key not in named]
    entries = [
        ("Folder", folder_name(run)),
        ("Benchmark", f"{title_of(run)}: {known.description}" if known else title_of(run)),
        ("Method", f"{config['method']}: {told}"),
        ("Preset", str(config["preset"])),
        ("Network", f"{config['model']}, {config['dtype']}"),
        ("Seed and order", f"seed {config['seed']}, order {as_text(config['order'])}"),
        ("Settings changed", ", ".join(changed) or "none"),
        ("Tasks", _tasks_words(run)),
        ("Images", f"{'x'.join(map(str, protocol.get('image_shape') or ['unknown shape']))}; {_image_words(protocol)}"),
        ("Split", str(protocol.get("split", "not recorded"))),
        ("Normalisation", _plain(protocol.get("normalisation", "not recorded"))),
        ("Augmentation", str(protocol.get("augmentation", "not recorded"))),
        *_machine(details.environment),
    ]
    return Section(f"{prefix}about", "What was run, and on what", [Facts(entries)])


def own_changes(run: RunResult) -> dict[str, Any]:
    """The changed settings that the method reads and that do not belong to the machine.

    An earlier version may have recorded others with values that were usual then.
    """
    others = METHOD_SETTINGS - settings_used(str(run.config["method"]))
    return {key: value for key, value in run.changed.items() if key not in others and key not in NOT_REPEATED}


def _tasks_words(run: RunResult) -> str:
    """How many tasks there are and were learned, and how many classes they have."""
    classes = sorted({int(size["classes"]) for size in run.protocol["sizes"]})
    span = f"{classes[0]}" if len(classes) == 1 else f"{classes[0]} to {classes[-1]}"
    return f"{run.learned} learned of {run.protocol['tasks']}, each of {span} classes"


def _image_words(protocol: dict[str, Any]) -> str:
    """How many images a task has for training, validation and testing."""
    found = []
    for part, word in (("train", "training"), ("validation", "validation"), ("test", "test")):
        counts = [size[part] for size in protocol["sizes"] if part in size]
        if counts:
            span = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
            found.append(f"{span} {word}")
    return f"a task has {', '.join(found)}" if found else "numbers not recorded"


def _plain(value: Any) -> str:
    """A value of the protocol, its numbers in few digits."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return " ".join(_plain(inner) for inner in value)
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)


def _machine(environment: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Versions and processor, as far as they are recorded."""
    if environment is None:
        return [("Machine", "not recorded: the folder has no environment.json")]

    def part(name: str) -> dict[str, Any]:
        found = environment.get(name)
        return found if isinstance(found, dict) else {}

    packages = [f"{name} {version}" for name, version in part("packages").items() if version is not None]
    python, processor, system = part("python"), part("processor"), part("system")
    cores = processor.get("cores_usable")
    return [
        ("Versions", ", ".join([f"Python {python.get('version', 'unknown')}", *packages])),
        (
            "Machine",
            f"{processor.get('model', 'unknown processor')}, {cores or 'unknown'} cores usable, "
            f"{system.get('name', 'unknown system')}; device {environment.get('device', 'unknown')}, "
            f"kernels {environment.get('kernels', 'unknown')}",
        ),
    ]


def accuracy_section(run: RunResult, prefix: str = "") -> Section:
    """The accuracy matrix, its curves, and a row for each task."""
    a, tasks = run.accuracy["test"], run.learned
    blocks: list[Block] = [charts.accuracy_map(prefix, a, run.names), charts.accuracy_curves(prefix, a)]
    if tasks > 1:
        blocks += [charts.forgetting_curves(prefix, a), charts.learned_and_last(prefix, a, run.names)]
    else:
        blocks.append(Words("Forgetting is undefined: it needs two tasks."))
    rows = []
    for task in range(tasks):
        learned, last = a[task][task], a[-1][task]
        best = max(a[after][task] for after in range(task, tasks))
        size = run.protocol["sizes"][task]
        rows.append(
            [
                *(
                    str(task),
                    run.names[task],
                    str(run.identities[task]),
                    *(f"{size.get(p, 0):,}" for p in ("train", "test")),
                ),
                *(
                    fixed(run.accuracy["validation"][-1][task]),
                    fixed(learned),
                    fixed(best),
                    fixed(last),
                    fixed(last - learned),
                ),
            ]
        )
    columns = (
        *("task", "name", "in the benchmark", "training images", "test images", "validation at the end (%)"),
        *("test when learned (%)", "best (%)", "at the end (%)", "change (points)"),
    )
    blocks.append(
        Table("Every task: test accuracy when it was learned, at best and at the end", columns, rows, ("name",))
    )
    matrix = [[str(after), *(fixed(v) for v in row), *([""] * (tasks - len(row)))] for after, row in enumerate(a)]
    heads = ("after task", *charts.task_names(run.names))
    blocks.append(Table("The accuracy matrix in numbers (test, %)", heads, matrix, folded=True))
    return Section(f"{prefix}accuracy", "Accuracy and forgetting", blocks)


def measures_section(run: RunResult, prefix: str = "") -> Section:
    """Every measure, and every undefined one with its reason."""
    rows = []
    for name, words in MEASURE_WORDS.items():
        value, why = (
            value_of(run, name) if name in run.summary["metrics"] else (None, run.summary["undefined"].get(name))
        )
        rows.append(
            [words, "undefined" if value is None else fixed(value), "" if value is not None else str(why), name]
        )
    for name, words in GROWTH_WORDS.items():
        grown, _ = value_of(run, f"growth_{name}")
        rows.append([words, "undefined" if grown is None else percent(grown), "", f"growth.{name}"])
    for name, why in run.summary["undefined"].items():
        if name not in MEASURE_WORDS:
            rows.append([OTHER_WORDS.get(name, name), "undefined", str(why), name])
    columns = ("measure", "value", "why it is undefined", "in summary.json")
    table = Table("Every measure of the run", columns, rows, ("measure", "why it is undefined", "in summary.json"))
    return Section(f"{prefix}measures", "Every measure", [table])


def repeat_section(run: RunResult, prefix: str = "") -> Section:
    """The command line that runs it again."""
    quote = shlex.quote
    words = ["halrp-np run"]
    words += [f"--{key} {quote(as_text(run.config[key]))}" for key in FLAGS]
    others = {key: value for key, value in own_changes(run).items() if key not in FLAGS}
    words += [f"--set {quote(f'{key}={as_text(value)}')}" for key, value in others.items()]
    known = BENCHMARKS.get(str(run.config["benchmark"]))
    blocks: list[Block] = [Command(" ".join(words))]
    if known is None:
        blocks.append(Words("The benchmark is described in a file, which this needs too."))
    if any(key in run.changed for key in NOT_REPEATED):
        blocks.append(Words("The data lay in a folder of its own: name yours with --data-dir."))
    blocks.append(Words("The same versions on the same device give the same numbers."))
    return Section(f"{prefix}repeat", "How to repeat it", blocks)


def absent_section(details: RunDetails, prefix: str = "") -> Section:
    """What the page cannot show, and why."""
    rows = missing_rows(details)
    table = Table("Not recorded, or undefined", ("what", "why"), rows, ("what", "why"))
    return Section(f"{prefix}missing", "What is not here", [table if rows else Words("Everything is recorded.")])


def run_sections(details: RunDetails, prefix: str = "") -> list[Section]:
    """Every section of one run."""
    run = details.result
    sections = [about_section(details, prefix)]
    if run.learned:
        figures = Section(f"{prefix}figures", "Key figures", [key_figures(run)])
        sections = [figures, *sections, accuracy_section(run, prefix)]
        found = (
            ranks_section(details, prefix),
            growth_section(details, prefix),
            changes_section(details, prefix),
            curvature_section(details, prefix),
            time_section(run, prefix),
        )
        sections += [section for section in found if section is not None]
        sections.append(measures_section(run, prefix))
    sections += [absent_section(details, prefix), repeat_section(run, prefix)]
    return sections
