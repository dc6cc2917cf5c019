"""How fast this machine trains and evaluates the networks of the table of benchmarks, from a few steps on noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from ..backend import Device, Streams
from ..benchmarks.feed import Feeds
from ..data.images import CROP_AND_FLIP, whole_images
from ..layers import EVALUATE, Sequential, decomposed_layers, fuse, inference, perturb
from ..losses import CrossEntropy
from ..training import Hooks, Penalty, PhasePlan, make_optimizer
from ..training.loop import Step, fresh_state
from ..typing import Examples, Params
from .estimate import HEAD, Estimate, StepTimes

LEAST_CALLS, MOST_CALLS, ENOUGH_SECONDS = 2, 8, 0.5
"""Of one thing, after a first call that is not counted: kernels compile in it."""

Progress = Callable[[int, int], None]


def step_times(rows: Sequence[Estimate], progress: Progress | None = None) -> list[StepTimes]:
    """The times of each row on the CPU, in order; rows of one network, shape and batch are measured once."""
    kinds: dict[Hashable, Estimate] = {}
    for row in rows:
        kinds.setdefault(kind_of(row), row)
    found: dict[Hashable, StepTimes] = {}
    for number, (kind, row) in enumerate(kinds.items()):
        if progress is not None:
            progress(number, len(kinds))
        found[kind] = measured(row)
    if progress is not None:
        progress(len(kinds), len(kinds))
    return [found[kind_of(row)] for row in rows]


def kind_of(row: Estimate) -> Hashable:
    """What the time of a step depends on: nearly nothing else, the head's few classes among it."""
    config = row.config
    return config.model, config.widths, config.norm, row.shape, config.batch_size, config.rank_cap, config.augment


def measured(row: Estimate) -> StepTimes:
    """Medians over a few calls: base step, perturbed step with every rank at its cap, evaluation of an image."""
    config, streams, dtype = row.config, Streams(0), np.dtype(row.config.dtype)
    draw, batch = streams.generator("noise"), config.batch_size
    stored = draw.integers(0, 256, (batch, *row.shape), dtype=np.uint8)
    noise = whole_images(stored, draw.integers(row.classes, size=batch), [0.5], [0.25])
    feeds, model = Feeds(Device("cpu"), dtype), row.model()
    base = model.init(streams.generator("init"), dtype)
    perturbed = {**base, **at_caps(model, config.rank_cap, draw, dtype)}
    train, shown = feeds.open(noise.augmented(CROP_AND_FLIP if config.augment else None)), feeds.open(noise)
    train.begin_epoch(draw)
    names, decay = list(decomposed_layers(model, HEAD)), config.weight_decay
    on_base = {f"{name}.weight": Penalty(l2=decay) for name in names}
    on_perturbed = {f"{name}.{scaling}": Penalty(l2=decay) for name in names for scaling in "RS"}
    on_perturbed |= {f"{name}.{factor}": Penalty(l1=config.l1, l2=decay) for name in names for factor in "AB"}
    return StepTimes(
        base_step=median(step_call(row, model, base, on_base, train)),
        low_rank_step=median(step_call(row, perturb(model, HEAD), perturbed, on_perturbed, train)),
        image=median(evaluation_call(model, base, shown, batch)) / batch,
    )


def at_caps(model: Sequential, cap: int, draw: np.random.Generator, dtype: Any) -> Params:
    """Scalings and factors of every layer, small and at random."""
    found: Params = {}
    layers: dict[str, Any] = dict(decomposed_layers(model, HEAD))
    for name, layer in layers.items():
        rank = min(layer.inputs, layer.outputs, cap)
        shapes = {"R": layer.outputs, "S": layer.inputs, "A": (rank, layer.inputs), "B": (layer.outputs, rank)}
        found |= {f"{name}.{entry}": draw.normal(1.0, 0.1, shape) for entry, shape in shapes.items() if entry in "RS"}
        found |= {f"{name}.{entry}": draw.normal(0.0, 0.01, shape) for entry, shape in shapes.items() if entry in "AB"}
    return {name: value.astype(dtype) for name, value in found.items()}


def step_call(
    row: Estimate, model: Sequential, params: Params, penalties: dict[str, Penalty], feed: Examples
) -> Callable[[], object]:
    """One step of the training loop, its batch gathered."""
    s = row.config
    plan = PhasePlan(0, "estimate", 1, s.batch_size, s.learning_rate, 1.0)
    optimizer = make_optimizer(s.optimizer, scale=s.gradient_scale, momentum=s.momentum)
    state = fresh_state(plan, model, params, Streams(0))
    step = Step(plan, fuse(model), state, loss=CrossEntropy(), optimizer=optimizer, penalties=penalties, hooks=Hooks())
    rows = np.arange(s.batch_size)
    return lambda: step(*feed.batch(rows))


def evaluation_call(model: Sequential, params: Params, feed: Examples, batch: int) -> Callable[[], object]:
    """The answers to one batch."""
    network, folded = inference(model, params)
    rows = np.arange(batch)
    return lambda: network.forward(folded, feed.batch(rows)[0], EVALUATE)[0].argmax(axis=0)


def median(call: Callable[[], object]) -> float:
    """Seconds of a call: the median of a few."""
    call()
    times: list[float] = []
    while len(times) < LEAST_CALLS or (len(times) < MOST_CALLS and sum(times) < ENOUGH_SECONDS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times))
