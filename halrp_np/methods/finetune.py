"""Finetune: one network, trained on from task to task.

Objective of task t: min over θ and the task's head of L_t(θ) + ½ λ Σ_l ‖W_l‖², from where task t - 1 left θ. Nothing
holds θ in place: the lower reference for forgetting.

Reference: a baseline of continual learning since McCloskey and Cohen (1989).
"""

from __future__ import annotations

from .trunk import SharedTrunk


class Finetune(SharedTrunk):
    """One network that follows the newest task."""
