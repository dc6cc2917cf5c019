"""A finished run, or the learned part of one, opened again to answer."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..backend import Device, Streams, to_host
from ..errors import ResumeError, ShapeError
from ..layers import EVALUATE
from ..methods import make_method
from ..models import build
from ..runs import checkpoint
from ..runs.record import RunFolder
from .config import read_config
from .session import STATE


class TrainedRun:
    """The networks of a run folder's learned tasks.

    Raises: ResumeError when the folder holds no learned task or is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu") -> None:
        folder = RunFolder.open(path)
        self.config, protocol = read_config(folder)
        self.shape = tuple(protocol["image_shape"])
        if not checkpoint.exists(folder.checkpoints, STATE):
            raise ResumeError(
                str(path),
                expected="a run with at least one learned task",
                received="none yet",
                next_step=f"Continue it with `halrp-np resume {path}`.",
            )
        arrays, meta = checkpoint.load(folder.checkpoints, STATE)
        saved: Any = meta
        self.device = Device(device)
        self.dtype = np.dtype(self.config.dtype)
        builder = build(self.config.model, self.shape, self.config.widths)
        self.method = make_method(
            self.config.method,
            builder,
            self.config,
            device=self.device,
            dtype=self.dtype,
            streams=Streams(self.config.seed),
        )
        self.method.load(arrays, saved["method"])
        self.tasks = len(saved["accuracy"])

    def logits(self, task: int, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The outputs for normalised images, N first.

        Shapes: images (N, C, H, W) -> (N, K).
        Raises: ConfigError for a task that was not learned; ShapeError for other images than the run's, or NaN.
        """
        model, params = self.method.network(task)
        finite = images.dtype.kind in "fiub" and bool(np.isfinite(images).all())
        if images.ndim != 4 or images.shape[1:] != self.shape or not finite:
            raise ShapeError(
                "predict",
                expected=f"finite images (N, {', '.join(str(n) for n in self.shape)})",
                received=f"shape {images.shape}, {images.dtype}" + ("" if finite else ", not all finite numbers"),
                next_step="Use Images.arrays of the run's stream, or resize and normalise as its protocol says.",
            )
        size = self.config.evaluation_batch
        some = images if len(images) else np.zeros((1, *self.shape))  # so that no image gives (0, K) too
        parts = []
        for first in range(0, len(some), size):
            batch = np.ascontiguousarray(np.moveaxis(some[first : first + size], 0, -1), dtype=self.dtype)
            outputs, _ = model.forward(params, self.device.to_device(batch), EVALUATE)
            parts.append(to_host(outputs).T)
        return np.concatenate(parts)[: len(images)]

    def predict(self, task: int, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The class of each image, local to the task; shapes and errors as `logits`."""
        return np.asarray(self.logits(task, images).argmax(axis=1))
