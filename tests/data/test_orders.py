"""Orders by name, by seed and by hand; anything else is refused with what there is."""

import pytest

from halrp_np.data.cifar_streams import SPLIT_ORDERS, SUPERCLASS_ORDERS
from halrp_np.data.orders import LETTERS, five_seeds, in_place_first, legacy_permutation, python_permutation, task_order
from halrp_np.errors import ConfigError

NAMED = {"A": (0, 1, 2, 3), "B": (3, 1, 2, 0)}


def chosen(text: str) -> list[int]:
    return task_order(text, 4, NAMED, lambda seed: python_permutation(4, seed))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", [0, 1, 2, 3]),
        ("B", [3, 1, 2, 0]),
        ("random:0", python_permutation(4, 0)),
        ("random:4294967295", python_permutation(4, 2**32 - 1)),
        ("2,0,1,3", [2, 0, 1, 3]),
        (" 2, 0 ,1, 3", [2, 0, 1, 3]),
    ],
)
def test_orders(text: str, expected: list[int]) -> None:
    assert chosen(text) == expected


WRONG = [
    "", "C", "a", "random", "random:", "random:-1", "random:x", "random:4294967296", "0,1,2", "0,1,2,2", "0,1,2,4",
    "1,2,3,4", "0,1,2,3,", "-0,1,2,3", "0;1;2;3", "²,1,2,3", "A,B", "9" * 5000, "random:" + "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen(text)
    assert caught.value.where == "order"
    assert caught.value.expected.startswith("A, B, random:SEED")
    assert "0 to 3, each once" in caught.value.expected
    assert caught.value.received == repr(text if len(text) <= 60 else f"{text[:57]}...")


def test_a_long_order_is_shown_short() -> None:
    with pytest.raises(ConfigError) as caught:
        chosen(",".join(map(str, range(200))))
    assert len(caught.value.received) < 65


@pytest.mark.parametrize(
    ("tasks", "seed", "expected"),
    [
        (20, 0, "10 18 16 14 0 17 11 2 3 9 5 7 4 19 6 15 8 1 13 12"),
        (20, 1, "11 5 17 19 9 0 16 1 15 6 10 13 14 12 7 3 8 2 18 4"),
        (20, 2, "7 6 17 8 19 15 13 0 3 9 14 4 10 12 16 5 11 18 2 1"),
        (40, 0, "0 27 12 21 29 15 38 34 1 20 7 5 10 13 14 37 22 39 23 17 8 35 3 33 9 4 36 6 28 18 11 30 19 25 31 32 "
                "16 2 26 24"),
        (40, 1, "23 2 11 1 37 32 5 9 17 29 34 20 38 21 27 22 10 33 18 35 39 14 26 19 13 12 0 15 3 6 25 24 30 28 31 7 "
                "16 4 36 8"),
        (40, 2, "26 4 39 27 34 15 29 9 35 31 30 25 6 28 7 22 0 1 8 24 14 17 11 33 36 12 20 32 37 21 18 2 13 16 19 10 "
                "23 38 5 3"),
    ],
)  # fmt: skip
def test_python_shuffles(tasks: int, seed: int, expected: str) -> None:
    assert python_permutation(tasks, seed) == [int(k) for k in expected.split()]


@pytest.mark.parametrize(
    ("seed", "expected"),
    [(0, [2, 0, 1, 3, 4]), (1, [2, 1, 4, 0, 3]), (2, [2, 4, 1, 3, 0]), (3, [3, 4, 1, 0, 2]), (4, [0, 3, 1, 4, 2])],
)
def test_legacy_shuffles(seed: int, expected: list[int]) -> None:
    assert legacy_permutation(5, seed).tolist() == expected
    assert five_seeds(lambda s: legacy_permutation(5, s))[LETTERS[seed]] == expected


def test_in_place_first() -> None:
    orders = in_place_first(7)
    assert "".join(orders) == LETTERS
    assert orders["A"] == list(range(7))
    assert [orders[letter] for letter in "BCDE"] == [legacy_permutation(7, seed).tolist() for seed in (1, 2, 3, 4)]


@pytest.mark.parametrize("orders", [SPLIT_ORDERS, SUPERCLASS_ORDERS], ids=["split", "superclass"])
def test_every_written_order_is_a_permutation(orders: dict[str, tuple[int, ...]]) -> None:
    assert "".join(orders) == LETTERS
    for order in orders.values():
        assert sorted(order) == sorted(orders["A"]) == list(range(len(order)))
    assert len(set(orders.values())) == 5
