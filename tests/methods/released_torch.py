"""An oracle: the released algorithm written again in PyTorch with autograd, recording what it does as a trace.

It shares no code with halrp_np and keeps the released form of each step: two branches for a convolution, the outer
product in the column fit, penalties inside the loss, gradients times ten, percentiles by NumPy. `record(...)` returns
the arrays of a trace as tests/official_trace.py reads them.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Trace = dict[str, Any]
LAYERS = {  # positions of the decomposed layers; the normalisation of each is the next
    "LeNet": (0, 4, 9, 12),
    "ResNet18": (0, 3, 6, 9, 12, 15, 18, 20, 22, 25, 28, 31, 33, 35, 38, 41, 44, 46, 48, 51),
}
TORCH = torch.float64
torch.set_num_threads(1)  # arrays this small gain nothing from more

CONFIG: dict[str, Any] = {
    "model": "LeNet",
    "img_sz": 8,
    "batch": 16,
    "tasks": 3,
    "out_dim": 5,
    "n_epochs": 3,
    "estRank_epoch": 1,
    "lr": 1e-3,
    "momentum": 0.9,
    "optimizer": "Adam",
    "schedule_gamma": 0.999,
    "rankMethod": "imp",
    "upper_rank": 100,
    "approxiRate": 0.9,
    "l1_hyp": 1e-4,
    "wd_rate": 1e-3,
    "prune_method": "mixAR_AllLayer",
    "prune_boundAlltask": True,
    "prune_value": [1e-5, 0.4],
}


class Features(nn.Sequential):
    """The flat list of the released networks; `blocks`: first position -> first of the shortcut, end of the block."""

    def __init__(self, modules: list[nn.Module], blocks: dict[int, tuple[int, int]]) -> None:
        super().__init__(*modules)
        self.blocks = blocks

    def forward(self, x: Tensor, layer: Any = None) -> Tensor:
        """`layer(position, x)` takes the place of every module where given."""
        layer, number = layer or (lambda number, x: self[number](x)), 0
        while number < len(self):
            shortcut, end = self.blocks.get(number, (number + 1, number + 1))
            y, across = x, x
            for inside in range(number, shortcut):
                y = layer(inside, y)
            for inside in range(shortcut, end):
                across = layer(inside, across)
            x = functional.relu(y + across) if number in self.blocks else y
            number = end
        return x


def lenet(size: int, widths: tuple[int, int, int, int]) -> tuple[Features, int]:
    """LeNet without its head, and the number of values that the head gets."""
    a, b, c, d = widths
    flat = b * (size // 4) ** 2
    modules = [
        *(nn.Conv2d(3, a, 5, 1, 2), nn.BatchNorm2d(a), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(a, b, 5, 1, 2), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(flat, c), nn.BatchNorm1d(c), nn.ReLU()),
        *(nn.Linear(c, d), nn.BatchNorm1d(d), nn.ReLU()),
    ]
    return Features(modules, {}), d


def resnet18(size: int, widths: tuple[int, int, int, int]) -> tuple[Features, int]:
    """ResNet18 without its head, and the number of values that the head gets."""
    a = widths[0]
    modules: list[nn.Module] = [nn.Conv2d(3, a, 3, 1, 1), nn.BatchNorm2d(a), nn.ReLU()]
    blocks = {}
    for stage, b in enumerate(widths):
        for stride in (2 if stage else 1, 1):
            start = len(modules)
            modules += [nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU()]
            modules += [nn.Conv2d(b, b, 3, 1, 1), nn.BatchNorm2d(b)]
            modules += [nn.Identity()] if stride == 1 else [nn.Conv2d(a, b, 1, stride), nn.BatchNorm2d(b)]
            blocks[start], a = (start + 5, len(modules)), b
    return Features([*modules, nn.AvgPool2d(2), nn.Flatten()], blocks), a * (size // 16) ** 2


def build(config: Trace, widths: tuple[int, int, int, int]) -> nn.ModuleDict:
    """A network in the released numbering of `features`, and its head."""
    make = {"LeNet": lenet, "ResNet18": resnet18}[config["model"]]
    features, values = make(config["img_sz"], widths)
    return nn.ModuleDict({"features": features, "last": nn.Linear(values, config["out_dim"])}).to(TORCH)


def state_of(net: nn.ModuleDict) -> dict[str, Any]:
    """Every parameter and buffer as NumPy copies."""
    return {name: value.detach().numpy().copy() for name, value in net.state_dict().items()}


class Perturbed:
    """Task t ≥ 1: its free network's biases, normalisation and head, the frozen base weights, and R, S, A, B."""

    def __init__(self, net: nn.ModuleDict, base: dict[int, Tensor]) -> None:
        self.net, self.base = net, base
        self.layers = tuple(base)
        self.R: dict[int, nn.Parameter] = {}
        self.S: dict[int, nn.Parameter] = {}
        self.A: dict[int, nn.Parameter] = {}
        self.B: dict[int, nn.Parameter] = {}

    def layer(self, number: int, x: Tensor) -> Tensor:
        """One module; a decomposed layer as two branches, the low-rank one of a convolution with a box sum inside."""
        module = self.net["features"][number]
        if number not in self.layers:
            return module(x)
        W = self.base[number]
        R, S, A, B = self.R[number], self.S[number], self.A[number], self.B[number]
        if isinstance(module, nn.Linear):
            return functional.linear(x * S, W) * R + module.bias + functional.linear(functional.linear(x, A), B)
        k, stride, padding = module.kernel_size, module.stride, module.padding
        scaled = functional.conv2d(x * S[:, None, None], W, None, stride, padding) * R[:, None, None]
        inner = functional.conv2d(x, A[:, :, None, None])
        box = functional.avg_pool2d(inner, k, stride, padding) * (k[0] * k[1])
        return scaled + module.bias[:, None, None] + functional.conv2d(box, B[:, :, None, None])

    def __call__(self, x: Tensor) -> Tensor:
        return self.net["last"](self.net["features"](x, self.layer))

    def parameters(self) -> list[nn.Parameter]:
        """What is trained, in the released order."""
        features = self.net["features"]
        norms = [p for number in self.layers for p in features[number + 1].parameters()]
        own = [group[number] for group in (self.S, self.R, self.A, self.B) for number in self.layers]
        return [*self.net["last"].parameters(), *(features[number].bias for number in self.layers), *norms, *own]


