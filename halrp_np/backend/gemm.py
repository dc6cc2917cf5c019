"""Matrix product in float32 on register blocks: the loops behind linear layers."""

from __future__ import annotations

import numpy as np
from numba import prange

from ..typing import Array
from .buffers import empty
from .jit import compiled
from .simd import LANES, OUTPUTS, PIXELS, add_scaled, store_pixels, zero_pixel_block

_DEPTH = 256  # inner indices that a block adds up at once: its panels of b stay in L2
MIN_COLUMNS = LANES // 2  # with fewer, most lanes would be empty: gemm_conv.py is faster
_PANEL = PIXELS * LANES  # columns of a panel
_CHUNK, _GROUP = 4 * OUTPUTS, 2 * _PANEL  # rows and columns of a task


def _up(size: int, block: int) -> int:
    """The number of blocks that cover `size`."""
    return -(-size // block)


@compiled(parallel=True)
def _pack_panels(b, packed):  # type: ignore[no-untyped-def]
    """Copy b (K, N) into packed [panel][K][_PANEL], zeros beyond the last column."""
    depth, columns = b.shape
    chunks = (depth + _DEPTH - 1) // _DEPTH
    for task in prange(((columns + _PANEL - 1) // _PANEL) * chunks):
        panel, chunk = task // chunks, task % chunks
        for k in range(chunk * _DEPTH, min((chunk + 1) * _DEPTH, depth)):
            at = (panel * depth + k) * _PANEL
            wide = min(_PANEL, columns - panel * _PANEL)
            for n in range(wide):
                packed[at + n] = b[k, panel * _PANEL + n]
            for n in range(wide, _PANEL):
                packed[at + n] = 0


@compiled()
def _add_rows(scratch, out, row, skip, column, fresh):  # type: ignore[no-untyped-def]
    """Add (or write, if fresh) a block in scratch [row][_PANEL] to out, from its row `skip` on."""
    columns = min(_PANEL, out.shape[1] - column)
    for o in range(skip, OUTPUTS):
        for n in range(columns):
            value = scratch[o * _PANEL + n]
            out[row + o, column + n] = value if fresh else out[row + o, column + n] + value


@compiled(parallel=True)
def _product(a, a_steps, panels, depth, out):  # type: ignore[no-untyped-def]
    """out = a b, for flat a with element steps (row, column), and b packed in panels."""
    row_step, column_step = a_steps
    rows, columns = out.shape
    chunks, groups = (rows + _CHUNK - 1) // _CHUNK, (columns + _GROUP - 1) // _GROUP
    for task in prange(chunks * groups):
        low, left = task % chunks * _CHUNK, task // chunks * _GROUP
        scratch = np.empty(OUTPUTS * _PANEL, dtype=np.float32)
        for start in range(0, depth, _DEPTH):
            for column in range(left, min(left + _GROUP, columns), _PANEL):
                for m in range(low, min(low + _CHUNK, rows), OUTPUTS):
                    first = min(m, rows - OUTPUTS)  # the last block goes back over rows that are done, and skips them
                    block = zero_pixel_block()
                    for k in range(start, min(start + _DEPTH, depth)):
                        a_at = first * row_step + k * column_step
                        block = add_scaled(block, panels, column * depth + k * _PANEL, LANES, a, a_at, row_step)
                    store_pixels(block, scratch, 0, LANES, _PANEL)
                    _add_rows(scratch, out, first, m - first, column, start == 0)


def product(a: Array, b: Array) -> Array:
    """a b for float32 (M, K) and (K, N) with K > 0; neither a nor a transposed view of it is copied."""
    rows, depth = a.shape
    if rows < OUTPUTS:
        return product(np.concatenate([a, np.zeros((OUTPUTS - rows, depth), dtype=a.dtype)]), b)[:rows]
    flipped = a.T.flags.c_contiguous
    flat = (a.T if flipped else np.ascontiguousarray(a)).reshape(-1)
    packed = empty(_up(b.shape[1], _PANEL) * depth * _PANEL, np.float32)
    _pack_panels(b if b.flags.c_contiguous or b.flags.f_contiguous else np.ascontiguousarray(b), packed)
    out = empty((rows, b.shape[1]), np.float32)
    _product(flat, (1, rows) if flipped else (depth, 1), packed, depth, out)
    return out
