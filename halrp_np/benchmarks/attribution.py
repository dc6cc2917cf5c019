"""What became of earlier tasks while a new one was learned: the bytes that changed, and what their change did.

At every boundary between tasks each tensor that answers for a task is read, so that a frozen one is found unchanged and
not believed to be. The change of a task's test accuracy is shared out over the kinds of tensors that changed by their
Shapley values: what moving a kind from what it was to what it is does to the accuracy, averaged over all orders of
moving. Weights and normalisation that changed together suit each other, so no single order is fair.

Reference: Shapley (1953), A value for n-person games.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np

from ..backend import to_host
from ..methods import Method
from ..methods.base import kind_of
from ..typing import Array, Params
from .evaluation import digest

MOVED = ("factors", "batchnorm", "weights", "scalings", "biases", "head")
"""The kinds of tensors in the order of their rows: what pruning did comes first."""

HEADER = ("after_task", "task", "identity", "kind", "bytes", "bytes_changed", "accuracy_change")


@dataclass(frozen=True, eq=False)
class Answer:
    """The tensors that answer for one task at a boundary, by reference, and a checksum of each."""

    tensors: Params
    digests: dict[str, bytes]

    @property
    def checksum(self) -> str:
        """BLAKE2b of all names, shapes, types and bytes."""
        found = hashlib.blake2b(digest_size=32)
        for name in sorted(self.digests):
            found.update(f"{name} ".encode() + self.digests[name])
        return found.hexdigest()


def answers_of(method: Method, tasks: int) -> list[Answer]:
    """What answers for each of the first tasks now; an array that several share is read once."""
    held = [method.tensors(position) for position in range(tasks)]
    known: dict[int, bytes] = {}  # by identity: `held` keeps every array alive
    for tensors in held:
        for value in tensors.values():
            if id(value) not in known:
                known[id(value)] = digest({"": value})
    return [Answer(tensors, {name: known[id(value)] for name, value in tensors.items()}) for tensors in held]


def change_rows(
    before: Answer, now: Answer, accuracies: tuple[float, float], ask: Callable[[Params], float]
) -> list[list[Any]]:
    """A row for each kind of tensor that answers for a task: kind, bytes, how many changed, change of accuracy.

    `accuracies` are those before and now, and `ask` gives the accuracy with other tensors: for k kinds that changed it
    is called 2^k - 2 times. The changes of all kinds add up to the difference of `accuracies`.
    """
    names = sorted(before.tensors.keys() | now.tensors.keys())
    own = {kind: [name for name in names if kind_of(name) == kind] for kind in MOVED}
    changed = {kind: sum(changed_bytes(name, before, now) for name in own[kind]) for kind in MOVED}
    shares = _shares([kind for kind in MOVED if changed[kind]], before, now, accuracies, ask)
    return [[kind, _bytes(now.tensors, own[kind]), changed[kind], shares.get(kind, 0.0)] for kind in MOVED if own[kind]]


def changed_bytes(name: str, before: Answer, now: Answer) -> int:
    """The bytes of the entries of a tensor whose bytes differ; all of it where it is new, gone or of another shape."""
    if before.digests.get(name) == now.digests.get(name):
        return 0
    old, new = before.tensors.get(name), now.tensors.get(name)
    if old is None or new is None:
        return _bytes(before.tensors if new is None else now.tensors, [name])
    if old is new or (old.shape, old.dtype) != (new.shape, new.dtype):  # the same array: changed in place
        return int(new.nbytes)
    return int(np.count_nonzero(_bits(old) != _bits(new))) * int(new.dtype.itemsize)


def _shares(
    kinds: list[str], before: Answer, now: Answer, accuracies: tuple[float, float], ask: Callable[[Params], float]
) -> dict[str, float]:
    """The Shapley value of each of these kinds for the accuracy.

    Math: φ_i = Σ_{K ∌ i} |K|! (k - |K| - 1)! / k! (A(K ∪ i) - A(K)), A(K) the accuracy with the kinds in K moved.
    """
    k = len(kinds)
    known = {frozenset[str](): accuracies[0], frozenset(kinds): accuracies[1]}
    for size in range(1, k):
        for chosen in combinations(kinds, size):
            moved = {name: value for name, value in before.tensors.items() if kind_of(name) not in chosen}
            moved |= {name: value for name, value in now.tensors.items() if kind_of(name) in chosen}
            known[frozenset(chosen)] = ask(moved)
    shares = dict.fromkeys(kinds, 0.0)
    for kind in kinds:
        for others in (found for found in known if kind not in found):
            weight = factorial(len(others)) * factorial(k - len(others) - 1) / factorial(k)
            shares[kind] += weight * (known[others | {kind}] - known[others])
    return shares


def _bits(value: Array) -> np.ndarray[Any, Any]:
    """The entries on the host as unsigned integers: 0.0 and -0.0 differ, and NaN equals itself."""
    host = np.ascontiguousarray(to_host(value))
    return host.view(f"u{host.dtype.itemsize}")


def _bytes(tensors: Params, names: list[str]) -> int:
    """The bytes of those of these tensors that there are."""
    return sum(int(tensors[name].nbytes) for name in names if name in tensors)
