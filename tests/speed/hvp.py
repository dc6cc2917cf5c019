"""Time block Hessian products on LeNet beside PyTorch's double backward, in processes that take turns.

    python tests/speed/hvp.py [--rounds 3] [--batch 128] [--threads 2]

Both compute, in evaluation mode and float32, for each weight: the gradient of that block alone; one Hessian product
from scratch (forward, backward, product); one product with everything before it kept; and 16 products at once. A round
starts each library once, in a process of its own: their thread pools disturb one another in a common one. The
table has medians over all rounds with the range between rounds, and the products of both are compared.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LAYERS = ("conv1", "conv2", "fc1", "fc2")
KINDS = ("gradient", "scratch", "kept", "sixteen")
COUNT = 16


def problem(batch: int) -> tuple[Any, dict[str, Any], Any, Any]:
    """LeNet as in the paper with moved running statistics, a batch (N last) and labels."""
    import halrp_np as hn

    rng = np.random.default_rng(0)
    model = hn.models.lenet((3, 32, 32), 10)
    params = model.init(rng, np.float32)
    for name, value in params.items():
        if name.endswith("running_var"):
            params[name] = rng.uniform(0.5, 2.0, value.shape).astype(np.float32)
    x = rng.normal(size=(3, 32, 32, batch)).astype(np.float32)
    return model, params, x, rng.integers(0, 10, batch)


def directions(size: int) -> Any:
    """The vectors that both libraries multiply with, (P, 16)."""
    return np.random.default_rng(1).normal(size=(COUNT, size)).astype(np.float32).T


def ours(batch: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """What is timed, by layer and kind, with halrp_np."""
    import halrp_np as hn

    model, params, x, labels = problem(batch)
    loss, calls = hn.losses.CrossEntropy(), {}
    for layer in LAYERS:
        name = f"{layer}.weight"
        make = lambda name=name: hn.curvature.HessianOperator(  # noqa: E731
            model, params, loss, (x, labels), names=[name], memory=2**32
        )
        H = make()
        V = directions(H.shape[0])
        v = np.ascontiguousarray(V[:, 0])

        def gradient(name: str = name) -> Any:
            outputs, cache = model.forward(params, x)
            gy = loss.grad(outputs, labels)
            return model.backward(params, cache, gy, input_gradient=False, wanted=[name])

        def scratch(make: Any = make, v: Any = v) -> Any:
            fresh = make()
            fresh._probed = True  # the probe is paid once an operator, not once a product
            return fresh @ v

        calls[layer] = {
            "gradient": gradient,
            "scratch": scratch,
            "kept": lambda H=H, v=v: H @ v,
            "sixteen": lambda H=H, V=V: H @ V,
        }
    return calls


def theirs(batch: int, threads: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """The same with PyTorch's double backward."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    _, host, x, labels = problem(batch)
    p = {name: torch.tensor(value) for name, value in host.items()}
    tx, tl = torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 0))), torch.tensor(labels)

    def norm(p: dict[str, Any], h: Any, n: int) -> Any:
        entries = [p[f"norm{n}.{e}"] for e in ("running_mean", "running_var", "gamma", "beta")]
        return functional.relu(functional.batch_norm(h, *entries))

    def loss(p: dict[str, Any]) -> Any:
        h = tx
        for n in (1, 2):
            h = norm(p, functional.conv2d(h, p[f"conv{n}.weight"], p[f"conv{n}.bias"], padding=2), n)
            h = functional.max_pool2d(h, 2)
        h = h.flatten(1)
        for n in (1, 2):
            h = norm(p, functional.linear(h, p[f"fc{n}.weight"], p[f"fc{n}.bias"]), n + 2)
        return functional.cross_entropy(functional.linear(h, p["head.weight"], p["head.bias"]), tl)

    calls = {}
    for layer in LAYERS:
        W = p[f"{layer}.weight"].clone().requires_grad_(True)  # the only one that is recorded
        V = [torch.tensor(column).reshape(W.shape) for column in directions(W.numel()).T]

        def gradient(W: Any = W, layer: str = layer, graph: bool = False) -> Any:
            return torch.autograd.grad(loss({**p, f"{layer}.weight": W}), W, create_graph=graph)[0]

        def product(g: Any, v: Any, W: Any = W, keep: bool = True) -> Any:
            return torch.autograd.grad(g, W, v, retain_graph=keep)[0]

        kept = gradient(graph=True)
        calls[layer] = {
            "gradient": gradient,
            "scratch": lambda g=gradient, h=product, V=V: h(g(graph=True), V[0], keep=False),
            "kept": lambda g=kept, h=product, V=V: h(g, V[0]),
            "sixteen": lambda g=kept, h=product, V=V: [h(g, v) for v in V],
        }
    return calls


