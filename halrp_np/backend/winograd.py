"""Convolution with fewer multiplications: Winograd's F(4x4, 3x3) and F(4x4, 5x5), float32, stride 1.

A tile of n x n pixels, n = 4 + r - 1, is transformed, multiplied with the transformed weights position by position, and
transformed back to 4 x 4 outputs (winograd_tables.py has the mathematics). The n² products replace 16 r²: 6.25 times
fewer for r = 5, 4 times for r = 3. The price is rounding: the transforms add and subtract values larger than the
result, so errors in LeNet's second layer are 7 to 9 times those of direct_conv.py, 18 times in the gradient in w: 2e-6
to 3e-6 of the result in root mean square, where float32 itself has 3e-8. `--fast-math` chooses these kernels.

The transforms work on vectors of LANES images, one instruction after the other with no shuffles. Between them stand n²
small matrix products, one a position:

    M[position][o][tile] = Σ_c U[position][o][c] V[position][c][tile]            forward, and the gradient in x
    W[position][o][c]    = Σ_tile Z[position][o][tile] V[position][c][tile]      the gradient in w

Forward, a task takes PIXELS tiles through all three steps, so that V and M stay in the core's own cache. The gradient
in w needs long sums instead: a task takes one row of positions, transforms some tiles to that row only, adds up their
products and goes on. Sums run in an order that depends on the shapes only, never on the number of threads.
"""

from __future__ import annotations

import numpy as np

from ..typing import Array, Shape
from .buffers import empty
from .direct_conv import Slices, pack_images
from .reference import output_size
from .simd import LANES
from .winograd_forward import batch_last, convolve, convolve_adjoint, packed, tile_grid
from .winograd_tables import KERNELS
from .winograd_weight import weight_gradient

__all__ = [
    "applies",
    "batch_last",
    "convolve",
    "convolve_adjoint",
    "correlate",
    "correlate_adjoint",
    "correlate_weight",
    "packed",
    "weight_gradient",
]


LEAST_CHANNELS = {3: 32, 5: 8}
"""Inputs and outputs from which on the products outweigh the transforms, for each size of the kernel."""
LEAST_TILES = 32
"""Tiles of all slices from which on the products outweigh the transform of the weights."""


def applies(w_shape: Shape, x_shape: Shape, stride: int) -> bool:
    """Whether a convolution has a tile and is large enough to win by it."""
    outputs, channels, r, other = w_shape
    if stride != 1 or r != other or r not in KERNELS or min(outputs, channels) < LEAST_CHANNELS[r]:
        return False
    height, width, batch = x_shape[1:]
    return tile_grid(height, width, -(-batch // LANES))[2] >= LEAST_TILES and batch >= LANES // 2


def _pack(x: Array) -> Slices:
    """A batch (C, H, W, N) in slices: the transforms need no borders."""
    return pack_images(x, x.shape[0], 0, 0, x.shape[1], x.shape[2])


def correlate(x: Array, w: Array, stride: int, padding: int) -> Array:
    """The convolution of x (C, H, W, N) with w (O, C, r, r), float32, stride 1."""
    rows, columns = (output_size(size, len(w[0, 0]), stride, padding) for size in x.shape[1:3])
    y = empty((len(w), rows, columns, x.shape[3]), np.float32)
    convolve(_pack(x), w, padding, batch_last(y))
    return y


def correlate_adjoint(gy: Array, w: Array, x_shape: Shape, stride: int, padding: int) -> Array:
    """The gradient of `correlate` in x."""
    gx = empty(x_shape, np.float32)
    convolve_adjoint(_pack(gy), w, padding, batch_last(gx))
    return gx


def correlate_weight(gy: Array, x: Array, w_shape: Shape, stride: int, padding: int) -> Array:
    """The gradient of `correlate` in w."""
    return weight_gradient(_pack(gy), _pack(x), w_shape, padding)
