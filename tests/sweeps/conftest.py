"""The tiny data set, and processes that wait for no compiler."""

from pathlib import Path

import pytest

from benchmarks import tiny


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in MNIST's format."""
    return tiny.write_data(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(autouse=True)
def _reference_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here and in the processes started here: what is tested is how runs are made, not what is in them."""
    monkeypatch.setenv("HALRP_NP_KERNELS", "reference")
