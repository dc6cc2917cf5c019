"""The report: runs read, their page put together, and written as one HTML file, or as its pictures alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import ResumeError
from ..files import storage_error, write_whole
from ..runs.environment import environment
from .content import Page
from .details import RunDetails, read_details
from .drawing import as_png, as_svg
from .many_sections import many_page
from .results import find_runs, read_result
from .run_sections import run_lead, run_sections, run_title


def read_page(paths: Iterable[str | os.PathLike[str]]) -> Page:
    """The page of the runs at and below these paths: of one run, or of several side by side.

    Raises: ResumeError for a path without a run, or a damaged file, which is named.
    """
    details = [read_details(read_result(folder)) for folder in find_runs(paths)]
    try:
        return many_page(details) if len(details) > 1 else one_page(details[0])
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:  # all else is checked
        raise ResumeError(
            ", ".join(str(one.result.path / name) for one in details for name in ("config.json", "summary.json")),
            expected="settings, protocol and measures as every run writes them",
            received=f"others ({type(error).__name__}: {error})",
            next_step="A file is damaged: restore it from a copy, or run again in a new folder.",
        ) from error


def one_page(details: RunDetails) -> Page:
    """The page of one run, in full."""
    run = details.result
    return Page(run_title(run), run_lead(run), run_sections(details))


def write_page(path: str | os.PathLike[str], page: Page) -> None:
    """Write one HTML file that needs no other; equal runs give equal bytes.

    Raises: StorageError when the file cannot be written.
    """
    write_whole(path, page_text(page))


def page_text(page: Page) -> str:
    """The page as HTML; whatever stands in a run folder stands in it as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("halrp_np.reports")
    template_of = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)

    def own(name: str) -> str:
        return loader.get_source(template_of, name)[0]

    version = str(environment()["packages"]["halrp-np"])
    values = {"page": page, "version": version, "style": own("style.css"), "script": own("script.js")}
    return template_of.get_template("page.html").render(**values, svg=as_svg)


def write_pictures(folder: str | os.PathLike[str], page: Page) -> list[Path]:
    """Write every picture of a page as PNG into a folder, made where it is not there, and return their paths.

    Raises: StorageError when a file cannot be written.
    """
    target, written = Path(folder), []
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(target, error, expected="to make this folder") from error
    for picture in page.pictures():
        written.append(target / f"{picture.name}.png")
        write_whole(written[-1], as_png(picture))
    return written
