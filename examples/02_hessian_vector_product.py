"""A Hessian-vector product by hand, by the library, and by finite differences.

The Hessian H of a loss has as many rows and columns as the network has parameters, far too many to write down. But
H v, for one direction v, costs little more than a gradient: it is how the gradient moves when the parameters move along
v. So every line of the forward and of the backward pass is differentiated once more. Write r for "moves by":

    z = W x          rz = rW x + W rx               each formula, and beside it its tangent
    gW = gz xᵀ       rgW = rgz xᵀ + gz rxᵀ          product rule, nothing else

Arrays are batch-last: x (I, N). Reference: Pearlmutter (1994), "Fast exact multiplication by the Hessian".
"""

import os

os.environ.setdefault("HALRP_NP_KERNELS", "reference")  # for so few numbers, compiling fast kernels takes longer

import dataclasses

import numpy as np

import halrp_np as hn

I, J, K, N = 10, 12, 4, 16  # inputs, hidden units, classes, samples
rng = np.random.default_rng(1)
x, labels = rng.normal(size=(I, N)), rng.integers(K, size=N)
target = np.eye(K)[:, labels]


def gradient_and_tangent(theta, r):
    """The gradient of the mean cross-entropy of W2 max(W1 x + b1, 0) + b2, and how it moves along r: H r."""
    (W1, b1, W2, b2), (rW1, rb1, rW2, rb2) = theta, r

    z = W1 @ x + b1[:, None]
    rz = rW1 @ x + rb1[:, None]  # x is data, it does not move
    a = np.maximum(z, 0)
    ra = (z > 0) * rz
    y = W2 @ a + b2[:, None]
    ry = rW2 @ a + W2 @ ra + rb2[:, None]
    p = np.exp(y) / np.sum(np.exp(y), axis=0)  # the softmax
    rp = p * (ry - np.sum(p * ry, axis=0))

    gy = (p - target) / N  # ∂L/∂y
    rgy = rp / N
    gW2, gb2 = gy @ a.T, np.sum(gy, axis=1)
    rgW2, rgb2 = rgy @ a.T + gy @ ra.T, np.sum(rgy, axis=1)
    ga = W2.T @ gy
    rga = rW2.T @ gy + W2.T @ rgy
    gz = (z > 0) * ga
    rgz = (z > 0) * rga  # the mask does not move, unless a unit crosses its kink
    gW1, gb1 = gz @ x.T, np.sum(gz, axis=1)
    rgW1, rgb1 = rgz @ x.T, np.sum(rgz, axis=1)
    return flat(gW1, gb1, gW2, gb2), flat(rgW1, rgb1, rgW2, rgb2)


def flat(*arrays):
    return np.concatenate([array.ravel() for array in arrays])


def along(theta, v, h):
    return [t + h * r for t, r in zip(theta, v, strict=True)]


shapes = [(J, I), (J,), (K, J), (K,)]
theta = [rng.normal(size=shape) / np.sqrt(shape[-1]) for shape in shapes]
v, u = ([rng.normal(size=shape) / np.sqrt(shape[-1]) for shape in shapes] for _ in range(2))

P = flat(*theta).size
print(f"1. By hand: {P} parameters, so H would have {P * P:,} entries. H v needs none of them.")
g, Hv = gradient_and_tangent(theta, v)
_, Hu = gradient_and_tangent(theta, u)
print(f"   ‖g‖ = {np.linalg.norm(g):.4f}, ‖H v‖ = {np.linalg.norm(Hv):.4f}, vᵀHv = {flat(*v) @ Hv:.4f}")
print(f"   H is symmetric: uᵀHv = {flat(*u) @ Hv:.12f} and vᵀHu = {flat(*v) @ Hu:.12f}")
assert np.isclose(flat(*u) @ Hv, flat(*v) @ Hu, rtol=1e-11)

print("2. By the library, where each layer has four passes: forward, backward, r_forward, r_backward.")
layers = {"layer1": hn.layers.Linear(I, J), "relu": hn.layers.ReLU(), "layer2": hn.layers.Linear(J, K)}
model, loss, data = hn.layers.Sequential(layers), hn.losses.CrossEntropy(), (x, labels)
params = dict(zip(model.trainable, theta, strict=True))
H = hn.curvature.HessianOperator(model, params, loss, data)
difference = np.linalg.norm(H @ flat(*v) - Hv) / np.linalg.norm(Hv)
print(f"   HessianOperator {H.shape} @ v is the product by hand, to {difference:.0e}")
assert difference < 1e-12
block = H.block("layer2.weight")  # vectors of this layer's size; only this layer's tangent is run
whole = block @ np.eye(block.shape[0])  # many vectors at once: here all columns of a small block
print(f"   the block of layer2.weight, {block.shape[0]} columns at once: eigenvalues", end=" ")
print("{:.1e} to {:.3f}".format(*np.linalg.eigvalsh(whole)[[0, -1]]))

print("3. By central differences of the gradient, (g(θ + hv) − g(θ − hv)) / 2h, which knows no second derivative:")
print("   step h    relative error")
errors = {}
for h in 10.0 ** -np.arange(1, 10):
    above, below = (gradient_and_tangent(along(theta, v, s), v)[0] for s in (h, -h))
    errors[h] = np.linalg.norm((above - below) / (2 * h) - Hv) / np.linalg.norm(Hv)
    print(f"   {h:.0e} {errors[h]:14.0e}  {'#' * round(2 * (np.log10(errors[h]) + 12))}")
print("   Large steps leave the smooth piece (a unit crosses its kink) or err by truncation, as h²; small ones by")
print("   rounding, as 1/h. In between a right derivative is met to ten digits.")
assert min(errors.values()) < 1e-9

print("4. The library does the same for each parameter, watches for kinks, and says whether to trust it:")
results = hn.curvature.check_hvp(model, params, loss, data, seed=3)  # a direction that meets a kink at once


class Forgetful(hn.layers.Linear):
    """A layer whose r_backward forgets that input and weight moved, too: rgW = rgy xᵀ and rgx = Wᵀ rgy alone."""

    def r_backward(self, params, cache, rcache, gy, rgy, **asked):
        return super().r_backward(params, cache, None, gy, rgy, **asked)


wrong = hn.layers.Sequential({**layers, "layer2": Forgetful(J, K)})
(caught,) = hn.curvature.check_hvp(wrong, params, loss, data, names=["layer2.weight"])
results.append(dataclasses.replace(caught, name="terms forgotten"))
for result in results:
    across = sum(rung.crossed > 0 for rung in result.ladder)
    print(f"   {result.name:15} error {result.error:.0e} at h = {result.step:.0e}", end="")
    print(f", {across} of {len(result.ladder)} steps cross a kink: {'ok' if result.passed else 'FAILED'}")
print(f"   {caught.note}")
hn.reports.ladders([*results[:-1:2], results[-1]], "hessian_vector_product.png")
print("   drawn in hessian_vector_product.png")
assert [result.passed for result in results] == [True, True, True, True, False]
print("All checks hold.")
