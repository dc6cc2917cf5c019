"""The page in a browser, from a file: no complaint, no request, nothing beside the screen, and named for everyone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import chromium
import made_pages
from halrp_np.reports import page

PROGRAM = chromium.find()

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason=f"no chromium or google-chrome on the path, and {chromium.VARIABLE} names none"
)

WIDE = "document.documentElement.scrollWidth"
OPEN_TABLES = "[...document.querySelectorAll('table')].filter(t => !t.closest('details:not([open])')).length"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of one run, and one of three."""
    folder = tmp_path_factory.mktemp("pages")
    names = ["a task with a name that is far longer than any that a picture has room for", "<b>bold</b>"]
    one = made_pages.write_full_run(folder / "runs" / "one", names=names)
    for seed in (1, 2):
        made_pages.write_full_run(folder / "runs" / f"seed{seed}", seed=seed, method="finetune")
    found = {"one": [one], "many": [folder / "runs"]}
    for name, paths in found.items():
        page.write_page(folder / f"{name}.html", page.read_page(paths))
    return {name: folder / f"{name}.html" for name in found}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    """One browser for all tests."""
    with chromium.Chromium(str(PROGRAM), tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("name", ["one", "many"])
def test_a_page_is_quiet_fits_and_is_named(name: str, pages: dict[str, Path], browser: chromium.Chromium) -> None:
    browser.requests.clear()
    for width in (1280, 390):
        for dark in (False, True):
            browser.open(pages[name], width=width, dark=dark)
            assert browser.run(WIDE) <= width
            paper = browser.run("getComputedStyle(document.body).backgroundColor")
            assert paper == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
    assert set(browser.requests) == {pages[name].as_uri()}
    assert not browser.complaints
    pictures, tables = browser.accessible("image"), browser.accessible("table")
    assert len(pictures) > 3
    assert all(any(letter.isdigit() for letter in said) and len(said) > 40 for said in pictures)
    assert len(tables) == browser.run(OPEN_TABLES)
    assert all(tables)
    for role in ("banner", "main", "navigation", "contentinfo"):
        assert len(browser.accessible(role)) == 1
    assert browser.screenshot()[:4] == b"\x89PNG"
    assert browser.pdf()[:4] == b"%PDF"
    assert not browser.complaints


def test_tables_sort_and_the_theme_turns(pages: dict[str, Path], browser: chromium.Chromium) -> None:
    browser.open(pages["one"])
    column = "[...document.querySelectorAll('table')][0]"
    heads = browser.run(f"[...{column}.tHead.rows[0].cells].map(cell => cell.textContent)")
    last = heads.index("at the end (%)")
    values = f"[...{column}.tBodies[0].rows].map(row => row.cells[{last}].textContent)"
    click = f"{column}.tHead.rows[0].cells[{last}].querySelector('button').click()"
    browser.run(click)
    assert browser.run(values) == ["88.00", "88.50", "89.00"]
    browser.run(click)
    assert browser.run(values) == ["89.00", "88.50", "88.00"]
    assert browser.run(f"{column}.tHead.rows[0].cells[{last}].getAttribute('aria-sort')") == "descending"
    browser.run("document.querySelector('.theme').click()")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
    assert not browser.complaints


def test_a_page_reads_without_its_script(pages: dict[str, Path], browser: chromium.Chromium) -> None:
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["one"])
        assert "Every task: test accuracy when it was learned, at best and at the end" in browser.accessible("table")
        assert not browser.accessible("button")
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)
