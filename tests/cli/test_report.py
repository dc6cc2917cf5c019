"""`halrp-np report`: which files it writes, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

import made_pages

Invoke = Callable[..., Result]


def test_a_page_or_pictures_alone(tmp_path: Path, invoke: Invoke) -> None:
    folder = made_pages.write_full_run(tmp_path / "run", tasks=1)
    result = invoke("report", folder)
    assert result.exit_code == 0, result.output
    assert "saved in report.html" in result.output
    assert Path("report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    Path("report.html").unlink()
    result = invoke("report", folder, "--png", "pictures")
    assert result.exit_code == 0, result.output
    assert not Path("report.html").exists()
    assert (Path("pictures") / "accuracy-matrix.png").is_file()


def test_errors_name_what_is_wrong(tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("report", "nowhere")
    assert result.exit_code == 1
    assert "no such folder" in result.output
    assert invoke("report").exit_code == 2
    folder = made_pages.write_full_run(tmp_path / "run", tasks=2)
    (folder / "ranks.csv").write_text("task\n1\n")
    result = invoke("report", folder)
    assert result.exit_code == 1
    assert "ranks.csv" in result.output
    result = invoke("report", made_pages.write_full_run(tmp_path / "whole", tasks=1), "--out", "no/such/page.html")
    assert result.exit_code == 1
    assert "no/such/page.html" in result.output
