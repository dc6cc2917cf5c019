"""Streams of a user's own images: folders and arrays, the split, and every mistake in the file that describes them."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.image_bytes import encoded
from halrp_np.data import Images, Stream, custom_stream
from halrp_np.errors import ConfigError, DataError, HalrpError

BIRDS = ["crow", "duck", "gull", "owl", "rook", "wren"]
FOLDERS = 'name = "birds"\nimages = "photos"\ntest = 0.2\nsize = [8, 6]\nclasses_per_task = 2\n'
ARRAYS = 'name = "birds"\nimages = "arrays.npz"\ntest = 0.2\nclasses_per_task = 2\n'


def photo(label: int, number: int) -> np.ndarray:
    """A photo of one colour that tells the class and the number."""
    return np.full((8, 6, 3), (40 * label, number, 7), np.uint8)


def write_photos(folder: Path, count: int) -> None:
    for label, name in enumerate(BIRDS):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.png").write_bytes(encoded(photo(label, number)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six classes of ten photos; the folder that photos lies in."""
    write_photos(tmp_path / "photos", 10)
    return tmp_path


def described(folder: Path, text: str = FOLDERS, **options: object) -> Stream:
    (folder / "birds.toml").write_text(text, encoding="utf-8")
    return custom_stream(folder / "birds.toml", **options)  # type: ignore[arg-type]


def changed(text: str, **values: object) -> str:
    """A description with other values; None takes a key away."""
    lines = [line for line in text.splitlines() if line.split(" = ")[0] not in values]
    return "\n".join(lines + [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None])


