"""Omniglot-rotation: which drawings are where, in which rotation, and how many tasks the data has."""

import json
from typing import Any

import numpy as np
import pytest

from data.made_up import made_up
from halrp_np.data import omniglot_rotation
from halrp_np.data.dataset import DataSet
from halrp_np.data.orders import legacy_permutation
from halrp_np.errors import ConfigError


def drawings(characters: int, side: int = 4) -> DataSet:
    """Twenty drawings of each character in order, none for testing."""
    data = made_up("omniglot", (1, side, side), characters, 20, 0)
    labels = np.arange(characters).repeat(20)
    return DataSet("omniglot", data.train_images, labels, data.test_images, data.test_labels, data.class_names, "o", "")


@pytest.fixture(scope="module")
def data() -> DataSet:
    return drawings(41)


def test_parts_by_drawer(data: DataSet) -> None:
    stream = omniglot_rotation(data, order="B")
    assert [task.identity for task in stream.tasks] == legacy_permutation(3, 1).tolist()
    for task in stream.tasks:
        assert (len(task.train), len(task.validation), len(task.test)) == (576, 144, 240)
        for part, drawers in ((task.train, range(12)), (task.validation, range(12, 15)), (task.test, range(15, 20))):
            expected, labels = [], []
            for character in range(12):
                for quarter in range(4):
                    for drawer in drawers:
                        drawing = data.train_images[20 * (12 * task.identity + character) + drawer, 0]
                        for _ in range(quarter):
                            drawing = drawing[:, ::-1].T  # a quarter turn to the left
                        expected.append(drawing)
                        labels.append(character)
            np.testing.assert_array_equal(part.labels_of(), labels)
            pixels = np.array(expected, np.float32)[:, None] / np.float32(255)
            np.testing.assert_array_equal(part.arrays(), pixels)


def test_a_quarter_turn_is_counter_clockwise() -> None:
    data = drawings(12)
    data.train_images[0] = 0
    data.train_images[0, 0, 0, 3] = 255  # top right
    train = omniglot_rotation(data).tasks[0].train
    corners = [tuple(np.argwhere(train.arrays([12 * quarter])[0, 0])[0]) for quarter in range(4)]
    assert corners == [(0, 3), (0, 0), (3, 0), (3, 3)]


@pytest.mark.parametrize(("characters", "tasks"), [(12, 1), (35, 2), (242, 20), (1623, 100)])
def test_as_many_tasks_as_there_are_characters_for(characters: int, tasks: int) -> None:
    stream = omniglot_rotation(drawings(characters, side=1))
    assert len(stream.tasks) == tasks
    assert stream.protocol["order"] == list(range(tasks))
    assert stream.tasks[0].train.images.shape == (tasks * 12 * 80, 1)
    assert sum(len(part) for task in stream.tasks for part in (task.train, task.validation, task.test)) == tasks * 960


def test_fewer_tasks_and_the_protocol(data: DataSet) -> None:
    stream = omniglot_rotation(data, tasks=2, order="1,0")
    assert json.loads(json.dumps(stream.protocol)) == stream.protocol
    assert stream.protocol["order"] == [1, 0]
    assert stream.protocol["sizes"][0]["name"] == "characters 12 to 23"
    assert stream.protocol["augmentation"] == "none"
    assert stream.protocol["image_shape"] == [1, 4, 4]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"tasks": 4}, "tasks: expected 0 for as many as the data has, or 1 to 3, received 4"),
        ({"tasks": -1}, "tasks.*received -1"),
        ({"order": "0,1"}, "numbers 0 to 2"),
    ],
)
def test_nonsense_is_refused(data: DataSet, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        omniglot_rotation(data, **choice)


def test_other_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="data: expected at least 12 characters, received 11"):
        omniglot_rotation(drawings(11))
    for shape, count in (((1, 4, 4), 19), ((1, 4, 5), 20), ((3, 4, 4), 20)):
        with pytest.raises(ConfigError, match="expected square grey images, 20 drawings of each character in order"):
            omniglot_rotation(made_up("x", shape, 12, count, 1))
