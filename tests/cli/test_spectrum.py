"""`halrp-np spectrum`: its table, picture and JSON agree with the eigenvalues of the written-out Hessian."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

import halrp_np
from halrp_np import curvature, fresh_subject
from halrp_np.backend.device import import_cupy
from halrp_np.layers import BatchNorm1d, Flatten, Linear, MaxPool2d, ReLU, Sequential

Invoke = Callable[..., Result]
Patch = pytest.MonkeyPatch
PNG = b"\x89PNG\r\n\x1a\n"
SMALL = ("--model", "small", "--batch", "8", "--dtype", "float64")


def small(shape: tuple[int, ...], classes: int, norm: str = "running") -> Sequential:
    """A network whose layers have 240 and 50 weights."""
    fc = {"fc": Linear(shape[0] * (shape[1] // 8) * (shape[2] // 8), 5), "norm": BatchNorm1d(5), "relu": ReLU()}
    return Sequential({"pool": MaxPool2d(8), "flatten": Flatten(), **fc, "head": Linear(5, classes)})


@pytest.fixture(autouse=True)
def _small(monkeypatch: Patch) -> None:
    """The network above under its name."""
    monkeypatch.setitem(halrp_np.models.MODELS, "small", small)


def matrix(name: str, mode: str = "eval") -> np.ndarray:
    """The Hessian of one weight of the network above, written out."""
    subject = fresh_subject("small", batch=8)
    point = (subject.model, subject.params, subject.loss, subject.data)
    operator = curvature.HessianOperator(*point, names=[name], mode=halrp_np.layers.Mode(train=mode == "train"))
    return np.asarray(curvature.dense_matrix(operator))


def cells(output: str) -> dict[str, list[str]]:
    """The cells of each line that begins with a parameter's name."""
    found = re.findall(r"^(\w+\.weight) +(.*?) *$", output, re.MULTILINE)
    return {name: re.split(r"  +", rest) for name, rest in found}


def test_it_says_what_it_costs_and_what_it_found(invoke: Invoke) -> None:
    result = invoke("spectrum", *SMALL, "--probes", 2, "--steps", 6)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "fresh small, seed 0, 8 images of noise; eval mode, float64"
    assert lines[1].startswith("2 layers, at most 42 products with its Hessian each (2 x 6 for the density, 30 for")
    assert lines[1].endswith(": 84 in all")
    assert lines[-1] == "drawn in spectrum.png"
    assert list(cells(result.stdout)) == ["fc.weight", "head.weight"]
    assert cells(result.stdout)["head.weight"][-1] == "42"
    assert [path.name for path in Path.cwd().iterdir()] == ["spectrum.png"]
    assert Path("spectrum.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_its_numbers_are_the_written_out_hessians(mode: str, invoke: Invoke) -> None:
    words = ("--mode", mode, "--probes", 8, "--steps", 40, "--json", "--layer", "fc")
    document = json.loads(invoke("spectrum", *SMALL, *words).stdout)
    (layer,) = document["layers"]
    H = matrix("fc.weight", mode)
    values = np.linalg.eigvalsh(H)
    assert (layer["name"], layer["parameters"]) == ("fc.weight", 240)
    assert layer["products"] == 240 + 30  # 8 x 40 would pay for every column: the density is exact
    np.testing.assert_allclose([layer["smallest"], layer["largest"]], values[[0, -1]], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.sort(np.ravel(layer["density"]["nodes"])), values, atol=1e-10)
    for name, exact in (("trace", values.sum()), ("frobenius_norm", np.linalg.norm(H))):
        estimate = layer[name]
        assert abs(estimate["value"] - exact) <= 4 * estimate["stderr"] + 1e-9 * abs(exact)
    grid, density = (np.asarray(layer["density"][part]) for part in ("grid", "density"))
    np.testing.assert_allclose(np.trapezoid(density, grid), 1.0, rtol=1e-3)


def test_json_is_one_document(invoke: Invoke) -> None:
    result = invoke("spectrum", *SMALL, "--probes", 2, "--steps", 4, "--json", "--plot", "s.png", "--seed", 3)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    assert (document["format"], document["format_version"]) == ("halrp-np spectrum", 1)
    assert (document["seed"], document["model"], document["plot"], document["dtype"]) == (
        3,
        "small",
        "s.png",
        "float64",
    )
    assert {"python", "numpy", "halrp-np"} <= set(document["versions"])
    for layer in document["layers"]:
        assert {"name", "parameters", "trace", "frobenius_norm", "smallest", "largest", "products"} <= set(layer)
        assert len(layer["density"]["grid"]) == len(layer["density"]["stderr"]) > 100
    assert Path("s.png").read_bytes().startswith(PNG)
    assert result.stderr == ""


def test_the_same_seed_gives_the_same_bytes(invoke: Invoke) -> None:
    words = ("spectrum", *SMALL, "--layer", "head", "--probes", 2, "--steps", 4)
    first, again = invoke(*words, "--json", "--plot", "a.png"), invoke(*words, "--json", "--plot", "b.png")
    assert first.stdout.replace("a.png", "") == again.stdout.replace("b.png", "")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_a_run_has_a_spectrum_in_single_precision(invoke: Invoke, finished: Path) -> None:
    words = ("--run", finished, "--task", 1, "--layer", "head.weight", "--probes", 2, "--steps", 3, "--batch", 5)
    result = invoke("spectrum", *words)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"task 1 of {finished}, 5 images of validation; eval mode, float32\n")
    assert list(cells(result.stdout)) == ["head.weight"]


