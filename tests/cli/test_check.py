"""`halrp-np check`: its tables, exit codes, JSON and pictures, on right derivatives and on wrong ones."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from halrp_np_cli.main import main

import halrp_np
from halrp_np.backend.device import import_cupy
from halrp_np.curvature import CheckResult, Rung
from halrp_np.layers import BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential

Invoke = Callable[..., Result]
Patch = pytest.MonkeyPatch
PNG = b"\x89PNG\r\n\x1a\n"
PROGRAM = [sys.executable, "-c", "from halrp_np_cli.main import main; main()"]
SMALL = ("--model", "small", "--batch", "3")


def small(shape: tuple[int, ...], classes: int, norm: str = "running") -> Sequential:
    """A network of one layer of each kind, small enough for a check in a moment."""
    features = 3 * (shape[1] // 8) * (shape[2] // 8)
    conv = {"conv": Conv2d(shape[0], 3, 4, stride=4), "norm": BatchNorm2d(3), "relu": ReLU(), "pool": MaxPool2d(2)}
    return Sequential({**conv, "flatten": Flatten(), "head": Linear(features, classes)})


@pytest.fixture(autouse=True)
def _small(monkeypatch: Patch) -> None:
    """The network above under its name."""
    monkeypatch.setitem(halrp_np.models.MODELS, "small", small)


def verdicts(output: str) -> dict[str, str]:
    """The last word of each line that begins with a parameter's name."""
    return dict(re.findall(r"^(\w+\.\w+) .* (ok|FAILED) *$", output, re.MULTILINE))


def forget_beta(patch: Patch) -> None:
    """A wrong derivative: batch normalisation's β gets half its gradient."""
    right = BatchNorm2d.backward

    def wrong(self: Any, *words: Any, **options: Any) -> Any:
        gx, grads = right(self, *words, **options)
        return gx, {name: value / 2 if name == "beta" else value for name, value in grads.items()}

    patch.setattr(BatchNorm2d, "backward", wrong)


def test_a_deep_network_is_checked_on_fewer_images(invoke: Invoke) -> None:
    for model, title in (("resnet18", "fresh resnet18, seed 0, 1 image"), ("small", "fresh small, seed 0, 4 images")):
        for words in (("--model", model, "--layer", "head"), ("--layer", "head", "--model", model)):
            assert title in invoke("check", "symmetry", *words).stdout
    assert "3 images" in invoke("check", "symmetry", "--model", "resnet18", "--batch", 3, "--layer", "head").stdout


# ---- what is printed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("kind", ["grad", "hvp", "symmetry"])
def test_right_derivatives_pass(kind: str, mode: str, invoke: Invoke) -> None:
    result = invoke("check", kind, *SMALL, "--mode", mode)
    assert result.exit_code == 0, result.output
    names = ["conv.weight", "conv.bias", "norm.gamma", "norm.beta", "head.weight", "head.bias"]
    assert verdicts(result.stdout) == dict.fromkeys(names, "ok")
    lines = result.stdout.splitlines()
    assert lines[0] == f"fresh small, seed 0, 3 images of noise; {mode} mode, float64"
    assert lines[-1] == "all 6 checks passed"
    assert ("steps across kinks" in result.stdout) == (kind != "symmetry")
    assert list(Path.cwd().iterdir()) == []


def test_a_wrong_derivative_fails_by_name(invoke: Invoke, monkeypatch: Patch) -> None:
    forget_beta(monkeypatch)
    result = invoke("check", "grad", *SMALL)
    assert result.exit_code == 1
    assert [name for name, verdict in verdicts(result.stdout).items() if verdict == "FAILED"] == ["norm.beta"]
    assert re.search(r"^norm.beta: .*wrong", result.stdout, re.MULTILINE)
    assert result.stdout.splitlines()[-1] == "1 of 6 checks failed: norm.beta"
    assert result.stderr == ""


def test_layers_are_chosen_by_name(invoke: Invoke) -> None:
    for words, names in (
        (["--layer", "norm"], ["norm.gamma", "norm.beta"]),
        (["--layer", "head.bias", "--layer", "conv.weight"], ["conv.weight", "head.bias"]),
    ):
        result = invoke("check", "grad", *SMALL, *words)
        assert result.exit_code == 0, result.output
        assert list(verdicts(result.stdout)) == names
        assert result.stdout.endswith("all 2 checks passed\n")


