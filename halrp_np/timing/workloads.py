"""The things that are timed, each as a call that does one of them through the code a run goes through."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..backend import Device, Streams, to_host
from ..curvature import HessianOperator
from ..layers import EVALUATE, Sequential, decomposed_layers, fuse, inference, perturb
from ..losses import CrossEntropy
from ..models import lenet
from ..training import Hooks, Penalty, PhasePlan, make_optimizer
from ..training.loop import Step, fresh_state
from ..typing import Array, Params
from .settings import CLASSES, CONSTANTS, IMAGE, TimeSettings

PLAN = PhasePlan(0, "time", 1, 1, CONSTANTS["lr"], CONSTANTS["gamma"])
LOSS = CrossEntropy()
OPERATOR_MEMORY = 2**32  # of a Hessian product: it should not cut the batch


@dataclass(frozen=True)
class Workload:
    """One thing to time: `call` does it once, `result` does it once from the start and says what came out."""

    call: Callable[[], object]
    result: Callable[[], Params]


@dataclass(frozen=True)
class Problem:
    """Parameters of a base network and of a perturbed one over it, a batch, and directions for Hessian products.

    Shapes: host arrays; images (C, H, W, N), labels (N,), directions by name as their weights.
    """

    base: Params = field(repr=False)
    perturbed: Params = field(repr=False)
    images: Array = field(repr=False)
    labels: Array = field(repr=False)
    directions: Params = field(repr=False)
    widths: tuple[int, ...] = ()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it for other processes, images first (N, C, H, W) as most programs have them."""
        images = np.ascontiguousarray(np.moveaxis(self.images, -1, 0))
        groups = {"base": self.base, "perturbed": self.perturbed, "direction": self.directions}
        named = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
        np.savez(path, images=images, labels=self.labels, widths=np.array(self.widths), **named)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Problem:
        """Read what `save` wrote."""
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}

        def group(prefix: str) -> Params:
            return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

        images = np.ascontiguousarray(np.moveaxis(arrays["images"], 0, -1))
        widths = tuple(int(width) for width in arrays["widths"])
        return cls(group("base/"), group("perturbed/"), images, arrays["labels"], group("direction/"), widths)


def make_problem(settings: TimeSettings) -> Problem:
    """Random parameters, of which none is 0 or 1 by construction, and a batch of noise."""
    streams = Streams(0)
    draw, model = streams.generator("constants"), lenet(IMAGE, CLASSES, settings.widths)
    base = model.init(streams.generator("init"), np.float32)
    for name, value in base.items():
        if name.rpartition(".")[2] in ("gamma", "running_var"):
            base[name] = draw.uniform(0.5, 1.5, value.shape).astype(np.float32)
        elif name.rpartition(".")[2] in ("beta", "running_mean"):
            base[name] = draw.normal(0.0, 0.2, value.shape).astype(np.float32)
    perturbed = dict(base)
    for (name, layer), rank in zip(decomposed_layers(model, "head").items(), settings.ranks, strict=True):
        shaped: Any = layer
        perturbed[f"{name}.R"] = draw.uniform(0.5, 1.5, shaped.outputs).astype(np.float32)
        perturbed[f"{name}.S"] = draw.uniform(0.5, 1.5, shaped.inputs).astype(np.float32)
        scale = 0.1 / (rank * shaped.inputs) ** 0.25
        perturbed[f"{name}.A"] = draw.normal(0.0, scale, (rank, shaped.inputs)).astype(np.float32)
        perturbed[f"{name}.B"] = draw.normal(0.0, scale, (shaped.outputs, rank)).astype(np.float32)
    images = draw.normal(size=(*IMAGE, settings.batch)).astype(np.float32)
    directions = {name: draw.normal(size=base[name].shape).astype(np.float32) for name in block_names(model)}
    return Problem(base, perturbed, images, draw.integers(CLASSES, size=settings.batch), directions, settings.widths)


def block_names(model: Sequential) -> list[str]:
    """The weights whose blocks of the Hessian are multiplied with."""
    return [f"{name}.weight" for name in decomposed_layers(model, "head")]


def workloads(problem: Problem, device: Device) -> dict[str, Callable[[], Workload]]:
    """Everything of STEPS by name, on the device, each made when it is asked for."""
    data = (device.to_device(problem.images), device.to_device(problem.labels))
    base, perturbed = (
        {name: device.to_device(value) for name, value in params.items()}
        for params in (problem.base, problem.perturbed)
    )
    model = lenet(IMAGE, CLASSES, problem.widths)
    names, decay = list(decomposed_layers(model, "head")), CONSTANTS["weight_decay"]
    scaling, factor = Penalty(l2=decay), Penalty(l1=CONSTANTS["l1"], l2=decay)
    on_base = {f"{name}.weight": Penalty(l2=decay) for name in names}
    on_perturbed = {
        f"{name}.{entry}": scaling if entry in "RS" else factor for name in names for entry in ("R", "S", "A", "B")
    }
    return {
        "base_step": lambda: training_workload(model, base, on_base, data),
        "low_rank_step": lambda: training_workload(perturb(model, "head"), perturbed, on_perturbed, data),
        "evaluation": lambda: evaluation_workload(model, base, data[0]),
        "block_hvp": lambda: product_workload(model, base, data, problem.directions, device),
    }


def training_workload(
    model: Sequential, params: Params, penalties: dict[str, Penalty], data: tuple[Array, Array]
) -> Workload:
    """A step of the training loop; the result is Adam's first moment after one step: a tenth of the gradient."""
    optimizer = make_optimizer("adam", scale=CONSTANTS["gradient_scale"], momentum=0.0)
    model = fuse(model)

    def start() -> Step:
        state = fresh_state(PLAN, model, params, Streams(0))
        return Step(PLAN, model, state, loss=LOSS, optimizer=optimizer, penalties=penalties, hooks=Hooks())

    def result() -> Params:
        fresh = start()
        fresh(*data)
        moments = fresh.state.moments.items()
        return {name.removeprefix("m/"): to_host(m) for name, m in moments if name.startswith("m/")}

    step = start()
    return Workload(lambda: step(*data), result)


def evaluation_workload(model: Sequential, params: Params, images: Array) -> Workload:
    """Outputs of the network in evaluation mode, as it is after a task."""
    network, folded = inference(model, params)

    def call() -> Array:
        return network.forward(folded, images, EVALUATE)[0]

    return Workload(call, lambda: {"outputs": to_host(call())})


def product_workload(
    model: Sequential, params: Params, data: tuple[Array, Array], directions: Params, device: Device
) -> Workload:
    """One Hessian product for each decomposed weight, each at a point that has not been linearised yet."""
    whole = HessianOperator(model, params, LOSS, data, names=list(directions), memory=OPERATOR_MEMORY)
    whole.probe()  # paid once for a network, not once for a product
    vectors = {name: device.to_device(value.reshape(-1)) for name, value in directions.items()}

    def call() -> Params:
        return {name: whole.block(name) @ vector for name, vector in vectors.items()}

    return Workload(call, lambda: {name: to_host(product) for name, product in call().items()})
