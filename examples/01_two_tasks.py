"""HALRP on two small tasks, telling what each step of the algorithm did.

Task 0 trains a small LeNet, which is then frozen. Task 1 may add only row and column scalings, low-rank factors, and
biases, normalisation and a head of its own. The images are made here with NumPy, so nothing is downloaded.
Reference: HALRP (arXiv 2311.15161).
"""

import os

os.environ.setdefault("HALRP_NP_KERNELS", "reference")  # for so few images, compiling fast kernels takes longer

import numpy as np

import halrp_np as hn

SHAPE, CLASSES = (3, 12, 12), 6  # an image is (C, H, W); arrays are batch-last, so a batch is (C, H, W, N)
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


class Explained(hn.methods.Halrp):
    """HALRP that speaks: each method below is a step of the algorithm, done by the library and then described."""

    def warm_up(self, task, hooks):
        free = super().warm_up(task, hooks)
        print("2. Warm-up: a free copy of the network, with a new head, is trained for one epoch.")
        for name in self.layers():
            W, F = self.base[f"{name}.weight"], free[f"{name}.weight"]
            print(f"   {name}: the weight moved by {np.linalg.norm(F - W) / np.linalg.norm(W):.0%} of its norm")
        return free

    def fit_scalings(self, free):
        scalings, residuals = super().fit_scalings(free)
        print("3. The free weight F is explained by the frozen W: rows scaled by R, columns by S, by least squares.")
        for name, parts in residuals.items():
            R, S = scalings[f"{name}.R"], scalings[f"{name}.S"]
            values = " ".join(f"{s:.2f}" for s in parts.s[:5])
            print(f"   {name}: R = {R.mean():.2f} ± {R.std():.2f}, S = {S.mean():.2f} ± {S.std():.2f},", end=" ")
            print(f"singular values of the rest: {values}{' ...' if len(parts.s) > 5 else ''}")
        return scalings, residuals

    def importance(self, free, residuals, task):
        result = super().importance(free, residuals, task)
        chosen = result[self.settings.importance]
        print("4. Importance of each layer at F, from squared gradients on the validation images:")
        print("   " + ", ".join(f"{name} {value:.3g}" for name, value in chosen.layers.items()))
        return result

    def choose_ranks(self, residuals, importance):
        choice = super().choose_ranks(residuals, importance)
        share, cap = self.settings.rank_share, self.settings.rank_cap
        print(f"5. Ranks: of importance times s², over all layers, the largest are kept until they hold {share:.0%}.")
        why = {"none": "as the share says", "capped": f"capped at {cap}", "raised": "raised to 1"}
        for d in choice.decisions:
            print(f"   {d.layer}: rank {d.rank} of {d.size}, {why[d.clamp]}; keeps {d.kept_fraction:.0%} of its score")
        ranks = choice.alternatives["directional"].values()
        print(f"   (by the exact curvature of the loss along each component: {', '.join(map(str, ranks))})")
        return choice

    def train_perturbation(self, start, task, hooks):
        own = super().train_perturbation(start, task, hooks)
        print("6. R, S, A, B, biases, normalisation and head are trained; W is frozen.")
        for name in self.layers():
            before, after = (p[f"{name}.B"] @ p[f"{name}.A"] for p in (start, own))
            print(f"   {name}: ‖B A‖ {np.linalg.norm(before):.2f} -> {np.linalg.norm(after):.2f}")
        return own

    def prune(self, hooks):
        super().prune(hooks)
        (size,) = self.sizes()
        print("7. Pruning: the smallest entries of A and B become zero until the model's growth fits the budget.")
        print(f"   {size.factors_dense} factor entries -> {size.factors_sparse}")


class Losses(hn.training.Hooks):
    """Listens to the training loop."""

    def after_epoch(self, plan, record):
        print(f"   task {plan.task}, {plan.name}, epoch {record['epoch']}: loss {record['loss']:.3f}")


settings = hn.methods.HalrpSettings(
    epochs=4, batch_size=32, learning_rate=0.003, rank_cap=12, prune_values=(1e-4, 0.75)
)
method = Explained(
    lambda classes: hn.models.lenet(SHAPE, classes, widths=(6, 12, 40, 24)),
    settings,
    device=hn.Device("cpu"),
    dtype=np.float32,
    streams=hn.Streams(0),
)
first = smooth_patterns()
second = 0.6 * first[:, ::-1] + 0.5 * smooth_patterns()  # related to the first: turned upside down, mixed with new ones
data = [[Images(patterns, count) for count in (768, 192, 480)] for patterns in (first, second)]


def accuracy(position):
    model, params = method.network(position)  # a plain network, its effective weights formed
    return hn.training.evaluate(model, params, data[position][2], batch=240)


print("1. Task 0: the base network is trained in full, then frozen.")
method.learn(hn.methods.MethodTask(0, CLASSES, 2, 0.2, *data[0][:2]), Losses())
before = accuracy(0)
print(f"   accuracy on task 0: {before:.1f} % (chance is {100 / CLASSES:.1f} %)")
method.learn(hn.methods.MethodTask(1, CLASSES, 2, 0.2, *data[1][:2]), Losses())

base, (size,) = method.base_parameters(), method.sizes()
print("8. What came of it:")
print(f"   accuracy on task 1: {accuracy(1):.1f} %; on task 0: {before:.1f} % before, {accuracy(0):.1f} % after")
print(f"   task 0 has {base} parameters; task 1 added {size.released}, a growth of {size.released / base:.1%}")
print(f"   (and {size.bias + size.running_stats} biases and running statistics, which published sizes leave out)")
assert accuracy(0) == before  # nothing of task 0 was touched
