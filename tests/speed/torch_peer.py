"""The same network, batch and optimizer in plain PyTorch, as the released code does it; shares no code with halrp_np.

    python tests/speed/torch_peer.py PROBLEM DEVICE THREADS

`halrp-np time --against torch` starts it and gives it orders, a line of JSON each, as to its own process. Penalties are
in the loss, gradients are multiplied by ten, the rate falls after every step, Adam is PyTorch's default; a perturbed
convolution has two branches. `fused Adam`, `merged` and `folded` are what a user could do about it: another Adam, one
dense kernel a layer, and normalisation moved into the weights.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

LAYERS = ("conv1", "conv2", "fc1", "fc2")
LR, GAMMA, DECAY, L1, SCALE = 1e-3, 0.99836, 1e-3, 1e-6, 10
OURS = {"weight": "gamma", "bias": "beta"}  # the other side's names of a normalisation's parameters


class LeNet(nn.Module):
    """Two convolutions and two linear layers, each with normalisation and ReLU, and a head."""

    def __init__(self, widths: tuple[int, ...] = (20, 50, 800, 500), classes: int = 10, side: int = 32) -> None:
        super().__init__()
        a, b, c, d = widths
        self.conv1, self.norm1 = nn.Conv2d(3, a, 5, padding=2), nn.BatchNorm2d(a)
        self.conv2, self.norm2 = nn.Conv2d(a, b, 5, padding=2), nn.BatchNorm2d(b)
        self.fc1, self.norm3 = nn.Linear(b * (side // 4) ** 2, c), nn.BatchNorm1d(c)
        self.fc2, self.norm4 = nn.Linear(c, d), nn.BatchNorm1d(d)
        self.head = nn.Linear(d, classes)

    def layer(self, name: str, x: Tensor) -> Tensor:
        return getattr(self, name)(x)

    def forward(self, x: Tensor) -> Tensor:
        for number, name in enumerate(LAYERS, start=1):
            x = torch.relu(getattr(self, f"norm{number}")(self.layer(name, x if number != 3 else x.flatten(1))))
            x = functional.max_pool2d(x, 2) if number < 3 else x
        return self.head(x)

    def fold(self) -> None:
        """Move each normalisation into the layer before it; for evaluation."""
        for number, name in enumerate(LAYERS, start=1):
            fold = fuse_conv_bn_eval if number < 3 else fuse_linear_bn_eval
            setattr(self, name, fold(getattr(self, name), getattr(self, f"norm{number}")))
            setattr(self, f"norm{number}", nn.Identity())

    def penalty(self) -> Tensor:
        return DECAY * sum(0.5 * (getattr(self, name).weight ** 2).sum() for name in LAYERS)

    def own(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained, under the other side's names."""
        for name, parameter in self.named_parameters():
            layer, entry = name.split(".")
            yield f"{layer}.{OURS[entry] if layer.startswith('norm') else entry}", parameter


class Perturbed(LeNet):
    """Frozen base weights under scalings R, S and factors A, B; biases, normalisation and head are the task's own."""

    merged = False

    def perturb(self, factors: dict[str, Tensor]) -> None:
        for name in LAYERS:
            getattr(self, name).weight.requires_grad_(False)
            for entry in "RSAB":
                setattr(self, f"{name}_{entry}", nn.Parameter(factors[f"{name}.{entry}"].clone()))

    def factors(self, name: str) -> list[nn.Parameter]:
        return [getattr(self, f"{name}_{entry}") for entry in "RSAB"]

    def layer(self, name: str, x: Tensor) -> Tensor:
        module = getattr(self, name)
        R, S, A, B = self.factors(name)
        if self.merged:
            return self.dense(module, x, R, S, B @ A)
        if isinstance(module, nn.Linear):
            low_rank = functional.linear(functional.linear(x, A), B)
            return functional.linear(x * S, module.weight) * R + module.bias + low_rank
        scaled = functional.conv2d(x * S[:, None, None], module.weight, None, 1, 2) * R[:, None, None]
        box = functional.avg_pool2d(functional.conv2d(x, A[:, :, None, None]), 5, 1, 2) * 25
        return scaled + module.bias[:, None, None] + functional.conv2d(box, B[:, :, None, None])

    def dense(self, module: nn.Module, x: Tensor, R: Tensor, S: Tensor, low_rank: Tensor) -> Tensor:
        if isinstance(module, nn.Linear):
            return functional.linear(x, R[:, None] * module.weight * S + low_rank, module.bias)
        kernel = R[:, None, None, None] * module.weight * S[:, None, None] + low_rank[:, :, None, None]
        return functional.conv2d(x, kernel, module.bias, 1, 2)

    def penalty(self) -> Tensor:
        pairs = [self.factors(name) for name in LAYERS]
        l1 = sum(A.abs().sum() + B.abs().sum() for _, _, A, B in pairs)
        return L1 * l1 + DECAY * sum(0.5 * (p**2).sum() for four in pairs for p in four)

    def own(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.named_parameters():
            if "_" in name:
                yield name.replace("_", "."), parameter
            elif parameter.requires_grad:
                layer, entry = name.split(".")
                yield f"{layer}.{OURS[entry] if layer.startswith('norm') else entry}", parameter


class Trainer:
    """An optimizer with its schedule over a network, and one step of it."""

    def __init__(self, net: LeNet, gamma: float = GAMMA, penalised: bool = True, **adam: Any) -> None:
        self.net, self.penalised, self.trained = net, penalised, [parameter for _, parameter in net.own()]
        self.optimizer = torch.optim.Adam(self.trained, lr=LR, **adam)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, gamma)

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.net(x), y)
        if self.penalised:
            loss = loss + self.net.penalty()
        loss.backward()
        for parameter in self.trained:
            parameter.grad *= SCALE
        self.optimizer.step()
        self.scheduler.step()

    def moments(self) -> dict[str, Any]:
        """Adam's first moments by the other side's names."""
        return {name: self.optimizer.state[parameter]["exp_avg"].cpu().numpy() for name, parameter in self.net.own()}


