"""TinyImageNet from small archives and folders of JPEG files: what is read, what is refused, and the decoded cache."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.image_bytes import encoded, write_tree, write_zip
from halrp_np import files
from halrp_np.data import load_tiny_imagenet, verify
from halrp_np.data.image_files import decode_image
from halrp_np.errors import DataError, StorageError

ROOT = Path(__file__).resolve().parents[2]
WNIDS = ["n00000001", "n00000002", "n00000010"]
TRAIN, VALIDATION = 12, 2


def photograph(number: int, mode: str = "RGB", side: int = 64) -> bytes:
    draw = np.random.default_rng(number)
    small = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return encoded(small.resize((side, side)).convert(mode), "JPEG")


def official_files() -> dict[str, bytes]:
    """Three classes as the archive has them, wnids.txt in no order, one grey and one CMYK photograph among them."""
    found = {"wnids.txt": "\n".join([WNIDS[2], WNIDS[0], WNIDS[1]]).encode(), "words.txt": b"n00000001\ta thing\n"}
    found["test/images/test_0.JPEG"] = photograph(999)
    lines, number = [], 0
    for k, wnid in enumerate(WNIDS):
        found[f"train/{wnid}/{wnid}_boxes.txt"] = b"0\t0\t63\t63\n"
        for i in range(TRAIN):
            mode = {(0, 3): "L", (1, 5): "CMYK"}.get((k, i), "RGB")
            found[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = photograph(100 * k + i, mode)
    for i in range(VALIDATION):
        for k, wnid in enumerate(WNIDS):
            found[f"val/images/val_{number}.JPEG"] = photograph(100 * k + 50 + i)
            lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t63\t63\n")
            number += 1
    found["val/val_annotations.txt"] = "".join(lines).encode()
    return found


FILES = official_files()
BOXES = {f"train/{wnid}/{wnid}_boxes.txt" for wnid in WNIDS}


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    """The unpacked archive."""
    return write_tree(tmp_path / "data" / "tiny-imagenet-200", FILES)


def archive(path: Path) -> Path:
    return write_zip(path, {f"tiny-imagenet-200/{name}": content for name, content in FILES.items()}, packed=True)


def decoded_files(cache: Path) -> set[str]:
    return {path.suffix for path in (cache / "tiny-imagenet" / "decoded").iterdir()} - {""}


def test_images_and_labels_are_in_order(folder: Path) -> None:
    data = load_tiny_imagenet(data_dir=folder.parent)
    assert data.class_names == tuple(WNIDS)
    assert data.train_images.shape == (36, 3, 64, 64)
    assert data.train_labels.tolist() == sorted([0, 1, 2] * 12)
    assert data.test_labels.tolist() == sorted([0, 1, 2] * 2)
    names = sorted(f"train/{WNIDS[1]}/images/{WNIDS[1]}_{i}.JPEG" for i in range(TRAIN))  # _0, _1, _10, _11, _2
    for row, name in enumerate(names, start=12):
        assert np.array_equal(data.train_images[row], decode_image(FILES[name], name, 3))
    assert np.array_equal(data.test_images[3], decode_image(photograph(100 + 50 + 1), "x", 3))
    assert data.provenance == "tiny-imagenet-other"
    assert "NOT those of TinyImageNet" in data.notes[0]


def test_it_is_decoded_once_and_mapped(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    told: list[tuple[int, int]] = []
    first = load_tiny_imagenet(data_dir=folder, say=lines.append, progress=lambda *now: told.append(now))
    assert lines[0].startswith("decoding 42 images")
    assert lines[1:] == [f"decoded {n} of 42 images" for n in (11, 21, 32)]
    assert (told[0], told[-1]) == ((0, 42), (42, 42))
    monkeypatch.setattr("halrp_np.data.file_tree.FileTree.read", lambda *_: pytest.fail("read again"))
    again = load_tiny_imagenet(data_dir=folder, say=lines.append)
    assert len(lines) == 4
    assert np.array_equal(first.train_images, again.train_images)
    assert isinstance(again.train_images, np.memmap)
    assert not again.train_images.flags.writeable
    assert decoded_files(cache) == {".npy", ".json"}


def test_the_archive_comes_first_and_is_known_by_its_digest(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, start_mirror: Callable
) -> None:
    unpacked = load_tiny_imagenet(data_dir=folder)
    path = archive(folder.parent / "tiny-imagenet-200.zip")
    packed = load_tiny_imagenet(data_dir=folder.parent)
    assert packed.origin == str(path)
    assert np.array_equal(packed.train_images, unpacked.train_images)
    with pytest.raises(DataError, match="other content, 36 \\+ 6 images"):
        load_tiny_imagenet("full", folder.parent)
    assert [row.ok for row in verify("tiny-imagenet", folder.parent)] == [False]

    mirror = start_mirror({path.name: path.read_bytes()})
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    module = sys.modules["halrp_np.data.tiny_imagenet"]
    remote = replace(module.REMOTE_FILES[0], size=path.stat().st_size, digest=digest, mirrors=(mirror.url,))
    monkeypatch.setattr(module, "REMOTE_FILES", (remote,))
    monkeypatch.setattr(module, "PUBLISHED", replace(module.PUBLISHED, remote_files=(remote,)))
    assert load_tiny_imagenet("full", folder.parent).provenance == "tiny-imagenet"
    assert load_tiny_imagenet("full").provenance == "tiny-imagenet"
    assert load_tiny_imagenet().origin == str(cache / "tiny-imagenet" / path.name)
    assert len(mirror.requests) == 1
    assert "3 classes, 36 + 6 images, SHA-256 agrees" in verify("tiny-imagenet")[0].detail


def test_a_changed_source_is_decoded_again(folder: Path) -> None:
    load_tiny_imagenet(data_dir=folder)
    path = folder / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_0.JPEG"
    path.write_bytes(photograph(777))
    lines: list[str] = []
    data = load_tiny_imagenet(data_dir=folder, say=lines.append)
    assert "have changed" in lines[0]
    assert np.array_equal(data.train_images[0], decode_image(photograph(777), "x", 3))
    path.unlink()
    assert len(load_tiny_imagenet(data_dir=folder).train_images) == 35


@pytest.mark.parametrize("damage", ["flip", "cut", "no array", "no manifest", "text", "list", "older"])
def test_a_damaged_cache_is_made_again(folder: Path, cache: Path, damage: str) -> None:
    good = load_tiny_imagenet(data_dir=folder).train_images.copy()
    array = next((cache / "tiny-imagenet" / "decoded").glob("*.npy"))
    manifest = array.with_suffix(".json")
    content = bytearray(array.read_bytes())
    if damage in ("flip", "cut"):
        content[5000] ^= 1
        array.unlink()  # a new file: the old one is mapped
        array.write_bytes(content if damage == "flip" else content[:-10])
    elif damage.startswith("no"):
        (array if damage == "no array" else manifest).unlink()
    else:
        old = json.dumps({**json.loads(manifest.read_text()), "format": 0})
        manifest.write_text({"text": "{", "list": "[1]", "older": old}[damage])
    lines: list[str] = []
    assert np.array_equal(load_tiny_imagenet(data_dir=folder, say=lines.append).train_images, good)
    assert [line for line in lines if "decoding 42" in line]
    assert ("cannot be used" in lines[0]) is (damage != "no manifest")
    lines.clear()
    load_tiny_imagenet(data_dir=folder, say=lines.append)
    assert not lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"train/{WNIDS[1]}/images/{WNIDS[1]}_3.JPEG": b"\xff\xd8\xff"}, "n00000002_3.JPEG: expected an image"),
        ({f"train/{WNIDS[1]}/images/{WNIDS[1]}_3.JPEG": photograph(1)[:300]}, "n00000002_3.JPEG: .*truncated"),
        ({f"train/{WNIDS[1]}/images/{WNIDS[1]}_3.JPEG": photograph(1, side=65)}, "64x64, received one of 65x65"),
        ({f"train/{WNIDS[1]}/images/notes.txt": b"?"}, "notes.txt: .*received another file"),
        ({f"train/{WNIDS[1]}/n_0.JPEG": photograph(1)}, "train/CLASS/images/NAME.JPEG"),
        ({"wnids.txt": b"n00000001\nn00000002\n"}, "received a difference in n00000010"),
        ({"wnids.txt": b"n00000001\nn00000002\nn00000010\nn00000011"}, "received a difference in n00000011"),
        ({"wnids.txt": b"\n".join([b"n00000001", b"n00000002", b"n00000010", b"n00000010"])}, "a class twice"),
        ({"wnids.txt": b"\xff\xfe"}, "wnids.txt: expected a text file"),
        ({"val/val_annotations.txt": b"val_0.JPEG\tn00000001\nval_99.JPEG\tn00000001\n"}, "line 2, 'val_99.JPEG"),
        ({"val/val_annotations.txt": b"val_0.JPEG\tn00000001\nval_0.JPEG\tn00000001\n"}, "each once, received line 2"),
        ({"val/val_annotations.txt": b"val_0.JPEG\tn00000009\n"}, "a class that train has, received line 1"),
        ({"val/val_annotations.txt": b"val_0.JPEG n00000001\n"}, "a tab and a class"),
        ({"val/images/val_77.JPEG": photograph(2)}, "val_77.JPEG: expected a line about it"),
    ],
)
def test_what_does_not_fit_is_named_and_leaves_no_cache(
    folder: Path, cache: Path, change: dict[str, bytes], message: str
) -> None:
    write_tree(folder, change)
    with pytest.raises(DataError, match=message):
        load_tiny_imagenet(data_dir=folder)
    assert decoded_files(cache) == set()
    for name in change:
        if name in FILES:
            write_tree(folder, {name: FILES[name]})
        else:
            (folder / name).unlink()
    assert len(load_tiny_imagenet(data_dir=folder).train_images) == 36


@pytest.mark.parametrize("how", ["empty", "only boxes", "missing", "missing, no list"])
def test_classes_without_images(folder: Path, how: str) -> None:
    images = folder / "train" / WNIDS[1] / "images"
    for path in images.iterdir():
        path.unlink()
    if how != "empty":
        images.rmdir()
    if how.startswith("missing"):
        (images.parent / f"{WNIDS[1]}_boxes.txt").unlink()
        images.parent.rmdir()
    if how.endswith("no list"):
        (folder / "wnids.txt").unlink()
    wanted = {"missing": "a difference in n00000002", "missing, no list": "a class that train has"}
    with pytest.raises(DataError, match=wanted.get(how, r"n00000002/images: expected images of this class")):
        load_tiny_imagenet(data_dir=folder)


def test_validation_images_without_annotations(folder: Path) -> None:
    annotations = folder / "val" / "val_annotations.txt"
    lines = annotations.read_text().splitlines()
    annotations.unlink()
    with pytest.raises(DataError, match=r"val_annotations\.txt: .*no such file"):
        load_tiny_imagenet(data_dir=folder)
    kept = [line for line in lines if WNIDS[2] not in line]
    for line in {*lines} - {*kept}:
        (folder / "val" / "images" / line.split("\t")[0]).unlink()
    annotations.write_text("\n".join(kept))
    with pytest.raises(DataError, match="expected validation images of n00000010"):
        load_tiny_imagenet(data_dir=folder)


def test_few_classes_and_no_optional_files_are_enough(tmp_path: Path, cache: Path) -> None:
    optional = {"wnids.txt", "words.txt", "test/images/test_0.JPEG", *BOXES}
    folder = write_tree(tmp_path / "some name", {name: FILES[name] for name in FILES.keys() - optional})
    assert load_tiny_imagenet(data_dir=folder).class_names == tuple(WNIDS)


@pytest.mark.parametrize("cut", [300, 20_000])
def test_a_truncated_archive(tmp_path: Path, cache: Path, cut: int) -> None:
    path = archive(tmp_path / "tiny-imagenet-200.zip")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"tiny-imagenet-200\.zip: expected a whole zip archive"):
        load_tiny_imagenet(data_dir=tmp_path)
    assert "cut off" in verify("tiny-imagenet", tmp_path)[0].detail


def test_a_full_disk_leaves_nothing_and_the_next_run_works(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full)
        with pytest.raises(StorageError, match=r"\.npy: .*No space left.*Free some space"):
            load_tiny_imagenet(data_dir=folder)
    assert decoded_files(cache) == set()
    assert len(load_tiny_imagenet(data_dir=folder).train_images) == 36


LOAD = """
    import os, resource, sys
    from halrp_np.data import load_tiny_imagenet
    from halrp_np.errors import StorageError
    if len(sys.argv) > 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    try:
        load_tiny_imagenet(data_dir=sys.argv[1], progress=lambda *now: print(*now, flush=True))
    except StorageError as error:
        print(error)
        sys.exit(3)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits and signals")
