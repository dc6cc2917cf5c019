"""Layers of tasks t ≥ 1: the frozen base weight, scaled by row and column, plus a low-rank residual.

Effective weight (HALRP, arXiv 2311.15161, W_t = R_t W S_t + B_t with the residual B_t = B A of low rank):
    K[j,i,c,d] = R[j] W[j,i,c,d] S[i] + (B A)[j,i]      for every kernel position (c, d); linear layers have one.
The paper's two branches for convolutions (scaled convolution; 1x1 map A, box sum, 1x1 map B) equal this dense kernel,
because a box sum commutes with the channel map and zero padding stays zero. The bias is not scaled.
"""

from __future__ import annotations

from typing import Any

from ..backend import array_module, ops
from ..typing import Array, Params
from . import conv, linear
from .base import EVALUATE, Cache, Layer, Mode, Names, check_features, gradients
from .container import Sequential
from .conv import Conv2d
from .linear import PRODUCT, Linear
from .tangents import total, with_bias

FACTORS = ("R", "S", "A", "B", "bias")
NOTHING_MOVED: tuple[Any, Any, Any, Params] = (None, None, None, {})


def effective_weight(params: Params) -> Array:
    """K = R W S + B A, with B A added at every kernel position; shape of W."""
    return ops.effective_weight(params["weight"], params["R"], params["S"], ops.matmul(params["B"], params["A"]))


def project_gradient(params: Params, gK: Array) -> Params:
    """Gradients of R, S, A and B from the gradient gK of the effective weight.

    Math: with C = Σ_cd gK ⊙ W and D = Σ_cd gK (both (J, I)),
    ∂L/∂R_j = Σ_i C_ji S_i, ∂L/∂S_i = Σ_j C_ji R_j, ∂L/∂B = D Aᵀ, ∂L/∂A = Bᵀ D.
    """
    C, D = ops.window_sums(gK, params["weight"])
    return {
        "R": (C * params["S"]).sum(axis=1),
        "S": (params["R"][:, None] * C).sum(axis=0),
        "A": ops.matmul(params["B"].T, D),
        "B": ops.matmul(D, params["A"].T),
    }


def r_effective_weight(params: Params, rparams: Params) -> Array | None:
    """The tangent of the effective weight, (K, *shape of W); None without a tangent of R, S, A or B.

    Math: rK = rR W S + R W rS + rB A + B rA.
    """
    W, R, S = params["weight"], params["R"], params["S"]
    rR, rS, rA, rB = (rparams.get(name) for name in ("R", "S", "A", "B"))
    window = (1,) * (W.ndim - 2)
    rows = total(None if rR is None else rR[:, :, None] * S, None if rS is None else R[:, None] * rS[:, None, :])
    low_rank = total(None if rB is None else rB @ params["A"], None if rA is None else params["B"] @ rA)
    scaled = None if rows is None else W * rows.reshape(*rows.shape, *window)
    if low_rank is None:
        return scaled
    low_rank = low_rank.reshape(*low_rank.shape, *window)
    if scaled is not None:
        return scaled + low_rank
    xp = array_module(W)
    return xp.ascontiguousarray(xp.broadcast_to(low_rank, (low_rank.shape[0], *W.shape)))


def r_project_gradient(params: Params, rparams: Params, gK: Array, rgK: Array) -> Params:
    """The tangent of `project_gradient`, as the factors and the gradient gK of the effective weight move.

    Math: with C, D of gK and rC, rD of rgK (K, J, I),
    r∂R = rC S + C rS, r∂S = rCᵀ R + Cᵀ rR, r∂B = rD Aᵀ + D rAᵀ, r∂A = Bᵀ rD + rBᵀ D.
    """
    W = params["weight"]
    C, D = ops.window_sums(gK, W)
    rwindow = tuple(range(3, rgK.ndim))
    rC, rD = (rgK * W).sum(axis=rwindow), rgK.sum(axis=rwindow)
    r = {"R": rC @ params["S"], "S": params["R"] @ rC, "A": params["B"].T @ rD, "B": rD @ params["A"].T}
    moved = {
        "R": lambda: rparams["S"] @ C.T,
        "S": lambda: rparams["R"] @ C,
        "A": lambda: rparams["B"].swapaxes(1, 2) @ D,
        "B": lambda: D @ rparams["A"].swapaxes(1, 2),
    }
    partner = {"R": "S", "S": "R", "A": "B", "B": "A"}
    return {name: r[name] + moved[name]() if partner[name] in rparams else r[name] for name in r}


