"""notMNIST in each of its layouts, the images that nobody can read, and the split of a single part."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.idx_files import idx_bytes
from halrp_np.data import fetch, load_notmnist, notmnist, verify
from halrp_np.data.cache import RemoteFile
from halrp_np.errors import DataError

LETTERS = "ABCDEFGHIJ"
Files = dict[str, bytes]


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of an image."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def letters(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Three images of each letter by the name of their file."""
    return {f"{letter}/{n}=.png": rng.integers(0, 256, (28, 28), dtype=np.uint8) for letter in LETTERS for n in "abc"}


def write(folder: Path, files: Files) -> Path:
    """Files below a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def archive(files: Files) -> bytes:
    """An archive of these files in the folder notMNIST_small."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./notMNIST_small/{name}")
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_both_parts_in_folders(letters: dict[str, np.ndarray], tmp_path: Path) -> None:
    files = {name: png(pixels) for name, pixels in letters.items()}
    other = {name: png(255 - pixels) for name, pixels in letters.items() if "a=" in name}
    broken = {"A/none.png": b"", "F/half.png": files["F/a=.png"][:70], "B/.hidden.png": b"", "B/notes.txt": b"x"}
    write(tmp_path / "notMNIST" / "Train", {**files, **broken})
    write(tmp_path / "notMNIST" / "Test", other)
    for folder in (tmp_path, tmp_path / "notMNIST"):
        data = load_notmnist("auto", folder)
        np.testing.assert_array_equal(data.train_images[:, 0], [letters[name] for name in sorted(letters)])
        np.testing.assert_array_equal(data.train_labels, np.repeat(np.arange(10), 3))
        np.testing.assert_array_equal(data.test_images[4, 0], 255 - letters["E/a=.png"])
        np.testing.assert_array_equal(data.test_labels, np.arange(10))
        assert (data.provenance, data.class_names) == ("notmnist-other", tuple(LETTERS))
        assert "; 2 PNG files could not be read and were passed over" in data.notes[0]
        assert "one part" not in data.notes[0]
    assert "30 + 10 images, 2 that cannot be read" in verify("notmnist", tmp_path)[0].detail


