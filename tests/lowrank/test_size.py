"""Counts of the specification, the three conventions, and exact packing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halrp_np.errors import ConfigError, ShapeError
from halrp_np.lowrank import (
    TaskSize,
    count_nonzero,
    dense_count,
    growth_dense,
    growth_factors,
    growth_honest,
    growth_released,
    honest_count,
    pack_sparse,
    packed_bytes,
    released_count,
    released_increase,
    task_size,
    unpack_sparse,
)

LENET = {"conv1": (20, 3), "conv2": (50, 20), "fc1": (800, 3200), "fc2": (500, 800)}
ALEX_CONVS = [(64, 3), (128, 64), (256, 128)]
RESNET = (
    [(32, 3)]
    + [(32, 32)] * 4
    + [(64, 32), (64, 64), (64, 32), (64, 64), (64, 64)]
    + [(128, 64), (128, 128), (128, 64), (128, 128), (128, 128)]
    + [(256, 128), (256, 256), (256, 128), (256, 256), (256, 256)]
)
counts = st.integers(0, 10**7)
task_sizes = st.builds(
    lambda sparse, zeros, **other: TaskSize(factors_sparse=sparse, factors_dense=sparse + zeros, **other),
    sparse=counts,
    zeros=counts,
    scalings=counts,
    batchnorm=counts,
    head=counts,
    bias=counts,
    running_stats=counts,
    weights=counts,
    training_state=counts,
)


def lenet_task(ranks: tuple[int, ...], dtype: Any = np.float32) -> dict[str, tuple[Any, Any]]:
    return {
        layer: (np.full((r, I), 0.5, dtype), np.full((J, r), -0.5, dtype))
        for r, (layer, (J, I)) in zip(ranks, LENET.items(), strict=True)
    }


@pytest.mark.parametrize(
    ("ranks", "factors", "extra", "increase"),
    [
        ((2, 5, 30, 20), 146_396, 159_539, 0.053),
        ((1, 1, 1, 1), 5_393, 18_536, 0.006),
        ((3, 20, 100, 100), 531_469, 544_612, 0.182),
    ],
)
def test_capacity_of_lenet(ranks: tuple[int, ...], factors: int, extra: int, increase: float) -> None:
    base = 2_995_620
    size = task_size(lenet_task(ranks), batchnorm=2_740, head=5_010, bias=1_370, running_stats=2_740)
    assert size.fixed == 13_143
    assert size.factors_sparse == size.factors_dense == factors
    assert size.released == size.dense == extra
    assert size.honest == extra + 1_370 + 2_740
    assert released_count(base, [size]) == dense_count(base, [size]) == base + extra
    assert released_increase(base, [size]) == increase
    np.testing.assert_allclose(growth_released(base, [size]), extra / base, rtol=1e-12)


def test_capacity_of_lenet_to_seven_digits() -> None:
    size = task_size(lenet_task((2, 5, 30, 20)), batchnorm=2_740, head=5_010, bias=1_370, running_stats=2_740)
    assert round(growth_released(2_995_620, [size]), 7) == 0.0532574


@pytest.mark.parametrize(
    ("layers", "batchnorm", "head", "per_rank", "scalings", "fixed"),
    [
        (list(LENET.values()), 2_740, 5_010, [23, 70, 4000, 1300], 5_393, 13_143),
        (list(LENET.values()), 2_740, 2_505, [23, 70, 4000, 1300], 5_393, 10_638),
        ([*ALEX_CONVS, (2048, 1024), (2048, 2048)], 9_088, 20_490, [67, 192, 384, 3072, 4096], 7_811, 37_389),
        ([*ALEX_CONVS, (2048, 9216), (2048, 2048)], 9_088, 20_490, [67, 192, 384, 11264, 4096], 16_003, 45_581),
        (
            RESNET,
            4_800,
            10_250,
            [35, 64, 64, 64, 64, 96, 128, 96, 128, 128, 192, 256, 192, 256, 256, 384, 512, 384, 512, 512],
            4_323,
            19_373,
        ),
        ([(64, 1), (128, 64), (2500, 8192), (1500, 2500)], 8_384, 18_012, [65, 192, 10692, 4000], 14_949, 41_345),
    ],
)
def test_fixed_part_and_cost_per_rank_of_each_model(
    layers: list[tuple[int, int]], batchnorm: int, head: int, per_rank: list[int], scalings: int, fixed: int
) -> None:
    factors = {str(i): (np.ones((1, I)), np.ones((J, 1))) for i, (J, I) in enumerate(layers)}
    size = task_size(factors, batchnorm=batchnorm, head=head, bias=0, running_stats=0)
    assert (size.scalings, size.fixed) == (scalings, fixed)
    for pair, expected in zip(factors.items(), per_rank, strict=True):
        assert task_size(dict([pair]), batchnorm=0, head=0, bias=0, running_stats=0).factors_dense == expected


def test_small_entries_do_not_count(dtype: Any, layout: Callable[..., Any]) -> None:
    x = np.array([[0, 1e-9, -1e-9, 0.9e-8], [1.1e-8, -1e-7, 3, -0.0]], dtype)
    assert count_nonzero(layout(x)) == 3
    assert count_nonzero(np.zeros((3, 4), dtype)) == 0


@given(base=st.integers(1, 10**9), sizes=st.lists(task_sizes, max_size=5))
def test_counts_add_up(base: int, sizes: list[TaskSize]) -> None:
    assert released_count(base, sizes) <= dense_count(base, sizes)
    assert released_count(base, sizes) <= honest_count(base, sizes)
    for size in sizes:
        parts = size.scalings + size.batchnorm + size.head + size.weights
        assert size.released == parts + size.factors_sparse
        assert size.dense == parts + size.factors_dense
        assert size.honest == size.released + size.bias + size.running_stats + size.training_state
    for count, growth in (
        (released_count, growth_released),
        (dense_count, growth_dense),
        (honest_count, growth_honest),
    ):
        assert count(base, sizes) == base + sum(count(base, [size]) - base for size in sizes)
        np.testing.assert_allclose(growth(base, sizes), count(base, sizes) / base - 1)
    unprunable = sum(size.fixed for size in sizes) / base
    np.testing.assert_allclose(
        growth_dense(base, sizes), unprunable + growth_factors(base, sizes), rtol=1e-9, atol=1e-12
    )
    assert released_increase(base, sizes) == round(growth_released(base, sizes), 3)


def test_a_base_without_parameters_is_refused() -> None:
    for function in (released_count, dense_count, honest_count, growth_factors):
        with pytest.raises(ConfigError, match="at least one parameter, received 0"):
            function(0, [])


# ---- packing --------------------------------------------------------------------------------------------------------


@given(
    array=hnp.arrays(
        dtype=st.sampled_from(["f4", "f8", "i8", "u1", "?", "f2", "c16"]),
        shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=12),
        elements=st.just(0),
    ),
    data=st.data(),
)
def test_packing_is_exact(array: np.ndarray, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    share = data.draw(st.sampled_from([0, 0.1, 0.5, 1]))
    array = np.where(rng.random(array.shape) < share, rng.integers(-9, 9, array.shape), array).astype(array.dtype)
    back = unpack_sparse(pack_sparse(array))
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert packed_bytes(array) <= array.nbytes


def test_packing_keeps_every_bit_of_odd_floats() -> None:
    x = np.zeros((8, 50))
    x[0, :5] = [-0.0, np.nan, np.inf, -np.inf, 5e-324]
    packed = pack_sparse(x)
    assert packed["values"].size == 5
    assert unpack_sparse(packed).tobytes() == x.tobytes()


def test_bytes_on_disk(dtype: Any, layout: Callable[..., Any], rng: np.random.Generator) -> None:
    x = layout(np.where(rng.random((40, 100)) < 0.1, rng.normal(size=(40, 100)), 0).astype(dtype))
    before = x.copy()
    kept = int(np.count_nonzero(x))
    packed = pack_sparse(x)
    assert packed_bytes(x) == kept * x.itemsize + 4000 // 8 + 16
    assert {key: part.dtype for key, part in packed.items()} == {"shape": np.int64, "mask": np.uint8, "values": dtype}
    np.testing.assert_array_equal(unpack_sparse(packed), x)
    np.testing.assert_array_equal(x, before)
    full = rng.normal(size=(4, 5)).astype(dtype)
    assert set(pack_sparse(layout(full))) == {"dense"}
    assert packed_bytes(full) == full.nbytes


def test_unpacking_returns_memory_of_its_own(rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 4))
    packed, before = pack_sparse(x), x.copy()
    unpack_sparse(packed)[...] = 0
    np.testing.assert_array_equal(unpack_sparse(packed), before)


def test_damaged_parts_are_refused() -> None:
    x = np.zeros((10, 20))
    x[2, 3] = 1
    good = pack_sparse(x)
    for change, message in (
        ({"values": np.ones(2)}, "expected 1 values"),
        ({"mask": good["mask"][:-1]}, "mask of 200 bits"),
        ({"mask": good["mask"].astype(np.int64)}, "uint8 mask"),
        ({"shape": np.array([10, 21])}, "mask of 210 bits"),
        ({"shape": np.array([-10, -20])}, "mask of 200 bits"),
        ({"dense": x}, "the parts dense, or shape, mask and values"),
    ):
        with pytest.raises(ShapeError, match=message):
            unpack_sparse({**good, **change})
    with pytest.raises(ShapeError, match="received none"):
        unpack_sparse({})
