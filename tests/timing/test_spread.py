"""Medians, quartiles and ratios on made-up numbers."""

import pytest

from halrp_np.timing.spread import compared, quartiles, spread


def test_the_ratio_is_of_medians_and_its_spread_of_paired_rounds() -> None:
    ours, theirs = [[1.0, 1.0, 4.0], [2.0, 2.0, 2.0]], [[3.0, 3.0, 3.0], [8.0, 8.0, 9.0]]
    found = compared(ours, theirs)
    assert found["ours_ms"] == 2.0  # of 1 1 2 2 2 4
    assert found["torch_ms"] == 5.5  # of 3 3 3 8 8 9
    assert found["ratio"] == 2.75
    assert found["ratio_range"] == [3.0, 3.5, 4.0]  # 3 / 1 and 8 / 2: within a round, median by median
    assert found["ratio_quartiles"] == [3.25, 3.75]
    assert (found["ours_count"], found["torch_count"]) == (6, 6)


def test_a_slow_machine_in_one_round_leaves_the_paired_ratio() -> None:
    found = compared([[1.0], [10.0]], [[2.0], [20.0]])
    assert found["ratio_range"] == [2.0, 2.0, 2.0]


def test_rounds_must_be_paired() -> None:
    with pytest.raises(ValueError, match="zip"):
        compared([[1.0]], [[1.0], [2.0]])


def test_quartiles_and_names() -> None:
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == [2.0, 4.0]
    assert spread([3.0, 1.0, 2.0], "s", "cold") == {"cold_s": 2.0, "cold_quartiles": [1.5, 2.5], "cold_count": 3}