class PerturbedLinear(Layer):
    """y = R ⊙ W (S ⊙ x) + B (A x) + b, with the base weight W frozen.

    Shapes: x (I, N), weight (J, I), R (J,), S (I,), A (r, I), B (J, r), bias (J,), y (J, N).
    Raises: ShapeError when x is not (I, N).
    """

    trainable = FACTORS
    buffers = ("weight",)

    def __init__(self, base: Linear) -> None:
        self.base = base

    @property
    def plain(self) -> Linear:
        """The layer that this one perturbs."""
        return self.base

    def dense_weight(self, params: Params) -> Array:
        """The effective weight, (J, I)."""
        return effective_weight(params)

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        check_features("PerturbedLinear", x, self.base.inputs)
        scaled = ops.linear(x, params["weight"], scale=params["S"])  # W (S x), (J, N)
        inner = linear.apply(x, params["A"])  # A x, (r, N)
        return ops.linear_add(scaled, params["R"], inner, params["B"], params["bias"]), (x, scaled, inner)

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        """Factored: the base weight needs no gradient, so no (J, I) array is formed.

        Math: h = Wᵀ (R ⊙ gy), gz = Bᵀ gy; gR = Σ_n gy W(S x), gS = Σ_n x h, gB = gy (A x)ᵀ, gA = gz xᵀ,
        gb = Σ_n gy, gx = S ⊙ h + Aᵀ gz.
        """
        x, scaled, inner = cache
        h = ops.linear(gy, params["weight"].T, scale=params["R"])
        gz = linear.grad_input(gy, params["B"])
        formulas = {
            "R": lambda: ops.row_dots(gy, scaled),
            "S": lambda: ops.row_dots(x, h),
            "A": lambda: linear.grad_weight(gz, x),
            "B": lambda: linear.grad_weight(gy, inner),
            "bias": lambda: gy.sum(axis=1),
        }
        gx = ops.linear_add(h, params["S"], gz, params["A"].T) if input_gradient else None
        return gx, gradients(wanted, formulas)

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        """The product rule, factor by factor.

        Math: rscaled = W (rS ⊙ x + S ⊙ rx), rinner = rA x + A rx,
        ry = rR ⊙ scaled + R ⊙ rscaled + rB inner + B rinner + rb.
        """
        x, scaled, inner = cache
        rR, rS, rA, rB, rb = (rparams.get(name) for name in FACTORS)
        moved = total(_by_row(params["S"], rx), _by_row(rS, x))
        rscaled = PRODUCT.r_apply(x, params["weight"], moved, None)
        rinner = PRODUCT.r_apply(x, params["A"], rx, rA)
        low_rank = PRODUCT.r_apply(inner, params["B"], rinner, rB)
        ry = total(_by_row(rR, scaled), _by_row(params["R"], rscaled), low_rank)
        return with_bias(ry, rb, (self.base.outputs, x.shape[1])), (rx, rscaled, rinner, rparams)

    def r_backward(
        self,
        params: Params,
        cache: Cache,
        rcache: Cache,
        gy: Cache,
        rgy: Array,
        *,
        input_gradient: bool = True,
        wanted: Names = None,
    ) -> tuple[Array | None, Params]:
        """The tangent of each line of `backward`.

        Math: rh = Wᵀ (rR ⊙ gy + R ⊙ rgy), rgz = rBᵀ gy + Bᵀ rgy; rgR = Σ (rgy scaled + gy rscaled),
        rgS = Σ (rx h + x rh), rgB = rgy innerᵀ + gy rinnerᵀ, rgA = rgz xᵀ + gz rxᵀ, rgb = Σ rgy,
        rgx = rS ⊙ h + S ⊙ rh + rAᵀ gz + Aᵀ rgz.
        """
        x, scaled, inner = cache
        rx, rscaled, rinner, rparams = rcache or NOTHING_MOVED
        rR, rS, rA, rB, _ = (rparams.get(name) for name in FACTORS)
        A, B, S, W = params["A"], params["B"], params["S"], params["weight"]
        h = gz = None
        if rx is not None or rS is not None or rA is not None:  # else no term below needs what backward formed
            h, gz = ops.linear(gy, W.T, scale=params["R"]), linear.grad_input(gy, B)
        moved = total(_by_row(params["R"], rgy), None if rR is None else _by_row(rR, gy))
        rh = PRODUCT.r_grad_input(gy, W, moved, None, tuple(x.shape))
        rgz = PRODUCT.r_grad_input(gy, B, rgy, rB, tuple(inner.shape))
        formulas = {
            "R": lambda: _over_batch(total(_along(rgy, scaled), _along(rscaled, gy))),
            "S": lambda: _over_batch(total(_along(rx, h), _along(rh, x))),
            "A": lambda: PRODUCT.r_grad_weight(gz, x, rgz, rx, tuple(A.shape)),
            "B": lambda: PRODUCT.r_grad_weight(gy, inner, rgy, rinner, tuple(B.shape)),
            "bias": lambda: rgy.sum(axis=2).T,
        }
        rgx = None
        if input_gradient:
            low_rank = PRODUCT.r_grad_input(gz, A, rgz, rA, tuple(x.shape))
            rgx = total(_by_row(rS, h), _by_row(S, rh), low_rank)
        return rgx, gradients(wanted, formulas)


