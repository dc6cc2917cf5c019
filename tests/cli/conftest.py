"""The command line in this process, a tiny run, and one finished run folder to copy and damage."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from halrp_np_cli.main import main

from halrp_np.data import mnist

TINY_SETTINGS = {"widths": 8, "tasks": 2, "train_images": 200, "test_images": 50, "batch_size": 32}
TINY = ["--data", "sample", "--model", "mlp", "--epochs", "2"]
TINY += [word for key, value in TINY_SETTINGS.items() for word in ("--set", f"{key}={value}")]

Invoke = Callable[..., Result]


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """The words of a run that takes a second."""
    return TINY


@pytest.fixture(scope="session")
def quick_start() -> Callable[[pytest.MonkeyPatch], None]:
    """A function that spares a run of a second what takes longer: parsing the sample's text, and compiling."""
    content = mnist.read_sample(mnist.sample_path())

    def prepare(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(mnist, "read_sample", lambda path: content)
        patch.setenv("HALRP_NP_KERNELS", "reference")

    return prepare


@pytest.fixture(autouse=True)
def _quick_start(quick_start: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """For every test here, and for no other: the patch ends with the test."""
    quick_start(monkeypatch)


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """A function that runs `halrp-np` with these words, in an empty folder."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, quick_start: Callable[[pytest.MonkeyPatch], None]) -> Path:
    """The folder of one finished tiny run; not to be written to."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        quick_start(patch)
        result = CliRunner().invoke(main, ["run", *TINY, "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
