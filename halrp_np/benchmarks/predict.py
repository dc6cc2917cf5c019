"""A finished run, or the learned part of one, opened again to answer."""

from __future__ import annotations

import operator
import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..backend import Device, to_host
from ..errors import ConfigError, ResumeError, ShapeError
from ..layers import EVALUATE, inference
from ..runs import checkpoint
from ..runs.record import RunFolder
from .catalog import new_method
from .checks import same_config, state_not_lost
from .config import read_config
from .session import STATE


class TrainedRun:
    """The networks of a run folder's learned tasks.

    Raises: ResumeError when the folder holds no learned task or is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu") -> None:
        folder = RunFolder.open(path)
        self.config, protocol = read_config(folder)
        state_not_lost(folder)
        if not checkpoint.exists(folder.checkpoints, STATE):
            raise ResumeError(
                str(path),
                expected="a run with at least one learned task",
                received="none yet",
                next_step=f"Continue it with `halrp-np resume {path}`.",
            )
        same_config(folder, [STATE])
        arrays, meta = checkpoint.load(folder.checkpoints, STATE)
        saved: Any = meta
        self.shape = tuple(protocol["image_shape"])
        self.device, self.dtype = Device(device), np.dtype(self.config.dtype)
        self.method = new_method(self.config, self.shape, self.device)
        self.method.load(arrays, saved["method"])
        self.tasks = len(saved["accuracy"]["test"])

    def logits(self, task: int, images: ArrayLike) -> np.ndarray[Any, Any]:
        """The outputs for normalised images, N first.

        Shapes: images (N, C, H, W), floating -> (N, K).
        Raises: ConfigError for a task that was not learned; ShapeError for other images than the run's, raw pixels, or
        NaN.
        """
        model, params = inference(*self.method.network(_whole_number(task)))
        found = self._checked(images)
        size = self.config.images_asked
        some = found if len(found) else np.zeros((1, *self.shape))  # so that no image gives (0, K) too
        parts = []
        for first in range(0, len(some), size):
            batch = np.ascontiguousarray(np.moveaxis(some[first : first + size], 0, -1), dtype=self.dtype)
            outputs, _ = model.forward(params, self.device.to_device(batch), EVALUATE)
            parts.append(to_host(outputs).T)
        return np.concatenate(parts)[: len(found)]

    def predict(self, task: int, images: ArrayLike) -> np.ndarray[Any, Any]:
        """The class of each image, local to the task; shapes and errors as `logits`."""
        return np.asarray(self.logits(task, images).argmax(axis=1))

    def _checked(self, images: ArrayLike) -> np.ndarray[Any, Any]:
        """The images as a floating array of the run's shape."""
        try:
            found = np.asarray(images)
            received = f"shape {found.shape}, {found.dtype}"
            fits = found.ndim == 4 and found.shape[1:] == self.shape and found.dtype.kind == "f"
        except (TypeError, ValueError) as error:  # an array of another device, a ragged list
            fits, received = False, f"a {type(images).__name__} ({error})"
        if fits and np.isfinite(found).all():
            return found
        raise ShapeError(
            "predict",
            expected=f"finite normalised images, floating (N, {', '.join(str(n) for n in self.shape)})",
            received=received + (", not all finite numbers" if fits else ""),
            next_step="Use Images.arrays of the run's stream, or resize and normalise as its protocol says.",
        )


def _whole_number(task: object) -> int:
    """The task's position from any kind of integer."""
    try:
        return operator.index(task)  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(
            "task",
            expected="a whole number",
            received=repr(task),
            next_step="Pass the task's position, 0 for the first.",
        ) from error
