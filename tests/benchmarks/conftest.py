"""The tiny data set, and one uninterrupted tiny run that many tests compare with."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import tiny
from halrp_np import run


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Flushing guards against a loss of power, which no test here plays; it would take half of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="session")
def whole(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never stopped; read only, please."""
    return run(tiny.config(data_dir), tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="session")
def expected_often(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of such a run that saves after every step: its config.json, and so every checkpoint, says so."""
    return tiny.contents(run(tiny.config(data_dir, checkpoint_seconds=0.0), tmp_path_factory.mktemp("often") / "run"))


@pytest.fixture(scope="session")
def expected(whole: Path) -> dict[str, bytes]:
    return tiny.contents(whole)
