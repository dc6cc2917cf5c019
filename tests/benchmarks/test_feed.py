"""A feed gives the network what Images.arrays shows, transposed, from one shared pixel store; augmented in training."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Device, Streams, to_host
from halrp_np.benchmarks.feed import Feeds
from halrp_np.data import DataSet, Images, load_mnist, permuted_mnist
from halrp_np.data.images import CROP_AND_FLIP, Augmentation, whole_images
from halrp_np.losses import CrossEntropy
from halrp_np.models import mlp
from halrp_np.training import Adam, Hooks, PhasePlan, train_phase
from halrp_np.training.loop import PhaseState


@pytest.fixture(params=["joint", "spatial"])
def stream(request: pytest.FixtureRequest, data_dir: Any) -> Any:
    return permuted_mnist(load_mnist("auto", data_dir), tasks=3, permutation=request.param)


def test_batches_are_the_images_transposed(stream: Any, device_name: str, dtype: Any) -> None:
    device = Device(device_name)
    feeds = Feeds(device, dtype)
    for task in stream.tasks:
        for images in (task.train, task.validation, task.test):
            feed = feeds.open(images)
            assert len(feed) == len(images)
            for rows in (np.arange(len(images)), np.array([3]), np.array([7, 0, 7, 2])):
                x, labels = feed.batch(rows)
                assert x.dtype == dtype
                assert x.shape == (3, 32, 32, len(rows))
                np.testing.assert_array_equal(to_host(x), np.moveaxis(images.arrays(rows, dtype), 0, -1))
                np.testing.assert_array_equal(to_host(labels), images.labels_of(rows))
                assert x.flags.c_contiguous


def test_all_subsets_of_a_stream_share_one_store(stream: Any) -> None:
    feeds = Feeds(Device("cpu"), np.float32)
    opened = [feeds.open(images) for task in stream.tasks for images in (task.train, task.validation, task.test)]
    assert len({id(feed.store) for feed in opened}) == 1
    assert len(feeds.stores) == 1
    assert stream.tasks[0].train.images.nbytes == 90 * 1024  # uint8, one channel


def test_another_store_gets_its_own_place(data_dir: Any) -> None:
    mnist, feeds = load_mnist("auto", data_dir), Feeds(Device("cpu"), np.float32)
    streams = [permuted_mnist(mnist, tasks=1, train_images=count) for count in (20, 30)]
    for stream in streams:
        images = stream.tasks[0].train
        np.testing.assert_array_equal(feeds.open(images).batch(np.array([5]))[0][..., 0], images.arrays([5])[0])
    assert len(feeds.stores) == 2


# ---- augmentation ---------------------------------------------------------------------------------------------------


def colours(count: int = 12, seed: int = 4) -> DataSet:
    """A few labelled images of CIFAR's kind, smaller."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = draw.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    return DataSet("x", images, labels, images, labels, ("a", "b", "c"), "x-other", "")


def augmented(data: DataSet, flip: bool = True, rows: Any = slice(None)) -> Images:
    """Some of the images, cropped and mirrored in training."""
    images = whole_images(data.train_images, data.train_labels, [0.5, 0.4, 0.3], [0.2, 0.3, 0.1])
    return images.select(rows).augmented(Augmentation(2, flip))


def one_by_one(images: Images, moves: np.ndarray, dtype: Any) -> np.ndarray:
    """Pad, crop, mirror and normalise each image as a loader does. -> (C, H, W, N)"""
    raw = images.images[images.rows].reshape(len(images), *images.shape)
    found = []
    for image, (dy, dx, mirrored) in zip(raw, moves, strict=True):
        crop = np.pad(image, ((0, 0), (2, 2), (2, 2)))[:, 2 + dy : 10 + dy, 2 + dx : 10 + dx]
        crop = crop[:, :, ::-1] if mirrored else crop
        found.append(np.stack([line.astype(dtype)[plane] for line, plane in zip(images.table, crop, strict=True)]))
    return np.stack(found, axis=-1)


