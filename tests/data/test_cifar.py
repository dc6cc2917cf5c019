"""CIFAR-10 and CIFAR-100: both versions, folders and archives, the official digests, and every kind of damage."""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.pickle_files import Calling, pickled, python2_batch
from halrp_np.data import cifar, fetch, load_cifar10, load_cifar100, verify
from halrp_np.data.cifar import CIFAR10, CIFAR100, Cifar
from halrp_np.errors import ConfigError, DataError

PIXELS = 3072
COUNTS = {
    "data_batch_1": 4,
    "data_batch_2": 3,
    "data_batch_3": 1,
    "data_batch_4": 2,
    "data_batch_5": 5,
    "test_batch": 6,
}
Batches = dict[str, tuple[np.ndarray, list[int]]]
Files = dict[str, bytes]


@pytest.fixture
def ten(rng: np.random.Generator) -> Batches:
    """Random images and labels by the Python version's file names of CIFAR-10."""
    return {
        name: (rng.integers(0, 256, (n, PIXELS), dtype=np.uint8), rng.integers(0, 10, n).tolist())
        for name, n in COUNTS.items()
    }


@pytest.fixture
def hundred(rng: np.random.Generator) -> Batches:
    """The same for CIFAR-100."""
    return {
        name: (rng.integers(0, 256, (n, PIXELS), dtype=np.uint8), rng.integers(0, 100, n).tolist())
        for name, n in {"train": 9, "test": 4}.items()
    }


def python_files(one: Cifar, batches: Batches, protocol: int = 2) -> Files:
    """The Python version, as a recent Python writes it."""
    files = {
        name: pickled({b"data": images, one.label_key.encode(): labels, b"coarse_labels": [0] * len(labels)}, protocol)
        for name, (images, labels) in batches.items()
    }
    names = [f"class {label}".encode() for label in range(one.classes)]
    return {**files, one.versions[0].names: pickled({one.names_key.encode(): names}, protocol)}


def python2_files(one: Cifar, batches: Batches) -> Files:
    """The Python version, as Python 2 has written the official files."""
    return {name: python2_batch(images, labels, one.label_key) for name, (images, labels) in batches.items()}


