"""What each row of the table of benchmarks costs, before anything is run: parameters, growth, steps, images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..benchmarks import BENCHMARKS, RunConfig, resolve_config
from ..benchmarks.catalog import builder_of
from ..benchmarks.table import ROWS
from ..layers import Conv2d, Linear, Sequential, decomposed_layers
from ..lowrank import PrunePlan, TaskSize, growth_dense, growth_factors, growth_released, pruning_plan
from ..training import PhasePlan
from ..typing import Shape

HEAD = "head"

OFFICIAL: dict[str, tuple[Shape, tuple[tuple[int, int, int], ...]]] = {
    "pmnist": ((3, 32, 32), ((48_000, 12_000, 10_000),) * 10),
    "cifar100-split": ((3, 32, 32), ((4_000, 1_000, 1_000),) * 10),
    "cifar100-superclass": ((3, 32, 32), ((2_000, 500, 500),) * 20),
    "omniglot-rotation": ((1, 32, 32), ((576, 144, 240),) * 100),
    "five-datasets": (
        (3, 32, 32),
        (
            (58_606, 14_651, 26_032),  # SVHN
            (40_000, 10_000, 10_000),  # CIFAR-10
            (48_000, 12_000, 10_000),  # MNIST
            (48_000, 12_000, 10_000),  # Fashion-MNIST
            (13_483, 3_370, 1_873),  # notMNIST
        ),
    ),
    "tinyimagenet-20": ((3, 64, 64), ((4_500, 500, 500),) * 20),
    "tinyimagenet-40": ((3, 64, 64), ((2_250, 250, 250),) * 40),
}
"""An image's shape, and each task's images for training, validation and testing, of the official files in order A."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a step of a whole network, of a step of a perturbed one, and of the evaluation of an image."""

    base_step: float
    low_rank_step: float
    image: float


@dataclass(frozen=True)
class Estimate:
    """A benchmark with a network: its settings, its sizes, and what follows from them.

    `images` holds (training, validation, test) of each task.
    """

    config: RunConfig
    classes: int
    shape: Shape
    images: tuple[tuple[int, int, int], ...]

    @property
    def later_tasks(self) -> int:
        """The tasks that perturb the first one's network."""
        return len(self.images) - 1

    def model(self) -> Sequential:
        """The network of a task."""
        return builder_of(self.config, self.shape)(self.classes)

    def base_parameters(self) -> int:
        """N₀, the parameters of task 0's network."""
        return parameters(self.model())

    def later_task(self) -> TaskSize:
        """What a later task adds with every rank at its cap."""
        return size_at_caps(self.model(), self.config.rank_cap)

    def growth_at_caps(self) -> float:
        """The released growth over the whole stream with every rank at its cap and nothing pruned."""
        return growth_released(self.base_parameters(), [self.later_task()] * self.later_tasks)

    def growth_pruned(self) -> float:
        """The same after pruning to the budget; above it where scalings, normalisation and heads alone exceed it."""
        base, size = self.base_parameters(), self.later_task()
        plan = self.plan(base, size, self.later_tasks)
        left = 1.0 if plan is None or plan.fraction is None else 1.0 - plan.fraction
        return self.later_tasks * (size.fixed + left * size.factors_dense) / base

    def plan(self, base: int, size: TaskSize, learned: int) -> PrunePlan | None:
        """What is pruned after so many later tasks."""
        if self.config.prune_rule == "none":
            return None
        sizes = [size] * learned
        return pruning_plan(
            self.config.prune_rule,
            self.config.prune_values,
            bounded=self.config.prune_bounded,
            growth=growth_dense(base, sizes),
            factor_growth=growth_factors(base, sizes),
            solve=self.config.prune_solve,
            floor_before_bound=self.config.prune_floor_first,
        )

    def steps_of_task(self, position: int) -> int:
        """Updates in all epochs of a task."""
        s = self.config
        phase = PhasePlan(position, "estimate", 1, s.batch_size, s.learning_rate, 1.0, drop_last=s.drop_last)
        return s.epochs * phase.steps_per_epoch(self.images[position][0])

    def evaluated_images(self) -> int:
        """Images answered over the stream: a task's own after it is learned, and again whenever it is pruned.

        Task 0 never changes. Growth is taken as at the caps; the floor of the pruning rule alone is taken to leave
        accuracies to be asked for again too.
        """
        base, size = self.base_parameters(), self.later_task()
        of_task = [validation + test for _, validation, test in self.images]
        total = of_task[0]
        for learned in range(1, self.later_tasks + 1):
            again = self.plan(base, size, learned) is not None
            total += sum(of_task[1 : learned + 1]) if again else of_task[learned]
        return total

    def seconds(self, times: StepTimes) -> float:
        """Training and evaluation of the whole stream; choosing ranks, reading and saving are left out.

        Math: task 0 takes base steps; a later one base steps while it warms up, then low-rank steps.
        """
        first, *later = (self.steps_of_task(position) for position in range(len(self.images)))
        share = self.config.warmup_epochs / self.config.epochs
        base_steps, low_rank_steps = first + share * sum(later), (1 - share) * sum(later)
        steps = base_steps * times.base_step + low_rank_steps * times.low_rank_step
        return steps + self.evaluated_images() * times.image


def estimates() -> list[Estimate]:
    """A row for each benchmark and network of the table, in its order."""
    found = []
    for benchmark, model in ROWS:
        if benchmark in OFFICIAL:
            shape, images = OFFICIAL[benchmark]
            config = resolve_config(("table", {"benchmark": benchmark, "model": model}))
            found.append(Estimate(config, BENCHMARKS[benchmark].classes, shape, images))
    return found


def parameters(model: Sequential) -> int:
    """How many numbers are trained, of the layers' sizes alone.

    Math: a convolution or linear layer has J I k² + J, batch normalisation 2 C.
    """
    return sum(_weights(layer) + _biases(layer) + _normalisation(layer) for _, layer in model.walk())


def size_at_caps(model: Sequential, cap: int) -> TaskSize:
    """What a later task adds when layer l has the rank min(I_l, J_l, cap) and no factor entry is zero.

    Math: scalings Σ_l (I_l + J_l), factors Σ_l r_l (I_l + J_l), normalisation 2 Σ C, head its weights and biases.
    """
    layers: list[Any] = list(decomposed_layers(model, HEAD).values())
    head: Any = model.layers[HEAD]
    factors = sum(min(layer.inputs, layer.outputs, cap) * (layer.inputs + layer.outputs) for layer in layers)
    return TaskSize(
        scalings=sum(layer.inputs + layer.outputs for layer in layers),
        factors_sparse=factors,
        factors_dense=factors,
        batchnorm=sum(_normalisation(layer) for _, layer in model.walk()),
        head=_weights(head) + _biases(head),
        bias=sum(_biases(layer) for layer in layers),
        running_stats=sum(_normalisation(layer) for _, layer in model.walk() if layer.buffers),
    )


def _weights(layer: Any) -> int:
    """Entries of a layer's weight, 0 for a layer without one."""
    if not isinstance(layer, Linear | Conv2d):
        return 0
    window = layer.kernel**2 if isinstance(layer, Conv2d) else 1
    return layer.inputs * layer.outputs * window


def _biases(layer: Any) -> int:
    """Entries of a layer's bias."""
    return layer.outputs if isinstance(layer, Linear | Conv2d) else 0


def _normalisation(layer: Any) -> int:
    """Entries of the scale and the shift of batch normalisation."""
    return 2 * layer.channels if "gamma" in layer.trainable else 0
