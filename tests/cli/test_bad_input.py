"""Bad input of every kind: an exit code, one message that says where, what, what came and what next, and no harm."""

import dataclasses
import errno
import gzip
import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from data.idx_files import idx_bytes
from halrp_np.backend.device import import_cupy

Patch = pytest.MonkeyPatch
Invoke = Callable[..., Result]


@dataclasses.dataclass(frozen=True)
class Case:
    """Words of a command line (PLACE is a folder, RUN in it a finished run), how it ends, and what the message says."""

    name: str
    words: str
    code: int
    says: tuple[str, ...]
    prepare: Callable[[Path, Patch], object] = lambda place, patch: None


def file(name: str, content: str) -> Callable[[Path, Patch], object]:
    """Write a file into the place."""
    return lambda place, patch: (place / name).write_text(content, encoding="utf-8")


def write_mnist(folder: Path, **damage: Callable[[bytes], bytes]) -> None:
    """Files of MNIST's names and format, gzipped; `damage` changes a file's bytes, by the first word of its name."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 60), ("t10k", 20)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, count, dtype=np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = gzip.compress(idx_bytes(array))
            (folder / f"{name}.gz").write_bytes(damage.get(name.replace("-", "_"), bytes)(content))


def mnist(**damage: Callable[[bytes], bytes]) -> Callable[[Path, Patch], object]:
    """A data folder with damaged files."""
    return lambda place, patch: write_mnist(place / "mnist", **damage)


def label_ten(content: bytes) -> bytes:
    """Labels of which the last is 10."""
    return gzip.compress(gzip.decompress(content)[:-1] + b"\x0a")


def no_network(place: Path, patch: Patch) -> None:
    """Every connection is refused, and the cache is empty."""

    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    patch.setenv("HALRP_NP_CACHE", str(place / "cache"))
    patch.setattr(socket, "create_connection", refuse)
    patch.setattr(socket.socket, "connect", refuse)


def no_cupy(place: Path, patch: Patch) -> None:
    """CuPy is not installed."""
    patch.setitem(sys.modules, "cupy", None)
    import_cupy.cache_clear()


def read_only(place: Path, patch: Patch) -> None:
    """No folder can be made (the tests may run as root, whom permissions do not stop)."""

    def refuse(path: Path, *args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    patch.setattr(Path, "mkdir", refuse)


def bogus_kernels(place: Path, patch: Patch) -> None:
    """The variable names no column of kernels."""
    patch.setenv("HALRP_NP_KERNELS", "bogus")


def changed(pattern: str, change: Callable[[bytes], bytes]) -> Callable[[Path, Patch], object]:
    """Change the bytes of one file of the run."""

    def prepare(place: Path, patch: Patch) -> None:
        (path,) = (place / "run").glob(pattern)
        path.write_bytes(change(path.read_bytes()))

    return prepare


def removed(pattern: str) -> Callable[[Path, Patch], object]:
    """Delete one file of the run."""

    def prepare(place: Path, patch: Patch) -> None:
        (path,) = (place / "run").glob(pattern)
        path.unlink()

    return prepare


def flipped(content: bytes) -> bytes:
    """One bit of the last byte turned."""
    return content[:-1] + bytes([content[-1] ^ 1])


def version_nine(content: bytes) -> bytes:
    """JSON of a later format version."""
    return json.dumps({**json.loads(content), "format_version": 9}).encode()


def without_config(content: bytes) -> bytes:
    """config.json of the right format with nothing in it."""
    stamp = {key: value for key, value in json.loads(content).items() if key.startswith("format")}
    return json.dumps(stamp).encode()


def odd_config(place: Path, patch: Patch) -> None:
    """config.json with a list where its settings should be."""
    path = place / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "config": [1]}))


def begun_on_a_gpu(place: Path, patch: Patch) -> None:
    """A run that was begun on a machine with a GPU, on one without CuPy."""
    path = place / "run" / "config.json"
    content = json.loads(path.read_text())
    for other in (place / "run").iterdir():
        if other.is_dir():
            shutil.rmtree(other)
        elif other.name != ".lock":
            other.unlink()
    path.write_text(json.dumps({**content, "config": {**content["config"], "device": "gpu:0"}}))
    no_cupy(place, patch)


USAGE = [
    Case("flag misspelt", "run --epoch 3", 2, ("halrp-np run", "'--epoch'", "Did you mean --epochs?")),
    Case("flag unknown", "show --frobnicate RUN", 2, ("halrp-np show", "'--frobnicate'", "See `halrp-np show --help`")),
    Case("command misspelt", "rnu", 2, ("halrp-np:", "'rnu'", "Did you mean run?")),
    Case("data command missing", "data", 2, ("halrp-np data", "fetch, list, verify", "--help")),
    Case("argument missing", "resume", 2, ("halrp-np resume", "expected DIR", "--help")),
    Case("argument too many", "show RUN again", 2, ("halrp-np show", "again", "--help")),
    Case("flag without value", "run --epochs", 2, ("halrp-np", "a value after --epochs", "--help")),
    Case("list of two", "list models --benchmarks", 2, ("halrp-np list", "benchmarks", "'models'", "Leave one")),
    Case("list of nothing", "list model", 2, ("halrp-np list", "'model'", "Did you mean models?")),
]

SETTINGS = [
    Case("key misspelt", "run --set epoch=3", 2, ("--set: key 'epoch'", "a known key", "Did you mean 'epochs'?")),
    Case("key unknown", "run --set zzz=3", 2, ("--set: key 'zzz'", "The keys are:")),
    Case("no equals sign", "run --set epochs", 2, ("--set", "key=value", "'epochs'", "Write it like")),
    Case("preset", "run --preset papr", 2, ("--preset", "one of paper, official", "'papr'", "Did you mean 'paper'?")),
    Case("benchmark", "run --benchmark mnist", 2, ("--benchmark", "Did you mean 'pmnist'?", "'mnist'")),
    Case("method", "run --method ewk", 2, ("--method", "halrp", "'ewk'", "Did you mean 'ewc'")),
    Case("model", "run --model lenet5", 2, ("--model", "one of lenet, mlp,", "'lenet5'", "Did you mean 'lenet'?")),
    Case("dtype", "run --dtype float16", 2, ("--dtype", "float32, float64", "'float16'")),
    Case("data", "run --data some", 2, ("--data", "auto, full, sample", "'some'")),
    Case("number is text", "run --epochs many", 2, ("--epochs", "a whole number at least 1", "'many'")),
    Case("number too small", "run --epochs 0", 2, ("--epochs", "at least 1", "'0'", "in this range")),
    Case("number not whole", "run --seed 1.5", 2, ("--seed", "a whole number", "'1.5'")),
    Case("number not finite", "run --set learning_rate=nan", 2, ("learning_rate", "above 0", "'nan'", "finite")),
    Case("width not a number", "run --set widths=8,x", 2, ("widths", "a list of", "'8,x'")),
    Case("config missing", "run --config PLACE/no.toml", 2, ("no.toml", "a readable TOML file", "Check the path")),
    Case(
        "config syntax",
        "run --config PLACE/c.toml",
        2,
        ("c.toml", "line 2", "Correct"),
        file("c.toml", "seed=1\na==\n"),
    ),
    Case(
        "config table",
        "run --config PLACE/c.toml",
        2,
        ("c.toml", "[run]", "to the top"),
        file("c.toml", "[run]\nseed=1"),
    ),
    Case(
        "config key",
        "run --config PLACE/c.toml",
        2,
        ("c.toml: key 'sed'", "Did you mean 'seed'?"),
        file("c.toml", "sed=1"),
    ),
    Case("config value", "run --config PLACE/c.toml", 2, ("c.toml: key 'seed'", "'x'"), file("c.toml", 'seed="x"')),
]

BEFORE_TRAINING = [
    Case("warm-up too long", "--set warmup_epochs=5", 2, ("warmup_epochs", "at most epochs = 2", "received 5")),
    Case("lenet's widths", "--model lenet", 2, ("lenet", "4 positive widths", "(8,)")),
    Case("batch too large", "--set batch_size=500", 2, ("batch_size", "160", "500", "smaller batch")),
    Case("pruning value missing", "--set prune_values=0.4", 2, ("pruning", "2 values for the rule", "received 1")),
    Case("images too many", "--set train_images=90000", 2, ("train_images", "4,000", "90000")),
    Case("validation all", "--set validation_share=1.5", 2, ("validation_share", "between 0 and 1", "1.5")),
    Case("tasks too many", "--set tasks=20000", 2, ("tasks", "1 to 10,000", "20000")),
    Case("device unknown", "--device gpux", 2, ("--device", "cpu, gpu, gpu:N or auto", "'gpux'")),
    Case("device absent", "--device gpu", 2, ("--device gpu", "CuPy cannot be imported", "halrp_np[cuda12]"), no_cupy),
    Case("kernels", "", 2, ("HALRP_NP_KERNELS", "fast or reference", "'bogus'", "Unset it"), bogus_kernels),
    Case("out is a run", "--out RUN", 1, ("run", "a folder that holds a run", "halrp-np resume", "--out")),
    Case("out is full", "--out PLACE", 1, ("a folder that holds", "another folder with --out")),
    Case("out is a file", "--out PLACE/f", 1, ("/f", "'Not a directory'", "move it away"), file("f", "")),
    Case("out under a file", "--out PLACE/f/x", 1, ("/f/x", "'Not a directory'", "move it away"), file("f", "")),
    Case("out read-only", "", 1, ("out", "'Permission denied'", "may write to"), read_only),
]

DATA = [
    Case("folder missing", "--data-dir PLACE/none", 1, ("none", "no such folder", "MNIST/raw")),
    Case("folder empty", "--data-dir HOME", 1, ("home", "none of them there", "MNIST/raw")),
    Case("file missing", "--data-dir MNIST", 1, ("mnist", "train-images", "neither"), mnist()),
    Case(
        "gzip cut", "--data-dir MNIST", 1, ("t10k-images", "received"), mnist(t10k_images_idx3_ubyte=lambda c: c[:-300])
    ),
    Case(
        "html",
        "--data-dir MNIST",
        1,
        ("train-images", "HTML"),
        mnist(train_images_idx3_ubyte=lambda c: b"<!DOCTYPE html>"),
    ),
    Case(
        "wrong magic",
        "--data-dir MNIST",
        1,
        ("train-images", "received"),
        mnist(train_images_idx3_ubyte=lambda c: gzip.compress(b"\1\2\3\4" + gzip.decompress(c)[4:])),
    ),
    Case(
        "label 10",
        "--data-dir MNIST",
        1,
        ("train-labels", "labels from 0 to 9", "10"),
        mnist(train_labels_idx1_ubyte=label_ten),
    ),
    Case("not MNIST's", "--data full --data-dir MNIST", 1, ("mnist", "other content, 60 + 20", "--data-dir"), mnist()),
    Case("no network", "--data full", 1, ("download of", "Network is unreachable", "Check the network"), no_network),
]

FOLDERS = [
    Case("resume nothing", "resume PLACE/none", 1, ("none", "a run folder", "no such folder", "halrp-np run --out")),
    Case("resume no run", "resume HOME", 1, ("home", "config.json", "a folder without it")),
    Case(
        "bit flipped",
        "resume RUN",
        1,
        ("safetensors", "SHA-256", "has changed"),
        changed("checkpoints/*.safetensors", flipped),
    ),
    Case(
        "payload cut", "resume RUN", 1, ("safetensors", "bytes"), changed("checkpoints/*.safetensors", lambda c: c[:99])
    ),
    Case(
        "payload gone",
        "resume RUN",
        1,
        ("safetensors", "No such file", "Restore"),
        removed("checkpoints/*.safetensors"),
    ),
    Case(
        "manifest cut",
        "resume RUN",
        1,
        ("state.json", "JSON", "damaged"),
        changed("checkpoints/state.json", lambda c: c[:99]),
    ),
    Case(
        "later checkpoint",
        "resume RUN",
        1,
        ("state.json", "version 1", "version 9"),
        changed("checkpoints/state.json", version_nine),
    ),
    Case("later run", "resume RUN", 1, ("config.json", "version 1", "version 9"), changed("config.json", version_nine)),
    Case(
        "config.json cut", "resume RUN", 1, ("config.json", "JSON", "damaged"), changed("config.json", lambda c: c[:99])
    ),
    Case(
        "config.json bare",
        "resume RUN",
        1,
        ("config.json", "'config'", "damaged"),
        changed("config.json", without_config),
    ),
    Case(
        "device elsewhere",
        "resume RUN",
        2,
        ("device gpu:0", "CuPy cannot be imported", "the device it began on", "in a new folder"),
        begun_on_a_gpu,
    ),
    Case("config.json odd", "resume RUN", 1, ("config.json", "'config'", "damaged"), odd_config),
    Case("show odd config.json", "show RUN", 1, ("config.json", "'config'", "damaged"), odd_config),
    Case(
        "metrics cut",
        "resume RUN",
        1,
        ("metrics.jsonl", "a line that ends at byte"),
        changed("metrics.jsonl", lambda c: c[:50]),
    ),
    Case("show nothing", "show PLACE/none", 1, ("none", "a run folder", "no such folder")),
    Case("show bare", "show RUN", 1, ("config.json", "'config'", "damaged"), changed("config.json", without_config)),
    Case("show cut table", "show RUN", 1, ("ranks.csv", "cells"), changed("ranks.csv", lambda c: c[:-40] + b"\n1,2\n")),
    Case(
        "show other table",
        "show RUN",
        1,
        ("accuracy.csv", "'after_task'"),
        changed("accuracy.csv", lambda c: b"a,b\n1,2\n"),
    ),
    Case("fetch unknown", "data fetch mnits", 2, ("data set", "one of mnist,", "'mnits'", "Did you mean mnist?")),
    Case("verify unknown", "data verify cifar", 2, ("data set", "'cifar'")),
    Case("verify nothing", "data verify mnist --data-dir HOME", 1, ("home", "none of them there")),
    Case(
        "verify damaged",
        "data verify mnist --data-dir MNIST",
        1,
        ("train-images", "whole file", "SHA-256", "halrp-np data fetch mnist"),
        mnist(t10k_labels_idx1_ubyte=lambda c: c[:-9]),
    ),
]


def content_of(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, every folder with None."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def assert_told(code: int, output: str, message: str, case: Case) -> None:
    """One line that names place, expectation, what came and a next step; no traceback."""
    assert code == case.code, message or output
    assert "Traceback" not in output
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    where, _, rest = message.partition("expected ")
    assert where.count(":") >= 2  # error: where:
    assert "received" in rest
    assert ". " in rest.partition("received")[2]  # the next step is a sentence of its own
    for words in case.says:
        assert words in message


@pytest.fixture
def place(run_folder: Path, invoke: Invoke) -> Path:
    """A folder with a finished run, `run`, and an empty folder, `home`, which is the current one."""
    return run_folder.parent


def words_of(text: str, place: Path) -> list[str]:
    """The words of a case with its folders in place."""
    for name, path in {"RUN": "run", "HOME": "home", "MNIST": "mnist"}.items():
        text = " ".join(str(place / path) if word == name else word for word in text.split())
    return text.replace("PLACE", str(place)).split()


@pytest.mark.parametrize("case", [*USAGE, *SETTINGS, *FOLDERS], ids=lambda case: case.name)
def test_a_wrong_command_is_refused(case: Case, place: Path, invoke: Invoke, monkeypatch: Patch) -> None:
    case.prepare(place, monkeypatch)
    before = content_of(place)
    result = invoke(*words_of(case.words, place))
    assert_told(result.exit_code, result.output, result.stderr, case)
    import_cupy.cache_clear()
    assert content_of(place) == before


@pytest.mark.parametrize("case", [*BEFORE_TRAINING, *DATA], ids=lambda case: case.name)
def test_a_run_that_cannot_work_leaves_nothing(
    case: Case, place: Path, invoke: Invoke, tiny: list[str], monkeypatch: Patch
) -> None:
    if case.name == "file missing":
        write_mnist(place / "mnist")
        (place / "mnist" / "train-images-idx3-ubyte.gz").unlink()
    else:
        case.prepare(place, monkeypatch)
    before = content_of(place)
    defaults = ["--data", "auto"] if case in DATA else []
    result = invoke("run", "--out", place / "out", *tiny, *defaults, *words_of(case.words, place))
    assert_told(result.exit_code, result.output, result.stderr, case)
    import_cupy.cache_clear()
    assert content_of(place) == before