def work(library: str, batch: int, threads: int, repeats: int, out: str) -> None:
    """One process: time every call, save the products."""
    calls = ours(batch) if library == "halrp_np" else theirs(batch, threads)
    times: dict[str, dict[str, float]] = {}
    for layer, kinds in calls.items():
        times[layer] = {}
        for kind, call in kinds.items():
            product = call()  # compiles, fills caches
            count = max(3, repeats // 3) if kind == "sixteen" else repeats
            measured = []
            for _ in range(count):
                begin = time.perf_counter()
                call()
                measured.append(time.perf_counter() - begin)
            times[layer][kind] = 1e3 * statistics.median(measured)
            if kind == "kept":
                np.save(f"{out}.{layer}.npy", np.asarray(product).reshape(-1))
    Path(out).write_text(json.dumps(times), encoding="utf-8")


def rounds(count: int, batch: int, threads: int, repeats: int) -> dict[str, list[dict[str, dict[str, float]]]]:
    """Milliseconds of each library in each round; the products are compared."""
    found: dict[str, list[Any]] = {"halrp_np": [], "torch": []}
    env = {**os.environ, "NUMBA_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(count):
            for library, runs in found.items():
                out = str(Path(folder) / library)
                options = [library, str(batch), str(threads), str(repeats), out]
                subprocess.run([sys.executable, __file__, "--worker", *options], check=True, env=env)
                runs.append(json.loads(Path(out).read_text(encoding="utf-8")))
        for layer in LAYERS:
            a, b = (np.load(str(Path(folder) / f"{library}.{layer}.npy")) for library in found)
            error = np.linalg.norm(a - b) / np.linalg.norm(b)
            assert error < 1e-4, f"the products of {layer} differ by {error:.1e}: there is nothing to compare"
    return found


def table(found: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    """Medians with the range between rounds, and the ratios that matter."""
    header = "block  what       halrp_np ms (range)      PyTorch ms (range)       PyTorch/halrp_np  /gradient"
    lines = [header, "-" * len(header)]
    for layer in LAYERS:
        median = {}
        for kind in KINDS:
            cells = []
            for library in ("halrp_np", "torch"):
                values = [run[layer][kind] for run in found[library]]
                median[library, kind] = statistics.median(values)
                cells.append(f"{median[library, kind]:8.1f} ({min(values):.1f}-{max(values):.1f})")
            ratio = median["torch", kind] / median["halrp_np", kind]
            own = median["halrp_np", kind] / median["halrp_np", "gradient"]
            lines.append(f"{layer:6s} {kind:10s} {cells[0]:24s} {cells[1]:24s} {ratio:10.2f} {own:15.2f}")
        share = median["halrp_np", "sixteen"] / (COUNT * median["halrp_np", "kept"])
        lines.append(f"{layer:6s} 16 products at once take {share:.2f} of 16 single ones")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        library, *numbers, out = given.worker
        work(library, *(int(number) for number in numbers), out)
        return
    print(f"{platform.processor() or platform.machine()}, {given.threads} threads, batch {given.batch}, float32")
    print(table(rounds(given.rounds, given.batch, given.threads, given.repeats)))


if __name__ == "__main__":
    main()
