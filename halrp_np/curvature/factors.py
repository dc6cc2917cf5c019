"""The curvature of one weight as Z Zᵀ, a column for each sample and class: exact norms and directions, no probes.

In evaluation mode with running statistics samples do not depend on one another, and the outputs are piecewise linear in
each single weight. So the Hessian of one weight is its Gauss-Newton matrix Σ_n J_nᵀ A_n J_n with A_n = ∂²L/∂y_n². With
roots of these small matrices, A_n = Σ_c a_nc a_ncᵀ, it is
    H = Σ_m z_m z_mᵀ,   z_m = J_nᵀ a_nc,   m = (n, c),
where z_m is the weight's gradient from sample n alone under the cotangent a_nc: C backward passes give all of them.
A linear layer's are z_m = a xᵀ and never formed. What is wanted of H (P, P) is read off the Gram matrix ZᵀZ (M, M).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..backend import array_module, ops, to_host
from ..layers import Conv2d, Layer, Linear, Sequential, decomposed_layers
from ..losses import Loss, sample_weight
from ..typing import Array, Params


class Factor(Protocol):
    """Z of one weight's curvature Z Zᵀ."""

    def squares(self) -> Array:
        """‖z_m‖², (M,)."""
        ...

    def gram(self) -> Array:
        """⟨z_m, z_m'⟩, (M, M)."""
        ...

    def along(self, U: Array, Vt: Array) -> Array:
        """⟨z_m, u_i v_iᵀ⟩ for the columns u_i of U (J, q) and the rows v_i of Vt (q, I), result (q, M).

        For a convolution u_i v_iᵀ stands at every kernel position.
        """
        ...


@dataclass(frozen=True, eq=False)
class LinearFactor:
    """z_m = a_m x_nᵀ, with m = (k, n): a (J, K, N), x (I, N)."""

    a: Array
    x: Array

    def squares(self) -> Array:
        return ((self.a * self.a).sum(axis=0) * (self.x * self.x).sum(axis=0)).reshape(-1)

    def gram(self) -> Array:
        """⟨a xᵀ, a' x'ᵀ⟩ = ⟨a, a'⟩ ⟨x, x'⟩."""
        J, K, N = self.a.shape
        flat = self.a.reshape(J, K * N)
        between_a = ops.matmul(flat.T, flat).reshape(K, N, K, N)
        return (between_a * ops.matmul(self.x.T, self.x)[:, None, :]).reshape(K * N, K * N)

    def along(self, U: Array, Vt: Array) -> Array:
        """⟨a xᵀ, u vᵀ⟩ = ⟨u, a⟩ ⟨v, x⟩."""
        J, K, N = self.a.shape
        on_outputs = ops.matmul(U.T, self.a.reshape(J, K * N)).reshape(-1, K, N)
        return (on_outputs * ops.matmul(Vt, self.x)[:, None, :]).reshape(-1, K * N)


@dataclass(frozen=True, eq=False)
class ConvFactor:
    """The z_m themselves: Z (M, J, I, k, k)."""

    Z: Array

    def squares(self) -> Array:
        flat = self._flat()
        return array_module(flat).einsum("mp,mp->m", flat, flat)  # no array of squares

    def gram(self) -> Array:
        """Z Zᵀ, of which BLAS forms one half: it sees that both are the same array."""
        flat = self._flat()
        return flat @ flat.T

    def along(self, U: Array, Vt: Array) -> Array:
        M, J, I, kh, kw = self.Z.shape
        over_window = self.Z.reshape(M * J * I, kh * kw) @ array_module(U).ones(kh * kw, dtype=U.dtype)
        on_inputs = ops.matmul(over_window.reshape(M * J, I), Vt.T).reshape(M, J, -1)  # Σ_i v_i, (M, J, q)
        return (on_inputs * U).sum(axis=1).T

    def _flat(self) -> Array:
        return self.Z.reshape(self.Z.shape[0], -1)


def curvature_roots(loss: Loss, outputs: Array, targets: Array) -> Array:
    """Roots a_nc of ∂²L/∂y_n² = Σ_c a_nc a_ncᵀ, for L the mean loss of convex losses.

    Roots that are 0 but for rounding in every sample are left out: cross-entropy has one, since it does not mind a
    constant added to all outputs.

    Shapes: outputs (C, N), result (C, K, N): entry, root, sample; 1 ≤ K ≤ C.
    """
    xp = array_module(outputs)
    C, N = outputs.shape
    unit = xp.ascontiguousarray(xp.broadcast_to(xp.asarray(np.eye(C, dtype=outputs.dtype))[:, :, None], (C, C, N)))
    A = to_host(loss.hess_vec(outputs, targets, unit)).astype(np.float64)
    values, vectors = np.linalg.eigh(np.moveaxis(A, 2, 0))  # of N small matrices, on the host
    largest = values.max(axis=0)  # of each root over the samples, ascending
    least = min(int((largest <= 4 * np.finfo(outputs.dtype).eps * largest[-1]).sum()), C - 1)
    roots = vectors[:, :, least:] * np.sqrt(np.maximum(values[:, None, least:], 0))
    return xp.asarray(np.ascontiguousarray(np.moveaxis(roots, 0, 2)).astype(outputs.dtype))


