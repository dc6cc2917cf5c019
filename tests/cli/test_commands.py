"""What the commands do and print when all is well, and how a run stops."""

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import halrp_np
from halrp_np.runs import RunFolder

Invoke = Callable[..., Result]
PROGRAM = [sys.executable, "-c", "from halrp_np_cli.main import main; main()"]


def changed_bytes(folder: Path, other: Path) -> list[str]:
    """The files that differ between two run folders, but for what says when and how fast."""
    names = {str(path.relative_to(root)) for root in (folder, other) for path in root.rglob("*") if path.is_file()}
    timed = {"timing.json", "summary.json", "environment.json", ".lock"}
    content = lambda path: path.read_bytes() if path.exists() else None  # noqa: E731
    return sorted(name for name in names - timed if content(folder / name) != content(other / name))


# ---- run, show, list, data ----------------------------------------------------------------------------------------


def test_run_prints_plain_lines_and_the_result(invoke: Invoke, tiny: list[str]) -> None:
    result = invoke("run", *tiny)
    assert result.exit_code == 0, result.output
    (folder,) = Path("runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", result.output)  # no control characters but the line's end
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("data: mnist-5k, a SMALL SAMPLE")
    assert lines[1] == "pmnist: 2 tasks of 10 classes, images of 3x32x32"
    assert f"saving in {folder}" in lines
    assert sum("epoch" in line and "loss" in line for line in lines) == 4
    assert sum(" learned (" in line for line in lines) == 2
    assert re.search(rf"ACC: .* {summary['metrics']['acc']:.2f}\n", result.stdout)
    assert re.search(rf"honest|biases .* {summary['growth']['honest']:.2%}\n", result.stdout)
    assert lines[-3].startswith("data: mnist-5k, a SMALL SAMPLE")
    assert lines[-2:] == [f"saved in {folder}", f"look at it: halrp-np show {folder}"]


def test_run_refuses_its_default_folder_the_second_time(invoke: Invoke, finished: Path) -> None:
    shutil.copytree(finished, "runs/pmnist-halrp-paper-seed0")
    result = invoke("run", "--benchmark", "pmnist")
    assert result.exit_code == 1
    assert "`halrp-np resume runs/pmnist-halrp-paper-seed0`" in result.stderr
    assert "--out" in result.stderr
    assert [path.name for path in Path("runs").iterdir()] == ["pmnist-halrp-paper-seed0"]


def test_later_settings_win(invoke: Invoke, tiny: list[str]) -> None:
    Path("mine.toml").write_text('epochs = 7\nseed = 5\nl1 = 0.5\nprune_values = [1e-4, 0.3]\npreset = "official"\n')
    extra = ["--config", "mine.toml", "--seed", "3", "--set", "l1=0.25", "--set", "l1=0.125", "--out", "out"]
    assert invoke("run", *tiny, *extra).exit_code == 0
    config = RunFolder.open("out").config()["config"]
    assert (config["epochs"], config["seed"], config["l1"], config["prune_values"]) == (2, 3, 0.125, [1e-4, 0.3])
    assert config["importance"] == "official"  # the preset of the file
    assert config["learning_rate"] == 1e-3  # the benchmark


