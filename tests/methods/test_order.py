"""Tasks are learned once and in order; a budget that cannot be met is said."""

import pytest

from halrp_np.errors import ConfigError
from halrp_np.training import Hooks
from methods.streams import learned, make, small_mlp, task


class Warnings(Hooks):
    def __init__(self) -> None:
        self.told: list[str] = []

    def warn(self, text: str) -> None:
        self.told.append(text)


@pytest.mark.parametrize(("count", "wrong"), [(0, 1), (1, 0), (1, 2), (2, 1)])
def test_a_task_out_of_turn_is_refused(count: int, wrong: int) -> None:
    method = learned(make(small_mlp), count)
    with pytest.raises(ConfigError, match=f"learn: expected task {count}, .* received task {wrong}"):
        method.learn(task(wrong), Hooks())
    method.learn(task(count), Hooks())  # and nothing was broken by the refusal


def test_a_budget_that_cannot_be_met_is_said() -> None:
    method, hooks = make(small_mlp, prune_rule="relative", prune_values=(1.0,), prune_bounded=True), Warnings()
    learned(method, 3, hooks)
    assert len(hooks.told) == 2
    assert "cannot be met" in hooks.told[0]