def gradient_roots(loss: Loss, outputs: Array, targets: Array) -> Array:
    """One root a sample, √N ∂L/∂y_n, which makes Z Zᵀ the empirical Fisher matrix (1/N) Σ_n g_n g_nᵀ; (C, 1, N)."""
    return loss.grad(outputs, targets)[:, None, :] / sample_weight(outputs.shape[1]) ** 0.5


def weight_factors(
    model: Sequential, params: Params, cache: Any, roots: Array, layers: Sequence[str]
) -> Iterator[tuple[str, Factor]]:
    """Each layer's name and its weight's factor, from the cache of an evaluation and roots (C, K, N)."""
    xp, names = array_module(roots), [f"{name}.weight" for name in layers]
    passes = []
    for k in range(roots.shape[1]):
        gy = xp.ascontiguousarray(roots[:, k])
        _, gys = model.cotangents(params, cache, gy, input_gradient=False, wanted=names)
        passes.append({name: entry_of(gys, name) for name in layers})
    known = decomposed_layers(model, head="")
    for name in layers:
        yield name, _factor(known[name], params[f"{name}.weight"], entry_of(cache, name), [p.pop(name) for p in passes])


def factor_bytes(model: Sequential, params: Params, cache: Any, classes: int, layers: Sequence[str]) -> int:
    """The most bytes that `weight_factors` holds at once for `classes` roots of each sample of this cache."""
    known, cotangents, largest = decomposed_layers(model, head=""), 0, 0
    for name in layers:
        layer, x, W = known[name], entry_of(cache, name), params[f"{name}.weight"]
        own, formed = classes * x.shape[-1] * W.shape[0] * x.itemsize, 0
        if isinstance(layer, Conv2d):
            own, formed = classes * math.prod(layer.y_shape(x)) * x.itemsize, classes * x.shape[-1] * W.nbytes
        cotangents, largest = cotangents + own, max(largest, own + formed)
    return cotangents + largest


def _factor(layer: Layer, W: Array, x: Array, gys: list[Array]) -> Factor:
    """The factor from the layer's input, which is its cache, and the K cotangents of its output."""
    xp = array_module(x)
    if isinstance(layer, Linear):
        return LinearFactor(xp.stack(gys, axis=-2), x)
    assert isinstance(layer, Conv2d)
    J, K, N = layer.outputs, len(gys), x.shape[-1]
    Z, a = xp.empty((N * K, *W.shape), dtype=W.dtype), _by_sample(gys)
    windows = _windows(layer, x)
    for n in range(N):
        patches = xp.ascontiguousarray(windows[n]).reshape(-1, a.shape[-1])  # (I kh kw, H' W')
        Z[n * K : (n + 1) * K] = (a[n].reshape(K * J, -1) @ patches.T).reshape(K, *W.shape)
    return ConvFactor(Z)


def _by_sample(gys: list[Array]) -> Array:
    """K images (J, H, W, N) as (N, K, J, H W), channel by channel: pieces to transpose that stay in the caches."""
    xp, (J, H, W, N) = array_module(gys[0]), gys[0].shape
    found = xp.empty((N, len(gys), J, H * W), dtype=gys[0].dtype)
    for k, gy in enumerate(gys):
        for j in range(J):
            found[:, k, j] = gy[j].reshape(H * W, N).T
    return found


def _windows(layer: Conv2d, x: Array) -> Array:
    """What the kernel meets: x (I, H, W, N) as a view (N, I, kh, kw, H', W') of its padded copy."""
    xp, edge = array_module(x), (layer.padding, layer.padding)
    padded = xp.ascontiguousarray(xp.moveaxis(xp.pad(x, ((0, 0), edge, edge, (0, 0))), -1, 0))
    windows = xp.lib.stride_tricks.sliding_window_view(padded, (layer.kernel, layer.kernel), axis=(2, 3))
    return xp.moveaxis(windows[:, :, :: layer.stride, :: layer.stride], (2, 3), (4, 5))


def entry_of(tree: Any, path: str) -> Any:
    """What nested caches or cotangents hold for the layer at that path."""
    for name in path.split("."):
        tree = tree[name]
    return tree