def binary_files(one: Cifar, batches: Batches) -> Files:
    """The binary version: for CIFAR-100 a coarse label comes first."""
    files = {}
    for name, (images, labels) in batches.items():
        fine = np.array(labels, np.uint8)[:, None]
        before = [fine // 5, fine] if one.classes == 100 else [fine]
        files[f"{name}.bin"] = np.hstack([*before, images]).tobytes()
    names = "".join(f"class {label}\n" for label in range(one.classes)) + "\n"
    return {**files, one.versions[1].names: names.encode()}


def write(folder: Path, files: Files) -> Path:
    """Files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def packed(files: Mapping[str, bytes], members: list[tarfile.TarInfo] | None = None) -> bytes:
    """An archive of these files, and of members without content."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in members or []:
            archive.addfile(info)
    return stream.getvalue()


def inside(folder: str, files: Files) -> Files:
    """The same files under a folder's name."""
    return {f"{folder}/{name}": content for name, content in files.items()}


def check(data: object, one: Cifar, batches: Batches, train_names: list[str]) -> None:
    """Hold what was read against what was written."""
    test_name = next(iter(one.versions[0].test))
    images = np.concatenate([batches[name][0] for name in train_names]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(data.train_images, images)
    np.testing.assert_array_equal(data.train_labels, np.concatenate([batches[name][1] for name in train_names]))
    np.testing.assert_array_equal(data.test_images, batches[test_name][0].reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(data.test_labels, batches[test_name][1])
    assert data.train_images.dtype == data.test_images.dtype == np.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == np.int64
    assert data.provenance == f"{one.published.name}-other"
    assert f"NOT those of {one.published.title}" in data.notes[0]


# ---- layouts --------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "a folder": lambda version, files, root: write(root / version.folder, files),
    "the folder itself": lambda version, files, root: write(root, files),
    "an archive": lambda version, files, root: write(
        root, {version.archive.name: packed(inside(version.folder, files))}
    ),
}
MAKERS = [(0, python_files), (0, python2_files), (1, binary_files)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("which", "make"), MAKERS, ids=["python", "python 2", "binary"])
def test_cifar10_in_every_form(ten: Batches, tmp_path: Path, which: int, make: Callable, layout: str) -> None:
    files = make(CIFAR10, ten)
    LAYOUTS[layout](CIFAR10.versions[which], files, tmp_path)
    data = load_cifar10("auto", tmp_path)
    check(data, CIFAR10, ten, list(COUNTS)[:5])
    title = "{}" if make is python2_files else "class {}"
    assert data.class_names == tuple(title.format(label) for label in range(10))
    rows = verify("cifar10", tmp_path)
    assert len(rows) == len(files)
    assert all("well formed, but not CIFAR-10's content" in row.detail for row in rows[:6])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("which", "make"), MAKERS, ids=["python", "python 2", "binary"])
def test_cifar100_in_every_form(hundred: Batches, tmp_path: Path, which: int, make: Callable, layout: str) -> None:
    LAYOUTS[layout](CIFAR100.versions[which], make(CIFAR100, hundred), tmp_path)
    check(load_cifar100("auto", tmp_path), CIFAR100, hundred, ["train"])


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(hundred: Batches, tmp_path: Path, protocol: int) -> None:
    write(tmp_path / "cifar-100-python", python_files(CIFAR100, hundred, protocol))
    check(load_cifar100("auto", tmp_path), CIFAR100, hundred, ["train"])


def test_some_of_the_training_files_are_said(ten: Batches, tmp_path: Path) -> None:
    files = python_files(CIFAR10, ten)
    for name in ("data_batch_1", "data_batch_4", "data_batch_5", "batches.meta"):
        del files[name]
    write(tmp_path / "cifar-10-batches-py", files)
    data = load_cifar10("auto", tmp_path)
    check(data, CIFAR10, ten, ["data_batch_2", "data_batch_3"])
    assert "without the training files data_batch_1, data_batch_4, data_batch_5" in data.notes[0]
    assert [row.detail for row in verify("cifar10", tmp_path)].count("missing") == 3
    with pytest.raises(DataError, match=r"the 50,000 \+ 10,000 images of CIFAR-10.*received other content, 4 \+ 6"):
        load_cifar10("full", tmp_path)


def test_parts_that_are_absent(ten: Batches, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar-10-batches-py.*none of them there.*Put cifar-10-python\.tar\.gz"):
        load_cifar10("auto", tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        load_cifar100("auto", tmp_path / "absent")
    files = python_files(CIFAR10, ten)
    write(tmp_path / "a", {"test_batch": files["test_batch"]})
    with pytest.raises(DataError, match="data_batch_1 in it, received no such file"):
        load_cifar10("auto", tmp_path / "a")
    write(tmp_path / "b", {"data_batch_1": files["data_batch_1"]})
    with pytest.raises(DataError, match="test_batch in it, received no such file"):
        load_cifar10("auto", tmp_path / "b")
    with pytest.raises(ConfigError, match="auto, full or sample"):
        load_cifar10("some")  # type: ignore[arg-type]


# ---- the official content -------------------------------------------------------------------------------------------


@pytest.fixture
def published(hundred: Batches, cache: Path, start_mirror: Callable, monkeypatch: pytest.MonkeyPatch) -> object:
    """Let the small files be the official ones, their archive served by a mirror of this machine."""
    files = python_files(CIFAR100, hundred)
    content = packed(inside("cifar-100-python", files))
    mirror = start_mirror({"cifar-100-python.tar.gz": content})
    archive = replace(
        CIFAR100.versions[0].archive,
        size=len(content),
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        mirrors=(mirror.url,),
    )
    digests = {name: f"md5:{hashlib.md5(files[name]).hexdigest()}" for name in hundred}
    version = replace(
        CIFAR100.versions[0], archive=archive, train={"train": digests["train"]}, test={"test": digests["test"]}
    )
    small = replace(
        CIFAR100,
        published=replace(CIFAR100.published, remote_files=(archive,)),
        versions=(version, CIFAR100.versions[1]),
    )
    monkeypatch.setattr(cifar, "CIFAR100", small)
    return mirror


def test_download_then_cache_read_in_place(published: object, cache: Path, hundred: Batches) -> None:
    said: list[str] = []
    for source in ("auto", "full"):
        data = load_cifar100(source, say=said.append)
        assert (data.provenance, data.origin) == ("cifar100", str(cache / "cifar100" / "cifar-100-python.tar.gz"))
        assert "NOT" not in data.notes[0]
    np.testing.assert_array_equal(data.train_labels, hundred["train"][1])
    assert len(published.requests) == 1
    assert [line.split(",")[0] for line in said] == ["downloading cifar100"]
    assert {path.name for path in (cache / "cifar100").iterdir()} <= {
        "cifar-100-python.tar.gz",
        "cifar-100-python.tar.gz.lock",
    }
    assert [row.ok for row in verify("cifar100")] == [True] * 3
    (cache / "cifar100" / "cifar-100-python.tar.gz").write_bytes(b"<html>")
    assert not verify("cifar100")[0].ok
    assert all(row.ok for row in fetch("cifar100"))
    assert len(published.requests) == 2


def test_official_files_in_a_folder_are_known(published: object, hundred: Batches, tmp_path: Path) -> None:
    folder = write(tmp_path / "cifar-100-python", python_files(CIFAR100, hundred))
    assert load_cifar100("full", tmp_path).provenance == "cifar100"
    (folder / "test").write_bytes(python_files(CIFAR100, hundred, 3)["test"])
    assert load_cifar100("auto", tmp_path).provenance == "cifar100-other"


def test_without_a_network_the_error_says_which_file_goes_where(
    published: object, dead_mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = replace(cifar.CIFAR100.published.remote_files[0], mirrors=(dead_mirror,))
    closed = replace(cifar.CIFAR100.published, remote_files=(archive,))
    monkeypatch.setattr(cifar, "CIFAR100", replace(cifar.CIFAR100, published=closed))
    for attempt in (lambda: load_cifar100("auto"), lambda: load_cifar100("full"), lambda: fetch("cifar100")):
        with pytest.raises(DataError, match=r"refused.*Put cifar-100-python\.tar\.gz .*into FOLDER.*--data-dir FOLDER"):
            attempt()


# ---- damage and malice ----------------------------------------------------------------------------------------------


def test_a_malicious_batch_is_refused_and_nothing_runs(
    ten: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = pickled({b"data": ten["test_batch"][0], b"labels": Calling(os.system, "echo >OWNED")})
    write(tmp_path / "cifar-10-batches-py", python_files(CIFAR10, ten) | {"data_batch_3": hostile})
    with pytest.raises(DataError, match=rf"data_batch_3: .*the global {os.system.__module__}\.system; nothing"):
        load_cifar10("auto", tmp_path)
    assert not (tmp_path / "OWNED").exists()
    assert [row.ok for row in verify("cifar10", tmp_path)][2] is False


IMAGES = np.zeros((2, PIXELS), np.uint8)
WRONG = {
    "no dict": ([1], "a dict with the key 'data'"),
    "no data": ({"fine_labels": [1, 2]}, "a dict with the key 'data'"),
    "no labels": ({"data": IMAGES}, "the key 'fine_labels'"),
    "data in bytes": ({"data": b"x", "fine_labels": [1, 2]}, "array of uint8.*received bytes"),
    "another type": ({"data": IMAGES.astype(np.int16), "fine_labels": [1, 2]}, "received int16"),
    "another shape": ({"data": IMAGES[:, :-1], "fine_labels": [1, 2]}, r"received uint8 \(2, 3071\)"),
    "one image": ({"data": IMAGES[0], "fine_labels": [1]}, r"received uint8 \(3072,\)"),
    "no images": ({"data": IMAGES[:0], "fine_labels": []}, "at least one"),
    "a label too few": ({"data": IMAGES, "fine_labels": [1]}, "2 images, 1 labels"),
    "a label of 100": ({"data": IMAGES, "fine_labels": [1, 100]}, "0 to 99, received the label 100 at position 1"),
    "a negative label": ({"data": IMAGES, "fine_labels": [-1, 3]}, "received the label -1 at position 0"),
    "a huge label": ({"data": IMAGES, "fine_labels": [2**70, 3]}, "labels from 0 to 99"),
    "labels that are words": ({"data": IMAGES, "fine_labels": ["a", "b"]}, "a list of integers"),
    "labels that are fractions": ({"data": IMAGES, "fine_labels": np.zeros(2)}, "a list of integers"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_content_is_named(kind: str, hundred: Batches, tmp_path: Path) -> None:
    value, message = WRONG[kind]
    write(tmp_path, python_files(CIFAR100, hundred) | {"train": pickled(value)})
    with pytest.raises(DataError, match=rf"train: .*{message}"):
        load_cifar100("auto", tmp_path)
    assert "damaged" in verify("cifar100", tmp_path)[0].detail


def test_labels_in_an_array_are_fine(hundred: Batches, tmp_path: Path) -> None:
    value = {"data": IMAGES, "fine_labels": np.array([3, 99], np.uint8)}
    write(tmp_path, python_files(CIFAR100, hundred) | {"train": pickled(value)})
    assert load_cifar100("auto", tmp_path).train_labels.tolist() == [3, 99]


@given(cut=st.integers(0, 4 * 3074 - 1))
def test_a_cut_binary_file(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = bytes(4 * 3074)[:cut]
    folder = write(tmp_path_factory.mktemp("cut"), {"train.bin": content, "test.bin": bytes(3074)})
    if cut and cut % 3074 == 0:
        assert len(load_cifar100("auto", folder).train_labels) == cut // 3074
    else:
        with pytest.raises(DataError, match=rf"train\.bin: expected whole records of 3,074 bytes.*{cut:,} bytes"):
            load_cifar100("auto", folder)


@pytest.mark.parametrize("names", [{}, {"fine_label_names": ["one"]}, {"fine_label_names": 7}, [1]], ids=str)
def test_wrong_names_of_classes(names: object, hundred: Batches, tmp_path: Path) -> None:
    write(tmp_path, python_files(CIFAR100, hundred) | {"meta": pickled(names)})
    with pytest.raises(DataError, match="meta: expected"):
        load_cifar100("auto", tmp_path)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999])
def test_a_truncated_archive(hundred: Batches, tmp_path: Path, share: float) -> None:
    content = packed(inside("cifar-100-python", python_files(CIFAR100, hundred)))
    write(tmp_path, {"cifar-100-python.tar.gz": content[: int(share * len(content))]})
    with pytest.raises(DataError, match=r"cifar-100-python\.tar\.gz: expected a whole \.tar\.gz.*ends early"):
        load_cifar100("auto", tmp_path)
    assert not verify("cifar100", tmp_path)[-1].ok


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_archives_that_are_none_or_lead_elsewhere(hundred: Batches, tmp_path: Path) -> None:
    path = tmp_path / "cifar-100-python.tar.gz"
    files = inside("cifar-100-python", python_files(CIFAR100, hundred))
    outside = tmp_path / "outside"
    for content, message in (
        (b"<html>log in</html>", "undamaged"),
        (gzip.compress(b"<html>log in</html>" * 99), "undamaged"),
        (packed(files)[:-8] + bytes(8), "undamaged"),
        (packed({**files, "../outside": b"x"}), r"lead nowhere else, received '\.\./outside'"),
        (packed({**files, str(outside): b"x"}), "lead nowhere else"),
        (packed({**files, "./cifar-100-python/test": b"x"}), "one file of this name, received two"),
        (packed({}), "train in it, received no such file"),
        (
            packed(
                {"cifar-100-python/train": files["cifar-100-python/train"]},
                [named("cifar-100-python/test", tarfile.SYMTYPE, "/etc/passwd")],
            ),
            "test in it, received no such file",
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"cifar-100-python\.tar\.gz.*{message}"):
            load_cifar100("auto", tmp_path)
    assert not outside.exists()


def test_the_real_files(shared_dir: Path) -> None:
    if not (shared_dir / "data" / "cifar-100-python").is_dir():
        pytest.skip("no CIFAR-100 in the folder beside the repository")
    data = load_cifar100("auto", shared_dir / "data")
    assert (data.train_images.shape, data.test_images.shape) == ((12500, 3, 32, 32), (5000, 3, 32, 32))
    assert set(np.bincount(data.train_labels)) == {125}
    assert (data.provenance, data.class_names[0], data.class_names[99]) == ("cifar100-other", "apple", "worm")
    ten = load_cifar10("auto", shared_dir / "data")
    assert (len(ten.train_labels), len(ten.test_labels), ten.class_names[3]) == (5000, 1000, "cat")
