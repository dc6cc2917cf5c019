"""Fashion-MNIST: its places, beside MNIST too, and its official content."""

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.idx_files import idx_bytes
from halrp_np.data import fashion_mnist, fetch, load_fashion_mnist, load_mnist, verify
from halrp_np.data.idx_sets import OfficialFile
from halrp_np.errors import DataError

Arrays = dict[str, np.ndarray]


@pytest.mark.parametrize("layout", ["FashionMNIST/raw", "raw", "."])
def test_folder_layouts(small_mnist: Arrays, write_mnist: Callable, layout: str) -> None:
    folder = write_mnist(small_mnist, layout)
    data = load_fashion_mnist("auto", folder)
    np.testing.assert_array_equal(data.train_images[:, 0], small_mnist["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.test_labels, small_mnist["t10k-labels-idx1-ubyte"])
    assert (data.provenance, data.class_names[9]) == ("fashion-mnist-other", "Ankle boot")
    assert "NOT those of Fashion-MNIST" in data.notes[0]
    assert ["not Fashion-MNIST's content" in row.detail for row in verify("fashion-mnist", folder)] == [True] * 4
    with pytest.raises(DataError, match=r"60,000 \+ 10,000 images of Fashion-MNIST.*FOLDER/FashionMNIST/raw"):
        load_fashion_mnist("full", folder)


def test_files_beside_those_of_mnist_are_not_taken_for_it(small_mnist: Arrays, write_mnist: Callable) -> None:
    folder = write_mnist(small_mnist, "MNIST/raw")
    for name, array in small_mnist.items():
        (folder / name).write_bytes(idx_bytes(array))
    with pytest.raises(DataError, match=r"FashionMNIST/raw, received none of them there"):
        load_fashion_mnist("auto", folder)
    assert load_mnist("auto", folder).provenance == "mnist-other"


def test_download_then_cache(
    small_mnist: Arrays, cache: Path, start_mirror: Callable, dead_mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {name: idx_bytes(array) for name, array in small_mnist.items()}
    packed = {name: gzip.compress(one) for name, one in content.items()}
    files = tuple(
        OfficialFile(
            name,
            small_mnist[name].ndim,
            hashlib.sha256(content[name]).hexdigest(),
            len(packed[name]),
            hashlib.sha256(packed[name]).hexdigest(),
        )
        for name in content
    )
    mirror = start_mirror({f"{name}.gz": one for name, one in packed.items()})
    small = replace(fashion_mnist.FASHION, files=files, mirrors=(dead_mirror,))
    monkeypatch.setattr(fashion_mnist, "FASHION", small)
    with pytest.raises(DataError, match=r"refused.*Put train-images.*into FOLDER/FashionMNIST/raw"):
        load_fashion_mnist("auto")
    monkeypatch.setattr(fashion_mnist, "FASHION", replace(small, mirrors=(dead_mirror, mirror.url)))
    assert all(row.ok for row in fetch("fashion-mnist"))
    for source in ("auto", "full"):
        assert load_fashion_mnist(source).provenance == "fashion-mnist"
    assert len(mirror.requests) == 4


def test_the_package_of_debian() -> None:
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    data = load_fashion_mnist("full", folder)
    assert set(np.bincount(data.train_labels)) == {6000}
