"""Matrix product in float32 on register blocks: the loops behind linear layers.

out = a b for a (M, K) and b (K, N) is cut four times, so that every number is used often where it is nearest.

1. Registers: a block of ROWS x WIDTH entries of out stays in registers while k runs. Each k loads one row of b (WIDTH
   entries, as vectors) and ROWS entries of a (each spread over a vector), and multiplies every one with every other:
   24 multiply-adds for 10 loads with AVX-512. A narrower block takes the columns that are left over.
2. First cache: some hundred rows of a panel, WIDTH columns of b copied side by side, serve all blocks of rows in turn.
3. Second cache: the _GROUP columns of a task's panels, as many rows of them at a time. The entries of out that a task
   works on are loaded into the registers for each such stretch of k, and stored after it.
4. Tasks: a share of the rows and a group of columns each; b is copied by every share anew, so shares are large.

A row of `a` is read as it lies. Where `a` is a transposed view the entries of one k lie side by side and those of the
next k far away, so _CHUNK rows of it are copied first. A transposed b is turned in squares of LANES. What sticks out of
a matrix is computed in a scratch tile and the valid part copied; the last rows are a block that goes back over rows
that are done, and skips them. Sums run along k in stretches that depend on K alone, whatever the threads and tasks.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange

from ..typing import Array
from .buffers import empty
from .jit import compiled
from .simd import LANES
from .simd_gemm import (
    ROWS,
    VECTORS,
    WIDTH,
    add_outer,
    copy_vector,
    keep_apart,
    load_rows,
    prefetch_rows,
    scale_rows,
    spread_rows,
    store_rows,
    transpose_tile,
)

_DEPTH = 128  # rows of b that a panel holds at most: two thirds of the first cache, for a whole batch
_STRETCH = 96  # rows that it holds where there are more: then rows of `a` find room beside it
_GROUP = 2 * WIDTH  # columns of a task at most
_CHUNK = 16 * ROWS  # rows of a transposed `a` that are copied at once
_LINE = 16  # entries of a cache line
_SHARE = 8  # blocks of rows that a share has at least, since it copies b
_FULL, _THREE, _TWO, _ONE = ((0.0,) * vectors for vectors in (VECTORS, 3, 2, 1))  # widths of blocks
_NOTHING = np.empty(0, np.float32)
MIN_COLUMNS = LANES // 2  # with fewer, most lanes would be empty: gemm_conv.py is faster


@compiled()
def _pack_rows(b, at, step, depth, columns, packed, to, width):  # type: ignore[no-untyped-def]
    """packed[to + k width + n] = b[at + k step + n], zeros beyond the last column."""
    inside = columns // LANES * LANES
    for k in range(depth):
        source, target = at + k * step, to + k * width
        for n in range(0, inside, LANES):
            copy_vector(b, source + n, packed, target + n)
        for n in range(inside, columns):
            packed[target + n] = b[source + n]
        for n in range(columns, width):
            packed[target + n] = 0


@compiled()
def _pack_columns(b, at, step, depth, columns, packed, to, width):  # type: ignore[no-untyped-def]
    """packed[to + k width + n] = b[at + n step + k], zeros beyond the last column."""
    inside, deep = columns // LANES * LANES, depth // LANES * LANES
    for n in range(0, inside, LANES):
        for k in range(0, deep, LANES):
            transpose_tile(b, at + n * step + k, step, packed, to + k * width + n, width)
        for k in range(deep, depth):
            for lane in range(n, n + LANES):
                packed[to + k * width + lane] = b[at + lane * step + k]
    for k in range(depth):
        for n in range(inside, width):
            packed[to + k * width + n] = b[at + n * step + k] if n < columns else 0


@compiled()
def _copy_tile(source, at, step, target, to, to_step, rows, columns):  # type: ignore[no-untyped-def]
    """Copy some rows and columns from one flat array to another."""
    for r in range(rows):
        line = source[at + r * step : at + r * step + columns]
        copy = target[to + r * to_step : to + r * to_step + columns]
        for n in range(line.size):
            copy[n] = line[n]


@compiled()
def _sweep(vectors, a, a_steps, b, b_at, depth, ahead, ahead_steps, begin, fresh, out, extent, place, tile):  # type: ignore[no-untyped-def]
    """Add `depth` products to the blocks of some rows in a panel's columns; if `fresh`, to what out begins with.

    `place` is (first row, row behind the last, first column), `a_steps` where row 0 of `a` would lie and the steps to
    the next row and column, `extent` the shape of out. `begin` is (start, base, base_scale) of `product`.
    Meanwhile the caches are told what comes next: `ahead`, from where on and the steps of a block, a line and a row.
    """
    keep_apart()
    low, high, corner = place
    start, base, base_scale = begin
    width, step = len(vectors) * LANES, extent[1]
    columns = min(width, step - corner)
    for m in range(low, high, ROWS):
        first = min(m, extent[0] - ROWS)
        at = first * step + corner
        whole = first == m and columns == width
        if fresh:
            for n in range(0, width, _LINE):
                prefetch_rows(out, at + n, step)
        if fresh and base.size == 0:
            block = spread_rows(vectors, start, first)
        else:
            origin = base if fresh else out
            if not whole:
                _copy_tile(origin, at, step, tile, 0, width, ROWS, columns)
            block = load_rows(vectors, origin if whole else tile, at if whole else 0, step if whole else width)
            if fresh:
                block = scale_rows(block, vectors, base_scale, start, first)
        a_at, next_at = a_steps[0] + first * a_steps[1], ahead_steps[0] + (m - low) // ROWS * ahead_steps[1]
        for line in range(0, depth, _LINE):
            prefetch_rows(ahead, next_at + line // _LINE * ahead_steps[2], ahead_steps[3])
            for k in range(line, min(line + _LINE, depth)):
                block = add_outer(block, vectors, a, a_at + k * a_steps[2], a_steps[1], b, b_at + k * width)
        store_rows(block, vectors, out if whole else tile, at if whole else 0, step if whole else width)
        if not whole:
            skip = m - first
            _copy_tile(tile, skip * width, width, out, at + skip * step, step, ROWS - skip, columns)


@compiled()
def _width(columns):  # type: ignore[no-untyped-def]
    """Columns of the panel to take next: whole vectors, at most as many as the widest block has."""
    return LANES * min(VECTORS, (columns + LANES - 1) // LANES)


@compiled()
def _pack_panels(b, b_steps, scale, first, depth, left, right, packed):  # type: ignore[no-untyped-def]
    """The columns left .. right - 1 of b, `depth` rows of it, in panels as wide as the blocks that take them."""
    column = left
    while column < right:
        width, to = _width(right - column), (column - left) * _DEPTH
        at, inside = first * b_steps[0] + column * b_steps[1], min(width, right - column)
        if b_steps[1] == 1:
            _pack_rows(b, at, b_steps[0], depth, inside, packed, to, width)
        else:
            _pack_columns(b, at, b_steps[1], depth, inside, packed, to, width)
        if scale.size:
            for k in range(depth):
                row, factor = packed[to + k * width : to + (k + 1) * width], scale[first + k]
                for n in range(row.size):
                    row[n] *= factor
        column += width


@compiled()
def _task(a, a_steps, b, b_steps, depth, scale, begin, out, extent, rows, columns):  # type: ignore[no-untyped-def]
    """The rows rows[0] .. rows[1] - 1 of out in a group of columns, one stretch of k after another."""
    keep_apart()
    (low, high), (left, right) = rows, columns
    panels, tile = np.empty(_DEPTH * _GROUP, dtype=np.float32), np.empty(ROWS * WIDTH, dtype=np.float32)
    turned = np.empty(_DEPTH * _CHUNK, dtype=np.float32)
    direct = a_steps[1] == 1
    stretches = 1 if depth <= _DEPTH else (depth + _STRETCH - 1) // _STRETCH
    for stretch in range(stretches):
        first = stretch * depth // stretches
        deep = (stretch + 1) * depth // stretches - first
        _pack_panels(b, b_steps, scale, first, deep, left, right, panels)
        for m in range(low, high, high - low if direct else _CHUNK):
            end = high if direct else min(m + _CHUNK, high)
            source, steps = a, (first, a_steps[0], a_steps[1])
            coming = (first + (m + ROWS) * a_steps[0], ROWS * a_steps[0], _LINE, a_steps[0])
            if not direct:
                top, lines = min(m, extent[0] - ROWS), (deep + _LINE - 1) // _LINE
                _pack_rows(a, first * a_steps[1] + top, a_steps[1], deep, end - top, turned, 0, _CHUNK)
                source, steps = turned, (-top, 1, _CHUNK)
                next_at = first * a_steps[1] + end if end < high else (first + deep) * a_steps[1] + low
                coming = (next_at, lines * a_steps[1], a_steps[1], _LINE)
            column = left
            while column < right:
                width, b_at = _width(right - column), (column - left) * _DEPTH
                place = (m, end, column)
                fresh = stretch == 0
                if width == WIDTH:
                    _sweep(_FULL, source, steps, panels, b_at, deep, a, coming, begin, fresh, out, extent, place, tile)
                elif width == 3 * LANES:
                    _sweep(_THREE, source, steps, panels, b_at, deep, a, coming, begin, fresh, out, extent, place, tile)
                elif width == 2 * LANES:
                    _sweep(_TWO, source, steps, panels, b_at, deep, a, coming, begin, fresh, out, extent, place, tile)
                else:
                    _sweep(_ONE, source, steps, panels, b_at, deep, a, coming, begin, fresh, out, extent, place, tile)
                column += width


@compiled(parallel=True)
def _product(a, a_steps, b, b_steps, depth, scale, begin, out, extent, group, shares):  # type: ignore[no-untyped-def]
    """See `product`: flat arrays with element steps (row, column) of which one is 1."""
    rows, columns = extent
    groups, blocks = (columns + group - 1) // group, (rows + ROWS - 1) // ROWS
    for task in prange(groups * shares):
        share = task % shares
        mine = (share * blocks // shares * ROWS, min(rows, (share + 1) * blocks // shares * ROWS))
        left = task // shares * group
        _task(a, a_steps, b, b_steps, depth, scale, begin, out, extent, mine, (left, min(columns, left + group)))


def _flat(matrix: Array) -> tuple[Array, tuple[int, int]]:
    """A matrix as a flat array with element steps (row, column), of which one is 1; copied only if it must be."""
    if matrix.flags.c_contiguous:
        return matrix.reshape(-1), (matrix.shape[1], 1)
    if matrix.T.flags.c_contiguous:
        return matrix.T.reshape(-1), (1, matrix.shape[0])
    copied = empty(matrix.shape, np.float32)
    copied[...] = matrix
    return copied.reshape(-1), (matrix.shape[1], 1)


def _vector(values: Array | None, size: int) -> Array:
    """A contiguous vector of at least `size` entries; 0 where none is given."""
    if values is not None and values.size >= size:
        return np.ascontiguousarray(values)
    vector = np.zeros(size, np.float32)
    if values is not None:
        vector[: values.size] = values
    return vector


def product(
    a: Array,
    b: Array,
    start: Array | None = None,
    scale: Array | None = None,
    base: Array | None = None,
    base_scale: Array | None = None,
) -> Array:
    """a (scale ⊙ b) + base_scale ⊙ base + start, one entry of scale, base_scale and start a row.

    None stands for a scale of 1, a start of 0, and no base; base and base_scale come together.

    Shapes: float32 a (M, K) and b (K, N), contiguous or transposed without a copy, scale (K,) with K > 0, base (M, N),
    base_scale and start (M,).
    """
    rows, depth = a.shape
    columns = b.shape[1]
    if rows < ROWS:  # less than one block
        a = np.concatenate([a, np.zeros((ROWS - rows, depth), np.float32)])
        base = None if base is None else np.concatenate([base, np.zeros((ROWS - rows, columns), np.float32)])
    blocks = -(-len(a) // ROWS)
    group = _GROUP if blocks >= 4 * _SHARE else WIDTH  # few rows: columns are shared out instead
    shares = max(1, min(blocks // _SHARE, -(-2 * get_num_threads() * group // columns)))
    out = empty((len(a), columns), np.float32)
    (a_flat, a_steps), (b_flat, b_steps) = _flat(a), _flat(b)
    base_flat = _NOTHING if base is None else _flat(np.ascontiguousarray(base))[0]
    begin = (_vector(start, len(a)), base_flat, _vector(base_scale, len(a)))
    factors = _NOTHING if scale is None else np.ascontiguousarray(scale)
    _product(a_flat, a_steps, b_flat, b_steps, depth, factors, begin, out.reshape(-1), out.shape, group, shares)
    return out[:rows]
