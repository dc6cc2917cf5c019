"""The rows that the command line shows of data sets."""

import gzip
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halrp_np.data import data_sets, fetch, verify
from halrp_np.errors import ConfigError, DataError


def test_list_says_what_is_here(offline: None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, sample = data_sets()
    assert (full.name, full.found, sample.name, sample.found) == ("mnist", False, "mnist-5k", True)
    assert "data fetch mnist" in full.where
    assert sample.where.endswith("mnist_5k.csv.gz")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert "pip install" in data_sets()[1].where
    assert not verify("mnist-5k")[0].ok


def test_verify_tells_files_apart(small_mnist: dict[str, np.ndarray], write_mnist: Callable) -> None:
    names = list(small_mnist)
    folder = write_mnist(small_mnist)
    (folder / "MNIST/raw" / f"{names[0]}.gz").write_bytes(gzip.compress(b"<html>"))
    (folder / "MNIST/raw" / f"{names[1]}.gz").unlink()
    rows = verify("mnist", folder)
    assert [row.ok for row in rows] == [False] * 4
    assert "web page" in rows[0].detail
    assert "missing" in rows[1].detail
    assert "5x28x28, well formed, but not MNIST's content" in rows[2].detail


def test_verify_and_fetch_the_sample() -> None:
    assert [row.ok for row in verify("mnist-5k")] == [True]
    assert fetch("mnist-5k") == verify("mnist-5k")


def test_fetch_without_network(offline: None) -> None:
    with pytest.raises(DataError, match="2 mirrors"):
        fetch("mnist")
    assert [row.detail for row in verify("mnist")] == ["missing, with and without .gz"] * 4


@pytest.mark.parametrize("function", [fetch, verify])
def test_unknown_name_has_a_nearest(function: Callable[[str], object]) -> None:
    with pytest.raises(ConfigError, match=r"mnist or mnist-5k, received 'mnits'\. Did you mean mnist\?"):
        function("mnits")


def test_real_files_verify(shared_dir: Path) -> None:
    if not (shared_dir / "data" / "notMNIST" / "raw").is_dir():
        pytest.skip("no notMNIST in the folder beside the repository")
    rows = verify("mnist", shared_dir / "data" / "notMNIST")
    assert ["missing" in row.detail for row in rows] == [True, True, False, False]
    assert ["not MNIST's content" in row.detail for row in rows[2:]] == [True, True]
