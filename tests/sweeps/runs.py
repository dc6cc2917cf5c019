"""Small sweeps on the tiny data set, and what their folders hold."""

import json
from pathlib import Path
from typing import Any

from benchmarks import tiny
from halrp_np.sweeps import Job, expand


def jobs(data: Path, **changes: Any) -> list[Job]:
    """The runs of a small sweep; `settings` are joined to the usual ones, other changes replace what they name."""
    usual = {key: value for key, value in tiny.SETTINGS.items() if key != "model"}
    settings = {**usual, "data_dir": str(data), **changes.pop("settings", {})}
    content = {"models": ["mlp"], "settings": settings, **changes}
    return list(expand(content, "sweep.toml", name="small").jobs)


def contents(out: Path, runs: list[Job]) -> dict[str, bytes]:
    """Every file of the runs' folders, but for what they cost and where they ran."""
    files = {}
    for job in runs:
        for path in sorted((out / job.name).rglob("*")):
            name = path.relative_to(out).as_posix()
            if path.is_file() and path.name not in ("timing.json", "environment.json"):
                files[name] = without_cost(path) if path.name == "summary.json" else path.read_bytes()
    return files


def without_cost(summary: Path) -> bytes:
    """summary.json but for its cost."""
    content = json.loads(summary.read_text())
    assert content.pop("cost")
    return json.dumps(content).encode()


def assert_same(out: Path, expected: dict[str, bytes], runs: list[Job]) -> None:
    """The folders hold what is expected, byte by byte, and nothing else."""
    found = contents(out, runs)
    assert found.keys() == expected.keys()
    assert not [name for name in found if found[name] != expected[name]]
