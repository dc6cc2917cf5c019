"""Order robustness read from run folders: the same task wherever it stood, groups, gaps, CSV and JSON."""

import json
from pathlib import Path

import pytest

import made_runs
from halrp_np.errors import ConfigError, DataError
from halrp_np.reports import document, order_robustness, orders_content, read_finished, write_orders_csv
from halrp_np.reports.orders import OrderReport
from halrp_np.runs import RunFolder
from training.test_robustness import OPD, SAME_ORDER_AOPD, TABLE


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The hand-written table of three orders, three tasks and two seeds, as run folders."""
    for order, runs in TABLE.items():
        for seed, final in runs.items():
            made_runs.write_run(tmp_path, final, order=order, seed=seed)
    return tmp_path


def report(*folders: Path) -> OrderReport:
    return order_robustness(read_finished(folders)[0])


def test_the_hand_written_table_from_its_run_folders(written: Path) -> None:
    found = report(written)
    (table,) = found.tables
    assert (found.title, table.group.name, table.found.orders) == ("pmnist", "halrp", ("A", "B", "C"))
    assert {task: spread.value for task, spread in table.found.opd.items()} == pytest.approx(OPD)
    assert table.names == {0: "task 0", 1: "task 1", 2: "task 2"}
    assert table.found.aopd.value == pytest.approx(17 / 3)
    assert table.found.aopd.same_order == pytest.approx(SAME_ORDER_AOPD)
    assert (found.warnings, found.notes) == ([], [])


def test_orders_can_be_added_later_and_methods_are_apart(written: Path, tmp_path: Path) -> None:
    for order in "AB":
        made_runs.write_run(tmp_path / "later", {0: 50.0, 1: 50.0, 2: 50.0 + (order == "B")}, order=order, method="be")
    found = {table.group.name: table for table in report(written, tmp_path / "later").tables}
    assert found["be"].found.mopd.value == 1.0
    assert found["halrp"].found.mopd.value == pytest.approx(11.0)
    assert found["be"].found.undefined["low"] == "needs two seeds of each order"


def test_an_order_by_another_name_counts_once(written: Path) -> None:
    made_runs.write_run(written, TABLE["A"][0], order="random:0", seed=0)
    found = report(written)
    assert found.tables[0].found.orders == ("A", "B", "C")
    assert found.notes[0].endswith("has the same settings, order and seed (its order, random:0, is A)")


def test_seeds_that_not_every_order_has_are_left_out_and_named(written: Path) -> None:
    made_runs.write_run(written, TABLE["A"][0], order="A", seed=7)
    found = report(written)
    assert found.tables[0].found.seeds == (0, 1)
    assert found.notes == ["seed 7 of order A is left out: not every order has it"]
    made_runs.write_run(written / "more", TABLE["A"][0], order="A", seed=0, method="be")
    made_runs.write_run(written / "more", TABLE["A"][0], order="B", seed=1, method="be")
    with pytest.raises(DataError, match="a seed that every order has"):
        report(written)


def test_several_benchmarks_are_refused(written: Path) -> None:
    made_runs.write_run(written, TABLE["A"][0], benchmark="five-datasets", tasks=5)
    with pytest.raises(ConfigError, match="runs of one benchmark"):
        report(written)


def test_csv_and_json_hold_every_measure(written: Path, tmp_path: Path) -> None:
    found = report(written)
    write_orders_csv(tmp_path / "orders.csv", found)
    _, rows = RunFolder(tmp_path).read_csv("orders.csv")
    assert [(row["measure"], row["task"]) for row in rows] == [
        *(("aopd", None), ("mopd", None)),
        *(("opd", 0), ("opd", 1), ("opd", 2)),
    ]
    assert (rows[4]["name"], rows[4]["value"], rows[4]["undefined"]) == ("task 2", 11.0, None)
    content = json.loads(document("orders", orders_content(found)))
    assert content["format"] == "halrp-np orders"
    group = content["groups"][0]
    assert group["orders"] == {"A": [0, 1, 2], "B": [2, 0, 1], "C": [1, 2, 0]}
    assert group["mopd"]["value"] == 11.0
    assert [row["value"] for row in group["opd"]] == [6.0, 0.0, 11.0]
