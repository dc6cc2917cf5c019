"""The page of runs: what stands in it, that it needs nothing else, and what it makes of damage."""

import itertools
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest

import made_pages
from halrp_np.errors import ResumeError, StorageError
from halrp_np.reports import page
from halrp_np.reports.content import Page, Picture, Section
from halrp_np.reports.drawing import as_svg

VOID = {"meta", "link", "br", "img", "input", "hr"}
SVG_MARKS = ("path", "use", "rect", "circle", "polygon")


class Read(HTMLParser):
    """A page's tags, with what tests ask of them; elements that are not closed in order are refused."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of every element of this name."""
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def words(self) -> str:
        """All text that is read, with single spaces."""
        return " ".join(" ".join(self.text).split())


def text_of(*folders: Path) -> str:
    """The page of some runs."""
    return page.page_text(page.read_page(folders))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with every table."""
    return made_pages.write_full_run(tmp_path_factory.mktemp("one") / "run", seed=4)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, two seeds of one, and a run that is not finished."""
    folder = tmp_path_factory.mktemp("several") / "runs"
    for seed in (0, 1):
        made_pages.write_full_run(folder / f"halrp-{seed}", seed=seed)
    made_pages.write_full_run(folder / "finetune-0", method="finetune")
    made_pages.write_full_run(folder / "stopped", learned=2, seed=7)
    return folder


@pytest.fixture(scope="module")
def one_text(one: Path) -> str:
    return text_of(one)


@pytest.fixture(scope="module")
def several_text(several: Path) -> str:
    return text_of(several)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of a page's time; not every test looks at them."""
    monkeypatch.setattr(page, "as_svg", lambda picture: "<svg></svg>")


# ---- what holds for every page ------------------------------------------------------------------------------------


