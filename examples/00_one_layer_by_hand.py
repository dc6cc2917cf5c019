"""One linear layer by hand: the whole idea of HALRP on one page, with NumPy alone.

A layer y = W x learns task 1, and W is frozen. Task 2 may add only what is cheap to store:

    K = diag(R) W diag(S) + B A        R (J,), S (I,), A (r, I), B (J, r): (r + 1)(I + J) numbers instead of I J

This page finds R, S, the rank r, A and B. Arrays are batch-last: x (I, N), y (J, N).
Reference: HALRP (arXiv 2311.15161).
"""

import numpy as np

J, I, N = 12, 16, 400  # outputs, inputs, samples


def loss(K, x, target):  # L = ‖K x − target‖² / 2N
    return 0.5 * np.sum((K @ x - target) ** 2) / N


def loss_gradient(K, x, target):  # ∂L/∂K = (K x − target) xᵀ / N
    return (K @ x - target) @ x.T / N


def train_dense(K, x, target, steps=600):
    rate = 1 / np.linalg.eigvalsh(x @ x.T / N)[-1]  # the curvature of L is x xᵀ / N in every row of K
    for _ in range(steps):
        K = K - rate * loss_gradient(K, x, target)
    return K


def effective(W, R, S, A, B):  # K_ji = R_j W_ji S_i + (B A)_ji
    return R[:, None] * W * S + B @ A


def gradients(W, R, S, A, B, x, target):
    D = loss_gradient(effective(W, R, S, A, B), x, target)  # D = ∂L/∂K, then the product rule:
    gR = np.sum(D * W * S, axis=1)  # ∂L/∂R_j = Σ_i D_ji W_ji S_i
    gS = np.sum(D * R[:, None] * W, axis=0)  # ∂L/∂S_i = Σ_j D_ji R_j W_ji
    gA = B.T @ D  # ∂L/∂A = Bᵀ D
    gB = D @ A.T  # ∂L/∂B = D Aᵀ
    return gR, gS, gA, gB


def central_differences(f, theta, h=1e-5):
    g = np.zeros_like(theta)
    for index in np.ndindex(theta.shape):  # ∂f/∂θ ≈ (f(θ + h) − f(θ − h)) / 2h, one entry at a time
        e = np.zeros_like(theta)
        e[index] = h
        g[index] = (f(theta + e) - f(theta - e)) / (2 * h)
    return g


rng = np.random.default_rng(0)
print(f"1. Task 1: train W ({J} x {I}) by gradient descent, then freeze it.")
x1 = rng.normal(size=(I, N))
target1 = rng.normal(size=(J, I)) @ x1 + 0.1 * rng.normal(size=(J, N))
W = train_dense(np.zeros((J, I)), x1, target1)
W.flags.writeable = False
loss1 = loss(W, x1, target1)
print(f"   loss {loss(np.zeros((J, I)), x1, target1):.4f} -> {loss1:.4f}")

print("2. Task 2 is task 1 with its rows and columns scaled, plus something of rank 2, plus a little of everything.")
x2 = rng.uniform(0.5, 1.5, size=(I, 1)) * rng.normal(size=(I, N))
truth = rng.uniform(0.5, 2, size=(J, 1)) * W * rng.uniform(0.5, 2, size=I)
truth += 0.5 * rng.normal(size=(J, 2)) @ rng.normal(size=(2, I)) + 0.02 * rng.normal(size=(J, I))
target2 = truth @ x2 + 0.1 * rng.normal(size=(J, N))
F = train_dense(W, x2, target2)  # the free weight: warm-started at W, nothing forbidden
loss_F = loss(F, x2, target2)
print(f"   loss of W {loss(W, x2, target2):.4f}, of the free weight F {loss_F:.4f} (it would cost {J * I} numbers)")

print("3. Explain F by W as far as row scaling and column scaling can, each by least squares.")
R = np.sum(F * W, axis=1) / np.sum(W * W, axis=1)  # R_j = ⟨F_j, W_j⟩ / ‖W_j‖²
RW = R[:, None] * W
S = np.sum(RW * F, axis=0) / np.sum(RW * RW, axis=0)  # S_i = ⟨(RW)_i, F_i⟩ / ‖(RW)_i‖²
E = F - RW * S  # the residual
norms = [np.linalg.norm(difference) for difference in (F - W, F - RW, E)]
print("   ‖F − W‖ = {:.2f}; row scaling leaves {:.2f}, column scaling {:.2f}".format(*norms))

print("4. What is a rank worth? The residual's singular values s, weighted by the curvature H of the loss.")
U, s, Vt = np.linalg.svd(E, full_matrices=False)
H = np.sqrt(J) * np.linalg.norm(x2 @ x2.T / N)  # ‖H‖_F: the Hessian is x xᵀ / N in each of the J rows
score = H * s**2  # one factor H per layer makes the ranks of a whole network comparable
share = np.cumsum(score) / np.sum(score)
print("   rank   next singular value   true rise of the loss   bound ½ ‖H‖ ‖dropped‖²")
for k in range(5):
    rise = loss(RW * S + (U[:, :k] * s[:k]) @ Vt[:k], x2, target2) - loss_F
    print(f"   {k:4d} {s[k]:21.3f} {rise:23.2f} {np.sum(score[k:]) / 2:24.2f}")
    assert rise <= np.sum(score[k:]) / 2  # holds because F is a minimum
r = int(np.argmax(share > 0.85)) + 1
print(f"   rank {r} holds {share[r - 1]:.0%} of the score, enough: {(r + 1) * (I + J)} numbers instead of {J * I}")

print("5. Train R, S, A and B; but first compare their gradients by hand with central differences.")
theta = [R, S, np.sqrt(s[:r, None]) * Vt[:r], U[:, :r] * np.sqrt(s[:r])]
probe = [t + 0.1 * rng.normal(size=t.shape) for t in theta]  # not at theta itself: there ∂L/∂A = Bᵀ D is zero
for i, by_hand in enumerate(gradients(W, *probe, x2, target2)):
    numeric = central_differences(
        lambda t, i=i: loss(effective(W, *probe[:i], t, *probe[i + 1 :]), x2, target2), probe[i]
    )
    error = np.max(np.abs(by_hand - numeric)) / np.max(np.abs(by_hand))
    print(f"   ∂L/∂{'RSAB'[i]}: agrees to {error:.0e}")
    assert error < 1e-8
start = loss(effective(W, *theta), x2, target2)
for _ in range(2000):
    theta = [t - 0.01 * g for t, g in zip(theta, gradients(W, *theta, x2, target2), strict=True)]
end = loss(effective(W, *theta), x2, target2)
print(f"   loss {start:.4f} -> {end:.4f}; the free weight had {loss_F:.4f}")

print(f"6. And task 1 is untouched: W never moved, its loss is {loss(W, x1, target1):.4f} as before.")
assert loss(W, x1, target1) == loss1
assert loss_F < end < 0.1 * start
print("All checks hold.")
