"""Shape checks of the twins, whose kernels check no bounds themselves."""

from __future__ import annotations

from math import prod

import numpy as np

from ..errors import ShapeError
from ..typing import Array, Shape
from .reference import output_size


def expect(where: str, fits: bool, expected: str, *arrays: Array) -> None:
    """Raise ShapeError unless the shapes fit."""
    if not fits:
        shapes = " and ".join(str(tuple(array.shape)) for array in arrays)
        raise ShapeError(where, expected=expected, received=shapes, next_step="Check the shapes of the arguments.")


def expect_conv(where: str, x_shape: Shape, w_shape: Shape, gy: Array | None, stride: int, padding: int) -> Shape:
    """Rows and columns of the output; ShapeError unless the shapes belong to one convolution that has some."""
    fits = len(x_shape) == 4 and len(w_shape) == 4 and x_shape[0] == w_shape[1] and stride >= 1 and padding >= 0
    size: Shape = ()
    if fits:
        size = tuple(output_size(x_shape[k + 1], w_shape[k + 2], stride, padding) for k in (0, 1))
        fits = min(size) >= 1 and (gy is None or gy.shape == (w_shape[0], *size, x_shape[3]))
    if not fits:
        raise ShapeError(
            where,
            expected="x (C, H, W, N) no smaller than its kernel w (O, C, kh, kw), and gy (O, Ho, Wo, N)",
            received=f"x {tuple(x_shape)}, w {tuple(w_shape)}, gy {None if gy is None else tuple(gy.shape)}, "
            f"stride {stride}, padding {padding}",
            next_step="Check the shapes of the arguments.",
        )
    return size


def expect_rows(where: str, x: Array, *rows: Array) -> None:
    """Raise ShapeError unless x is (C, M) and each of rows is (C,)."""
    fits = x.ndim == 2 and all(row.shape == x.shape[:1] for row in rows)
    expect(where, fits, "x (C, M) and per-channel arrays (C,)", x, *rows)


def expect_mask(where: str, r: Array, mask: Array) -> int:
    """The number K of tangents in r (..., K, N) over a mask (..., N), 1 in r (..., N); ShapeError for other shapes."""
    fits = mask.shape == r.shape or mask.shape == (*r.shape[:-2], *r.shape[-1:])
    expect(where, fits, "(..., N) or K tangents (..., K, N), and a mask (..., N)", r, mask)
    return 1 if r.ndim == mask.ndim else int(r.shape[-2])


def expect_pool(where: str, x_shape: Shape, gy: Array | None, kernel: int, stride: int) -> Shape:
    """Rows and columns of the pooled image; ShapeError if no window fits or it is too large for a uint8 position."""
    fits = len(x_shape) == 4 and 1 <= kernel <= 16 and stride >= 1 and min(x_shape[1:3]) >= kernel
    rows, columns = (output_size(x_shape[k], kernel, stride, 0) for k in (1, 2)) if fits else (0, 0)
    if not fits or (gy is not None and gy.shape != (x_shape[0], rows, columns, x_shape[3])):
        raise ShapeError(
            where,
            expected="x (C, H, W, N) with a window of at most 16 inside it, and gy (C, Ho, Wo, N)",
            received=f"x {tuple(x_shape)}, gy {None if gy is None else tuple(gy.shape)}, window {kernel}",
            next_step="Check the shapes of the arguments.",
        )
    return rows, columns


def expect_gather(where: str, images: Array, rows: Array, source: Array, table: Array, table_row: Array) -> None:
    """Raise ShapeError unless the five arrays of gather_images belong together; their values are not looked at."""
    fits = images.ndim == 2 and images.dtype == "uint8" and table.ndim == 2 and table.shape[1] == 256
    fits = fits and rows.ndim == 1 and source.ndim == 1 and table_row.shape == source.shape
    expected = "uint8 images (M, P), rows (N,), source (D,), table (K, 256), table_row (D,)"
    expect(where, fits, expected, images, rows, source, table, table_row)


def expect_augmented(
    where: str, images: Array, rows: Array, source: Array, table: Array, table_row: Array, moves: Array, shape: Shape
) -> None:
    """Raise ShapeError unless expect_gather's five arrays, the moves and the shape of an image belong together."""
    expect_gather(where, images, rows, source, table, table_row)
    fits = len(shape) == 3 and min(shape) >= 1 and prod(shape) == source.shape[0]
    fits = fits and moves.shape == (rows.shape[0], 3) and moves.dtype.kind == "i"
    expect(where, fits, f"moves (N, 3) of signed integers, and source of {shape}", moves, source)


def expect_pull(grad: Array, *others: Array) -> None:
    """Raise ShapeError unless the arrays of `pull` are flat and of one size."""
    fits = grad.ndim == 1 and all(array.shape == grad.shape for array in others)
    expect("pull", fits, "grad, theta, strength and centre (P,)", grad, *others)


def expect_flat(where: str, flat: tuple[Array, ...], factors: Array, ends: Array, penalties: tuple[Array, ...]) -> None:
    """Raise ShapeError unless flat arrays are of one size and eight factors and per-segment arrays fit.

    The values of `ends` are looked at on the host only: reading them on a GPU would mean to wait for it.
    """
    fits = flat[0].ndim == 1 and all(array.shape == flat[0].shape for array in flat) and factors.shape == (8,)
    fits = fits and ends.ndim == 1 and ends.size > 0 and all(array.shape == ends.shape for array in penalties)
    if fits and isinstance(ends, np.ndarray):
        fits = bool(ends[-1] == flat[0].size and ends[0] >= 0 and (ends[1:] >= ends[:-1]).all())
    expected = "flat arrays (P,), factors (8,), and ends rising to P, l1, l2, centre (S,)"
    expect(where, fits, expected, *flat, factors, ends, *penalties)