@pytest.fixture(params=["one_text", "several_text"])
def text(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


def test_a_page_is_whole_and_names_its_parts(text: str) -> None:
    read = Read(text)
    ids = [str(attributes["id"]) for _, attributes in read.tags if "id" in attributes]
    assert not [name for name, times in Counter(ids).items() if times > 1]
    referred = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    referred += [name for _, found in read.tags for name in str(found.get("aria-labelledby", "")).split()]
    assert set(referred) <= set(ids)
    assert read.all("html") == [{"lang": "en"}]
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(read.all(landmark)) == 1
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_a_page_asks_for_nothing(text: str) -> None:
    for tag, attributes in Read(text).tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:,")), (tag, attributes)
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert "default-src 'none'" in text


def test_pictures_and_tables_say_what_they_are(text: str) -> None:
    read = Read(text)
    pictures = read.all("svg")
    assert len(pictures) > 4
    for picture in pictures:
        title, described = str(picture["aria-labelledby"]).split()
        assert picture["role"] == "img"
        assert re.search(rf'<desc id="{described}">[^<]*\d[^<]*</desc>', text), described
        assert re.search(rf'<title id="{title}">[^<]+</title>', text)
    assert len(read.all("caption")) == len(read.all("table")) > 1
    assert {str(head.get("scope")) for head in read.all("th")} == {"col", "row"}


def test_pictures_follow_the_theme(text: str) -> None:
    pictures = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "currentColor" in pictures
    assert "var(--blue)" in pictures
    assert not re.search("#0072b2|#000000|DejaVu", pictures, re.IGNORECASE)
    assert set(re.findall(r"var\((--\w+)\)", text)) <= set(re.findall(r"(--[\w-]+):", text))


def test_equal_folders_give_equal_bytes(one: Path, one_text: str, tmp_path: Path) -> None:
    shutil.copytree(one, tmp_path / "elsewhere" / one.name)
    assert text_of(tmp_path / "elsewhere" / one.name) == one_text


# ---- one run --------------------------------------------------------------------------------------------------------


def test_one_run_is_told_in_full(one_text: str) -> None:
    words = Read(one_text).words
    assert "SMALL SAMPLE of MNIST" in words
    assert "raised: no component above the threshold" in words
    assert "capped: 25 components above the threshold, and the cap is 10" in words
    assert "by threshold: 4 components above it" in words
    assert "0 bytes changed in weights, at every boundary, for every earlier task" in words
    assert "(BWT): low-rank factors (pruning) -0.75" in words  # half a point at 3 boundaries, over 2 earlier tasks
    assert "products with it a layer" in words
    assert "FWT" in words
    assert "needs the accuracy on a task before it is learned" in words
    assert "halrp-np run --benchmark pmnist --method halrp --preset paper --model lenet --seed 4 --order A" in words
    assert "--set tasks=3" in words
    assert "UNFINISHED" not in words
    for task in (1, 2):
        assert f"Spectra of the residual, task {task}" in words


@pytest.mark.usefixtures("undrawn")
def test_methods_without_ranks_have_no_rank_section(several: Path) -> None:
    read = Read(text_of(several / "finetune-0"))
    assert "ranks-section" not in {found.get("id") for found in read.all("section")}
    assert "this method or preset chooses no ranks" in read.words


@pytest.mark.parametrize(
    ("learned", "said"), [(0, "no task is learned yet"), (1, "Forgetting is undefined"), (2, "BWT")]
)
def test_an_unfinished_run_is_told_as_such(learned: int, said: str, tmp_path: Path) -> None:
    words = Read(text_of(made_pages.write_full_run(tmp_path / "run", learned=learned))).words
    assert f"UNFINISHED: {learned} of 3 tasks learned" in words
    assert said in words
    assert "undefined" in words


@pytest.mark.usefixtures("undrawn")
def test_folders_without_the_later_tables_still_work(one: Path, tmp_path: Path) -> None:
    old = shutil.copytree(one, tmp_path / "old")
    for name in ("changes.csv", "curvature.csv", "environment.json", "timing.json"):
        (old / name).unlink()
    shutil.rmtree(old / "checkpoints")
    lines = (old / "capacity.csv").read_text().splitlines()
    (old / "capacity.csv").write_text("".join(",".join(line.split(",")[:-2]) + "\n" for line in lines))
    words = Read(text_of(old)).words
    assert "no changes.csv: the run is of an earlier version" in words
    assert "the folder holds no checkpoint of the state" in words
    assert "not known of 3 tasks" in words
    assert "the folder has no environment.json" in words
    assert "kept for training" not in words.partition("Growth ledger")[2].partition("Every measure")[0]


def test_text_from_folders_stays_text(tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", '"><img src=x onerror=y>', "{{ 7*7 }} & more"]
    text = text_of(made_pages.write_full_run(tmp_path / "<b>run", names=names, method="finetune"))
    read = Read(text)
    assert len(read.all("script")) == 1
    assert not read.all("img")
    assert not read.all("b") or "<b>run" not in text
    for name in names:
        assert name in read.words
    assert "49" not in re.findall(r"\d+", "".join(read.text[:20]))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ranks.csv", lambda text: text.replace("rank,", "rang,", 1)),
        ("ranks.csv", lambda text: text.replace(",40,", ",41,", 1)),
        ("capacity.csv", lambda text: text.replace("4000", "many")),
        ("changes.csv", lambda text: text.replace("-0.5", "", 1)),
        ("curvature.csv", lambda text: text + "1,2\n"),
        ("summary.json", lambda text: text.replace('"growth"', '"groth"')),
        ("summary.json", lambda text: text[:-20]),
        ("environment.json", lambda text: "[]"),
        ("config.json", lambda text: text.replace('"classes"', '"clases"')),
        ("checkpoints/state.json", lambda text: text[:100]),
    ],
)
def test_a_damaged_file_is_refused_by_name(name: str, change: object, one: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(one, tmp_path / "damaged")
    content = (folder / name).read_text()
    changed = change(content)  # type: ignore[operator]
    assert changed != content
    (folder / name).write_text(changed)
    with pytest.raises(ResumeError, match=Path(name).name):
        page.read_page([folder])


@pytest.mark.slow
def test_the_page_of_ten_tasks_is_small(tmp_path: Path) -> None:
    text = text_of(made_pages.write_full_run(tmp_path / "run", tasks=10))
    assert len(text.encode()) < 700_000
    assert "task 9" in text


# ---- several runs ---------------------------------------------------------------------------------------------------


def test_several_runs_stand_side_by_side(several_text: str) -> None:
    read = Read(several_text)
    words = read.words
    assert "4 runs of pmnist" in words
    assert "UNFINISHED: 1 of 4 runs" in words
    assert "± 0.00" in words  # of two runs with the same accuracies
    assert "No standard error, which needs two runs: finetune." in words
    links = {str(link["href"]) for link in read.all("a")}
    assert {f"#run-{number}" for number in range(1, 5)} <= links
    assert "Final accuracy per task" in words
    assert "Growth per task" in words


@pytest.mark.usefixtures("undrawn")
def test_runs_of_several_benchmarks_have_headings_of_their_own(several: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(several / "halrp-0", tmp_path / "runs" / "other")
    record = json.loads((folder / "config.json").read_text())
    record["config"]["benchmark"] = "cifar100-split"
    record["config"].pop("permutation")
    (folder / "config.json").write_text(json.dumps(record))
    read = Read(text_of(several / "halrp-0", several / "halrp-1", folder))
    heads = [found.get("id") for found in read.all("section")]
    assert {"b0-benchmark", "b1-benchmark", "b0-groups", "b1-groups"} <= set(heads)


# ---- files ----------------------------------------------------------------------------------------------------------


def test_pictures_alone(one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = page.read_page([one])
    with monkeypatch.context() as patch:
        patch.setattr(page, "as_png", lambda picture: picture.name.encode())
        written = page.write_pictures(tmp_path / "a" / "b", found)
    names = {path.name for path in written}
    assert {"accuracy-matrix.png", "ranks.png", "spectrum-task-2.png", "growth.png", "changes.png"} <= names
    assert sorted(written) == sorted((tmp_path / "a" / "b").iterdir())
    first = Page("", [], [Section("", "", [next(found.pictures())])])
    files = [page.write_pictures(tmp_path / name, first)[0] for name in ("first", "again")]
    assert matplotlib.image.imread(files[0]).shape[1] == 960
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_file_in_the_way_is_refused(one: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        page.write_pictures(tmp_path / "file", page.read_page([one]))
    with pytest.raises(StorageError):
        page.write_page(tmp_path, Page("nothing", [], []))


def test_an_svg_names_only_what_is_its_own() -> None:
    picture = Picture("one", 'a "title"', "1 < 2", 2.0, lambda figure: figure.subplots().plot([1, 2], [3, 4]) and None)
    found = [as_svg(picture), as_svg(Picture("two", "t", "d", 2.0, picture.draw))]
    ids = [set(re.findall(r' id="([^"]*)"', text)) for text in found]
    assert not ids[0] & ids[1]
    assert "1 &lt; 2" in found[0]
    assert any(f"<{mark}" in found[0] for mark in SVG_MARKS)