def test_quick_yields_to_flags(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def stop(config: Any, *_: object, **__: object) -> None:
        asked.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(halrp_np, "run", stop)
    result = invoke("run", "--quick", "--epochs", "2", "--data-dir", "here")
    assert (result.exit_code, result.stderr) == (130, "stopped; nothing was begun\n")
    assert (asked[0].tasks_to_learn, asked[0].epochs, asked[0].train_images) == (4, 2, 2000)
    assert asked[0].data_dir == Path.cwd() / "here"  # for a resume from elsewhere
    assert list(Path.cwd().iterdir()) == []


def test_sample_says_that_the_data_folder_is_not_read(invoke: Invoke, tiny: list[str]) -> None:
    result = invoke("run", *tiny, "--data-dir", "nowhere", "--out", "out")
    assert result.exit_code == 0
    assert "nowhere is not read" in result.stdout


def test_auto_device_says_that_it_fell_back(invoke: Invoke, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from halrp_np.backend.device import import_cupy

    monkeypatch.setitem(sys.modules, "cupy", None)
    import_cupy.cache_clear()
    result = invoke("run", *tiny, "--device", "auto", "--out", "out")
    import_cupy.cache_clear()
    assert result.exit_code == 0
    assert "no GPU is used: CuPy cannot be imported" in result.stdout


def test_show_a_finished_run(invoke: Invoke, finished: Path) -> None:
    result = invoke("show", finished)
    assert result.exit_code == 0, result.output
    folder = RunFolder.open(finished)
    summary: Any = folder.read_json("summary.json")
    for words in ("finished", "mnist-5k, a SMALL SAMPLE", "model mlp", "widths=8", "tasks=2", "by threshold"):
        assert words in result.stdout
    for name, value in summary["metrics"].items():
        assert re.search(rf" {round(value, 2) + 0.0:.2f} +{name} *\n", result.stdout), name
    for row in folder.read_csv("accuracy.csv")[1]:
        assert f"{row['accuracy']:.2f}" in result.stdout
    for row in folder.read_csv("capacity.csv")[1]:
        assert f"{row['factors_nonzero']:,}" in result.stdout
        assert f"{row['honest_count']:,}" in result.stdout


def test_show_an_unfinished_run(invoke: Invoke, run_folder: Path) -> None:
    lines = (run_folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_folder / "metrics.jsonl").write_text("".join(lines[:4]))
    for name in ("accuracy.csv", "ranks.csv", "capacity.csv", "summary.json", "timing.json", "environment.json"):
        (run_folder / name).unlink()
    result = invoke("show", run_folder)
    assert result.exit_code == 0, result.output
    assert "UNFINISHED: 1 of 2 tasks learned, in task 1 warm-up epoch 1 done\n" in result.stdout
    assert f"continue with: halrp-np resume {run_folder}\n" in result.stdout
    (run_folder / "metrics.jsonl").unlink()
    assert "UNFINISHED: 0 of 2 tasks learned\n" in invoke("show", run_folder).stdout


def test_one_task_leaves_measures_undefined(invoke: Invoke, tiny: list[str]) -> None:
    result = invoke("run", *tiny, "--set", "tasks=1", "--out", "out")
    assert result.exit_code == 0, result.output
    assert re.search(r"BWT.* undefined: needs two tasks\n", result.stdout)
    shown = invoke("show", "out").stdout
    assert shown.count("undefined: needs two tasks") == 4
    assert "Ranks" not in shown


def test_resume_of_a_finished_run_changes_nothing(invoke: Invoke, run_folder: Path, finished: Path) -> None:
    result = invoke("resume", run_folder)
    assert result.exit_code == 0, result.output
    assert "Result of pmnist" in result.stdout
    assert changed_bytes(run_folder, finished) == []


def test_list_names_everything(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    everything = invoke("list")
    assert everything.exit_code == 0
    for word in ("pmnist", "halrp", "lenet", "mlp", "2,995,620", *halrp_np.methods.PRESET_NOTES.values()):
        assert word in everything.stdout
    settings = invoke("list", "settings").stdout
    for field in dataclasses.fields(halrp_np.RunConfig):
        assert re.search(rf"^{field.name} .*{re.escape(field.metadata['help'])}", settings, re.MULTILINE), field.name
    assert "Benchmarks" not in settings


def test_presets_lists_exactly_the_switches_that_differ(invoke: Invoke) -> None:
    configs = [halrp_np.resolve_config(("preset", {"preset": name})) for name in ("paper", "official")]
    fields = [field.name for field in dataclasses.fields(halrp_np.RunConfig) if field.name != "preset"]
    differ = {name for name in fields if len({getattr(config, name) for config in configs}) > 1}
    assert differ == set(halrp_np.methods.PRESET_NOTES)
    listed = invoke("list", "presets").stdout
    assert all(re.search(rf"^{name} ", listed, re.MULTILINE) for name in differ)


def test_data_list_and_verify(invoke: Invoke) -> None:
    listed = invoke("data", "list")
    assert listed.exit_code == 0
    assert "mnist-5k" in listed.stdout
    for words in (("data", "verify", "mnist-5k"), ("data", "fetch", "mnist-5k")):
        result = invoke(*words)
        assert result.exit_code == 0, result.output
        assert re.fullmatch(r"ok .*mnist_5k.csv.gz: 5,000 images, 500 of each class\n", result.stdout)


def test_version_and_help(invoke: Invoke) -> None:
    assert invoke("--version").stdout == f"halrp-np, version {halrp_np.__version__}\n"
    assert invoke().stdout == invoke("--help").stdout
    for command in ("run", "resume", "show", "list", "data"):
        result = invoke(command, "--help")
        assert result.exit_code == 0
        assert f"Usage: halrp-np {command}" in result.stdout


def test_bars_on_a_terminal(tiny: list[str], tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("TERM", "xterm")
    result = invoke("run", *tiny, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "\x1b[?25l" in result.stdout  # the cursor is hidden, and comes back
    assert "\x1b[?25h" in result.stdout
    shown = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", result.stdout)
    assert re.search(r"task 1, perturbation, epoch 1/1 ━+ +loss \d\.\d{4}.* left", shown)
    assert re.search(r"whole run +━+ +[\d,]+ images/s", shown)
    assert max(len(line) for line in re.split(r"[\r\n]", shown) if "━" in line) <= 80
    assert "task 1 learned (2 of 2)" in shown


# ---- how a run stops ----------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[..., None]:
    """A run that fails in its own way."""

    def run(*_: object, **__: object) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (
            MemoryError("Unable to allocate 3 GiB"),
            1,
            "error: memory: expected enough of it, received .* 3 GiB.*float32",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "x.csv"), 1, "error: x.csv: .*'No space left.*resume DIR"),
        (
            ZeroDivisionError("by\nzero"),
            70,
            "error: halrp-np .*received ZeroDivisionError: by zero.*report.*HALRP_NP_DEBUG=1",
        ),
        (KeyboardInterrupt(), 130, "stopped; nothing was begun"),
    ],
)
def test_errors_from_below_are_told_in_one_line(
    error: BaseException, code: int, says: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halrp_np, "run", raising(error))
    result = invoke("run")
    assert result.exit_code == code
    assert re.fullmatch(says + ".*\n", result.stderr), result.stderr
    assert "Traceback" not in result.output


def test_the_traceback_comes_when_asked_for(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halrp_np, "run", raising(ZeroDivisionError("by zero")))
    monkeypatch.setenv("HALRP_NP_DEBUG", "1")
    result = invoke("run")
    assert result.exit_code == 70
    assert "Traceback (most recent call last)" in result.stderr


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_diverging_run_stops_and_says_where(invoke: Invoke, tiny: list[str]) -> None:
    result = invoke("run", *tiny, "--set", "learning_rate=1e30", "--set", "optimizer=sgd", "--out", "out")
    assert result.exit_code == 1
    assert re.search(r"error: task 0, phase base, epoch 1, step \d+: expected a finite loss", result.stderr)
    assert "lower learning rate" in result.stderr
    assert "UNFINISHED: 0 of 2" in invoke("show", "out").stdout


def test_one_folder_is_for_one_process(invoke: Invoke, run_folder: Path) -> None:
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    with RunFolder.open(run_folder).lock("the other one"):
        result = invoke("resume", run_folder)
        assert result.exit_code == 1
        assert f"a lock held by process {os.getpid()}: the other one. Wait until" in result.stderr
    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before


def test_ctrl_c_saves_and_resume_ends_with_the_same_bytes(invoke: Invoke, tiny: list[str], tmp_path: Path) -> None:
    words = ["run", *tiny, "--set", "train_images=400", "--epochs", "8"]
    assert invoke(*words, "--out", "whole").exit_code == 0
    run = subprocess.Popen(
        [*PROGRAM, *words, "--out", "stopped"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert run.stdout is not None
    for line in run.stdout:
        if "epoch 2/8" in line:
            run.send_signal(signal.SIGINT)
            break
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert errors == "stopped; everything is saved. Continue with: halrp-np resume stopped\n"
    assert "UNFINISHED: 0 of 2" in invoke("show", "stopped").stdout
    result = invoke("resume", "stopped")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("data: mnist-5k, a SMALL SAMPLE")
    assert changed_bytes(Path("whole"), Path("stopped")) == []


def test_a_closed_pipe_is_no_error() -> None:
    with subprocess.Popen([*PROGRAM, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before anything is written: numpy takes longer to load
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_letters_that_the_terminal_lacks_do_not_stop_it() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*PROGRAM, "list", "settings"], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"weight_decay" in done.stdout


def test_help_loads_nothing_that_computes() -> None:
    program = "import sys; sys.argv = ['halrp-np', 'run', '--help']; from halrp_np_cli.main import main\n"
    program += "try: main()\nexcept SystemExit: pass\n"
    program += "print(sorted({'numpy', 'numba', 'scipy', 'cupy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