def test_a_write_that_fails_in_the_middle(folder: Path, cache: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(LOAD), str(folder), "200000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3, done.stderr
    assert "File too large" in done.stdout
    assert decoded_files(cache) == set()
    assert len(load_tiny_imagenet(data_dir=folder).train_images) == 36


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits and signals")
def test_a_kill_in_the_middle_leaves_nothing_that_is_used(folder: Path, cache: Path) -> None:
    program = textwrap.dedent(LOAD).replace(
        "print(*now, flush=True)", "(print(*now, flush=True), __import__('time').sleep(60))"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it decodes now
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert decoded_files(cache) == {".tmp"}
    assert len(load_tiny_imagenet(data_dir=folder).train_images) == 36
    assert decoded_files(cache) == {".npy", ".json"}


def test_two_processes_decode_once(folder: Path, cache: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(LOAD), str(folder)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sorted(bool(text) for text in told) == [False, True]
    assert decoded_files(cache) == {".npy", ".json"}


@pytest.mark.parametrize(("name", "received"), [("", "none of them there"), ("no", "no such folder")])
def test_nothing_there_says_what_to_do(tmp_path: Path, cache: Path, name: str, received: str) -> None:
    with pytest.raises(DataError, match=rf"{received}\. Put tiny-imagenet-200\.zip"):
        load_tiny_imagenet(data_dir=tmp_path / name)
