"""A labelled data set on the host, as every reader returns it, and what a check says of a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images and labels of a training and a test part, with a word on where they came from.

    Shapes: images (M, C, H, W) uint8, labels (M,) int64 counting from 0; an image store may be a read-only memory map.
    `provenance` names the content in every result: the data set's own name when it was checked by digest, NAME-other
    for a user's files of the same format and other content, NAME-synthetic for the stand-in; MNIST's are `mnist-60k`,
    `mnist-5k` (the sample) and `mnist-other`. `notes` are sentences that a program should show its user.
    """

    name: str
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    provenance: str
    origin: str
    notes: list[str] = field(default_factory=list)


class FileRow(NamedTuple):
    """A file of a data set: whether it is as it should be, and in words what was found."""

    file: str
    ok: bool
    detail: str
