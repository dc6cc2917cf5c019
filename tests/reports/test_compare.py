"""Groups of run folders side by side: who belongs together, means, tests, warnings, CSV and LaTeX."""

from pathlib import Path
from typing import Any

import pytest

import made_runs
from halrp_np.errors import ConfigError, ResumeError
from halrp_np.reports import comparisons, plus_minus, read_finished, write_comparison_csv, write_comparison_latex
from halrp_np.reports.compare import MEASURES, latex
from halrp_np.runs import RunFolder

FINAL = {0: 90.0, 1: 80.0, 2: 70.0}


def lower(by: float) -> dict[int, float]:
    return {task: value - by for task, value in FINAL.items()}


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """HALRP with the seeds 0 to 2, fine-tuning with 0 and 1 and EWC with 5 alone."""
    for seed, gain in enumerate((0.0, 1.0, 2.0)):
        made_runs.write_run(tmp_path, lower(-gain), seed=seed, learned={0: 95.0})
    for seed, loss in enumerate((10.0, 13.0)):
        made_runs.write_run(tmp_path, lower(loss), seed=seed, method="finetune", seconds=30.0)
    made_runs.write_run(tmp_path, lower(5.0), seed=5, method="ewc")
    return tmp_path


def compared(*folders: Path, reference: str | None = None) -> Any:
    found = comparisons(read_finished(folders)[0], reference)
    assert len(found) == 1
    return found[0]


def test_groups_means_and_tests(three: Path) -> None:
    found = compared(three)
    rows = {row.group.name: row for row in found.rows}
    assert (found.title, found.reference) == ("pmnist", "halrp")
    assert sorted(rows) == ["ewc", "finetune", "halrp"]
    acc = rows["halrp"].means["acc"]
    assert (acc.value, acc.runs) == (81.0, 3)
    assert acc.error == pytest.approx(1 / 3**0.5)
    assert rows["halrp"].means["bwt"].value == pytest.approx((90 + 91 + 92) / 3 / 2 - 95 / 2)
    assert rows["finetune"].means["seconds"].value == 30.0
    assert rows["finetune"].means["growth_honest"].value == 0.125
    test = rows["finetune"].tests["acc"]
    assert (test.pairs, test.difference) == (2, -12.0)  # -10 and -14
    assert (test.flip, test.flip_holm) == (0.5, 0.5)
    assert rows["halrp"].tests == {}
    assert rows["ewc"].tests["acc"].undefined == "needs two common seeds"
    assert "uneven: finetune has 2 runs and halrp 3; 2 of them share order and seed, and tests use only these" in (
        found.warnings
    )


def test_the_reference_is_found_by_its_name_or_words_of_it(three: Path) -> None:
    assert compared(three, reference="finetune").reference == "finetune"
    made_runs.write_run(three, FINAL, seed=0, preset="hessian")
    assert compared(three).reference == "halrp paper"
    names = [row.group.name for row in compared(three, reference="halrp hessian").rows]
    assert sorted(names) == ["ewc paper", "finetune paper", "halrp hessian", "halrp paper"]
    assert compared(three, reference="hessian").reference == "halrp hessian"
    with pytest.raises(ConfigError, match=r"expected the name of one group: .*Did you mean 'ewc paper'"):
        compared(three, reference="ewk paper")
    with pytest.raises(ConfigError, match="'halrp'"):
        compared(three, reference="halrp")


def test_settings_that_differ_make_groups_and_their_names(tmp_path: Path) -> None:
    for seed in (0, 1):
        made_runs.write_run(tmp_path, FINAL, seed=seed, l1=0.5)
        made_runs.write_run(tmp_path, FINAL, seed=seed, l1=0.5, prune_values=(0.1, 0.2))
        made_runs.write_run(tmp_path, FINAL, seed=seed, checkpoint_seconds=5.0 + seed)
    names = [row.group.name for row in compared(tmp_path).rows]
    assert sorted(names) == ["halrp", "halrp l1=0.5", "halrp l1=0.5 prune_values=0.1,0.2"]
    assert all(len(row.group.runs) == 2 for row in compared(tmp_path).rows)


def test_orders_are_averaged_over_and_paired(tmp_path: Path) -> None:
    for order in "AB":
        for seed in (0, 1):
            made_runs.write_run(tmp_path, lower(-seed), seed=seed, order=order)
            made_runs.write_run(tmp_path, lower(4.0 + seed), seed=seed, order=order, method="be")
    rows = {row.group.name: row for row in compared(tmp_path).rows}
    assert list(rows["be"].group.orders.values()) == ["A", "B"]
    assert (rows["be"].tests["acc"].pairs, rows["be"].tests["acc"].flip) == (4, 2 / 16)


