"""What each network costs, from the model itself: every row of the specification's table of counts (section 5.1)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from halrp_np.layers import Sequential, decomposed_layers
from halrp_np.lowrank import TaskSize, dense_count, honest_count, released_count, released_increase, task_size
from halrp_np.models import build


@dataclass(frozen=True)
class Row:
    """One row of the table: task 0's parameters, and what one later task adds."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    base: int
    scalings: int
    batchnorm: int
    head: int
    fixed: int
    per_rank: tuple[int, ...]
    sizes: tuple[int, ...]
    biases: int


LENET = ((23, 70, 4000, 1300), (3, 20, 800, 500), 1_370)
ALEXNET_SMALL = ((67, 192, 384, 3072, 4096), (3, 64, 128, 1024, 2048), 4_544)
ALEXNET_LARGE = ((67, 192, 384, 11264, 4096), (3, 64, 128, 2048, 2048), 4_544)
RESNET18 = (
    (35, 64, 64, 64, 64, 96, 128, 96, 128, 128, 192, 256, 192, 256, 256, 384, 512, 384, 512, 512),
    (3, *(32,) * 5, 64, 32, *(64,) * 3, 128, 64, *(128,) * 3, 256, 128, *(256,) * 2),
    2_400,
)
LARGE_LENET = ((65, 192, 10692, 4000), (1, 64, 2500, 1500), 4_192)
TABLE = [
    Row("lenet", (3, 32, 32), 10, 2_995_620, 5_393, 2_740, 5_010, 13_143, *LENET),
    Row("lenet", (3, 32, 32), 5, 2_993_115, 5_393, 2_740, 2_505, 10_638, *LENET),
    Row("alexnet", (3, 32, 32), 10, 6_533_450, 7_811, 9_088, 20_490, 37_389, *ALEXNET_SMALL),
    Row("alexnet", (3, 64, 64), 10, 23_310_666, 16_003, 9_088, 20_490, 45_581, *ALEXNET_LARGE),
    Row("alexnet", (3, 64, 64), 5, 23_300_421, 16_003, 9_088, 10_245, 35_336, *ALEXNET_LARGE),
    Row("resnet18", (3, 32, 32), 10, 2_807_690, 4_323, 4_800, 10_250, 19_373, *RESNET18),
    Row("resnet18", (3, 64, 64), 10, 2_838_410, 4_323, 4_800, 40_970, 50_093, *RESNET18),
    Row("resnet18", (3, 64, 64), 5, 2_817_925, 4_323, 4_800, 20_485, 29_608, *RESNET18),
    Row("large-lenet", (1, 32, 32), 12, 24_466_988, 14_949, 8_384, 18_012, 41_345, *LARGE_LENET),
]

by_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.name} {row.shape[1]} {row.classes}")


def shapes_of(model: Sequential) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and buffer."""
    return {name: value.shape for name, value in model.init(Counted(), np.float32).items()}  # type: ignore[arg-type]


class Counted:
    """A generator whose numbers are one number: tens of millions of them take no memory."""

    def uniform(self, low: float, high: float, size: Any) -> Any:
        return np.broadcast_to(np.float32(low), size)


def entries(shapes: dict[str, tuple[int, ...]], *kinds: str) -> int:
    """Numbers in the parameters of these kinds, e.g. `bias`."""
    return sum(int(np.prod(shape)) for name, shape in shapes.items() if name.rpartition(".")[2] in kinds)


def one_task(model: Sequential, ranks: tuple[int, ...]) -> tuple[int, TaskSize]:
    """Task 0's parameters, and what one more task adds at these ranks; every factor entry is kept."""
    shapes, layers = shapes_of(model), decomposed_layers(model)
    factors = {}
    for (name, layer), rank in zip(layers.items(), ranks, strict=True):
        sizes: Any = layer
        A, B = (np.broadcast_to(0.5, shape) for shape in ((rank, sizes.inputs), (sizes.outputs, rank)))
        factors[name] = (A, B)
    size = task_size(
        factors,
        batchnorm=entries(shapes, "gamma", "beta"),
        head=sum(int(np.prod(shapes[f"head.{entry}"])) for entry in ("weight", "bias")),
        bias=sum(int(np.prod(shapes[f"{name}.bias"])) for name in layers),
        running_stats=entries(shapes, "running_mean", "running_var"),
    )
    return sum(int(np.prod(shapes[name])) for name in model.trainable), size


@by_row
@pytest.mark.parametrize("norm", ["running", "batch"])
def test_every_row(row: Row, norm: str) -> None:
    model = build(row.name, row.shape, norm=norm)(row.classes)
    layers: dict[str, Any] = decomposed_layers(model)
    assert tuple(layer.inputs + layer.outputs for layer in layers.values()) == row.per_rank
    assert tuple(min(layer.inputs, layer.outputs) for layer in layers.values()) == row.sizes
    ones = (1,) * len(layers)
    base, size = one_task(model, ones)
    assert base == row.base
    assert (size.scalings, size.batchnorm, size.head) == (row.scalings, row.batchnorm, row.head)
    assert (size.fixed, size.bias) == (row.fixed, row.biases)
    assert size.running_stats == (row.batchnorm if norm == "running" else 0)
    assert released_count(base, [size]) == row.base + row.fixed + sum(row.per_rank)
    assert honest_count(base, [size]) == released_count(base, [size]) + row.biases + size.running_stats


@by_row
@pytest.mark.parametrize("cap", [100, 120])
def test_growth_at_the_caps(row: Row, cap: int) -> None:
    """Every layer at its full rank or at the cap: fixed cost plus cost per rank, over task 0's parameters."""
    ranks = tuple(min(size, cap) for size in row.sizes)
    extra = row.fixed + sum(rank * cost for rank, cost in zip(ranks, row.per_rank, strict=True))
    base, size = one_task(build(row.name, row.shape)(row.classes), ranks)
    assert dense_count(base, [size]) - base == released_count(base, [size]) - base == extra
    assert released_increase(base, [size]) == round(extra / row.base, 3)


@pytest.mark.parametrize(
    ("name", "shape", "ranks", "extra", "increase"),
    [
        ("lenet", (3, 32, 32), (2, 5, 30, 20), 159_539, 0.053),
        ("lenet", (3, 32, 32), (1, 1, 1, 1), 18_536, 0.006),
        ("lenet", (3, 32, 32), (3, 20, 100, 100), 544_612, 0.182),
        ("alexnet", (3, 32, 32), (3, 64, 100, 100, 100), 805_078, 0.123),
        ("alexnet", (3, 64, 64), (3, 64, 100, 100, 100), 1_632_470, 0.070),
        (
            "resnet18",
            (3, 32, 32),
            (3, *[32] * 5, 64, 32, *[64] * 3, 120, 64, *[120] * 4, 120, 120, 120),
            451_606,
            0.161,
        ),
    ],
)
def test_growth_in_numbers(
    name: str, shape: tuple[int, int, int], ranks: tuple[int, ...], extra: int, increase: float
) -> None:
    """Summed by hand from the rows of the table."""
    base, size = one_task(build(name, shape)(10), ranks)
    assert released_count(base, [size]) - base == extra
    assert released_increase(base, [size]) == increase
