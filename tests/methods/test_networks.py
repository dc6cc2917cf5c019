"""HALRP with the networks that LeNet is not: residual blocks, dropout, statistics of the batch; every preset."""

from typing import Any

import numpy as np
import pytest

from halrp_np.errors import ConfigError
from halrp_np.layers import EVALUATE, decomposed_layers, inference
from halrp_np.methods import PRESETS, Halrp, MethodTask, rank_column
from halrp_np.models import resnet18
from halrp_np.training import Hooks
from methods.streams import make
from models.narrow import BUILDERS, CLASSES, SHAPES
from training.blobs import Blobs

NETWORKS = {
    f"{name} {norm}": (name, norm)
    for name, norm in (("resnet18", "running"), ("alexnet", "running"), ("alexnet", "batch"))
}


def task(name: str, position: int, dtype: Any = np.float64) -> MethodTask:
    """Task number `position`: 22 training and 12 validation images."""
    train, validation = (
        Blobs(10 * (position + 1) + part, count, SHAPES[name], CLASSES, dtype) for part, count in enumerate((22, 12))
    )
    return MethodTask(position, CLASSES, 3, 0.2, train, validation)


def learned(network: str, count: int, dtype: Any = np.float64, **changes: Any) -> Halrp:
    """The method after that many tasks of a network."""
    name, norm = NETWORKS[network]
    method = make(lambda _: BUILDERS[name](norm), dtype=dtype, **{"importance_products": 4, **changes})
    for position in range(count):
        method.learn(task(name, position, dtype), Hooks())
    return method


def logits(method: Halrp, network: str, position: int) -> Any:
    """The answers to a task's validation images, all in one batch."""
    model, params = method.network(position)
    return model.forward(params, task(NETWORKS[network][0], position).validation.x, EVALUATE)[0]


def bits(method: Halrp, position: int) -> dict[str, bytes]:
    """All numbers with which one task is answered."""
    own = method.base if position == 0 else {**method.base_weights(), **method.tasks[position - 1]}
    return {name: value.tobytes() for name, value in own.items()}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_learns_every_network(network: str, preset: str) -> None:
    method = learned(network, 2, preset=preset, rank_share=0.8)
    name, norm = NETWORKS[network]
    layers = list(decomposed_layers(BUILDERS[name](norm)))
    own = method.tasks[0]
    assert [row["layer"] for row in method.rank_rows()] == layers == method.layers()
    for row in method.rank_rows():
        assert 1 <= row["rank"] <= min(row["size"], 6)
        assert np.isfinite(row["importance"])
        assert own[f"{row['layer']}.A"].shape[0] == own[f"{row['layer']}.B"].shape[1] == row["rank"]
        chosen = method.settings.importance
        assert row["rank"] == row[rank_column(chosen)]
        assert (row["rank_fisher"] is None) == (norm == "batch")
    assert any("running" in entry for entry in own) == (norm == "running")
    assert sum(entry.endswith((".gamma", ".beta")) for entry in own) == 2 * len(layers)
    for position in (0, 1):
        model, params = method.network(position)
        x = task(name, position).validation.x
        folded, dense = inference(model, params)
        y = logits(method, network, position)
        assert np.isfinite(y).all()
        np.testing.assert_allclose(folded.forward(dense, x)[0], y, rtol=0, atol=1e-10 * np.abs(y).max())


def test_fisher_is_refused_where_it_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"importance: .* received fisher, but its batch statistics"):
        learned("alexnet batch", 2, importance="fisher")
    method = learned("alexnet running", 2, importance="fisher")
    assert all(row["rank"] == row["rank_fisher"] for row in method.rank_rows())


@pytest.mark.parametrize("network", [network for network in NETWORKS if "running" in network])
@pytest.mark.parametrize("preset", ["paper", "official"])
def test_zero_forgetting_bit_for_bit(network: str, preset: str) -> None:
    """With running statistics and without pruning again: what an earlier task is, and what it answers, stays."""
    kept, answers = [], []
    name, norm = NETWORKS[network]
    method = make(lambda _: BUILDERS[name](norm), preset=preset, prune_rule="none", compare_importances=False)
    for position in range(3):
        method.learn(task(name, position), Hooks())
        for earlier in range(position):
            assert bits(method, earlier) == kept[earlier]
            assert logits(method, network, earlier).tobytes() == answers[earlier]
        kept.append(bits(method, position))
        answers.append(logits(method, network, position).tobytes())
    moved = [entry for entry in kept[2] if kept[1].get(entry) != kept[2][entry]]
    assert {entry.rpartition(".")[2] for entry in moved} >= {"R", "S", "A", "B", "bias", "gamma", "running_var"}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_loaded_state_goes_on_bit_for_bit(network: str, dtype: Any) -> None:
    name, norm = NETWORKS[network]
    method = learned(network, 2, dtype=dtype)
    loaded = make(lambda _: BUILDERS[name](norm), dtype=dtype, importance_products=4)
    loaded.load(*method.state())
    for one in (method, loaded):
        one.learn(task(name, 2, dtype), Hooks())
    assert [bits(loaded, position) for position in range(3)] == [bits(method, position) for position in range(3)]
    assert loaded.rank_rows() == method.rank_rows()
    assert loaded.sizes() == method.sizes()


def test_the_head_of_a_task_has_its_classes() -> None:
    """ResNet18 takes the number of classes from each task."""
    method = make(lambda classes: resnet18(SHAPES["resnet18"], classes, (2, 3, 3, 4)), compare_importances=False)
    for position, classes in enumerate((3, 2, 5)):
        train, validation = (Blobs(10 * position + part, 16, SHAPES["resnet18"], classes) for part in (0, 1))
        method.learn(MethodTask(position, classes, 3, 0.2, train, validation), Hooks())
        assert method.network(position)[1]["head.weight"].shape == (classes, 4)
    assert [size.head for size in method.sizes()] == [2 * 5, 5 * 5]
