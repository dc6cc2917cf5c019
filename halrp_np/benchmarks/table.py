"""The hyper-parameters of each benchmark with each network, one row each, as the released scripts have them.

Reference: HALRP (arXiv 2311.15161), experimental settings; the released code's run scripts. There is no script for
Omniglot-rotation: its rows are ours. The first row of a benchmark names its default network, and serves the networks
that have no row of their own.
"""

from __future__ import annotations

COLUMNS = (
    "batch_size", "epochs", "warmup_epochs", "learning_rate", "weight_decay", "l1", "rank_share", "rank_cap",
    "prune_values",
)  # fmt: skip

# fmt: off
ROWS: dict[tuple[str, str], tuple[object, ...]] = {
    # benchmark,            network        batch   E   w    rate    decay  l1    share  cap  floor, 1 - budget
    ("pmnist",               "lenet"):       (128, 12,  1, 1e-3, 1e-3, 1e-6, 0.90, 100, (1e-5, 0.4)),
    ("cifar100-split",       "lenet"):       (128, 20,  1, 1e-3, 1e-4, 1e-4, 0.90, 100, (1e-5, 0.8)),
    ("cifar100-superclass",  "lenet"):       (128, 20,  1, 1e-3, 1e-4, 1e-4, 0.90, 100, (1e-5, 0.8)),
    ("omniglot-rotation",    "large-lenet"): (64,  30,  5, 1e-3, 1e-4, 1e-5, 0.95, 100, (1e-5, 0.0)),
    ("omniglot-rotation",    "lenet"):       (64,  30,  5, 1e-3, 1e-4, 1e-5, 0.95, 100, (1e-5, 0.0)),
    ("five-datasets",        "alexnet"):     (128, 12,  1, 1e-3, 1e-4, 1e-6, 0.90, 100, (1e-5, 0.4)),
    ("five-datasets",        "resnet18"):    (128, 12,  3, 1e-3, 1e-4, 1e-6, 0.95, 120, (1e-5, 0.4)),
    ("tinyimagenet-20",      "alexnet"):     (32,  50, 25, 1e-3, 5e-4, 1e-5, 0.90, 100, (1e-5, 0.4)),
    ("tinyimagenet-20",      "resnet18"):    (32,  50, 25, 5e-4, 1e-4, 5e-4, 0.90, 100, (1e-5, 0.4)),
    ("tinyimagenet-40",      "alexnet"):     (32,  50, 20, 1e-3, 1e-4, 5e-4, 0.90, 100, (1e-5, 0.4)),
    ("tinyimagenet-40",      "resnet18"):    (32,  50, 25, 5e-4, 1e-4, 5e-4, 0.90, 100, (1e-5, 0.4)),
    # a stream of the user's own, described in a TOML file
    ("*.toml",               "lenet"):       (64,  20,  3, 1e-3, 1e-4, 1e-5, 0.90, 100, (1e-5, 0.4)),
}
# fmt: on


def models_of(benchmark: str) -> list[str]:
    """The networks that have a row for this benchmark, its default first."""
    return [model for name, model in ROWS if name == benchmark]


def settings_of(benchmark: str, model: str) -> dict[str, object]:
    """The row's settings by name, the network among them."""
    row = ROWS.get((benchmark, model)) or ROWS[benchmark, models_of(benchmark)[0]]
    return {"model": model, **dict(zip(COLUMNS, row, strict=True))}