def _by_row(rows: Array | None, columns: Array | None) -> Array | None:
    """Scalings times columns, one of the two a tangent: (J,) and (J, K, N), or (K, J) and (J, N)."""
    if rows is None or columns is None:
        return None
    return rows[:, None, None] * columns if rows.ndim == 1 else rows.T[:, :, None] * columns[:, None, :]


def _along(tangent: Array | None, columns: Array | None) -> Array | None:
    """K tangents (J, K, N) times columns (J, N)."""
    return None if tangent is None or columns is None else tangent * columns[:, None, :]


def _over_batch(products: Array | None) -> Array | None:
    """Σ_n of (J, K, N), as (K, J)."""
    return None if products is None else products.sum(axis=2).T


class PerturbedConv2d(Layer):
    """y = K * x + b with the effective kernel K = R W S + B A, formed once a step; W is frozen.

    Shapes: x (I, H, W, N), weight (J, I, k, k), R (J,), S (I,), A (r, I), B (J, r), bias (J,), y (J, H', W', N).
    Raises: ShapeError when x has other channels or is smaller than the window.
    """

    trainable = FACTORS
    buffers = ("weight",)

    def __init__(self, base: Conv2d) -> None:
        self.base = base

    @property
    def plain(self) -> Conv2d:
        """The layer that this one perturbs."""
        return self.base

    def dense_weight(self, params: Params) -> Array:
        """The effective kernel, (J, I, k, k)."""
        return effective_weight(params)

    def check(self, x: Array) -> None:
        """Raise ShapeError unless x has this layer's channels and is no smaller than its window."""
        self.base.check(x, "PerturbedConv2d")

    def weight_gradients(self, params: Params, gK: Array) -> Params:
        """The gradients of R, S, A and B from that of the effective kernel."""
        return project_gradient(params, gK)

    def forward(self, params: Params, x: Array, mode: Mode = EVALUATE) -> tuple[Array, Cache]:
        self.check(x)
        K = self.dense_weight(params)
        y = conv.apply(x, K, self.base.stride, self.base.padding)
        y += params["bias"][:, None, None, None]
        return y, (x, K)

    def backward(
        self, params: Params, cache: Cache, gy: Array, *, input_gradient: bool = True, wanted: Names = None
    ) -> tuple[Array | None, Params]:
        x, K = cache
        stride, padding = self.base.stride, self.base.padding
        gx = conv.grad_input(gy, K, tuple(x.shape), stride, padding) if input_gradient else None
        grads = gradients(wanted, {"bias": lambda: gy.reshape(self.base.outputs, -1).sum(axis=1)})
        if asks_for_factors(wanted):
            factors = project_gradient(params, conv.grad_weight(gy, x, tuple(K.shape), stride, padding))
            grads |= {name: value for name, value in factors.items() if wanted is None or name in wanted}
        return gx, grads

    def r_forward(self, params: Params, cache: Cache, rparams: Params, rx: Array | None) -> tuple[Array, Cache]:
        """ry = K * rx + rK * x + rb, with the tangent rK of the effective kernel."""
        x, K = cache
        rK = r_effective_weight(params, rparams)
        ry = conv.bilinear(self.base.stride, self.base.padding).r_apply(x, K, rx, rK)
        return with_bias(ry, rparams.get("bias"), self.base.y_shape(x)), (rx, rK, rparams)

    def r_backward(
        self,
        params: Params,
        cache: Cache,
        rcache: Cache,
        gy: Cache,
        rgy: Array,
        *,
        input_gradient: bool = True,
        wanted: Names = None,
    ) -> tuple[Array | None, Params]:
        """As the convolution with kernel K, its gradient's tangent projected to the factors."""
        x, K = cache
        rx, rK, rparams = rcache or (None, None, {})
        maps = conv.bilinear(self.base.stride, self.base.padding)
        rgx = maps.r_grad_input(gy, K, rgy, rK, tuple(x.shape)) if input_gradient else None
        rgrads = gradients(wanted, {"bias": lambda: rgy.sum(axis=(1, 2, 4)).T})
        if asks_for_factors(wanted):
            gK = maps.grad_weight(gy, x, tuple(K.shape)) if rK is not None else array_module(K).zeros_like(K)
            rgK = maps.r_grad_weight(gy, x, rgy, rx, tuple(K.shape))
            factors = r_project_gradient(params, rparams, gK, rgK)
            rgrads |= {name: value for name, value in factors.items() if wanted is None or name in wanted}
        return rgx, rgrads


