"""The choices that settings offer are exactly those that the rooms below understand."""

import typing

from halrp_np.benchmarks import RunConfig
from halrp_np.benchmarks.table import settings_of
from halrp_np.lowrank import COLUMN_RULES, FULL_SHARE_RULES, PRUNE_RULES, RANK_RULES, SOLVES
from halrp_np.methods import IMPORTANCES, METHODS, PRESETS
from halrp_np.models import MODELS

OFFERED = typing.get_type_hints(RunConfig)


def test_every_choice_has_its_meaning_and_every_meaning_is_offered() -> None:
    meant = {
        "importance": IMPORTANCES,
        "s_fit": COLUMN_RULES,
        "rank_rule": RANK_RULES,
        "full_share": FULL_SHARE_RULES,
        "prune_rule": ("none", *PRUNE_RULES),
        "prune_solve": SOLVES,
        "model": MODELS,
        "method": METHODS,
        "preset": PRESETS,
    }
    for key, names in meant.items():
        assert set(typing.get_args(OFFERED[key])) == set(names), key


def test_the_defaults_of_the_settings_are_those_of_permuted_mnist() -> None:
    config = RunConfig()
    for key, value in settings_of("pmnist", "lenet").items():
        assert getattr(config, key) == value, key
