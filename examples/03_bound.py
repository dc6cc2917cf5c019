"""How much the loss rises when a layer is cut to a lower rank, and how much of it second-order theory foresees.

HALRP chooses ranks by a bound. At a minimum of the loss L, a layer's weight that moves by Δ costs, to second order,

    L(θ + Δ) − L(θ) ≈ ½ ΔᵀHΔ ≤ ½ ‖H‖₂ ‖Δ‖² ≤ ½ ‖H‖_F ‖Δ‖²,      H the layer's block of the Hessian,

and for the best Δ of rank r, ‖Δ‖² is the sum of the discarded squared singular values. A trained network is no exact
minimum, and its loss has kinks where a ReLU or a pool changes sides. Here the loss is measured, every term computed
exactly, and the norms of H estimated from its products with vectors. The images are made here with NumPy.
Reference: HALRP (arXiv 2311.15161).
"""

import os

os.environ.setdefault("HALRP_NP_KERNELS", "reference")  # for so few images, compiling fast kernels takes longer,
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # and so does sharing a product between threads

from collections import Counter

import numpy as np

import halrp_np as hn

SHAPE, CLASSES, COUNT = (3, 12, 12), 6, 320  # an image is (C, H, W); arrays are batch-last: (C, H, W, N)
LAYERS = ["conv1", "conv2", "fc1", "fc2"]
rng = np.random.default_rng(0)


class Images:
    """What the training loop asks of data: a length, a batch of rows with labels, to be told when an epoch begins."""

    def __init__(self):
        patterns = np.kron(rng.normal(size=(3, 4, 4, CLASSES)), np.ones((1, 3, 3, 1)))  # one a class
        self.labels = rng.integers(0, CLASSES, COUNT)
        self.x = patterns[..., self.labels] + 3.0 * rng.normal(size=(*SHAPE, COUNT))

    def __len__(self):
        return COUNT

    def begin_epoch(self, generator):
        """Images that vary from epoch to epoch would be drawn here."""

    def batch(self, rows):
        return self.x[..., rows], self.labels[rows]


def report(**what):
    """Every rank of these layers."""
    return hn.curvature.bound_report(
        model, params, loss, data, ranks="all", products=32, generator=np.random.default_rng(0), **what
    )


def summary(rows):
    """How tight the bound is, and where it failed and why."""
    print("   layer  cut to ranks  tightness: measured  ½ΔᵀHΔ   kinks  verdicts")
    for layer in LAYERS:
        mine = [row for row in rows if row.layer == layer and row.delta_squared > 0]  # at full rank Δ = 0
        tight, exact = (
            np.median([getattr(row, name) for row in mine]) for name in ("tightness", "quadratic_tightness")
        )
        share = np.median([row.crossed_share for row in mine])
        print(f"   {layer:6} {mine[0].rank}..{mine[-1].rank:<10} {tight:18.4f} {exact:7.4f} {share:7.1%}", end="")
        for number, (words, times) in enumerate(Counter(row.verdict for row in mine).most_common()):
            words = words.partition(":")[0] if words.startswith("holds") else words
            print(f"{' ' * 55 if number else ''}  {times:2} {words}")


print("1. A small LeNet is trained.")
examples, streams, loss = Images(), hn.Streams(0), hn.losses.CrossEntropy()
model = hn.models.lenet(SHAPE, CLASSES, widths=(6, 12, 40, 24))
start = model.init(streams.generator("init"), np.float64)
params = hn.training.train_phase(
    hn.training.PhasePlan(task=0, name="train", epochs=60, batch=64, lr=0.005, gamma=0.99),
    model,
    start,
    examples,
    loss=loss,
    optimizer=hn.training.Adam(),
    penalties={},
    streams=streams,
    hooks=hn.training.Hooks(),
)
data = examples.batch(np.arange(COUNT))  # the theorem speaks of the loss that was minimised
accuracy = hn.training.evaluate(model, params, examples, batch=COUNT)
H = hn.curvature.HessianOperator(model, params, loss, data)
print(f"   on the images it learned: accuracy {accuracy:.0f} %, loss {H.value():.3f},", end=" ")
print(f"gradient {np.linalg.norm(H.gradient()):.2f}, near a minimum but not at it")

print("2. The weight of fc2 is cut to lower ranks, everything else stays. The measured change is a sum of three terms:")
rows = report(layers=LAYERS)
print("   rank   ‖Δ‖²  measured =     gᵀΔ  ½ΔᵀHΔ    rest    ½‖H‖₂‖Δ‖²  ½‖H‖_F‖Δ‖²  kinks crossed  the bound")
for row in [row for row in rows if row.layer == "fc2"][::2]:
    terms = row.measured, row.gradient_term, row.quadratic_term, row.remainder
    print(f"   {row.rank:4} {row.delta_squared:6.2f} ", end=" ")
    print("{:8.4f} = {:+7.4f} {:+7.4f} {:+7.4f}".format(*terms), end=" ")
    print(f"{row.spectral_bound:12.4f} {row.frobenius_bound:12.4f} {row.crossed_share:14.1%}", end="  ")
    print(row.verdict.partition(":")[0].partition(",")[0])

print("3. All layers, each at every rank. Tightness is a number over ½‖H‖_F‖Δ‖²; above 1 the bound is violated.")
summary(rows)
print("   ½ΔᵀHΔ is far below its bound: Δ hardly lies along the few directions that the loss is curved in. Where far")
print("   more was measured, Δ is so long that it leaves the smooth piece, and across kinks no theorem holds.")

print("4. The same Δ, a hundredth as long, crosses hardly any kinks:")
small = report(residuals={layer: 0.01 * params[f"{layer}.weight"] for layer in LAYERS})
summary(small)
print("   Now the gradient is to blame: the bound falls as ‖Δ‖², gᵀΔ only as ‖Δ‖. For small steps it needs a minimum.")

hn.reports.bounds(rows, "bound.png")
print("5. Drawn in bound.png: the numbers of step 3.")
for row in [*rows, *small]:  # the quadratic term is never above its bounds, wherever the network is
    assert row.quadratic_term <= row.spectral_bound * 1.001 <= (row.frobenius_bound + 3 * row.frobenius_stderr) * 1.002
print("All checks hold.")
