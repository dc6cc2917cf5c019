"""How well every task seen is answered: each network is formed once, and asked again only when its numbers changed."""

from __future__ import annotations

import hashlib

import numpy as np

from ..backend import to_host
from ..data import Task
from ..layers import inference
from ..methods import Method
from ..training import evaluate
from ..typing import Params
from .feed import Feeds

SPLITS = ("test", "validation")


class Evaluation:
    """Top-1 accuracies in percent of learned tasks, on both splits.

    Under HALRP task 0 never changes, and a later one only when it is pruned again. The same numbers on the same images
    give the same accuracy, so what a network answered before is taken over; its numbers, not its arrays, say whether it
    is the same. Nothing of this is saved: a run that goes on asks every network once.
    """

    def __init__(self, method: Method, feeds: Feeds, batch: int) -> None:
        self.method, self.feeds, self.batch = method, feeds, batch
        self.known: dict[int, tuple[bytes, dict[str, float]]] = {}

    def of(self, task: Task) -> dict[str, float]:
        """The accuracy on each split of a task, by its own network."""
        model, params = self.method.network(task.position)
        numbers = digest(params)
        if self.known.get(task.position, (b"", {}))[0] != numbers:
            model, params = inference(model, params)
            images = dict(zip(SPLITS, (task.test, task.validation), strict=True))
            found = {s: evaluate(model, params, self.feeds.open(images[s]), self.batch) for s in SPLITS}
            self.known[task.position] = (numbers, found)
        return self.known[task.position][1]

    def with_tensors(self, task: Task, tensors: Params) -> float:
        """The test accuracy of a task with these tensors in the place of its own."""
        model, params = self.method.network(task.position, tensors)
        numbers, found = self.known.get(task.position, (b"", {}))
        if numbers == digest(params):
            return found["test"]
        model, params = inference(model, params)
        return evaluate(model, params, self.feeds.open(task.test), self.batch)


def digest(params: Params) -> bytes:
    """A checksum of all parameters and buffers, with their names and shapes."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(params):
        value = np.ascontiguousarray(to_host(params[name]))
        found.update(f"{name} {value.dtype} {value.shape} ".encode())
        found.update(value.data)
    return found.digest()
