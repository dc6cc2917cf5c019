"""Layers of tasks t ≥ 1: the frozen base weight, scaled by row and column, plus a low-rank residual.

Effective weight (HALRP, arXiv 2311.15161, W_t = R_t W S_t + B_t with the residual B_t = B A of low rank):
    K[j,i,c,d] = R[j] W[j,i,c,d] S[i] + (B A)[j,i]      for every kernel position (c, d); linear layers have one.
The paper's two branches for convolutions (scaled convolution; 1x1 map A, box sum, 1x1 map B) equal this dense kernel,
because a box sum commutes with the channel map and zero padding stays zero. The bias is not scaled.
"""

from __future__ import annotations

from ..typing import Array, Params
from . import conv, linear
from .base import EVALUATE, Cache, Layer, Mode, check_features, check_images
from .container import Sequential
from .conv import Conv2d
from .linear import Linear

FACTORS = ("R", "S", "A", "B", "bias")


def effective_weight(params: Params) -> Array:
    """K = R W S + B A, with B A added at every kernel position; shape of W."""
    W, R, S = params["weight"], params["R"], params["S"]
    low_rank = params["B"] @ params["A"]  # (J, I)
    if W.ndim == 2:
        return R[:, None] * W * S + low_rank
    return R[:, None, None, None] * W * S[:, None, None] + low_rank[:, :, None, None]


def project_gradient(params: Params, gK: Array) -> Params:
    """Gradients of R, S, A and B from the gradient gK of the effective weight.

    Math: with C = Σ_cd gK ⊙ W and D = Σ_cd gK (both (J, I)),
    ∂L/∂R_j = Σ_i C_ji S_i, ∂L/∂S_i = Σ_j C_ji R_j, ∂L/∂B = D Aᵀ, ∂L/∂A = Bᵀ D.
    """
    C, D = gK * params["weight"], gK
    if gK.ndim == 4:
        C, D = C.sum(axis=(2, 3)), D.sum(axis=(2, 3))
    return {
        "R": C @ params["S"],
        "S": params["R"] @ C,
        "A": params["B"].T @ D,
        "B": D @ params["A"].T,
    }


class PerturbedLinear(Layer):
    """y = R ⊙ W (S ⊙ x) + B (A x) + b, with the base weight W frozen.

    Shapes: x (I, N), weight (J, I), R (J,), S (I,), A (r, I), B (J, r), bias (J,), y (J, N).
    Raises: ShapeError when x is not (I, N).
    """

    trainable = FACTORS
    buffers = ("weight",)

    def __init__(self, base: Linear) -> None:
        self.base = base

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        check_features("PerturbedLinear", x, self.base.inputs)
        scaled = linear.apply(x * params["S"][:, None], params["weight"])  # W (S x), (J, N)
        inner = linear.apply(x, params["A"])  # A x, (r, N)
        y = params["R"][:, None] * scaled + linear.apply(inner, params["B"]) + params["bias"][:, None]
        return y, (x, scaled, inner)

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, Params]:
        """Factored: the base weight needs no gradient, so no (J, I) array is formed.

        Math: h = Wᵀ (R ⊙ gy), gz = Bᵀ gy; gR = Σ_n gy W(S x), gS = Σ_n x h, gB = gy (A x)ᵀ, gA = gz xᵀ,
        gb = Σ_n gy, gx = S ⊙ h + Aᵀ gz.
        """
        x, scaled, inner = cache
        h = linear.grad_input(gy * params["R"][:, None], params["weight"])
        gz = linear.grad_input(gy, params["B"])
        grads = {
            "R": (gy * scaled).sum(axis=1),
            "S": (x * h).sum(axis=1),
            "A": linear.grad_weight(gz, x),
            "B": linear.grad_weight(gy, inner),
            "bias": gy.sum(axis=1),
        }
        if not input_gradient:
            return None, grads
        return params["S"][:, None] * h + linear.grad_input(gz, params["A"]), grads


class PerturbedConv2d(Layer):
    """y = K * x + b with the effective kernel K = R W S + B A, formed once a step; W is frozen.

    Shapes: x (I, H, W, N), weight (J, I, k, k), R (J,), S (I,), A (r, I), B (J, r), bias (J,), y (J, H', W', N).
    Raises: ShapeError when x has other channels or is smaller than the window.
    """

    trainable = FACTORS
    buffers = ("weight",)

    def __init__(self, base: Conv2d) -> None:
        self.base = base

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        check_images("PerturbedConv2d", x, self.base.inputs, self.base.kernel, self.base.padding)
        K = effective_weight(params)
        y = conv.apply(x, K, self.base.stride, self.base.padding)
        y += params["bias"][:, None, None, None]
        return y, (x, K)

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, Params]:
        x, K = cache
        stride, padding = self.base.stride, self.base.padding
        gx = conv.grad_input(gy, K, tuple(x.shape), stride, padding) if input_gradient else None
        gK = conv.grad_weight(gy, x, tuple(K.shape), stride, padding)
        return gx, {**project_gradient(params, gK), "bias": gy.reshape(self.base.outputs, -1).sum(axis=1)}


def decomposed_layers(model: Sequential, head: str = "head") -> dict[str, Layer]:
    """The layers that HALRP decomposes, in network order: every linear and convolutional layer but the head."""
    return {name: layer for name, layer in model.walk() if isinstance(layer, Linear | Conv2d) and name != head}


def perturb(model: Sequential, head: str = "head") -> Sequential:
    """The same network with every decomposed layer replaced by its perturbed twin, under the same names."""

    def twin(name: str, layer: Layer) -> Layer:
        if name == head:
            return layer
        if isinstance(layer, Linear):
            return PerturbedLinear(layer)
        return PerturbedConv2d(layer) if isinstance(layer, Conv2d) else layer

    return model.replaced(twin)


def merged_params(model: Sequential, params: Params) -> Params:
    """Parameters of the plain network that computes the same outputs: each perturbed layer as one dense weight."""
    merged = dict(params)
    for name, layer in model.walk():
        if isinstance(layer, PerturbedLinear | PerturbedConv2d):
            merged[f"{name}.weight"] = effective_weight({n: params[f"{name}.{n}"] for n in layer.names()})
            for factor in ("R", "S", "A", "B"):
                del merged[f"{name}.{factor}"]
    return merged
