"""The presets differ exactly in the switches that their notes explain, and each switch does something."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from halrp_np.backend import Device, Streams
from halrp_np.errors import ConfigError
from halrp_np.methods import METHODS, PRESET_NOTES, PRESETS, HalrpSettings, make_method
from methods.streams import learned, make, small_mlp

DEFAULTS = {field.name: field.default for field in fields(HalrpSettings)}


def test_the_presets_differ_exactly_in_the_switches_that_have_a_note() -> None:
    paper, official = (HalrpSettings(**PRESETS[name]) for name in ("paper", "official"))
    different = {name for name in DEFAULTS if getattr(paper, name) != getattr(official, name)}
    assert different == set(PRESET_NOTES) == set(PRESETS["official"])
    assert PRESETS["paper"] == {}
    assert set(PRESETS["hessian"]) == {"importance"}
    assert all(len(note) > 40 and note[0].islower() for note in PRESET_NOTES.values())


def test_the_defaults_are_those_of_the_script_for_permuted_mnist() -> None:
    settings = HalrpSettings()
    assert (settings.epochs, settings.warmup_epochs, settings.batch_size) == (12, 1, 128)
    assert (settings.optimizer, settings.learning_rate, settings.drop_last, settings.shuffle) == (
        "adam",
        1e-3,
        True,
        True,
    )
    assert (settings.weight_decay, settings.l1, settings.rank_share, settings.rank_cap) == (1e-3, 1e-6, 0.9, 100)
    assert (settings.prune_rule, settings.prune_values, settings.prune_bounded) == ("mixAR_AllLayer", (1e-5, 0.4), True)


def test_the_official_switches_are_the_released_ones() -> None:
    assert PRESETS["official"] == {
        "gamma_rule": "released",
        "gradient_scale": 10.0,
        "scaling_centre": 0.0,
        "importance": "official",
        "s_fit": "official",
        "prune_solve": "released",
        "prune_floor_first": False,
    }


@pytest.mark.parametrize("switch", PRESETS["official"])
def test_every_switch_changes_the_result(switch: str) -> None:
    """Turned alone, from the preset `paper`, under conditions in which it matters."""
    # the floor switch needs a budget that is not reached, the solve one that is
    values = (0.02, -9.0) if switch == "prune_floor_first" else (1e-5, 0.8)
    common: dict[str, Any] = {"prune_values": values, "rank_share": 0.8}
    plain = learned(make(**common), 2)
    switched = learned(make(**common, **{switch: PRESETS["official"][switch]}), 2)
    a, b = (m.state()[0] for m in (plain, switched))
    assert any(name not in b or a[name].tobytes() != b[name].tobytes() for name in a)


def test_every_setting_has_a_help_text() -> None:
    assert all(len(field.metadata["help"]) > 5 for field in fields(HalrpSettings))


def test_methods_by_name() -> None:
    options: dict[str, Any] = {"device": Device("cpu"), "dtype": np.float64, "streams": Streams(0)}
    assert sorted(METHODS) == ["be", "bn", "ewc", "finetune", "halrp", "l2", "mtl", "stl"]
    for name, kind in METHODS.items():
        assert type(make_method(name, small_mlp, kind.settings_class(), **options)) is kind
    with pytest.raises(ConfigError, match=r"method: expected one of halrp.*received 'ewk'"):
        make_method("ewk", small_mlp, HalrpSettings(), **options)