def test_the_bar_counts_every_product(invoke: Invoke, monkeypatch: Patch) -> None:
    from halrp_np_cli import spectrum as command

    heard: list[tuple[int, int]] = []

    class Bar:
        def __enter__(self) -> Callable[[int, int], None]:
            return lambda done, total: heard.append((done, total))

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(command, "waiting", lambda text: Bar())
    assert invoke("spectrum", *SMALL, "--probes", 2, "--steps", 6).exit_code == 0
    assert heard[-1] == (84, 84)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)


@pytest.mark.parametrize("moment", ["rows", "picture"])
def test_ctrl_c_leaves_no_half_picture(moment: str, invoke: Invoke, monkeypatch: Patch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*((curvature, "spectral_density", stop) if moment == "rows" else (os, "replace", stop)))
    result = invoke("spectrum", *SMALL, "--layer", "head", "--probes", 2, "--steps", 2)
    assert (result.exit_code, result.stderr.strip()) == (130, "stopped")
    assert list(Path.cwd().iterdir()) == []


REFUSED = [
    ("--layer norm", ("--layer: expected a layer with a weight, received 'norm'", "The layers are: fc, head.")),
    ("--layer hed", ("'hed'", "Did you mean head?")),
    ("--probes 1", ("--probes: expected a whole number at least 2, received '1'",)),
    ("--steps x", ("--steps: expected a whole number at least 1, received 'x'",)),
    ("--dtype float16", ("--dtype: expected float32 or float64, received 'float16'",)),
    ("--plot s.jpg", ("s.jpg", ".png, .svg, .pdf")),
    ("--task 1", ("--run DIR with --task",)),
    ("--probe 1", ("'--probe'", "Did you mean --probes?")),
]


@pytest.mark.parametrize(("words", "says"), REFUSED, ids=[words for words, _ in REFUSED])
def test_wrong_input_is_refused(words: str, says: tuple[str, ...], invoke: Invoke) -> None:
    result = invoke("spectrum", *SMALL, *words.split())
    assert result.exit_code == 2, result.output
    assert re.fullmatch(r"error: .*expected .*received .*\. .*\n", result.stderr)
    for text in says:
        assert text in result.stderr
    assert list(Path.cwd().iterdir()) == []


def test_what_cannot_be_written_is_refused_first(invoke: Invoke, monkeypatch: Patch) -> None:
    monkeypatch.setattr(halrp_np, "fresh_subject", lambda *words, **options: pytest.fail("too late"))
    (Path.cwd() / "spectrum.png").mkdir()
    result = invoke("spectrum", *SMALL)
    assert result.exit_code == 1
    assert "spectrum.png: expected to write it, received 'Is a directory'" in result.stderr


def test_no_gpu_is_told_with_the_install_line(invoke: Invoke, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    import_cupy.cache_clear()
    result = invoke("spectrum", *SMALL, "--device", "gpu")
    import_cupy.cache_clear()
    assert result.exit_code == 2
    assert "halrp_np[cuda12]" in result.stderr


def test_a_damaged_run_is_refused(invoke: Invoke, run_folder: Path) -> None:
    (path,) = run_folder.glob("checkpoints/*.safetensors")
    path.write_bytes(path.read_bytes()[:99])
    result = invoke("spectrum", "--run", run_folder, "--task", 0)
    assert result.exit_code == 1
    assert "safetensors" in result.stderr
    assert list(Path.cwd().iterdir()) == []
