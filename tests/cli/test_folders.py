"""Where a run goes that names no folder, what is said when disk or memory end it, and how `show` takes damage."""

import csv
import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import halrp_np
from halrp_np import files
from halrp_np.runs import checkpoint

Invoke = Callable[..., Result]

# ---- the default folder -------------------------------------------------------------------------------------------

PLAIN = "pmnist-halrp-paper-seed0"
NAMES = {
    "run --benchmark pmnist": PLAIN,
    "run --epochs 12 --set tasks=10": PLAIN,
    "run --seed 3 --preset official": "pmnist-halrp-official-seed3",
    "run --quick": f"{PLAIN}-quick",
    "run --model mlp": f"{PLAIN}-mlp",
    "run --quick --dtype float64 --model mlp": f"{PLAIN}-quick-mlp-float64",
    "run --epochs 3": f"{PLAIN}-x......",
    "run --device auto": f"{PLAIN}-x......",
    "run --set l1=0.5": f"{PLAIN}-x......",
    "run --set l1=0.25": f"{PLAIN}-x......",
    "run --set l1=0.25 --data full": f"{PLAIN}-x......",
    "run --set prune_values=0.25,0.5 --data-dir here": f"{PLAIN}-x......",
    "run --quick --set l1=0.5 --model mlp": f"{PLAIN}-quick-mlp-x......",
    "run --order C --seed 0": f"{PLAIN}-order-C",
    "run --order random:3 --model mlp": f"{PLAIN}-order-random-3-mlp",
    "run --order 1,0,2": f"{PLAIN}-x......",
    "run --benchmark cifar100-split --train-size 0.5": "cifar100-split-halrp-paper-seed0-x......",
    "run --benchmark five-datasets": "five-datasets-halrp-paper-seed0",
    "run --benchmark five-datasets --model resnet18": "five-datasets-halrp-paper-seed0-resnet18",
    "run --benchmark mine/birds.toml": "birds-halrp-paper-seed0-x......",
    "run --benchmark other/birds.toml": "birds-halrp-paper-seed0-x......",
}


