"""`halrp-np report`: a page of one run or of several, or its pictures alone."""

from __future__ import annotations

import click

import halrp_np


@click.command("report")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True)
@click.option("--out", metavar="FILE", help="HTML file.  [default: report.html; with --png none]")
@click.option("--png", "pictures", metavar="DIR", help="Write the pictures alone, as PNG files in DIR.")
def report_command(folders: tuple[str, ...], out: str | None, pictures: str | None) -> None:
    """Write what the runs at and below each DIR found as one HTML file, which needs no other file and no network.

    A single run is shown in full, several side by side.
    """
    from .screen import open_console, say

    console = open_console()
    page = halrp_np.reports.read_page(folders)
    if pictures is not None:
        written = halrp_np.reports.write_pictures(pictures, page)
        say(console, f"{len(written)} pictures drawn in {pictures}", whole=True)
    if out is not None or pictures is None:
        path = out or "report.html"
        halrp_np.reports.write_page(path, page)
        say(console, f"saved in {path}", whole=True)