def seen(images: Images) -> list[tuple[int, int]]:
    """Which photos a subset has, as (class, number), in its order."""
    pixels = images.images[images.rows].reshape(len(images), 3, -1)[:, :, 0]
    return [(int(red) // 40, int(green)) for red, green, _ in pixels]


def test_every_image_is_in_one_part_with_its_label(photos: Path) -> None:
    for task in described(photos).tasks:
        found = [seen(part) for part in (task.train, task.validation, task.test)]
        assert [len(part) for part in found] == [14, 2, 4]
        first = 2 * task.identity
        assert {*itertools.chain(*found)} == {(first + k, n) for k in (0, 1) for n in range(10)}
        for images, part in zip((task.train, task.validation, task.test), found, strict=True):
            assert images.labels_of().tolist() == [label - first for label, _ in part]
            assert len({label for label, _ in part}) == task.classes == 2
            assert images.shape == (3, 8, 6)


def test_the_network_sees_pixels_from_minus_one_to_one(photos: Path) -> None:
    train = described(photos).tasks[0].train
    label, number = seen(train)[0]
    colour = train.arrays(dtype=np.float64)[0].mean((1, 2))
    assert colour == pytest.approx([(x / 255 - 0.5) / 0.5 for x in (40 * label, number, 7)], abs=1e-6)
    other = changed(FOLDERS, mean=[0.1, 0.2, 0.3], std=0.25)
    colour = described(photos, other).tasks[0].train.arrays(dtype=np.float64)[0].mean((1, 2))
    values = zip((40 * label, number, 7), (0.1, 0.2, 0.3), strict=True)
    assert colour == pytest.approx([(x / 255 - mean) / 0.25 for x, mean in values], abs=1e-5)


def test_the_protocol_tells_all(photos: Path) -> None:
    protocol = described(photos, order="1,2,0", train_size=0.5).protocol
    assert json.loads(json.dumps(protocol)) == protocol
    expected = {
        "benchmark": "birds",
        "data": "birds-custom",
        "tasks": 3,
        "image_shape": [3, 8, 6],
        "order": [1, 2, 0],
        "normalisation": {"divide": 255, "mean": [0.5], "std": [0.5]},
        "augmentation": "none",
        "train_size": 0.5,
        "split_seed": 0,
        "description": {"name": "birds", "images": "photos", "test": 0.2, "size": [8, 6], "classes_per_task": 2},
    }
    assert {key: protocol[key] for key in expected} == expected
    names = {"identity": 1, "name": "gull, owl", "classes": 2, "train": 6, "validation": 2, "test": 4}
    assert protocol["sizes"][0] == names
    assert described(photos).protocol["images_sha256"] == protocol["images_sha256"]
    (photos / "photos" / "owl" / "3.png").write_bytes(encoded(photo(3, 99)))
    assert described(photos).protocol["images_sha256"] != protocol["images_sha256"]


def test_what_tests_once_never_trains(photos: Path) -> None:
    streams = [
        described(photos, split_seed=seed, train_size=size, validation_share=share, order=order)
        for seed, size, share, order in [(0, 1.0, 0.2, "A"), (5, 1.0, 0.5, "B"), (6, 0.3, 0.2, "random:9")]
    ]
    tested = [{(t.identity, *sorted(seen(t.test))) for t in stream.tasks} for stream in streams]
    assert tested[0] == tested[1] == tested[2]
    trained = [{photo for task in stream.tasks for photo in seen(task.train)} for stream in streams]
    assert len(trained[2]) == 6 * 2  # ceil(0.3 · 8) = 3, one of them for validation
    assert trained[0] != trained[1]


def test_train_size_takes_a_beginning_and_order_changes_nothing_else(photos: Path) -> None:
    few, all_of = described(photos, train_size=0.5), described(photos, order="E")
    for task in few.tasks:
        same = next(other for other in all_of.tasks if other.identity == task.identity)
        assert {*seen(task.train)} < {*seen(same.train)} | {*seen(same.validation)}
        assert sorted(seen(same.test)) == sorted(seen(task.test))
    assert [t.identity for t in described(photos, order="random:1").tasks] == [0, 2, 1]


def test_tasks_as_listed_of_different_sizes(photos: Path) -> None:
    text = changed(FOLDERS, classes_per_task=None, tasks=[["wren", "crow", "owl"], ["gull", "duck"]])
    (photos / "photos" / "rook" / "notes.txt").write_text("a class of no task is not looked at")
    stream = described(photos, text)
    assert [task.classes for task in stream.tasks] == [3, 2]
    assert [row["name"] for row in stream.protocol["sizes"]] == ["wren, crow, owl", "gull, duck"]
    for label, (kind, _) in zip(stream.tasks[0].test.labels_of(), seen(stream.tasks[0].test), strict=True):
        assert [BIRDS.index(name) for name in ("wren", "crow", "owl")][label] == kind


def test_test_images_of_their_own(photos: Path) -> None:
    write_photos(photos / "other" / "photos", 3)
    text = changed(FOLDERS, test=None, test_images="other/photos")
    for task in described(photos, text).tasks:
        assert [len(part) for part in (task.train, task.validation, task.test)] == [16, 4, 6]
    (photos / "other" / "photos" / "owl").rename(photos / "other" / "photos" / "owls")
    with pytest.raises(DataError, match=r"other/photos/owl: expected images of this class, received no such folder"):
        described(photos, text)


def test_grey_augmented_and_stretched(photos: Path) -> None:
    stream = described(photos, changed(FOLDERS, channels=1, size=[20, 10]), augment=True)
    assert stream.tasks[0].train.shape == (1, 20, 10)
    assert stream.tasks[0].train.augmentation is not None
    assert stream.tasks[0].test.augmentation is None


def save(folder: Path, **arrays: object) -> None:
    np.savez(folder / "arrays.npz", **{name: np.asarray(array) for name, array in arrays.items()})


def some_arrays(labels: list[int]) -> dict[str, np.ndarray]:
    numbers = np.repeat(labels, 10)
    images = np.stack([photo(label % 6, n % 10).transpose(2, 0, 1) for n, label in enumerate(numbers)])
    return {"images": images, "labels": numbers}


def test_arrays(tmp_path: Path) -> None:
    arrays = some_arrays([5, 2, 11, 3])
    save(tmp_path, **arrays)
    stream = described(tmp_path, ARRAYS)
    assert [row["name"] for row in stream.protocol["sizes"]] == ["2, 3", "5, 11"], "in the order of numbers"
    assert [len(part) for part in (stream.tasks[0].train, stream.tasks[0].test)] == [14, 4]
    save(tmp_path, **arrays, test_images=arrays["images"][::2], test_labels=arrays["labels"][::2])
    stream = described(tmp_path, changed(ARRAYS, test=None, classes_per_task=None, tasks=[[11, 2], ["3", 5]]))
    assert [len(part) for part in (stream.tasks[0].train, stream.tasks[0].test)] == [16, 10]
    assert [kind for kind, _ in seen(stream.tasks[0].test)] == [5] * 5 + [2] * 5  # 11 % 6 = 5
    save(tmp_path, images=arrays["images"][:, 0], labels=arrays["labels"].astype(np.uint8))
    assert described(tmp_path, ARRAYS).tasks[0].train.shape == (1, 8, 6)


GOOD = some_arrays([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({**GOOD, "images": GOOD["images"] / 255}, r"npz, images: expected unsigned bytes .* received float64"),
        ({**GOOD, "images": GOOD["images"].transpose(0, 2, 3, 1)}, r"images\.transpose\(0, 3, 1, 2\)"),
        ({**GOOD, "images": GOOD["images"][:, :2]}, "C = 1 or 3, received uint8 of shape 40x2x8x6"),
        ({**GOOD, "images": GOOD["images"][:0], "labels": GOOD["labels"][:0]}, "expected integers of shape|unsigned"),
        ({**GOOD, "labels": GOOD["labels"][1:]}, "as many images as labels, received 40 and 39"),
        ({**GOOD, "labels": GOOD["labels"] * 1.0}, "npz, labels: expected integers"),
        ({**GOOD, "labels": GOOD["labels"].astype(object)}, "received pickled objects"),
        ({"images": GOOD["images"]}, "expected the arrays images and labels.* received images"),
        ({**GOOD, "label": GOOD["labels"]}, "received images, label, labels"),
        ({**GOOD, "test_images": GOOD["images"]}, "received images, labels, test_images"),
        (
            {**GOOD, "test_images": GOOD["images"][:10], "test_labels": GOOD["labels"][:10]},
            "the label 1 in one of them",
        ),
        ({**GOOD, "test_images": GOOD["images"][..., :3], "test_labels": GOOD["labels"]}, "3x8x6 and 3x8x3"),
        ({**GOOD, "test_images": GOOD["images"], "test_labels": GOOD["labels"]}, "birds.toml, test: .* received both"),
    ],
)
def test_arrays_of_another_kind(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "arrays.npz", **arrays)
    with pytest.raises((ConfigError, DataError), match=message):
        described(tmp_path, ARRAYS)


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY", b"PK\x03\x04 cut", b"\x80\x04K\x01."])
def test_files_that_are_no_arrays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "arrays.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"arrays\.npz: expected arrays saved by np\.savez"):
        described(tmp_path, ARRAYS)
    (tmp_path / "arrays.npz").unlink()
    with pytest.raises(ConfigError, match=r"toml, images: .*arrays\.npz, which is not there"):
        described(tmp_path, ARRAYS)


def test_a_single_array_is_not_enough(tmp_path: Path) -> None:
    np.save(tmp_path / "arrays.npy", GOOD["images"])
    (tmp_path / "arrays.npy").rename(tmp_path / "arrays.npz")
    with pytest.raises(DataError, match="received a single array"):
        described(tmp_path, ARRAYS)


MISTAKES: list[tuple[dict[str, object], str]] = [
    ({"imags": "photos"}, r"toml, imags: expected one of the keys name, .*Did you mean images\?"),
    ({"name": None}, "toml, name: expected a name of letters"),
    ({"name": "../x"}, r"toml, name: .* received '\.\./x'"),
    ({"images": None}, "toml, images: expected a folder"),
    ({"images": 3}, "toml, images: .* received 3"),
    ({"images": "foto"}, "toml, images: expected a folder .*foto, which is not there. Correct images: a path"),
    ({"images": "~nobody-has-this-name/a"}, "toml, images: expected a folder .*which is not there"),
    ({"images": "birds.toml"}, "toml, images: expected a folder .*birds.toml, which is not there"),
    ({"test": None, "test_images": "foto"}, "toml, test_images: expected a folder .*foto, which is not there"),
    ({"size": None}, r"toml, size: expected \[height, width\]"),
    ({"size": 32}, "toml, size: .* received 32"),
    ({"size": [32, 0]}, r"toml, size: .* received \[32, 0\]"),
    ({"size": [32, 32, 3]}, "toml, size: "),
    ({"channels": 4}, "toml, channels: expected 1 for grey or 3 for RGB, received 4"),
    ({"channels": True}, "toml, channels: .* received True"),
    ({"test": None}, "toml, test: expected test, or else test_images, received neither"),
    ({"test_images": "photos"}, "toml, test: .* received both"),
    ({"test": 1}, "toml, test: expected a number between 0 and 1"),
    ({"test": 0.99}, "toml, test: expected enough of each class, received 10 images of crow, none left"),
    ({"classes_per_task": None}, "toml, classes_per_task: expected classes_per_task, or else tasks, received neither"),
    ({"tasks": [["crow", "owl"]]}, "classes_per_task, or else tasks, received both"),
    ({"classes_per_task": 4}, r"divides the 6 classes there, received 4\. Choose a divisor of 6"),
    ({"classes_per_task": 1}, "classes_per_task: expected an integer of at least 2"),
    ({"classes_per_task": None, "tasks": []}, "toml, tasks: expected a list of tasks"),
    ({"classes_per_task": None, "tasks": [["crow"]]}, "each a list of at least 2 class names"),
    ({"classes_per_task": None, "tasks": [["crow", "owl"], ["duck", "crow"]]}, "in one task, received 'crow' twice"),
    ({"classes_per_task": None, "tasks": [["crow", "owls"]]}, r"received 'owls'\. Did you mean 'owl'\?"),
    ({"mean": 127.5}, "toml, mean: expected a number from 0 to 1"),
    ({"mean": [0.5, 0.5]}, "toml, mean: expected one number, or 3 of them, received 2 numbers"),
    ({"std": 0}, "toml, std: "),
]


@pytest.mark.parametrize(("values", "message"), MISTAKES)
def test_mistakes_in_the_file_name_it_and_the_key(photos: Path, values: dict[str, object], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        described(photos, changed(FOLDERS, **values))


@pytest.mark.parametrize("key", ["size", "channels", "test_images"])
def test_arrays_have_their_own_size(tmp_path: Path, key: str) -> None:
    save(tmp_path, **GOOD)
    value = {"size": [8, 6], "channels": 3, "test_images": "photos"}[key]
    with pytest.raises(ConfigError, match=rf"toml, {key}: expected nothing: the arrays"):
        described(tmp_path, changed(ARRAYS, **{key: value}))


NO_TOML = [
    b'name = "birds', b"name = birds", b'name = "a"\nname = "b"', b"\xff\xfe", b"[", b"a=" + b"[" * 2000,
    b"a=" + b"9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("content", NO_TOML, ids=range(len(NO_TOML)))
def test_what_is_no_toml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "birds.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"birds\.toml: expected a file in the TOML format"):
        custom_stream(tmp_path / "birds.toml")


def test_a_byte_order_mark_is_passed_over(photos: Path) -> None:
    """As Windows' Notepad writes one."""
    assert len(described(photos, "\ufeff" + FOLDERS).tasks) == 3


def test_no_file_at_all(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ConfigError, match=r"expected a TOML file .*Check the path"):
            custom_stream(path)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("photos/owl/x.png", b"?", r"owl/x\.png: expected an image"),
        ("photos/owl/x.txt", b"?", r"owl/x\.txt: expected only images"),
        ("photos/owl/more/x.png", encoded(photo(1, 1)), r"owl/more/x\.png: expected only images"),
        ("photos/owl/.thumbnail", b"?", ""),
        ("photos/loose.txt", b"?", ""),
    ],
)
def test_other_files_among_the_photos(photos: Path, path: str, content: bytes, message: str) -> None:
    (photos / path).parent.mkdir(exist_ok=True)
    (photos / path).write_bytes(content)
    if message:
        with pytest.raises(DataError, match=message):
            described(photos)
    else:
        assert len(described(photos).tasks) == 3


def test_empty_folders(photos: Path, tmp_path: Path) -> None:
    for path in (photos / "photos" / "owl").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"photos/owl: expected images of this class, received an empty folder"):
        described(photos)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"nothing: expected a folder of images for each class in it, received none"):
        described(photos, changed(FOLDERS, images="nothing"))


@pytest.mark.parametrize("count", [2, 3])
def test_few_photos(tmp_path: Path, count: int) -> None:
    write_photos(tmp_path / "photos", count)
    if count == 2:  # one tests, one trains, none is left for validation
        with pytest.raises(ConfigError, match="at least one validation image"):
            described(tmp_path)
    else:
        for task in described(tmp_path).tasks:
            assert [len(part) for part in (task.train, task.validation, task.test)] == [2, 2, 2]


@pytest.mark.parametrize(
    "options", [{"order": "F"}, {"train_size": 0.0}, {"split_seed": -1}, {"validation_share": 1.0}, {"order": "0,1"}]
)
def test_settings_that_make_no_sense(photos: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"order|birds, "):
        described(photos, **options)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.lists(st.lists(SCALARS, max_size=3), max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from(sorted({*"abc"} | {key for m, _ in MISTAKES for key in m})), VALUES))
def test_any_values_give_a_stream_or_an_error_of_ours(photos: Path, values: dict[str, object]) -> None:
    try:
        described(photos, changed(FOLDERS, **values))
    except HalrpError as error:
        assert error.next_step  # noqa: PT017
