"""HALRP beside plain fine-tuning on three small tasks: who forgets, and which of the earlier tasks' numbers changed.

Both methods learn the same tasks in the same order with the same seed. After each task, every task so far is asked
again: that is the accuracy matrix, and forgetting is read off it. Then the tensors that answer for an earlier task are
compared, byte by byte, with those that answered right after it was learned. The images are made here with NumPy.
Reference: HALRP (arXiv 2311.15161); forgetting as in Chaudhry et al. (arXiv 1801.10112).
"""

import os

os.environ.setdefault("HALRP_NP_KERNELS", "reference")  # for so few images, compiling fast kernels takes longer

import numpy as np

import halrp_np as hn

TASKS, SHAPE, CLASSES = 3, (3, 12, 12), 6  # an image is (C, H, W); arrays are batch-last, so a batch is (C, H, W, N)
rng = np.random.default_rng(0)


class Images:
    """What a method asks of data: a length, a batch of rows with labels, and to be told when an epoch begins."""

    def __init__(self, patterns, count):
        self.labels = rng.integers(0, CLASSES, count)
        self.x = (patterns[..., self.labels] + 3.0 * rng.normal(size=(*SHAPE, count))).astype(np.float32)

    def __len__(self):
        return len(self.labels)

    def begin_epoch(self, generator):
        """Images that vary from epoch to epoch would be drawn here."""

    def batch(self, rows):
        return self.x[..., rows], self.labels[rows]


def smooth_patterns():
    """One pattern a class: a random 4x4 grid, each cell repeated over 3x3 pixels."""
    return np.kron(rng.normal(size=(3, 4, 4, CLASSES)), np.ones((1, 3, 3, 1)))


def small_network(classes):
    """A narrow LeNet with a head for so many classes: every task has a head of its own."""
    return hn.models.lenet(SHAPE, classes, widths=(6, 12, 40, 24))


def learned_by(kind, settings):
    """The method after all tasks, its accuracy matrix, and each task's tensors as they were right after it."""
    method = kind(small_network, settings, device=hn.Device("cpu"), dtype=np.float32, streams=hn.Streams(0))
    matrix, snapshots = [], []
    for t in range(TASKS):
        method.learn(hn.methods.MethodTask(t, CLASSES, TASKS, 0.2, *data[t][:2]), hn.training.Hooks())
        snapshots.append(method.tensors(t))  # arrays are never changed in place: who holds them holds a snapshot
        matrix.append([accuracy(method, j) for j in range(t + 1)])
    return method, matrix, snapshots


def accuracy(method, position):
    """The accuracy in percent on the test images of one task."""
    model, params = method.network(position)  # a plain network, its effective weights formed
    return hn.training.evaluate(model, params, data[position][2], batch=240)


def growth_of(method):
    """The numbers that later tasks have added, as a share of task 0's network, every one of them counted."""
    return sum(size.honest for size in method.sizes()) / method.base_parameters()


base = smooth_patterns()
patterns = [base, 0.6 * base[:, ::-1] + 0.5 * smooth_patterns(), 0.6 * base[:, :, ::-1] + 0.5 * smooth_patterns()]
data = [[Images(one, count) for count in (480, 120, 480)] for one in patterns]
common = {"epochs": 4, "batch_size": 32, "learning_rate": 0.003}
finetune = hn.methods.METHODS["finetune"]
methods = {
    "finetune": (finetune, finetune.settings_class(**common)),
    "halrp": (hn.methods.Halrp, hn.methods.HalrpSettings(**common, rank_cap=12, prune_values=(1e-4, 0.4))),
}

print(f"{TASKS} tasks of {CLASSES} classes each; chance is {100 / CLASSES:.1f} %.\n")
forgetting = {}
for name, (kind, settings) in methods.items():
    method, matrix, snapshots = learned_by(kind, settings)
    print(f"{name}: accuracy matrix in percent, a row after each task, a column for each task asked")
    for t, row in enumerate(matrix):
        print(f"   after task {t}:  " + "  ".join(f"{value:5.1f}" for value in row))
    forgetting[name] = hn.training.metrics.forgetting_from_best(matrix)
    print(f"   mean at the end {hn.training.metrics.average_accuracy(matrix):.1f} %,", end=" ")
    print(f"forgetting {forgetting[name]:.1f} points, growth {growth_of(method):.0%}")
    for t, then in enumerate(snapshots[:-1]):
        now = method.tensors(t)
        changed = [key for key in then if then[key].tobytes() != now[key].tobytes()]
        listed = f": {', '.join(changed[:4])}{', ...' if len(changed) > 4 else ''}" if changed else ""
        print(f"   of the {len(then)} tensors that answer for task {t}, {len(changed)} have changed since{listed}")
        assert name != "halrp" or all(key.endswith((".A", ".B")) for key in changed)
    print()

print(
    "Fine-tuning moves the network that all tasks answer with, and forgets. HALRP leaves it as task 0 made it and pays"
)
print(
    "with scalings, low-rank factors, normalisation, biases and a head for each later task. All that changes later is"
)
print("that pruning sets more entries of the earlier factors A and B to zero, to keep the growth within its budget.")
assert forgetting["finetune"] > forgetting["halrp"]
