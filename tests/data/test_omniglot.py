"""Omniglot from archives and folders made here, whole and damaged, and from the real small sets."""

import hashlib
import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.image_bytes import encoded, write_tree, write_zip
from halrp_np.data import load_omniglot, omniglot, verify
from halrp_np.errors import ConfigError, DataError

SMALL = "images_background_small1"


def drawing(alphabet: str, character: int, drawer: int) -> bytes:
    """A drawing of 105x105 that nobody else has drawn: white, with one black square."""
    pixels = np.ones((105, 105), bool)
    row = 10 * (len(alphabet) % 8) + character
    pixels[row : row + 20, 4 * drawer : 4 * drawer + 20] = False
    return encoded(Image.fromarray(pixels))


def characters(*wanted: tuple[str, int], first: int = 1) -> dict[str, bytes]:
    """All drawings of these (alphabet, character) as the archives have them, numbers counting from `first`."""
    files = {}
    for number, (alphabet, character) in enumerate(wanted, start=first):
        for drawer in range(20, 0, -1):
            name = f"{alphabet}/character{character:02d}/{number:04d}_{drawer:02d}.png"
            files[name] = drawing(alphabet, character, drawer)
    return files


def archive(path: Path, files: dict[str, bytes]) -> Path:
    return write_zip(path, {f"{path.stem}/{name}": content for name, content in files.items()})


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three characters in an archive, in no order, with what a desktop adds."""
    files = characters(("Latin", 2), ("Greek", 1), ("Latin", 1))
    archive(tmp_path / "omniglot-py" / f"{SMALL}.zip", files | {"__MACOSX/._x.png": b"?", "Greek/.DS_Store": b"?"})
    return tmp_path


def test_rows_are_characters_and_drawers_in_order(three: Path) -> None:
    data = load_omniglot(data_dir=three)
    assert data.class_names == ("Greek/character01", "Latin/character01", "Latin/character02")
    assert data.train_labels.tolist() == [k for k in range(3) for _ in range(20)]
    assert (data.train_images.shape, data.train_images.dtype) == ((60, 1, 32, 32), np.uint8)
    assert (data.test_images.shape, data.test_labels.shape) == ((0, 1, 32, 32), (0,))
    for row, (alphabet, character, drawer) in [(0, ("Greek", 1, 1)), (27, ("Latin", 1, 8)), (59, ("Latin", 2, 20))]:
        with Image.open(io.BytesIO(drawing(alphabet, character, drawer))) as image:
            expected = np.asarray(image.convert("L").resize((32, 32)))
        assert np.array_equal(data.train_images[row, 0], expected)
    assert (data.train_images.min(), data.train_images.max()) == (0, 255)
    assert data.provenance == "omniglot-other"
    assert "3 characters" in data.notes[0]
    assert "by SHA-256: none" in data.notes[0]


def test_unpacked_folders_give_the_same(three: Path, tmp_path: Path) -> None:
    packed = load_omniglot(data_dir=three)
    shutil.unpack_archive(three / "omniglot-py" / f"{SMALL}.zip", tmp_path / "unpacked")
    unpacked = load_omniglot(data_dir=tmp_path / "unpacked")
    assert np.array_equal(packed.train_images, unpacked.train_images)
    assert packed.class_names == unpacked.class_names


def test_alphabets_that_both_small_sets_have_count_once(tmp_path: Path) -> None:
    both = characters(("Greek", 1), ("Latin", 1))
    archive(tmp_path / f"{SMALL}.zip", both)
    archive(tmp_path / "images_background_small2.zip", both | characters(("Tagalog", 1), first=9))
    assert load_omniglot(data_dir=tmp_path).class_names == (
        "Greek/character01", "Latin/character01", "Tagalog/character01",
    )  # fmt: skip
    archive(tmp_path / "images_background_small2.zip", characters(("Greek", 1), first=5))
    with pytest.raises(DataError, match=r"one drawing by each drawer, received a second one, beside .*small1\.zip: "):
        load_omniglot(data_dir=tmp_path)


def test_small_sets_do_not_count_beside_the_whole(tmp_path: Path) -> None:
    archive(tmp_path / "images_background.zip", characters(("Greek", 1), ("Latin", 1)))
    archive(tmp_path / "images_evaluation.zip", characters(("Atlantean", 1), first=3))
    archive(tmp_path / f"{SMALL}.zip", characters(("Tagalog", 1), first=9))
    names = ("Atlantean/character01", "Greek/character01", "Latin/character01")
    assert load_omniglot(data_dir=tmp_path).class_names == names


def test_the_authors_archives_are_known_by_their_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, start_mirror: Callable
) -> None:
    digests, contents = {}, {}
    for part, files in {
        "images_background": characters(("Greek", 1)),
        "images_evaluation": characters(("Latin", 1), first=2),
    }.items():
        content = archive(tmp_path / f"{part}.zip", files).read_bytes()
        contents[f"{part}.zip"], digests[part] = content, f"sha256:{hashlib.sha256(content).hexdigest()}"
    monkeypatch.setattr(omniglot, "_DIGESTS", digests)
    for source in ("auto", "full"):
        assert load_omniglot(source, tmp_path).provenance == "omniglot"
    mirror = start_mirror(contents)
    remote = tuple(
        omniglot.RemoteFile(name, len(content), digests[name[:-4]], (mirror.url,)) for name, content in contents.items()
    )
    monkeypatch.setattr(omniglot, "PUBLISHED", replace(omniglot.PUBLISHED, remote_files=remote))
    lines: list[str] = []
    for _ in range(2):
        assert load_omniglot("full", say=lines.append).provenance == "omniglot"
    assert len(mirror.requests) == 2
    assert len(lines) == 1
    assert "downloading omniglot" in lines[0]
    (tmp_path / "images_evaluation.zip").unlink()
    with pytest.raises(DataError, match="received other content, 20 \\+ 0 images"):
        load_omniglot("full", tmp_path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"Greek/notes.txt": b"?"}, "ALPHABET/CHARACTER/NUMBER_DRAWER.png, received another file"),
        ({"loose.png": b"?"}, "received another file"),
        ({"Greek/character01/0001_1.png": b"?"}, "received another file"),
        ({"a/b/Greek/character01/0001_01.png": b"?"}, "received another file"),
        ({"Greek/character01/0002_05.png": b"?"}, "received a second one"),
        ({"Greek/character01/0001_21.png": b"?"}, "by the drawers 1 to 20, received one by 21"),
        ({"Greek/character02/0002_05.png": b"?"}, "received none by \\[1, 2, 3, 4, 6"),
        ({"Greek/character01/0001_05.png": b"no image"}, "0001_05.png: expected an image"),
        ({"Greek/character01/0001_05.png": drawing("Greek", 1, 5)[:65]}, "0001_05.png: .*truncated"),
    ],
)
def test_files_that_do_not_belong_are_named(tmp_path: Path, extra: dict[str, bytes], message: str) -> None:
    archive(tmp_path / f"{SMALL}.zip", characters(("Greek", 1)) | extra)
    with pytest.raises(DataError, match=message):
        load_omniglot(data_dir=tmp_path)
    folder = write_tree(tmp_path / "unpacked" / SMALL, characters(("Greek", 1)) | extra)
    with pytest.raises(DataError, match=message):
        load_omniglot(data_dir=folder.parent)


def test_a_truncated_archive_is_damaged(three: Path) -> None:
    path = three / "omniglot-py" / f"{SMALL}.zip"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"small1\.zip: expected a whole zip archive, received one that is cut off"):
        load_omniglot(data_dir=three)
    assert "cut off" in verify("omniglot", three)[0].detail


def test_a_wrong_checksum_is_told_with_the_member(three: Path) -> None:
    path = three / "omniglot-py" / f"{SMALL}.zip"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"small1\.zip: images_.*_\d\d\.png: .*'Bad CRC-32"):
        load_omniglot(data_dir=three)


@pytest.mark.parametrize("files", [{}, {"README": b"text"}])
def test_archives_without_drawings(tmp_path: Path, files: dict[str, bytes]) -> None:
    write_zip(tmp_path / f"{SMALL}.zip", files)
    with pytest.raises(DataError, match=r"expected drawings|another file"):
        load_omniglot(data_dir=tmp_path)


def test_nothing_there_says_what_to_do(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, received in [(tmp_path, "none of them there"), (tmp_path / "no", "no such folder")]:
        with pytest.raises(DataError, match=rf"{received}\. Put images_background\.zip and .* --data-dir FOLDER"):
            load_omniglot(data_dir=folder)
    with pytest.raises(ConfigError, match="auto, full or sample"):
        load_omniglot("fll")  # type: ignore[arg-type]


def test_no_network_says_where_files_go(cache: Path, dead_mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = tuple(replace(file, mirrors=(dead_mirror,)) for file in omniglot.REMOTE_FILES)
    monkeypatch.setattr(omniglot, "PUBLISHED", replace(omniglot.PUBLISHED, remote_files=remote))
    with pytest.raises(DataError, match=r"Or without a network: Put images_background\.zip"):
        load_omniglot()


def test_the_real_small_sets(shared_dir: Path) -> None:
    folder = shared_dir / "data"
    if not (folder / "omniglot-py").is_dir():
        pytest.skip("no Omniglot in the folder beside the repository")
    data = load_omniglot(data_dir=folder)
    assert len(data.class_names) == 242
    assert len({name.split("/")[0] for name in data.class_names}) == 8
    assert list(data.class_names) == sorted(data.class_names)
    assert data.train_images.mean() > 200, "the background is white"
    assert [row.detail for row in verify("omniglot", folder)] == [
        "136 characters, SHA-256 agrees", "156 characters, SHA-256 agrees",
    ]  # fmt: skip