class Released:
    """The released agent for a short stream, writing down everything a trace holds."""

    def __init__(self, config: Trace, data: Trace, widths: tuple[int, int, int, int]) -> None:
        self.config, self.data, self.widths = config, data, widths
        self.layers = LAYERS[config["model"]]
        self.norms = tuple(number + 1 for number in self.layers)
        self.out: Trace = dict(data)
        self.rows: list[list[float]] = []
        self.tasks: list[Perturbed] = []

    def batches(self, task: int, part: str) -> list[tuple[Tensor, Tensor]]:
        """Batches in the stored order, the last partial one kept."""
        x, y = (torch.from_numpy(self.data[f"task{task}/{kind}_{part}"]) for kind in "xy")
        return list(zip(x.split(self.config["batch"]), y.split(self.config["batch"]), strict=True))

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if self.config["optimizer"] == "SGD":
            return torch.optim.SGD(parameters, lr=self.config["lr"], momentum=self.config["momentum"])
        return torch.optim.Adam(parameters, lr=self.config["lr"])

    def train(self, task: int, epochs: int, model: Any, parameters: list[nn.Parameter], penalty: Any) -> None:
        """One phase; `penalty` is None when nothing is regularised."""
        optimizer = self.optimizer(parameters)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.config["schedule_gamma"])
        for _ in range(epochs):
            for x, y in self.batches(task, "train"):
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(x), y)
                loss = loss if penalty is None else loss + penalty()
                loss.backward()
                for parameter in parameters:
                    parameter.grad *= 10
                optimizer.step()
                scheduler.step()
                self.rows.append([task, float(penalty is not None), float(loss.detach())])

    def fresh(self, task: int) -> nn.ModuleDict:
        """A network with initial values; of a later task's, only the head stays."""
        return build(self.config, self.widths)

    def run(self) -> Trace:
        epochs, warm_up = self.config["n_epochs"], self.config["estRank_epoch"]
        self.net = self.fresh(0)
        self.put("init", state_of(self.net))
        weights = [self.net["features"][number].weight for number in self.layers]
        decay = self.config["wd_rate"]
        penalty = lambda: decay * sum(0.5 * (W * W).sum() for W in weights)  # noqa: E731
        self.train(0, epochs, self.forward(self.net.train()), list(self.net.parameters()), penalty)
        self.put("after_task0/base", state_of(self.net))
        self.base = {number: self.net["features"][number].weight.detach().clone() for number in self.layers}
        self.N0 = sum(p.numel() for p in self.net.parameters())
        self.close(0)
        for task in range(1, self.config["tasks"]):
            self.learn(task, epochs, warm_up)
        lowered = {**self.config, "n_epochs": epochs - warm_up if self.config["tasks"] > 1 else epochs}
        return {**self.out, "losses": np.array(self.rows), "config": json.dumps(lowered)}

    def learn(self, task: int, epochs: int, warm_up: int) -> None:
        """A later task: warm-up, ranks, perturbation, pruning."""
        free = self.fresh(task)
        free["features"].load_state_dict(self.net["features"].state_dict())
        self.put(f"task{task}/start", state_of(free))
        self.train(task, warm_up, self.forward(free.train()), list(free.parameters()), None)
        self.put(f"task{task}/free", state_of(free))
        importance = self.importance(free, task)
        model = Perturbed(free, self.base)
        self.fit(task, model, importance)
        penalty = lambda: self.penalty(model)  # noqa: E731
        free.train()
        self.train(task, epochs - warm_up, model, model.parameters(), penalty)
        for number in self.layers:
            B, A = model.B[number].detach(), model.A[number].detach()
            values = {"S": model.S[number], "R": model.R[number], "row": B, "col": A, "lowrank": B @ A}
            for name, value in values.items():
                self.out[f"task{task}/{name}_trained/{number}"] = value.detach().numpy().copy()
        self.tasks.append(model)
        self.prune()
        self.close(task)

    def importance(self, free: nn.ModuleDict, task: int) -> dict[int, float]:
        """Batch size times the mean squared gradient of the batch's mean loss, averaged over batches; eval mode."""
        free.eval()
        weights, batches = [free["features"][n].weight for n in self.layers], self.batches(task, "val")
        total = dict.fromkeys(self.layers, 0.0)
        for x, y in batches:
            grads = torch.autograd.grad(functional.cross_entropy(self.forward(free)(x), y), weights)
            for number, g in zip(self.layers, grads, strict=True):
                total[number] += len(y) * float((g**2).mean()) / len(batches)
        for number, value in total.items():
            self.out[f"task{task}/importance/{number}"] = np.array(value)
        return total

    def fit(self, task: int, model: Perturbed, importance: dict[int, float]) -> None:
        """R, S, the residual's decomposition, the global threshold, and the factors to start from."""
        parts, scores, owners = {}, [], []
        for number in self.layers:
            W, F = self.base[number], model.net["features"][number].weight.detach()
            rest = tuple(range(1, W.ndim))
            R = (F * W).sum(rest) / (W * W).sum(rest).clamp_min(1e-20)
            column = R.reshape(-1, *[1] * (W.ndim - 1))  # (J, 1[, 1, 1]) times a slice (J[, a, b]): an outer product
            S = torch.stack(
                [
                    (column * W[:, i] * F[:, i]).sum() / ((column * W[:, i]) ** 2).sum().clamp_min(1e-20)
                    for i in range(W.shape[1])
                ]
            )
            across = (1, -1) if W.ndim == 2 else (1, -1, 1, 1)
            E = F - column * W * S.reshape(across)
            U, s, Vt = torch.linalg.svd(E if E.ndim == 2 else E.mean((2, 3)), full_matrices=False)
            window = W[0, 0].numel()
            parts[number] = (U, s, Vt)
            scores.append((window * s**2 * importance[number]).numpy())
            owners += [number] * len(s)
            model.R[number], model.S[number] = nn.Parameter(R.clone()), nn.Parameter(S.clone())
            self.out[f"task{task}/R0/{number}"], self.out[f"task{task}/S0/{number}"] = R.numpy(), S.numpy()
        ranks = self.ranks(np.concatenate(scores), np.array(owners))
        for number in self.layers:
            rank, (U, s, Vt) = ranks[number], parts[number]
            root = s[:rank].sqrt()
            model.A[number], model.B[number] = nn.Parameter(root[:, None] * Vt[:rank]), nn.Parameter(U[:, :rank] * root)
            self.out[f"task{task}/rank/{number}"] = np.array(rank)
            self.out[f"task{task}/lowrank0/{number}"] = (model.B[number] @ model.A[number]).detach().numpy()
        self.out[f"task{task}/weighted_loss"] = np.array([c.sum() for c in scores])
        kept = [c[: ranks[number]].sum() / c.sum() for number, c in zip(self.layers, scores, strict=True)]
        self.out[f"task{task}/explained"] = np.array(kept)

    def ranks(self, scores: np.ndarray, owners: np.ndarray) -> dict[int, int]:
        """The first position whose cumulative share is above the threshold, inclusive; then 1 to the cap."""
        cap = self.config["upper_rank"]
        if self.config["rankMethod"] == "flat":
            return dict.fromkeys(self.layers, cap)
        order = np.argsort(scores)[::-1]
        running = np.cumsum(scores[order])
        kept = owners[order][: int(np.argmax(running / running[-1] > self.config["approxiRate"])) + 1]
        return {number: min(max(int((kept == number).sum()), 1), cap) for number in self.layers}

    def penalty(self, model: Perturbed) -> Tensor:
        """l1 on A and B, half the squares of S, R, A and B."""
        l1 = sum(group[n].abs().sum() for group in (model.A, model.B) for n in self.layers)
        l2 = sum(0.5 * (group[n] ** 2).sum() for group in (model.S, model.R, model.A, model.B) for n in self.layers)
        return self.config["l1_hyp"] * l1 + self.config["wd_rate"] * l2

    def counts(self) -> tuple[int, int]:
        """The released count, sparse and dense: no biases, no running statistics."""
        sparse = dense = self.N0
        for model in self.tasks:
            kept = [*model.S.values(), *model.R.values(), *model.net["last"].parameters()]
            kept += [p for number in self.norms for p in model.net["features"][number].parameters()]
            factors = [*model.A.values(), *model.B.values()]
            fixed = sum(p.numel() for p in kept)
            sparse += fixed + sum(int((p.abs() > 1e-8).sum()) for p in factors)
            dense += fixed + sum(p.numel() for p in factors)
        return sparse, dense

    def prune(self) -> None:
        """The seven rules; factors of every task so far are candidates."""
        rule, values = self.config["prune_method"], self.config["prune_value"]
        mixed, floor = rule.startswith("mixAR"), values[0]
        rho = values[1] if mixed else values[0]
        if self.config["prune_boundAlltask"] and rule != "absolute":
            budget, increase = 1 - rho, self.counts()[1] / self.N0 - 1
            if increase < budget:
                return
            rho = 1 - budget / increase
        cells = [(task, n, (m.A[n], m.B[n])) for task, m in enumerate(self.tasks) for n in self.layers]
        if rule == "absolute" or rule.endswith("AllLayerAllTask"):
            pools = [cells]
        elif rule.endswith("AllLayer"):
            pools = [[cell for cell in cells if cell[0] == task] for task in range(len(self.tasks))]
        else:
            pools = [[cell] for cell in cells]
        for pool in pools:
            arrays = [p.data for _, _, pair in pool for p in pair]
            entries = np.concatenate([a.abs().numpy().ravel() for a in arrays])
            threshold = floor if rule == "absolute" else float(np.percentile(entries, 100 * rho))
            threshold = max(threshold, floor) if mixed else threshold
            for array in arrays:
                array *= array.abs() > threshold

    def close(self, task: int) -> None:
        """What is recorded when a task is over."""
        prefix, (sparse, dense) = f"after_task{task}", self.counts()
        self.out[f"{prefix}/count_sparse"], self.out[f"{prefix}/count_dense"] = np.array(sparse), np.array(dense)
        self.out[f"{prefix}/capacity_increase"] = np.array(round(sparse / self.N0 - 1, 3))
        for seen in range(task + 1):
            model = self.forward(self.net.eval()) if seen == 0 else self.tasks[seen - 1]
            if seen:
                self.tasks[seen - 1].net.eval()
            with torch.no_grad():
                logits = model(torch.from_numpy(self.data[f"task{seen}/x_val"]))
            self.out[f"{prefix}/logits_val/{seen}"] = logits.numpy()
        for earlier, model in enumerate(self.tasks, start=1):
            for number in self.layers:
                for name, value in (("row", model.B[number]), ("col", model.A[number])):
                    self.out[f"{prefix}/task{earlier}/{name}/{number}"] = value.detach().numpy().copy()
        if task:
            state = state_of(self.tasks[-1].net)
            norms = [f"features.{n}.{e}" for n in self.norms for e in ("weight", "bias", "running_mean", "running_var")]
            self.put(f"{prefix}/bn", {name: state[name] for name in norms})
            self.put(f"{prefix}/bias", {str(number): state[f"features.{number}.bias"] for number in self.layers})
            self.put(f"{prefix}/head", {entry: state[f"last.{entry}"] for entry in ("weight", "bias")})

    def put(self, prefix: str, values: Trace) -> None:
        self.out.update({f"{prefix}/{name}": value for name, value in values.items()})

    @staticmethod
    def forward(net: nn.ModuleDict) -> Any:
        return lambda x: net["last"](net["features"](x))


def record(
    seed: int,
    *,
    widths: tuple[int, int, int, int] = (4, 6, 24, 16),
    train: int = 48,
    validation: int = 32,
    **changes: Any,
) -> Trace:
    """A trace of the oracle on random images whose classes differ in the mean; `changes` go into the configuration."""
    config = {**CONFIG, **changes}
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    size, data = config["img_sz"], {}
    for task in range(config["tasks"]):
        centres = draw.normal(size=(config["out_dim"], 3, size, size))
        for part, count in (("train", train), ("val", validation)):
            y = draw.integers(0, config["out_dim"], count)
            data[f"task{task}/x_{part}"] = 0.5 * centres[y] + draw.normal(size=(count, 3, size, size))
            data[f"task{task}/y_{part}"] = y
    return Released(config, data, widths).run()
