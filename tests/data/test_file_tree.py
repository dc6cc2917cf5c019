"""Folders and zip archives look the same, and what cannot be read is named."""

import os
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.image_bytes import write_tree, write_zip
from halrp_np.data.file_tree import FileTree
from halrp_np.errors import DataError

FILES = {"b/two.txt": b"2", "a/x/one.txt": b"1", "top.txt": b"", ".hidden": b"?", "a/.git/config": b"?"}


@pytest.mark.parametrize("write", [write_tree, write_zip])
def test_both_list_and_read_alike(tmp_path: Path, write: object) -> None:
    with FileTree(write(tmp_path / "here", FILES)) as tree:  # type: ignore[operator]
        assert tree.names == ["a/x/one.txt", "b/two.txt", "top.txt"]
        assert tree.folders == ["a", "a/x", "b"]
        assert [tree.read(name) for name in tree.names] == [b"1", b"2", b""]
        with pytest.raises(DataError, match=r"here.*b.three\.txt: expected a file"):
            tree.read("b/three.txt")


def test_fingerprints_change_with_the_content(tmp_path: Path) -> None:
    folder, archive = write_tree(tmp_path / "folder", FILES), write_zip(tmp_path / "x.zip", FILES)
    first = [FileTree(path).fingerprint() for path in (folder, archive)]
    assert [FileTree(path).fingerprint() for path in (folder, archive)] == first
    (folder / ".hidden").write_bytes(b"other")
    assert FileTree(folder).fingerprint() == first[0]
    os.utime(folder / "top.txt", ns=(1, 1))
    write_zip(archive, FILES | {"top.txt": b"x"})
    changed = [FileTree(path).fingerprint() for path in (folder, archive)]
    assert not {*changed} & {*first}


def test_locked_huge_and_odd_members_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a": b"abc", "b": b"abc", "c": b"abc"})
    content = bytearray(path.read_bytes())
    for number, (offset, value) in enumerate([(8, b"\x01\x00"), (24, b"\xff\xff\xff\x7f"), (10, b"\x63\x00")]):
        at = -1
        for _ in range(number + 1):
            at = content.index(b"PK\x01\x02", at + 1)
        content[at + offset : at + offset + len(value)] = value
    path.write_bytes(content)
    with FileTree(path) as tree:
        for name, reason in [("a", "encrypted"), ("b", "at most 268,435,456 bytes"), ("c", "compression")]:
            with pytest.raises(DataError, match=rf"x\.zip: {name}: .*{reason}"):
                tree.read(name)


@given(data=st.data())
def test_any_damage_gives_the_content_or_that_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_zip(tmp_path_factory.mktemp("damage") / "x.zip", {"a/b": bytes(50), "c": b"12345"}, packed=True)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        with FileTree(path) as tree:
            for name in tree.names:
                tree.read(name)
    except DataError as error:
        assert str(path) in error.where  # noqa: PT017
    path.unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_in_a_circle_end(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "f", {"a/one": b"1"})
    (folder / "a" / "again").symlink_to(folder, target_is_directory=True)
    assert len(FileTree(folder).names) < 10
    (folder / "a" / "nowhere").symlink_to(folder / "absent")
    with pytest.raises(DataError, match="nowhere"):
        FileTree(folder).names  # noqa: B018


def test_an_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no: expected a folder that can be read, received 'No such file"):
        FileTree(tmp_path / "no").names  # noqa: B018
    assert zipfile.is_zipfile(write_zip(tmp_path / "empty.zip", {}))
    assert FileTree(tmp_path / "empty.zip").names == []