def test_the_same_run_twice_counts_once(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        made_runs.write_run(tmp_path / folder, FINAL, seed=0)
    made_runs.write_run(tmp_path / "two", FINAL, seed=0, order="random:0")  # order A by another name
    found = compared(tmp_path)
    assert [len(row.group.runs) for row in found.rows] == [1]
    assert len(found.notes) == 2
    assert all("has the same settings, order and seed" in line for line in found.notes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"protocol": {"split": "the first fifth"}}, "unfair: be and halrp differ in the data or its protocol: split"),
        ({"protocol": {"pixels_sha256": "q"}}, "pixels_sha256"),
        ({"environment": {**made_runs.ENVIRONMENT, "kernels": "reference"}}, "environments differ in kernels"),
        ({"environment": {**made_runs.ENVIRONMENT, "packages": {"numpy": "1"}}}, "packages numpy"),
        ({"order": "B"}, "uneven: be has 1 run and halrp 1; 0 of them share"),
        ({}, None),
    ],
)
def test_what_is_unfair_is_said(tmp_path: Path, changes: dict[str, Any], expected: str | None) -> None:
    made_runs.write_run(tmp_path / "1", FINAL, seed=0)
    made_runs.write_run(tmp_path / "2", FINAL, seed=0, method="be", **changes)
    found = compared(tmp_path / "1", tmp_path / "2").warnings
    assert (expected is None) == (found == [])
    assert expected is None or expected in "\n".join(found)


def test_other_data_is_another_group(tmp_path: Path) -> None:
    made_runs.write_run(tmp_path, FINAL, seed=0)
    made_runs.write_run(tmp_path, FINAL, seed=1, protocol={"data": "mnist-60k"})
    assert [row.group.name for row in compared(tmp_path).rows] == ["halrp mnist-5k", "halrp mnist-60k"]


def test_what_one_run_lacks_is_undefined_for_its_group(tmp_path: Path) -> None:
    path = made_runs.write_run(tmp_path, FINAL, seed=0)
    made_runs.write_run(tmp_path, FINAL, seed=1)
    folder = RunFolder.open(path)
    summary = folder.read_json("summary.json")
    summary["cost"]["tasks_of_unknown_cost"] = 1
    del summary["metrics"]["bwt"]
    summary["undefined"]["bwt"] = "needs two tasks"
    folder.write_json("summary.json", summary)
    means = compared(tmp_path).rows[0].means
    assert (means["seconds"].value, means["seconds"].undefined) == (None, "the time of some tasks is not known")
    assert (means["bwt"].value, means["bwt"].undefined) == (None, "needs two tasks")
    assert plus_minus(means["bwt"], MEASURES[1]) == "undefined"


def test_unfinished_runs_are_listed_and_left_out(three: Path) -> None:
    made_runs.write_run(three, FINAL, seed=9, finished=False)
    results, left_out = read_finished([three])
    assert len(results) == 6
    assert len(left_out) == 1
    assert "seed9" in left_out[0]


def test_csv_holds_every_mean_and_test(three: Path, tmp_path: Path) -> None:
    write_comparison_csv(tmp_path / "table.csv", [compared(three)])
    _, rows = RunFolder(tmp_path).read_csv("table.csv")
    assert len(rows) == 3 * len(MEASURES)
    row = next(row for row in rows if (row["group"], row["measure"]) == ("finetune", "acc"))
    assert (row["runs"], row["mean"], row["pairs"], row["difference"], row["flip_p"]) == (2, 68.5, 2, -12.0, 0.5)
    assert (row["reference"], row["undefined"], row["test_undefined"]) == ("halrp", None, None)


def test_latex_is_booktabs_with_every_special_letter_escaped(three: Path, tmp_path: Path) -> None:
    assert latex("a_b & 5% #1 $x$ {y} ~ ^ \\") == (
        r"a\_b \& 5\% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    made_runs.write_run(three, FINAL, seed=0, l1=0.5, prune_values=(0.1, 0.2))
    write_comparison_latex(tmp_path / "table.tex", [compared(three)])
    text = (tmp_path / "table.tex").read_text()
    assert r"prune\_values=0.1,0.2" in text
    assert "81.00 $\\pm$ 0.58" in text
    body = [line for line in text.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
    assert {line.count("&") for line in body} == {len(MEASURES)}
    assert text.index("\\toprule") < text.index("\\midrule") < text.index("\\bottomrule")


def test_several_benchmarks_are_compared_one_by_one(three: Path) -> None:
    made_runs.write_run(three, FINAL, seed=0, benchmark="five-datasets", tasks=5, protocol={"benchmark": "five"})
    with pytest.raises(AssertionError):
        compared(three)
    found = comparisons(read_finished([three])[0])
    assert sorted(one.title for one in found) == ["five-datasets", "pmnist"]


def test_accuracies_without_their_columns_are_damage_and_not_an_unfinished_run(three: Path) -> None:
    (next(three.iterdir()) / "accuracy.csv").write_text("something,else\n")
    with pytest.raises(ResumeError, match="no column accuracy"):
        read_finished([three])