def asks_for_factors(wanted: Names) -> bool:
    """Whether any of R, S, A and B is wanted, and so the gradient of the effective weight."""
    return wanted is None or any(name != "bias" for name in wanted)


def decomposed_layers(model: Sequential, head: str = "head") -> dict[str, Layer]:
    """The layers that HALRP decomposes, in network order: every linear and convolutional layer but the head."""
    return {name: layer for name, layer in model.walk() if isinstance(layer, Linear | Conv2d) and name != head}


def perturbed_twin(layer: Layer) -> Layer:
    """The perturbed layer over a linear layer or a convolution; any other layer as it is."""
    if isinstance(layer, Linear):
        return PerturbedLinear(layer)
    return PerturbedConv2d(layer) if isinstance(layer, Conv2d) else layer


def perturb(model: Sequential, head: str = "head") -> Sequential:
    """The same network with every decomposed layer replaced by its perturbed twin, under the same names."""
    return model.replaced(lambda name, layer: layer if name == head else perturbed_twin(layer))


def merged_params(model: Sequential, params: Params) -> Params:
    """Parameters of the plain network that computes the same outputs: each perturbed layer as one dense weight."""
    merged = dict(params)
    for name, layer in model.walk():
        if isinstance(layer, PerturbedLinear | PerturbedConv2d):
            merged[f"{name}.weight"] = layer.dense_weight({n: params[f"{name}.{n}"] for n in layer.names()})
            for factor in ("R", "S", "A", "B"):
                del merged[f"{name}.{factor}"]
    return merged