@pytest.mark.parametrize("flip", [True, False])
def test_an_epoch_moves_every_image_once(flip: bool, device_name: str, dtype: Any) -> None:
    images, device = augmented(colours(), flip, [5, 0, 7, 3, 1]), Device(device_name)
    feed, rows = Feeds(device, dtype).open(images), np.arange(5)
    np.testing.assert_array_equal(to_host(feed.batch(rows)[0]), np.moveaxis(images.arrays(rows, dtype), 0, -1))
    memory, seen = feed.moves, set()
    for epoch in range(3):
        feed.begin_epoch(Streams(1).generator("augment base", 0, epoch))
        moves = images.augmentation.draw(Streams(1).generator("augment base", 0, epoch), 5)  # type: ignore[union-attr]
        expected = one_by_one(images, moves, dtype)
        for chosen in (rows, np.array([4, 1, 1])):
            x, labels = feed.batch(chosen)
            np.testing.assert_array_equal(to_host(x), expected[..., chosen])
            np.testing.assert_array_equal(to_host(labels), images.labels_of(chosen))
        seen.add(expected.tobytes())
    assert len(seen) == 3
    assert feed.moves is memory, "recorded steps read the same memory in every epoch"


def test_a_draw_uses_every_move() -> None:
    moves = CROP_AND_FLIP.draw(np.random.default_rng(0), 5000)
    assert moves.shape == (5000, 3)
    assert [sorted(set(column)) for column in moves.T.tolist()] == [[*range(-4, 5)], [*range(-4, 5)], [0, 1]]
    assert Augmentation(4, flip=False).draw(np.random.default_rng(0), 50)[:, 2].max() == 0


def test_without_augmentation_nothing_is_drawn(stream: Any) -> None:
    class Refuses:
        def __getattr__(self, name: str) -> None:
            raise AssertionError(f"{name} was asked of a generator")

    feed = Feeds(Device("cpu"), np.float32).open(stream.tasks[0].train)
    feed.begin_epoch(Refuses())  # type: ignore[arg-type]


class Stops(Hooks):
    """Keeps a copy of the state after each step, and starts from one."""

    def __init__(self, start: PhaseState | None = None) -> None:
        self.start, self.states = start, []

    def restore(self, plan: PhasePlan) -> PhaseState | None:
        return self.start

    def after_step(self, plan: PhasePlan, state: PhaseState, steps: int) -> None:
        self.states.append(copy.deepcopy(state))


def trained(hooks: Hooks, *, augment: bool = True, name: str = "base", seed: int = 2) -> dict[str, Any]:
    """Three epochs of three steps on augmented images, with a feed of its own as a new process has."""
    images = augmented(colours())
    feed = Feeds(Device("cpu"), np.float64).open(images if augment else images.augmented(None))
    model, streams = mlp((3, 8, 8), 3, (5, 4)), Streams(seed)
    return train_phase(
        PhasePlan(task=1, name=name, epochs=3, batch=4, lr=0.05, gamma=0.9, shuffle=False),
        model,
        model.init(np.random.default_rng(1), np.float64),
        feed,
        loss=CrossEntropy(),
        optimizer=Adam(),
        penalties={},
        streams=streams,
        hooks=hooks,
    )


def test_a_phase_on_augmented_images_goes_on_from_any_step_with_the_same_bits() -> None:
    hooks = Stops()
    whole = trained(hooks)
    assert len(hooks.states) == 9
    for state in hooks.states:
        again = trained(Stops(copy.deepcopy(state)))
        assert all(again[key].tobytes() == whole[key].tobytes() for key in whole), state.step


def test_what_is_drawn_belongs_to_seed_and_phase() -> None:
    whole = trained(Hooks())
    for other in ({"augment": False}, {"name": "warm-up"}, {"seed": 3}):
        assert any((trained(Hooks(), **other)[key] != whole[key]).any() for key in whole), other
    again = trained(Hooks())
    assert all((again[key] == whole[key]).all() for key in whole)


# ---- images on disk -------------------------------------------------------------------------------------------------


def test_a_read_only_memory_map_is_gathered_where_it_lies(tmp_path: Path, dtype: Any) -> None:
    data = colours(200)
    np.save(tmp_path / "a.npy", data.train_images)
    mapped = replace(data, train_images=np.load(tmp_path / "a.npy", mmap_mode="r"))
    feeds = Feeds(Device("cpu"), dtype)
    for images in (augmented(mapped), augmented(mapped).augmented(None)):
        feed = feeds.open(images)
        assert np.shares_memory(feed.store, mapped.train_images)
        x, _ = feed.batch(np.array([7, 3]))
        np.testing.assert_array_equal(x, np.moveaxis(images.arrays([7, 3], dtype), 0, -1))
