"""The data sets by name: what the command line shows of them, and loading."""

import gzip
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halrp_np.data import data_sets, fetch, load, verify
from halrp_np.errors import ConfigError, DataError

NAMES = ["mnist", "mnist-5k", "fashion-mnist", "notmnist", "svhn", "cifar10", "cifar100", "omniglot", "tiny-imagenet"]


def test_list_says_what_is_here(offline: None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = data_sets()
    assert [row.name for row in rows] == NAMES
    assert [row.name for row in rows if row.found] == ["mnist-5k"]
    for row in rows:
        assert row.licence
        assert row.where.endswith("mnist_5k.csv.gz" if row.found else f"data fetch {row.name}")
        assert "images" in row.size or "characters" in row.size
    assert "60,000 + 10,000 images; 11.6 MB to download" in rows[0].size
    assert "no licence stated by the authors" in rows[5].licence
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert "pip install" in data_sets()[1].where
    assert not verify("mnist-5k")[0].ok


def test_list_sees_files_in_the_cache(offline: None, cache: Path) -> None:
    (cache / "cifar10").mkdir(parents=True)
    (cache / "cifar10" / "cifar-10-python.tar.gz").touch()
    row = next(row for row in data_sets() if row.name == "cifar10")
    assert (row.found, row.where) == (True, str(cache / "cifar10"))


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


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mnist-5k"])
def test_an_empty_cache_and_an_empty_folder(name: str, cache: Path, tmp_path: Path) -> None:
    rows = verify(name)
    assert rows
    assert [(row.ok, row.detail) for row in rows] == [(False, "missing")] * len(rows)
    (tmp_path / "empty").mkdir()
    for attempt in (verify, lambda name, folder: load(name, "auto", folder)):
        with pytest.raises(DataError, match=r"data folder .*empty.*none of them there.*--data-dir FOLDER"):
            attempt(name, tmp_path / "empty")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mnist-5k"])
def test_the_sample_of_every_set_says_what_it_is(name: str) -> None:
    data = load(name, "sample", "/ignored")
    assert data.provenance == ("mnist-5k" if name == "mnist" else f"{name}-synthetic")
    assert "so /ignored is not read" in " ".join(data.notes)
    assert data.train_images.dtype == np.uint8
    assert data.train_labels.max() < len(data.class_names)


def test_fetch_without_network(offline: None) -> None:
    with pytest.raises(DataError, match=r"2 mirrors.*Or without a network: Put train-images.*FOLDER/MNIST/raw"):
        fetch("mnist")


@pytest.mark.parametrize("function", [fetch, verify, load])
def test_unknown_name_has_a_nearest(function: Callable[[str], object]) -> None:
    with pytest.raises(ConfigError, match=r"one of mnist, fashion.*received 'mnits'\. Did you mean mnist\?"):
        function("mnits")


def test_real_files_verify(shared_dir: Path) -> None:
    if not (shared_dir / "data" / "notMNIST" / "raw").is_dir():
        pytest.skip("no notMNIST in the folder beside the repository")
    rows = verify("mnist", shared_dir / "data" / "notMNIST")
    assert ["missing" in row.detail for row in rows] == [True, True, False, False]
    assert ["not MNIST's content" in row.detail for row in rows[2:]] == [True, True]
