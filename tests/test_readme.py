"""The README says what the code does: its tables are read and held against the package."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

import halrp_np
from halrp_np.layers.perturbed import PerturbedLinear
from halrp_np.methods import PRESET_NOTES, PRESETS, Halrp, HalrpSettings

TEXT = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
SYMBOLS = TEXT.split("## From the paper to the code")[1].split("##")[0]
NAMES = sorted(set(re.findall(r"`([A-Za-z_]+\.[A-Za-z_.]+)`", SYMBOLS)) - {"ARCHITECTURE.md"})


def _shown(value: Any) -> str:
    """A setting as --set takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_table_of_presets_is_the_presets() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(HalrpSettings)}
    for key, value in PRESETS["official"].items():
        row = f"| `{key}` | `{_shown(defaults[key])}` | `{_shown(value)}` | {PRESET_NOTES[key]} |"
        assert row in TEXT


@pytest.mark.parametrize("name", NAMES)
def test_every_function_of_the_symbol_table_exists(name: str) -> None:
    first, *rest = name.split(".")
    found: Any = {"Halrp": Halrp, "PerturbedLinear": PerturbedLinear}.get(first) or getattr(halrp_np, first)
    for part in rest:
        found = getattr(found, part)
    assert found.__doc__


def test_the_symbol_table_was_read() -> None:
    assert {"Halrp.warm_up", "lowrank.fit_col_scale", "training.metrics"} <= set(NAMES)


@pytest.mark.parametrize("place", re.findall(r"\]\(([^)#]+)\)|`((?:examples|halrp_np|docs)/[\w./]+)`", TEXT))
def test_every_file_it_names_is_there(place: tuple[str, str]) -> None:
    path = next(filter(None, place))
    assert path.startswith("https://") or (Path(__file__).resolve().parents[1] / path).exists()
