"""What all methods have in common, whatever they learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from ..backend import Device, Streams
from ..errors import ConfigError
from ..layers import Sequential
from ..typing import Params
from .base import HEAD, HostArrays, MethodTask, below, layer_names
from .settings import TrainingSettings
from .trainer import Trainer


class Learned:
    """A method's settings, how it trains, and the number of classes of each task.

    `build` maps a number of classes to a network. What most methods do is here: a task's network is what its tensors
    say, and no ranks are chosen.
    """

    settings_class: ClassVar[type[TrainingSettings]] = TrainingSettings

    def __init__(
        self,
        build: Callable[[int], Sequential],
        settings: TrainingSettings,
        *,
        device: Device,
        dtype: Any,
        streams: Streams,
    ) -> None:
        self.build, self.device, self.dtype, self.streams = build, device, dtype, streams
        self.trainer = Trainer(settings, streams)
        self.classes: list[int] = []

    @property
    def learned(self) -> int:
        """How many tasks have been learned."""
        raise NotImplementedError

    def expect_next(self, task: MethodTask) -> None:
        """Count the task in.

        Raises: ConfigError when tasks are skipped, repeated, or offered again after a failure.
        """
        learned = self.learned
        if task.position != learned:
            raise ConfigError(
                "learn",
                expected=f"task {learned}, the next of the stream",
                received=f"task {task.position}",
                next_step="Learn tasks once and in order, with a new method or one loaded from a saved state.",
            )
        self.classes = [*self.classes[:learned], task.classes]

    def fresh_params(self, model: Sequential, position: int) -> Params:
        """Initial parameters, drawn on the host from this task's stream."""
        host = model.init(self.streams.generator("init", position), self.dtype)
        return {name: self.device.to_device(value) for name, value in host.items()}

    def fresh_head(self, model: Sequential, position: int) -> Params:
        """Initial parameters of the head alone."""
        host = model.layers[HEAD].init(self.streams.generator("head", position), self.dtype)
        return {f"{HEAD}.{name}": self.device.to_device(value) for name, value in host.items()}

    def model(self, position: int) -> Sequential:
        """The network of a task that has been learned, without its numbers.

        Raises: ConfigError when it has not.
        """
        if not 0 <= position < self.learned:
            raise ConfigError(
                "task",
                expected=f"a learned task, 0 to {self.learned - 1}"
                if self.learned
                else "a learned task; there is none",
                received=str(position),
                next_step="Choose one of these, or let the run learn more tasks.",
            )
        return self.build(self.classes[position])

    def layers(self) -> list[str]:
        """The layers with weights, the head not among them, in network order; they are the same for every task."""
        return layer_names(self.build(self.classes[0]))

    def tensors(self, position: int) -> Params:
        """Every named tensor that answers for the task at that position.

        Raises: ConfigError when it has not been learned.
        """
        raise NotImplementedError

    def network(self, position: int, tensors: Params | None = None) -> tuple[Sequential, Params]:
        """The network of the task, of its own tensors or of others in their place.

        Raises: ConfigError when it has not been learned.
        """
        return self.model(position), self.tensors(position) if tensors is None else tensors

    def base_parameters(self) -> int:
        """Parameters of task 0's network, head included; running statistics are no parameters."""
        own = self.tensors(0)
        return sum(int(own[name].size) for name in self.model(0).trainable)

    def rank_rows(self) -> list[dict[str, Any]]:
        """None: no ranks are chosen."""
        return []

    def placed(self, arrays: HostArrays, prefix: str) -> Params:
        """The arrays under a prefix, on the device, by what follows it."""
        return {name: self.device.to_device(value) for name, value in below(arrays, prefix).items()}
