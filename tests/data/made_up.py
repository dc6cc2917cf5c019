"""Data sets of tiny made-up images, with as many of each class as asked for."""

import numpy as np

from halrp_np.data.dataset import DataSet


def made_up(
    name: str, shape: tuple[int, int, int], classes: int, train: int, test: int, seed: int = 0, mixed: bool = False
) -> DataSet:
    """So many images of each class, classes taking turns, or in any order; pixels are random."""
    draw = np.random.default_rng(seed)
    parts = []
    for count in (train, test):
        labels = np.tile(np.arange(classes), count)
        parts.append(draw.permutation(labels) if mixed else labels)
    images = [draw.integers(0, 256, (len(labels), *shape), dtype=np.uint8) for labels in parts]
    titles = tuple(f"class {label}" for label in range(classes))
    return DataSet(name, images[0], parts[0], images[1], parts[1], titles, f"{name}-other", "made up")
