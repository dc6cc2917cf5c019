"""The learning rate of every update, with the numbers of the two benchmarks that state them."""

import pytest

from halrp_np.errors import ConfigError
from halrp_np.training import PhasePlan, exponential_gamma

PMNIST = {"batch": 128, "tasks": 10, "train_share": 1.0, "validation_share": 0.2}


def released(images: int, **changes: float) -> float:
    return exponential_gamma("released", train_images=images, **{**PMNIST, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "gamma"),
    [
        ({}, 0.9983599609),  # PMNIST and CIFAR100-Split
        ({"tasks": 20}, 0.9967226116),  # CIFAR100-SuperClass
        ({"train_share": 0.05}, 0.9677053),
        ({"tasks": 5}, 0.9991796440),  # Five
        ({"tasks": 20, "batch": 32, "validation_share": 0.1}, 0.9992707614),  # Tiny-20
        ({"tasks": 40, "batch": 32, "validation_share": 0.1}, 0.9985420546),  # Tiny-40
    ],
)
def test_the_released_factor_of_each_benchmark(changes: dict[str, float], gamma: float) -> None:
    assert released(48000, **changes) == pytest.approx(gamma, abs=6e-11 if changes != {"train_share": 0.05} else 6e-8)


def test_learning_rates_of_cifar100_split() -> None:
    """4,000 images in batches of 128: 32 updates an epoch with the partial one, 20 epochs."""
    gamma = released(4000)
    rate = [1e-3 * gamma**n for n in range(640)]
    assert rate[:2] == pytest.approx([1e-3, 9.983599609e-4], rel=1e-9)
    assert rate[32] == pytest.approx(9.488312324e-4, rel=1e-9)
    assert 1e-3 * gamma**640 == pytest.approx(3.4977e-4, rel=1e-4)  # after the last update of task 0
    assert 1e-3 * gamma**608 == pytest.approx(3.6863e-4, rel=1e-4)  # and of a perturbation phase
    plan = PhasePlan(0, "base", 20, 128, 1e-3, gamma, drop_last=False)
    assert plan.steps_per_epoch(4000) == 32


def test_learning_rates_of_permuted_mnist() -> None:
    """48,000 images in batches of 128, the partial one dropped: 375 updates an epoch, 12 epochs."""
    gamma = released(48000)
    plan = PhasePlan(0, "base", 12, 128, 1e-3, gamma)
    assert plan.steps_per_epoch(48000) == 375
    assert 1e-3 * gamma**4500 == pytest.approx(6.1973e-7, rel=1e-4)
    assert 1e-3 * gamma**4125 == pytest.approx(1.1469e-6, rel=1e-4)


def test_the_intended_rule_decays_once_an_epoch_of_the_task() -> None:
    gamma = exponential_gamma("task-size", train_images=48000, **PMNIST)  # type: ignore[arg-type]
    assert gamma**375 == pytest.approx(0.95, rel=1e-12)
    assert 1e-3 * gamma**4500 == pytest.approx(1e-3 * 0.95**12, rel=1e-12)


def test_the_rules_agree_where_the_released_code_meant_it() -> None:
    assert released(4000) == pytest.approx(
        exponential_gamma("task-size", train_images=4000, **PMNIST),  # type: ignore[arg-type]
        rel=1e-15,
    )


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="gamma_rule: expected task-size or released, received cosine"):
        exponential_gamma("cosine", train_images=1, **PMNIST)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("samples", "drop_last", "steps"), [(48, True, 3), (50, True, 3), (50, False, 4), (3, False, 1)]
)
def test_steps_of_an_epoch(samples: int, drop_last: bool, steps: int) -> None:
    assert PhasePlan(0, "base", 1, 16, 1e-3, 1.0, drop_last=drop_last).steps_per_epoch(samples) == steps


def test_a_batch_larger_than_the_task_is_refused_when_partial_batches_are_dropped() -> None:
    with pytest.raises(ConfigError, match="batch_size: expected at most the 15 training images of task 3"):
        PhasePlan(3, "base", 1, 16, 1e-3, 1.0).steps_per_epoch(15)