@pytest.mark.parametrize("packed", [True, False], ids=["archive", "folder"])
@pytest.mark.parametrize("base", [".", "notMNIST"])
def test_one_part_is_split_nine_to_one(letters: dict[str, np.ndarray], tmp_path: Path, packed: bool, base: str) -> None:
    files = {name: png(pixels) for name, pixels in reversed(letters.items())} | {"A/zero.png": b""}
    folder = tmp_path / base
    if packed:
        write(folder, {"notMNIST_small.tar.gz": archive(files)})
    else:
        write(folder / "notMNIST_small", files)
    data = load_notmnist("auto", tmp_path)
    assert (data.train_images.shape, data.test_images.shape) == ((27, 1, 28, 28), (3, 1, 28, 28))
    order = np.arange(30)
    np.random.RandomState(0).shuffle(order)
    everything = np.array([letters[name] for name in sorted(letters)])
    np.testing.assert_array_equal(data.train_images[:, 0], everything[order[:27]])
    np.testing.assert_array_equal(data.test_labels, order[27:] // 3)
    assert "one part: nine tenths in a seeded random order" in data.notes[0]
    assert "1 PNG files could not be read" in data.notes[0]
    with pytest.raises(DataError, match=r"18,724 images of notMNIST.*FOLDER/notMNIST"):
        load_notmnist("full", tmp_path)


@pytest.mark.parametrize("parts", [["train", "t10k"], ["t10k"], ["train"]], ids=" and ".join)
def test_idx_files(small_mnist: dict[str, np.ndarray], tmp_path: Path, parts: list[str]) -> None:
    files = {
        f"{name}.gz": gzip.compress(idx_bytes(array))
        for name, array in small_mnist.items()
        if name.split("-")[0] in parts
    }
    write(tmp_path / "notMNIST" / "raw", files)
    data = load_notmnist("auto", tmp_path)
    counts = {"train": 12, "t10k": 5}
    total = sum(counts[part] for part in parts)
    assert len(data.train_labels) + len(data.test_labels) == total
    if len(parts) == 2:
        np.testing.assert_array_equal(data.test_images[:, 0], small_mnist["t10k-images-idx3-ubyte"])
    else:
        assert len(data.train_labels) == int(0.9 * total)
        assert "one part" in data.notes[0]
    (tmp_path / "notMNIST" / "raw" / f"{parts[0]}-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=rf"{parts[0]}-labels-idx1-ubyte or .*received neither"):
        load_notmnist("auto", tmp_path)


def test_a_colour_image_turns_grey_and_another_size_is_named(letters: dict[str, np.ndarray], tmp_path: Path) -> None:
    files = {name: png(pixels) for name, pixels in letters.items()}
    files["A/a=.png"] = png(np.repeat(letters["A/a=.png"][:, :, None], 3, axis=2))
    folder = write(tmp_path / "notMNIST_small", files)
    found = load_notmnist("auto", tmp_path)
    images = np.concatenate([found.train_images, found.test_images])
    assert any(np.array_equal(image[0], letters["A/a=.png"]) for image in images)
    for size in ((28, 27), (32, 32)):
        write(folder, {"D/b=.png": png(np.zeros(size, np.uint8))})
        with pytest.raises(
            DataError, match=r"notMNIST_small: D/b=\.png: expected an image of 28x28 or 32x32, as large"
        ):
            load_notmnist("auto", tmp_path)


def test_a_letter_without_images_and_damage(letters: dict[str, np.ndarray], tmp_path: Path) -> None:
    files = {name: b"" if name[0] == "C" else png(pixels) for name, pixels in letters.items()}
    write(tmp_path / "a" / "notMNIST_small", files)
    with pytest.raises(DataError, match="images of each letter A to J that can be read, received none of C"):
        load_notmnist("auto", tmp_path / "a")
    content = archive({name: png(pixels) for name, pixels in letters.items()})
    write(tmp_path / "b", {"notMNIST_small.tar.gz": content[:-500]})
    with pytest.raises(DataError, match=r"notMNIST_small\.tar\.gz: expected a whole \.tar\.gz archive.*ends early"):
        load_notmnist("auto", tmp_path / "b")
    assert "damaged" in verify("notmnist", tmp_path / "b")[0].detail
    with pytest.raises(DataError, match=r"none of them there.*Put notMNIST_small\.tar\.gz .*into FOLDER/notMNIST"):
        load_notmnist("auto", tmp_path)


def test_download_then_cache(
    letters: dict[str, np.ndarray],
    cache: Path,
    start_mirror: Callable,
    dead_mirror: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "notMNIST_small.tar.gz"
    content = archive({one: png(pixels) for one, pixels in letters.items()})
    mirror = start_mirror({name: content})
    for mirrors in ((dead_mirror,), (dead_mirror, mirror.url)):
        files = (RemoteFile(name, len(content), f"md5:{hashlib.md5(content).hexdigest()}", mirrors),)
        monkeypatch.setattr(notmnist, "REMOTE_FILES", files)
        monkeypatch.setattr(notmnist, "PUBLISHED", replace(notmnist.PUBLISHED, remote_files=files))
        if len(mirrors) == 1:
            with pytest.raises(DataError, match=rf"refused.*Put {name} .*into FOLDER/notMNIST and name it: --data-dir"):
                load_notmnist()
    assert all(row.ok for row in fetch("notmnist"))
    assert load_notmnist("full").provenance == "notmnist"
    assert len(mirror.requests) == 1


def test_the_real_files(shared_dir: Path) -> None:
    if not (shared_dir / "data" / "notMNIST" / "raw").is_dir():
        pytest.skip("no notMNIST in the folder beside the repository")
    data = load_notmnist("auto", shared_dir / "data")
    assert (len(data.train_labels), len(data.test_labels)) == (9000, 1000)
    assert set(data.train_labels) == set(data.test_labels) == set(range(10))
