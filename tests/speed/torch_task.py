"""The first tasks of permuted MNIST in plain PyTorch, as the released code learns them, from start to end of a process.

    python tests/speed/torch_task.py ORDER.json

`halrp-np time --what task --against torch` starts it. What the released code does slowly for no result is done well:
batches are cut out of one tensor instead of being collected image by image, and its column fit is one sum instead of
an outer product. Pruning is left out: with one task to add, the growth is within the budget, and nothing happens.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch_peer import LAYERS, LeNet, Perturbed, Trainer

Subset = tuple[Tensor, Tensor]


def read(path: Path) -> np.ndarray:
    """An array in the IDX format."""
    content = path.read_bytes()
    sizes = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sizes)


def pixels(folder: Path, part: str) -> Subset:
    """Images of 3x32x32 as rows of 3072, normalised, and labels."""
    digits = torch.from_numpy(read(folder / f"{part}-images-idx3-ubyte").astype(np.float32))[:, None]
    digits = functional.interpolate(digits, size=(32, 32), mode="bilinear", antialias=True).round()
    rows = ((digits / 255 - 0.1307) / 0.3081).flatten(1).repeat(1, 3)
    return rows, torch.from_numpy(read(folder / f"{part}-labels-idx1-ubyte").astype(np.int64))


def permutation(size: int, seed: int) -> np.ndarray:
    order = np.arange(size)
    np.random.RandomState(seed).shuffle(order)
    return order


class Run:
    """The tasks learned so far, and the base weights that they share."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order, self.batch, self.device = order, order["batch"], order["device"].replace("gpu", "cuda")
        torch.manual_seed(0)
        folder = Path(order["data"])
        self.train, self.test = pixels(folder, "train"), pixels(folder, "t10k")
        self.held_out = int(len(self.train[1]) * order["validation_share"])
        images = 50000 / order["tasks"] * (1 - order["validation_share"])
        self.gamma = 0.95 ** (self.batch / images)
        self.learned: list[tuple[LeNet, dict[str, Subset]]] = []

    def subsets(self, position: int) -> dict[str, Subset]:
        """Training, validation and test images of one task, its pixels permuted."""
        identity = int(permutation(self.order["tasks"], 0)[position])
        pixel = torch.from_numpy(permutation(3072, 100 * identity + position))
        (x, y), (x_test, y_test) = self.train, self.test
        x, x_test = (rows[:, pixel].reshape(-1, 3, 32, 32).to(self.device) for rows in (x, x_test))
        y, y_test, n = y.to(self.device), y_test.to(self.device), self.held_out
        return {"train": (x[n:], y[n:]), "validation": (x[:n], y[:n]), "test": (x_test, y_test)}

    def fit(self, net: LeNet, epochs: int, data: Subset, penalised: bool) -> None:
        """One phase with an optimizer and a schedule of its own."""
        net.train()
        trainer, (x, y) = Trainer(net, self.gamma, penalised), data
        for _ in range(epochs):
            for rows in torch.randperm(len(y)).split(self.batch):
                if len(rows) == self.batch:
                    trainer.step(x[rows], y[rows])

    def learn(self, position: int) -> None:
        """A base task, or a later one: warm-up, importance, scalings, residuals, factors, training."""
        data, epochs = self.subsets(position), self.order["epochs"]
        if position == 0:
            net = LeNet(tuple(self.order["widths"])).to(self.device)
            self.fit(net, epochs, data["train"], penalised=True)
        else:
            net = self.perturbed(data)
            self.fit(net, epochs - 1, data["train"], penalised=True)
        self.learned.append((net, data))

    def perturbed(self, data: dict[str, Subset]) -> Perturbed:
        """The network of a later task, ready to be trained."""
        base, widths = self.learned[0][0], tuple(self.order["widths"])
        free, net = LeNet(widths).to(self.device), Perturbed(widths).to(self.device)
        head = {name: value for name, value in free.state_dict().items() if name.startswith("head")}
        free.load_state_dict({**base.state_dict(), **head})
        self.fit(free, 1, data["train"], penalised=False)
        self.importance(free, data["validation"])
        shared = {f"{name}.weight": getattr(base, name).weight.detach() for name in LAYERS}
        net.load_state_dict({**free.state_dict(), **shared})
        net.perturb(self.factors(free, shared))
        return net

    def importance(self, free: LeNet, data: Subset) -> list[float]:
        """Batch size times the mean squared gradient of the batch's mean loss, averaged over batches."""
        free.eval()
        weights, totals, (x, y) = [getattr(free, name).weight for name in LAYERS], [0.0] * len(LAYERS), data
        for images, labels in zip(x.split(self.batch), y.split(self.batch), strict=True):
            gradients = torch.autograd.grad(functional.cross_entropy(free(images), labels), weights)
            totals = [a + len(labels) * float((g**2).mean()) for a, g in zip(totals, gradients, strict=True)]
        return totals

    def factors(self, free: LeNet, shared: dict[str, Tensor]) -> dict[str, Tensor]:
        """R and S by their fits, A and B from the singular value decomposition of what they leave."""
        found = {}
        for name in LAYERS:
            W, F = shared[f"{name}.weight"], getattr(free, name).weight.detach()
            rest, others = tuple(range(1, W.ndim)), (0, *range(2, W.ndim))
            R = (F * W).sum(rest) / (W * W).sum(rest).clamp_min(1e-20)
            S = R.sum() * (F * W).sum(others) / ((R * R).sum() * (W * W).sum(others)).clamp_min(1e-20)
            window = (1,) * (W.ndim - 2)
            E = F - R.reshape(-1, 1, *window) * W * S.reshape(1, -1, *window)
            U, s, Vt = torch.linalg.svd(E if E.ndim == 2 else E.mean((2, 3)), full_matrices=False)
            root = s[: self.order["rank"]].sqrt()
            found |= {f"{name}.R": R, f"{name}.S": S}
            found |= {f"{name}.A": root[:, None] * Vt[: len(root)], f"{name}.B": U[:, : len(root)] * root}
        return found

    @torch.no_grad()
    def accuracies(self, part: str) -> list[float]:
        """Percent on every task so far."""
        found = []
        for net, data in self.learned:
            net.eval()
            x, y = data[part]
            parts = zip(x.split(self.order["evaluation_batch"]), y.split(self.order["evaluation_batch"]), strict=True)
            right = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in parts)
            found.append(100 * right / len(y))
        return found


def main(path: str) -> None:
    order = json.loads(Path(path).read_text(encoding="utf-8"))
    torch.set_num_threads(order["threads"])
    run = Run(order)
    for position in range(order["learn"]):
        run.learn(position)
        accuracy = {part: run.accuracies(part) for part in ("validation", "test")}
    print(json.dumps({"accuracy": accuracy["test"]}))


if __name__ == "__main__":
    main(sys.argv[1])
