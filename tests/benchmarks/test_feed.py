"""A feed gives the network what Images.arrays shows, transposed, from one shared pixel store."""

from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Device, to_host
from halrp_np.benchmarks.feed import Feeds
from halrp_np.data import load_mnist, permuted_mnist


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
