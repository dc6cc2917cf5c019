"""What an accuracy matrix says: a[t][j] is the accuracy on task j after learning task t, in percent.

Every variant has its own name; a measure that is not defined for one task is None, never 0.
Sources: ACC and BWT from Lopez-Paz and Ranzato (arXiv 1706.08840), forgetting from Chaudhry et al. (arXiv 1801.10112).
"""

from __future__ import annotations

Matrix = list[list[float]]
"""Row t holds a[t][0..t]."""


def average_accuracy(a: Matrix) -> float:
    """ACC = mean_j a[T-1][j]."""
    return sum(a[-1]) / len(a[-1])


def average_incremental_accuracy(a: Matrix) -> float:
    """AIA = mean over t of the mean of row t."""
    return sum(sum(row) / len(row) for row in a) / len(a)


def backward_transfer(a: Matrix) -> float | None:
    """BWT = mean over j < T-1 of a[T-1][j] - a[j][j]."""
    if len(a) < 2:
        return None
    return sum(a[-1][j] - a[j][j] for j in range(len(a) - 1)) / (len(a) - 1)


def forgetting_all_tasks(a: Matrix) -> float:
    """Mean over all T tasks of a[j][j] - a[T-1][j]; the last term is 0. The released code's vector, averaged."""
    return sum(a[j][j] - a[-1][j] for j in range(len(a))) / len(a)


def forgetting_released_summary(a: Matrix, repeats: int = 1) -> float:
    """What the released summary prints: the sum over repeats divided by repeats + 1 (an understatement)."""
    return forgetting_all_tasks(a) * repeats / (repeats + 1)


def forgetting_from_best(a: Matrix) -> float | None:
    """Chaudhry: mean over j < T-1 of max_{j ≤ t ≤ T-2} a[t][j] - a[T-1][j]; may be negative."""
    if len(a) < 2:
        return None
    last = len(a) - 1
    return sum(max(a[t][j] for t in range(j, last)) - a[last][j] for j in range(last)) / last


def forgetting_never_negative(a: Matrix) -> float | None:
    """As forgetting_from_best, the maximum running over the last row too, so no term is below 0."""
    if len(a) < 2:
        return None
    last = len(a) - 1
    return sum(max(a[t][j] for t in range(j, last + 1)) - a[last][j] for j in range(last)) / last


def forgetting_since_learned(a: Matrix) -> float | None:
    """Mean over j < T-1 of a[j][j] - a[T-1][j], which is -BWT: first recorded minus last recorded."""
    transfer = backward_transfer(a)
    return None if transfer is None else -transfer


def summary(a: Matrix) -> dict[str, float]:
    """Every measure that is defined, by name."""
    return {name: value for name, value in _measures(a).items() if value is not None}


def undefined(a: Matrix) -> dict[str, str]:
    """Every measure that is not, with the reason."""
    missing = {name: "needs two tasks" for name, value in _measures(a).items() if value is None}
    return {**missing, "fwt": "needs the accuracy on a task before it is learned; each task has a head of its own"}


def _measures(a: Matrix) -> dict[str, float | None]:
    """Every measure by name, None where it is not defined."""
    return {
        "acc": average_accuracy(a),
        "aia": average_incremental_accuracy(a),
        "bwt": backward_transfer(a),
        "forgetting_all_tasks": forgetting_all_tasks(a),
        "forgetting_avalanche": forgetting_since_learned(a),
        "forgetting_released_summary": forgetting_released_summary(a),
        "forgetting_chaudhry": forgetting_from_best(a),
        "forgetting_mammoth": forgetting_never_negative(a),
    }