@pytest.fixture
def named(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A function that says where a command would write."""
    asked: list[Path] = []

    def stop(config: object, folder: Path, *_: object, **__: object) -> None:
        asked.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(halrp_np, "run", stop)

    def name(words: str) -> str:
        assert invoke(*words.split()).exit_code == 130
        assert asked[-1].parent == Path("runs")
        return asked[-1].name

    return name


def test_settings_name_the_default_folder(named: Callable[[str], str]) -> None:
    found = {words: named(words) for words in NAMES}
    for words, pattern in NAMES.items():
        assert re.fullmatch(pattern, found[words]), words
        assert named(words) == found[words]
    assert len(set(found.values())) == len(NAMES) - 1  # two of the commands are the same run


def test_the_source_of_a_setting_does_not_matter(named: Callable[[str], str]) -> None:
    Path("mine.toml").write_text('l1 = 0.5\nmodel = "mlp"\n')
    assert named("run --config mine.toml") == named("run --model mlp --set l1=5e-1")


# ---- disk and memory ----------------------------------------------------------------------------------------------


def full_disk(*_: object) -> None:
    """What a write says when the disk is full."""
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    raise files.storage_error("out/checkpoints/x", error) from error


def bare_full_disk(*_: object) -> None:
    """The same, not translated."""
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "x")


def no_memory(*_: object) -> None:
    """What an array says that does not fit."""
    raise MemoryError("Unable to allocate 3 GiB")


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (full_disk, "error: out/checkpoints/x: .*'No space left on device'.* Free space"),
        (bare_full_disk, "error: x: expected free space, .* Free space"),
        (no_memory, "error: memory: .*3 GiB.* Free memory"),
    ],
)
def test_a_run_without_room_says_how_it_goes_on(
    failure: Callable[..., None], says: str, invoke: Invoke, tiny: list[str]
) -> None:
    line = says + ", then continue with: halrp-np resume out\n"
    for words in (["run", *tiny, "--out", "out"], ["resume", "out"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "save", failure)
            result = invoke(*words)
        assert result.exit_code == 1
        assert re.fullmatch(line, result.stderr), result.stderr
    assert invoke("resume", "out").exit_code == 0


def test_without_a_run_to_resume_none_is_offered(
    invoke: Invoke, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halrp_np.runs.RunFolder, "create", full_disk)
    result = invoke("run", *tiny, "--out", "out")
    assert result.exit_code == 1
    assert "resume" not in result.stderr


# ---- show ---------------------------------------------------------------------------------------------------------

ODD = ("x", [1], {"a": 1}, None, 5)


def damaged(content: Any) -> Iterator[Any]:
    """A JSON object once for each of its values, at any depth, replaced and left out."""
    for key, value in content.items():
        rest = {name: own for name, own in content.items() if name != key}
        yield rest
        yield from ({**rest, key: odd} for odd in ODD)
        if isinstance(value, dict):
            yield from ({**rest, key: inner} for inner in damaged(value))


def assert_shown_or_told(result: Result) -> None:
    """Tables, or one line about the file."""
    assert result.exit_code in (0, 1, 2), result.stderr
    assert result.exit_code == 0 or re.fullmatch(r"error: .*\.jsonl?.*\n", result.stderr), result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["environment.json", "summary.json", "timing.json"])
def test_show_survives_odd_json(name: str, invoke: Invoke, run_folder: Path) -> None:
    for content in damaged(json.loads((run_folder / name).read_text())):
        (run_folder / name).write_text(json.dumps(content))
        assert_shown_or_told(invoke("show", run_folder))


def test_show_survives_an_odd_configuration(invoke: Invoke, run_folder: Path) -> None:
    path = run_folder / "config.json"
    whole = json.loads(path.read_text())
    some = {key: whole["config"][key] for key in ("benchmark", "preset", "model", "widths", "tasks", "epochs")}
    for content in damaged({"config": some, "protocol": whole["protocol"]}):
        path.write_text(json.dumps({**whole, **dict.fromkeys(("config", "protocol")), **content}))
        assert_shown_or_told(invoke("show", run_folder))


@pytest.mark.parametrize("line", ['{"event": "epoch", "epoch": 1}', '{"event": "task", "task": [1]}', '{"epoch": []}'])
def test_show_survives_odd_metrics(line: str, invoke: Invoke, run_folder: Path) -> None:
    (run_folder / "metrics.jsonl").write_text(line + "\n")
    assert_shown_or_told(invoke("show", run_folder))


def test_an_intended_early_end_is_no_interruption(invoke: Invoke, tiny: list[str]) -> None:
    result = invoke("run", *tiny, "--set", "tasks=3", "--set", "stop_after=2", "--out", "out")
    assert result.exit_code == 0, result.stderr
    for words in ("the first 2 tasks will be learned", "task 1 learned (2 of 2)", "2 of 3 tasks"):
        assert words in result.stdout
    shown = invoke("show", "out").stdout
    assert "\nfinished: 2 of 3 tasks, as stop_after asked\n" in shown
    assert "UNFINISHED" not in shown


def test_costs_are_shown_as_far_as_they_are_known(invoke: Invoke, run_folder: Path) -> None:
    taken = {"learn_seconds": 4000.0, "evaluate_seconds": 2.0, "peak_memory_bytes": 345_678_901}
    (run_folder / "timing.json").write_text(json.dumps({"tasks": [None, taken]}))
    result = invoke("show", run_folder)
    assert re.search(r"0 +unknown +unknown +unknown\n +1 +1 h 06 min +2.0 s +346 MB\n", result.stdout)
    result = invoke("resume", run_folder)  # writes the summary again
    assert re.search(r"time, learning and evaluating +1 h 06 min\n", result.stdout)
    assert re.search(r"memory at its peak +346 MB\n", result.stdout)
    assert re.search(r"tasks whose time is not known +1\n", result.stdout)


def test_the_ranks_of_every_importance_are_shown(invoke: Invoke, run_folder: Path) -> None:
    """As ranks.csv has them; a run that did not compare them shows the chosen ones alone."""
    shown = invoke("show", run_folder).stdout.split("Ranks that each importance would choose\n")[1]
    names = ["official", "batch-gradient", "fisher", "hessian-frobenius", "hessian-trace", "hessian-top", "directional"]
    assert shown.splitlines()[0].split() == ["task", "layer", *names]
    header, *rows = csv.reader((run_folder / "ranks.csv").read_text().splitlines())
    at = [header.index(f"rank_{name.replace('-', '_')}") for name in names]
    expected = [[row[0], row[1], *(row[column] for column in at)] for row in rows]
    assert [line.split() for line in shown.splitlines()[2 : 2 + len(rows)]] == expected
    alone = [[value if column not in at[1:] else "" for column, value in enumerate(row)] for row in rows]
    (run_folder / "ranks.csv").write_text("\n".join(",".join(row) for row in [header, *alone]) + "\n")
    assert "each importance" not in invoke("show", run_folder).stdout


def test_what_show_does_not_know_it_says(invoke: Invoke, run_folder: Path) -> None:
    content = json.loads((run_folder / "config.json").read_text())
    for key in ("sizes", "data", "tasks", "order", "split", "normalisation", "augmentation", "image_shape"):
        del content["protocol"][key]
    (run_folder / "config.json").write_text(json.dumps(content))
    for name in ("accuracy.csv", "ranks.csv", "capacity.csv", "summary.json", "environment.json"):
        (run_folder / name).unlink()
    (run_folder / "timing.json").write_text('{"tasks": [{"learn_seconds": "long"}]}')
    result = invoke("show", run_folder)
    assert result.exit_code == 0, result.stderr
    for words in (
        "pmnist: an unknown number of tasks of an unknown number of classes, images of unknown shape",
        "an unknown number of training, an unknown number of validation",
        "order A: unknown",
        "split: unknown",
        "normalisation: unknown",
        "augmentation: unknown",
        "data: unknown",
        "\nfinished\n",
        "time: unknown, timing.json is damaged",
    ):
        assert words in result.stdout


# ---- tables of later versions ---------------------------------------------------------------------------------------


def test_a_folder_without_the_later_tables_is_shown(invoke: Invoke, run_folder: Path) -> None:
    """As an earlier version left it: no changes.csv, no phases, fewer columns in capacity.csv."""
    whole = invoke("show", run_folder).stdout
    (run_folder / "changes.csv").unlink()
    header, *rows = csv.reader((run_folder / "capacity.csv").read_text().splitlines())
    kept = [column for column, name in enumerate(header) if name not in ("weights", "training_state")]
    lines = [",".join(row[column] for column in kept) for row in (header, *rows)]
    (run_folder / "capacity.csv").write_text("\n".join(lines) + "\n")
    tasks = json.loads((run_folder / "timing.json").read_text())["tasks"]
    old = [{key: task[key] for key in task if key != "phases"} for task in tasks]
    (run_folder / "timing.json").write_text(json.dumps({"tasks": old}))
    result = invoke("show", run_folder)
    assert result.exit_code == 0, result.stderr
    line = "\nNo bit of what answers for an earlier task has changed since it was learned.\n"
    assert result.stdout == whole.replace(line, "")
    assert line in whole


def test_what_changed_of_earlier_tasks_is_added_up_by_cause(invoke: Invoke, run_folder: Path) -> None:
    lines = [
        "after_task,task,identity,kind,bytes,bytes_changed,accuracy_change",
        "1,0,3,batchnorm,80,0,0.0",
        "1,0,3,weights,4000,0,0.0",
        "2,0,3,batchnorm,80,80,-2.5",
        "2,0,3,weights,4000,12,-4.25",
        "2,0,3,biases,40,4,1.0",
        "2,1,0,factors,2000,600,-0.5",
        "2,1,0,batchnorm,80,0,0.0",
        "3,1,0,factors,1900,100,-0.25",
        "3,1,0,batchnorm,80,0,0.0",
    ]
    (run_folder / "changes.csv").write_text("\n".join(lines) + "\n")
    shown = invoke("show", run_folder).stdout.split("(points), by what changed\n")[1].splitlines()
    assert " ".join(shown[0].split()) == "task accuracy by pruning by BatchNorm the rest bytes changed of"
    assert shown[2].split() == ["0", "-5.75", "+0.00", "-2.50", "-3.25", "96", "4,120"]
    assert shown[3].split() == ["1", "-0.75", "-0.75", "+0.00", "+0.00", "700", "1,980"]


def test_the_curvature_after_the_newest_task_is_shown(invoke: Invoke, run_folder: Path) -> None:
    lines = [
        "after_task,task,identity,layer,trace,trace_stderr,top,top_stderr,products",
        "0,0,3,fc1,9.0,0.0,8.0,0.0,0",
        "1,0,3,fc1,1.5,0.0,0.125,0.0,0",
        "1,0,3,head,2.34567,0.0123,,,60",
    ]
    (run_folder / "curvature.csv").write_text("\n".join(lines) + "\n")
    shown = invoke("show", run_folder).stdout.split("in each layer's weight, after task 1\n")[1].splitlines()
    assert [line.split() for line in shown[2:4]] == [
        ["0", "fc1", "1.5", "0.125", "0"],
        ["0", "head", "2.35", "±", "0.01", "not", "found", "60"],
    ]