def test_the_seed_draws_network_and_directions(invoke: Invoke) -> None:
    first, again, other = (invoke("check", "grad", *SMALL, "--seed", seed).stdout for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_run_is_checked_on_its_own_task(invoke: Invoke, finished: Path) -> None:
    result = invoke("check", "hvp", "--run", finished, "--task", 1, "--batch", 3, "--layer", "head")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"task 1 of {finished}, 3 images of validation; eval mode, float64\n")
    assert verdicts(result.stdout) == {"head.weight": "ok", "head.bias": "ok"}


def test_a_bar_moves_on_a_terminal_and_leaves_nothing(invoke: Invoke, monkeypatch: Patch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("TERM", "xterm")
    result = invoke("check", "grad", *SMALL, "--json")
    assert result.exit_code == 0
    assert "checking grad" in result.stderr
    assert json.loads(result.stdout)["passed"]
    assert result.stderr.rstrip().endswith("\x1b[2K")  # the bar's line is wiped


# ---- JSON -----------------------------------------------------------------------------------------------------------


def test_json_holds_every_step(invoke: Invoke) -> None:
    result = invoke("check", "grad", *SMALL, "--seed", 5, "--layer", "head", "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert document["format"], document["format_version"] == ("halrp-np check", 1)
    assert {"python", "numpy", "halrp-np"} <= set(document["versions"])
    stamp = {name: document[name] for name in ("kind", "seed", "mode", "dtype", "model", "run", "batch", "passed")}
    expected = {"kind": "grad", "seed": 5, "mode": "eval", "dtype": "float64", "model": "small", "run": None}
    assert stamp == {**expected, "batch": 3, "passed": True}
    assert [entry["name"] for entry in document["results"]] == ["head.weight", "head.bias"]
    for entry in document["results"]:
        assert {"error", "step", "tolerance", "passed", "seed", "attempts", "note", "ladder"} <= set(entry)
        assert len(entry["ladder"]) > 5
        assert all({"h", "error", "crossed"} == set(rung) for rung in entry["ladder"])
        assert entry["error"] == min(rung["error"] for rung in entry["ladder"] if not rung["crossed"])


def test_json_of_a_failure_is_whole(invoke: Invoke, monkeypatch: Patch) -> None:
    forget_beta(monkeypatch)
    result = invoke("check", "grad", *SMALL, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert not document["passed"]
    assert [entry["name"] for entry in document["results"] if not entry["passed"]] == ["norm.beta"]


def test_json_explains_what_is_not_finite(invoke: Invoke, monkeypatch: Patch) -> None:
    lost = CheckResult("grad", "conv.weight", False, float("inf"), 0.0, 1e-7, (Rung(0.1, 0.5, 3),), 0, 5, "kinks")
    monkeypatch.setattr(halrp_np.curvature, "check_gradient", lambda *words, **options: [lost])
    result = invoke("check", "grad", *SMALL, "--json")
    assert result.exit_code == 1
    (entry,) = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(name))["results"]
    assert (entry["error"], entry["error_reason"]) == (None, "not a finite number: inf")


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_a_picture_is_drawn(invoke: Invoke) -> None:
    result = invoke("check", "grad", *SMALL, "--layer", "head", "--plot", "v.png")
    assert result.exit_code == 0, result.output
    assert Path("v.png").read_bytes().startswith(PNG)
    assert "\ndrawn in v.png\n" in result.stdout
    assert [path.name for path in Path.cwd().iterdir()] == ["v.png"]


def test_a_failure_is_drawn_too(invoke: Invoke, monkeypatch: Patch) -> None:
    forget_beta(monkeypatch)
    assert invoke("check", "grad", *SMALL, "--layer", "norm", "--plot", "v.png").exit_code == 1
    assert Path("v.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("moment", ["check_gradient", "ladders"])
def test_ctrl_c_leaves_no_half_picture(moment: str, invoke: Invoke, monkeypatch: Patch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if moment == "ladders":
        monkeypatch.setattr(os, "replace", stop)  # the picture is drawn and about to get its name
    else:
        monkeypatch.setattr(halrp_np.curvature, moment, stop)
    result = invoke("check", "grad", *SMALL, "--layer", "head", "--plot", "v.png")
    assert (result.exit_code, result.stderr.strip()) == (130, "stopped")
    assert list(Path.cwd().iterdir()) == []


# ---- the bound ------------------------------------------------------------------------------------------------------

ROW = r"^ *(\d+)" + 3 * r" +(-?\d\S+)" + r" +(\d\S+) +(\d\S+)(?: ± (\S+)%)? +(holds|violated|undecided)"
"""Rank, measured, gradient term, quadratic term, two bounds, error of the second, verdict."""


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_bound_is_shown_layer_by_layer_and_rank_by_rank(mode: str, invoke: Invoke) -> None:
    result = invoke("check", "bound", *SMALL, "--mode", mode, "--plot", "b.png")
    assert result.exit_code == 0, result.output
    assert re.search(r"^conv, of full rank 3, cut", result.stdout, re.MULTILINE)
    assert re.search(r"^head, of full rank 10, cut", result.stdout, re.MULTILINE)
    rows = re.findall(ROW, result.stdout, re.MULTILINE)
    assert [int(row[0]) for row in rows][:5] == [0, 1, 2, 3, 0]
    assert int(rows[-1][0]) == 10
    for _, _, _, quadratic, spectral, frobenius, error, _ in rows:
        assert abs(float(quadratic)) <= 1.1 * float(spectral)  # two digits are shown
        assert float(spectral) <= 1.1 * float(frobenius) * (1 + 3 * float(error or 0) / 100)
    assert result.stdout.splitlines()[-1] == "all 2 checks passed"
    assert Path("b.png").read_bytes().startswith(PNG)


def test_no_number_is_cut_on_a_narrow_terminal(invoke: Invoke, monkeypatch: Patch) -> None:
    """A line that is too long goes on beyond the edge."""
    monkeypatch.setenv("COLUMNS", "40")
    narrow = invoke("check", "bound", *SMALL, "--layer", "conv").stdout
    monkeypatch.setenv("COLUMNS", "120")
    wide = invoke("check", "bound", *SMALL, "--layer", "conv").stdout
    assert re.findall(ROW, narrow, re.MULTILINE) == re.findall(ROW, wide, re.MULTILINE)
    assert len(re.findall(ROW, wide, re.MULTILINE)) == 4
    assert ("tight" in wide, "tight" in narrow) == (True, True)
    assert re.search(r"^rank [\d, ]+: (holds, but|violated:|undecided:) ", wide, re.MULTILINE)


@pytest.mark.parametrize(("ranks", "expected"), [("all", [0, 1, 2, 3]), ("2,0", [0, 2]), (None, [0, 1, 2, 3])])
def test_the_bound_takes_the_ranks_asked_for(ranks: str | None, expected: list[int], invoke: Invoke) -> None:
    asked = () if ranks is None else ("--ranks", ranks)
    result = invoke("check", "bound", *SMALL, "--layer", "conv", "--json", *asked)
    assert [row["rank"] for row in json.loads(result.stdout)["rows"]] == expected


def test_json_of_the_bound_holds_every_row(invoke: Invoke) -> None:
    result = invoke("check", "bound", *SMALL, "--layer", "conv", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(name))
    assert [(row["layer"], row["rank"], row["size"]) for row in document["rows"]] == [("conv", n, 3) for n in range(4)]
    for row in document["rows"]:
        assert {"measured", "gradient_term", "quadratic_term", "spectral_bound", "frobenius_bound"} <= set(row)
        assert {"frobenius_stderr", "tightness", "crossed", "branches", "verdict", "delta_squared"} <= set(row)
    assert {entry["kind"] for entry in document["results"]} == {"bound"}


def test_a_wrong_curvature_fails_the_bound(invoke: Invoke, monkeypatch: Patch) -> None:
    right = halrp_np.losses.CrossEntropy.hess_vec
    monkeypatch.setattr(halrp_np.losses.CrossEntropy, "hess_vec", lambda *words: 1.01 * right(*words))
    result = invoke("check", "bound", *SMALL, "--layer", "head")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith("1 of 1 check failed: head")


# ---- wrong input ----------------------------------------------------------------------------------------------------

REFUSED = [
    ("", ("[grad|hvp|bound|symmetry]", "received nothing")),
    ("hpv", ("one of grad, hvp, bound, symmetry", "'hpv'", "Did you mean hvp?")),
    ("grad --model smal", ("--model", "large-lenet, small", "'smal'", "Did you mean small?")),
    ("grad --layer haed", ("--layer", "a layer with parameters", "'haed'", "Did you mean head?", "conv, norm, head")),
    ("grad --layer conv.wieght", ("--layer", "'conv.wieght'", "Did you mean conv.weight?")),
    ("grad --layer relu", ("--layer", "'relu'", "The layers are: conv, norm, head.")),
    ("bound --ranks some", ("--ranks", "all, or whole numbers", "'some'")),
    ("bound --layer conv --ranks 9", ("ranks of conv", "whole numbers from 0 to 3", "9")),
    ("hvp --ranks all", ("hvp", "expected no --ranks")),
    ("bound --layer norm", ("--layer", "a layer with a weight", "'norm'", "The layers are: conv, head.")),
    ("grad --run DIR", ("--model or --run, received both",)),
    ("grad --task 0", ("--run DIR with --task",)),
    ("grad --batch 0", ("--batch", "a whole number at least 1, received '0'")),
    ("grad --batch some", ("--batch", "a whole number at least 1, received 'some'")),
    ("grad --seed -1", ("--seed", "at least 0, received '-1'")),
    ("grad --mode both", ("--mode", "eval or train, received 'both'")),
    ("grad --device gpux", ("--device", "'gpux'")),
    ("grad --plot v.gif", ("v.gif", ".png, .svg, .pdf", "v.png")),
    ("symmetry --plot v.png", ("no --plot", "no steps to draw")),
]


@pytest.mark.parametrize(("words", "says"), REFUSED, ids=[words for words, _ in REFUSED])
def test_wrong_input_is_refused(words: str, says: tuple[str, ...], invoke: Invoke) -> None:
    small = [] if "--model" in words else ["--model", "small"]
    result = invoke("check", *words.split(), *small)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert re.fullmatch(r"error: .*expected .*received .*\. .*\n", result.stderr)
    for text in says:
        assert text in result.stderr
    assert list(Path.cwd().iterdir()) == []


def test_a_run_needs_a_task_that_it_has_learned(invoke: Invoke, finished: Path) -> None:
    missing = invoke("check", "grad", "--run", finished)
    assert (missing.exit_code, "--task T with --run" in missing.stderr) == (2, True)
    late = invoke("check", "grad", "--run", finished, "--task", 2)
    assert (late.exit_code, "a learned task, 0 to 1, received 2" in late.stderr) == (2, True)
    large = invoke("check", "grad", "--run", finished, "--task", 0, "--batch", 999)
    assert (large.exit_code, "at most the 40 validation images" in large.stderr) == (2, True)


def test_a_picture_that_cannot_be_written_is_refused_first(invoke: Invoke, monkeypatch: Patch) -> None:
    monkeypatch.setattr(halrp_np, "fresh_subject", lambda *words, **options: pytest.fail("too late"))
    result = invoke("check", "grad", *SMALL, "--plot", "none/v.png")
    assert result.exit_code == 1
    assert "error: none/v.png: expected to write it, received 'No such file or directory'" in result.stderr


def test_no_gpu_is_told_with_the_install_line(invoke: Invoke, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    import_cupy.cache_clear()
    result = invoke("check", "grad", *SMALL, "--device", "gpu")
    auto = invoke("check", "grad", *SMALL, "--device", "auto", "--layer", "head.bias")
    import_cupy.cache_clear()
    assert result.exit_code == 2
    assert "halrp_np[cuda12]" in result.stderr
    assert auto.exit_code == 0
    assert auto.stdout.startswith("no GPU is used: CuPy cannot be imported")


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("config.json", "The file is damaged"),
        ("checkpoints/state.json", "damaged"),
        ("checkpoints/*.safetensors", "bytes"),
    ],
)
def test_a_damaged_run_is_refused(pattern: str, says: str, invoke: Invoke, run_folder: Path) -> None:
    (path,) = run_folder.glob(pattern)
    path.write_bytes(path.read_bytes()[:-30])
    result = invoke("check", "grad", "--run", run_folder, "--task", 0)
    assert result.exit_code == 1, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_what_is_no_run_is_refused(invoke: Invoke) -> None:
    result = invoke("check", "grad", "--run", "nowhere", "--task", 0)
    assert result.exit_code == 1
    assert "nowhere: expected a run folder" in result.stderr


# ---- as a process ---------------------------------------------------------------------------------------------------


def test_help_loads_nothing_that_computes_or_draws() -> None:
    for command in ("check", "spectrum"):
        program = f"import sys; sys.argv = ['halrp-np', '{command}', '--help']; from halrp_np_cli.main import main\n"
        program += "try: main()\nexcept SystemExit: pass\n"
        program += "print(sorted({'numpy', 'numba', 'scipy', 'cupy', 'matplotlib'} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", timeout=60)
        assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_exit_code_of_the_process_is_the_checks(monkeypatch: Patch) -> None:
    """Without click's standalone mode the return value has to become the exit code on its own."""
    failed = SimpleNamespace(exit_code=CliRunner().invoke(main, ["check", "grad", "--model", "nosuch"]).exit_code)
    assert failed.exit_code == 2
    words = ["check", "symmetry", "--model", "mlp", "--batch", "2", "--layer", "head"]
    done = subprocess.run([*PROGRAM, *words], capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all 2 checks passed\n")
