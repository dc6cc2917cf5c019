"""The learning rate is multiplied by γ after every optimizer step: update number n of a phase uses lr γⁿ."""

from __future__ import annotations

from ..errors import ConfigError

DECAY = 0.95


def exponential_gamma(
    rule: str, *, batch: int, train_images: int, tasks: int, train_share: float, validation_share: float
) -> float:
    """γ = 0.95^(batch / images), so that the rate falls to 0.95 once every `images` images.

    `task-size`: the images of the task itself, one decay an epoch. `released`: 50000/T (1 - validation share), as
    hard-coded in the released code for every benchmark (on permuted MNIST that is 12 decays an epoch).

    Raises: ConfigError for another rule.
    """
    if rule == "task-size":
        images = float(train_images)
    elif rule == "released":
        images = 50000 / tasks * train_share * (1 - validation_share)
    else:
        raise ConfigError("gamma_rule", expected="task-size or released", received=rule, next_step="Choose one.")
    return float(DECAY ** (batch / images))
