"""Every measure on one matrix worked out by hand."""

import pytest

from halrp_np.training import metrics

# a[t][j]: accuracy on task j after learning task t
MATRIX = [
    [90.0],
    [93.0, 80.0],
    [87.0, 82.0, 70.0],
]
BY_HAND = {
    "acc": (87 + 82 + 70) / 3,
    "aia": (90 + (93 + 80) / 2 + (87 + 82 + 70) / 3) / 3,
    "bwt": ((87 - 90) + (82 - 80)) / 2,  # -0.5
    "forgetting_avalanche": ((90 - 87) + (80 - 82)) / 2,  # 0.5: the first record minus the last
    "forgetting_all_tasks": ((90 - 87) + (80 - 82) + 0) / 3,  # 1/3
    "forgetting_released_summary": ((90 - 87) + (80 - 82) + 0) / 3 / 2,  # one repeat divided by two
    "forgetting_chaudhry": ((93 - 87) + (80 - 82)) / 2,  # the best before the last row; task 1 improved: -2
    "forgetting_mammoth": ((93 - 87) + (82 - 82)) / 2,  # the best of all rows: never below 0
}


def test_every_variant_on_a_hand_written_matrix() -> None:
    assert metrics.summary(MATRIX) == pytest.approx(BY_HAND, rel=1e-15)


def test_the_variants_differ_where_their_definitions_do() -> None:
    assert len({round(value, 9) for value in BY_HAND.values()}) == len(BY_HAND)
    assert BY_HAND["forgetting_avalanche"] == -BY_HAND["bwt"]
    tasks = len(MATRIX)
    assert BY_HAND["forgetting_all_tasks"] == pytest.approx(-(tasks - 1) / tasks * BY_HAND["bwt"])


@pytest.mark.parametrize(("repeats", "factor"), [(1, 1 / 2), (3, 3 / 4), (5, 5 / 6)])
def test_the_released_summary_divides_by_one_repeat_too_many(repeats: int, factor: float) -> None:
    assert metrics.forgetting_released_summary(MATRIX, repeats) == pytest.approx(factor / 3, rel=1e-15)


def test_with_one_task_what_needs_two_is_undefined_and_not_zero() -> None:
    found = metrics.summary([[75.0]])
    needing_two = {"bwt", "forgetting_avalanche", "forgetting_chaudhry", "forgetting_mammoth"}
    assert not needing_two & found.keys()
    assert metrics.undefined([[75.0]]).keys() == needing_two | {"fwt"}
    assert metrics.undefined(MATRIX).keys() == {"fwt"}
    assert (found["acc"], found["aia"], found["forgetting_all_tasks"]) == (75.0, 75.0, 0.0)


def test_the_matrix_is_not_modified() -> None:
    before = [list(row) for row in MATRIX]
    metrics.summary(MATRIX)
    assert before == MATRIX