class Peer:
    """What is timed, on the parameters and the batch of a problem's file."""

    def __init__(self, path: str, device: str) -> None:
        self.device = torch.device("cpu" if device == "cpu" else device.replace("gpu", "cuda"))
        with np.load(path) as file:
            self.arrays = {name: file[name] for name in file.files}
        self.widths = tuple(int(width) for width in self.arrays["widths"])
        self.x, self.y = self.on_device("images"), self.on_device("labels")
        self.calls: dict[str, Callable[[], Any]] = {}

    def on_device(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name]).to(self.device)

    def net(self, kind: type[LeNet] = LeNet, group: str = "base") -> Any:
        """A network with the parameters of the file."""
        net = kind(self.widths)
        state = net.state_dict()
        for name in state:
            layer, entry = name.split(".")
            theirs = OURS.get(entry, entry) if layer.startswith("norm") else entry
            if entry != "num_batches_tracked":
                state[name] = torch.from_numpy(self.arrays[f"{group}/{layer}.{theirs}"])
        net.load_state_dict(state)
        return net.to(self.device)

    def perturbed(self) -> Perturbed:
        net = self.net(Perturbed, "perturbed")
        names = [f"{name}.{entry}" for name in LAYERS for entry in "RSAB"]
        net.perturb({name: self.on_device(f"perturbed/{name}") for name in names})
        return net

    def trainer(self, what: str) -> Trainer:
        """A fresh network and optimizer for one of the steps."""
        what, _, variant = what.partition(":")
        net = self.net() if what == "base_step" else self.perturbed()
        net.merged = variant == "merged"
        return Trainer(net, **({"fused": True} if variant == "fused Adam" else {}))

    def call(self, what: str) -> Callable[[], Any]:
        """The thing of that name as a call, made once."""
        if what not in self.calls:
            if what.startswith("evaluation"):
                net = self.net().eval()
                if what.endswith(":folded"):
                    net.fold()
                self.calls[what] = torch.no_grad()(lambda: net(self.x))
            elif what == "block_hvp":
                net = self.net().eval()
                self.calls[what] = lambda: {name: self.product(net, name) for name in LAYERS}
            else:
                trainer = self.trainer(what)
                self.calls[what] = lambda: trainer.step(self.x, self.y)
        return self.calls[what]

    def product(self, net: LeNet, name: str) -> Tensor:
        """One Hessian product of one weight, by differentiating the gradient once more; only it is recorded."""
        for parameter in net.parameters():
            parameter.requires_grad_(False)
        W = getattr(net, name).weight.requires_grad_(True)
        loss = functional.cross_entropy(net(self.x), self.y)
        (gradient,) = torch.autograd.grad(loss, W, create_graph=True)
        return torch.autograd.grad(gradient, W, self.direction(name))[0]

    def direction(self, name: str) -> Tensor:
        key = f"direction/{name}.weight"
        if isinstance(self.arrays[key], np.ndarray):
            self.arrays[key] = self.on_device(key)
        return self.arrays[key]

    def result(self, what: str) -> dict[str, Any]:
        """What one call from the start computes."""
        if what.startswith("evaluation"):
            return {"outputs": self.call(what)().cpu().numpy().T}
        if what == "block_hvp":
            return {f"{name}.weight": value.cpu().numpy().reshape(-1) for name, value in self.call(what)().items()}
        trainer = self.trainer(what)
        trainer.step(self.x, self.y)
        return trainer.moments()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def milliseconds(self, call: Callable[[], Any]) -> float:
        self.synchronize()
        begin = time.perf_counter()
        call()
        self.synchronize()
        return 1e3 * (time.perf_counter() - begin)

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do what the order says."""
        if order["do"] == "time":
            call = self.call(order["what"])
            return {"ms": [self.milliseconds(call) for _ in range(1 + order["repeats"])][1:]}
        if order["do"] == "result":
            np.savez(order["out"], **self.result(order["what"]))
            return {}
        if order["do"] == "version":
            return {"version": torch.__version__}
        return {"bytes": peak_bytes(self.device)}


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(problem: str, device: str, threads: str) -> None:
    """Answer until the input ends; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(int(threads))
    peer = Peer(problem, device)
    for line in sys.stdin:
        answers.write(json.dumps(peer.answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:4])
