"""A run folder as bytes: what is packed is unpacked in one step, and nothing else ever is."""

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from halrp_np.errors import StorageError
from halrp_np.sweeps.parcel import Parcel, pack, unpack


def written(folder: Path, text: str) -> Path:
    """A folder that looks like a run's."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(text)
    (folder / ".lock").write_text("")
    (folder / "checkpoints" / "state.json").write_text(text)
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def holding(name: str) -> Parcel:
    """A parcel with one file of this name."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, "x")
    return Parcel(archive.getvalue(), hashlib.sha256(archive.getvalue()).hexdigest())


def test_what_is_packed_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    sent, kept = written(tmp_path / "sent", "new"), written(tmp_path / "out" / "run", "old")
    (sent / ".halrp-0.tmp").write_text("left by a killed writer")
    (kept / "stale.csv").write_text("of the earlier attempt")
    parcel = pack(sent)
    assert parcel is not None
    unpack(parcel, kept)
    (sent / ".halrp-0.tmp").unlink()
    assert everything(kept) == everything(sent)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run"]


def test_a_folder_without_a_run_is_nothing_to_pack(tmp_path: Path) -> None:
    assert pack(tmp_path) is None


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:/evil", "..\\evil", "\\\\host\\share\\evil"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    kept = written(tmp_path / "out" / "run", "old")
    before = everything(tmp_path)
    with pytest.raises(StorageError, match="expected names of files inside the folder"):
        unpack(holding(name), kept)
    assert everything(tmp_path) == before


def test_damaged_bytes_are_refused_and_the_old_folder_stays(tmp_path: Path) -> None:
    kept = written(tmp_path / "out" / "run", "old")
    before = everything(tmp_path)
    parcel = holding("config.json")
    for damaged, words in (
        (Parcel(parcel.content[:-1], parcel.sha256), "SHA-256"),
        (Parcel(b"no archive", hashlib.sha256(b"no archive").hexdigest()), "a ZIP archive"),
    ):
        with pytest.raises(StorageError, match=words):
            unpack(damaged, kept)
        assert everything(tmp_path) == before
