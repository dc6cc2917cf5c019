"""Register blocks of a matrix product as Numba intrinsics: ROWS rows of some vectors each, and a tile turned around.

The number of vectors of a row is part of a kernel's type: every function takes `vectors`, a tuple of which only the
length counts. Offsets count elements and are not checked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from .simd import (
    INT,
    LANES,
    REGISTERS,
    VECTOR,
    Block,
    broadcast,
    combine,
    intrinsic,
    is_float_array,
    load_vector,
    multiply_add,
    pointer_to,
    store_vector,
    strided,
)

ROWS, VECTORS = 6, 4 if REGISTERS == 32 else 2
"""A block: 24 accumulators of 32 registers, or 12 of 16, beside a row of b and one entry of a."""
WIDTH = VECTORS * LANES
"""Columns of the widest block."""


@intrinsic
def spread_rows(typing_context: Any, vectors: Any, start: Any, at: Any) -> Any:
    """A block with start[at + r] all along row r."""
    if not is_float_array(start):
        return None
    columns = len(vectors)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, start, at = arguments
        base = pointer_to(context, builder, signature.args[1], start, at)
        block = ir.Constant(ir.ArrayType(VECTOR, ROWS * columns), ir.Undefined)
        for r in range(ROWS):
            row = broadcast(builder, builder.load(builder.gep(base, [INT(r)])))
            for c in range(columns):
                block = builder.insert_value(block, row, r * columns + c)
        return block

    return Block(ROWS * columns)(vectors, start, types.int64), emit


@intrinsic
def load_rows(typing_context: Any, vectors: Any, x: Any, at: Any, step: Any) -> Any:
    """A block of the vectors x[at + r step + c LANES :][:LANES]."""
    if not is_float_array(x):
        return None
    columns = len(vectors)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, x, at, step = arguments
        base = pointer_to(context, builder, signature.args[1], x, at)
        block = ir.Constant(ir.ArrayType(VECTOR, ROWS * columns), ir.Undefined)
        for r, row in enumerate(strided(builder, base, step, ROWS)):
            for c, place in enumerate(strided(builder, row, INT(LANES), columns)):
                block = builder.insert_value(block, load_vector(builder, place), r * columns + c)
        return block

    return Block(ROWS * columns)(vectors, x, types.int64, types.int64), emit


@intrinsic
def scale_rows(typing_context: Any, block: Any, vectors: Any, scale: Any, shift: Any, at: Any) -> Any:
    """The block with scale[at + r] block[r, c] + shift[at + r] in place of block[r, c]."""
    if not (is_float_array(scale) and is_float_array(shift)):
        return None
    columns = len(vectors)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, _, scale, shift, at = arguments
        factors = pointer_to(context, builder, signature.args[2], scale, at)
        terms = pointer_to(context, builder, signature.args[3], shift, at)
        for r in range(ROWS):
            a, b = (broadcast(builder, builder.load(builder.gep(base, [INT(r)]))) for base in (factors, terms))
            for c in range(columns):
                vector = multiply_add(builder, a, builder.extract_value(block, r * columns + c), b)
                block = builder.insert_value(block, vector, r * columns + c)
        return block

    return block(block, vectors, scale, shift, types.int64), emit


@intrinsic
def store_rows(typing_context: Any, block: Any, vectors: Any, y: Any, at: Any, step: Any) -> Any:
    """y[at + r step + c LANES :][:LANES] = block[r, c]."""
    if not is_float_array(y):
        return None
    columns = len(vectors)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, _, y, at, step = arguments
        base = pointer_to(context, builder, signature.args[2], y, at)
        for r, row in enumerate(strided(builder, base, step, ROWS)):
            for c, place in enumerate(strided(builder, row, INT(LANES), columns)):
                store_vector(builder, builder.extract_value(block, r * columns + c), place)
        return context.get_dummy_value()

    return types.void(block, vectors, y, types.int64, types.int64), emit


@intrinsic
def add_outer(typing_context: Any, block: Any, vectors: Any, a: Any, a_at: Any, a_step: Any, b: Any, b_at: Any) -> Any:
    """block[r, c] += a[a_at + r a_step] b[b_at + c LANES :][:LANES]."""
    if not (is_float_array(a) and is_float_array(b)):
        return None
    columns = len(vectors)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, _, a, a_at, a_step, b, b_at = arguments
        column = pointer_to(context, builder, signature.args[2], a, a_at)
        row = pointer_to(context, builder, signature.args[5], b, b_at)
        scalars = [builder.load(place) for place in strided(builder, column, a_step, ROWS)]
        wide = [load_vector(builder, place) for place in strided(builder, row, INT(LANES), columns)]
        return combine(builder, block, [broadcast(builder, scalar) for scalar in scalars], wide)

    return block(block, vectors, a, types.int64, types.int64, b, types.int64), emit


@intrinsic
def copy_vector(typing_context: Any, x: Any, at: Any, y: Any, to: Any) -> Any:
    """y[to:][:LANES] = x[at:][:LANES]."""
    if not (is_float_array(x) and is_float_array(y)):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, at, y, to = arguments
        vector = load_vector(builder, pointer_to(context, builder, signature.args[0], x, at))
        store_vector(builder, vector, pointer_to(context, builder, signature.args[2], y, to))
        return context.get_dummy_value()

    return types.void(x, types.int64, y, types.int64), emit


@intrinsic
def prefetch_rows(typing_context: Any, x: Any, at: Any, step: Any) -> Any:
    """Ask for the cache lines of x[at + r step], ROWS of them; an address outside of x does no harm."""
    if not is_float_array(x):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, at, step = arguments
        base, number = pointer_to(context, builder, signature.args[0], x, at), ir.IntType(32)
        address = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [address, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (address,), kind)
        for line in strided(builder, base, step, ROWS):
            place = builder.bitcast(line, address)
            builder.call(prefetch, [place, number(0), number(3), number(1)])  # to read, into every cache, data
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64), emit


@intrinsic
def keep_apart(typing_context: Any) -> Any:
    """Compile the function that calls this once, not once more inside each of its callers."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def transpose_tile(typing_context: Any, x: Any, at: Any, step: Any, y: Any, y_at: Any, y_step: Any) -> Any:
    """y[y_at + k y_step + n] = x[at + n step + k] for k, n < LANES."""
    if not (is_float_array(x) and is_float_array(y)):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, at, step, y, y_at, y_step = arguments
        source = pointer_to(context, builder, signature.args[0], x, at)
        target = pointer_to(context, builder, signature.args[3], y, y_at)
        rows = [load_vector(builder, place) for place in strided(builder, source, step, LANES)]
        for row, place in zip(_turned(builder, rows), strided(builder, target, y_step, LANES), strict=True):
            store_vector(builder, row, place)
        return context.get_dummy_value()

    return types.void(x, types.int64, types.int64, y, types.int64, types.int64), emit


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """The transposed matrix: for every power of two, squares of that size change sides in pairs of rows."""
    size = 1
    while size < LANES:
        turned = list(rows)
        for n in range(LANES):
            if n & size:
                continue
            for half, place in ((0, n), (size, n + size)):
                order = [(k & ~size) + half + (LANES if k & size else 0) for k in range(LANES)]
                mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)
                turned[place] = builder.shuffle_vector(rows[n], rows[n + size], mask)
        rows = turned
        size *= 2
    return rows
