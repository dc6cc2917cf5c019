"""The page of measures is right: every example on it is run, and every measure of a run folder stands on it."""

import doctest
import re
from pathlib import Path

import pytest

from halrp_np.benchmarks import tables
from halrp_np.lowrank import TaskSize
from halrp_np.training import metrics

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = "\n".join(re.findall(r"```pycon\n(.*?)```", TEXT, re.DOTALL))
CAPACITY = TEXT.split("## Growth")[1].split("##")[0]


def test_every_example_gives_what_the_page_says() -> None:
    test = doctest.DocTestParser().get_doctest(EXAMPLES, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 30
    told: list[str] = []
    assert doctest.DocTestRunner().run(test, out=told.append).failed == 0, "".join(told)


def test_every_measure_of_a_run_stands_on_the_page() -> None:
    names = {*metrics.summary([[90.0], [80.0, 70.0]]), *metrics.undefined([[90.0], [80.0, 70.0]])}
    assert names == set(re.findall(r"^\| `(\w+)` \|", TEXT.split("## Order")[0], re.MULTILINE))


def test_every_measure_by_name_has_an_example() -> None:
    functions = {name for name in vars(metrics) if re.match("average|backward|forgetting", name)}
    assert functions == set(re.findall(r"metrics\.(\w+)\(a\)", EXAMPLES))


def test_every_count_of_capacity_stands_on_the_page() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", CAPACITY, re.MULTILINE)) | {"factors"}
    sums = {"after_task", "task", "released_count", "honest_count", "bytes"}
    assert rows == {name for name in tables.CAPACITY_HEADER if name not in sums and not name.startswith("growth")}
    for name in ("released", "released_rounded", "honest", "bytes"):
        assert f"`growth.{name}`" in CAPACITY


@pytest.mark.parametrize(
    "row", re.findall(r"^\| `(\w+)` \|[^|]*\| (yes|no) \| (yes|no) \|", CAPACITY, re.MULTILINE), ids=lambda row: row[0]
)
def test_what_the_page_counts_is_counted(row: tuple[str, str, str]) -> None:
    """One number of this kind, and none of any other."""
    name, released, honest = row
    field = {"factors_nonzero": "factors_sparse", "biases": "bias", "running_statistics": "running_stats"}.get(
        name, name
    )
    counts = dict.fromkeys(
        ("scalings", "factors_sparse", "factors_dense", "batchnorm", "head", "bias", "running_stats"), 0
    )
    size = TaskSize(**{**counts, field: 1})
    assert (size.released, size.honest) == (int(released == "yes"), int(honest == "yes"))
