"""The vector instructions of winograd.py: a tile's transforms, and blocks of products whose lanes are added up.

A tile's size n is part of a kernel's type: every function takes `tile`, a tuple of n numbers of which only the length
counts, and writes out the transform of that size instruction by instruction, zeros and ones of its matrix left out.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from llvmlite import ir
from numba.core import types

from .simd import (
    FLOAT,
    INT,
    LANES,
    PIXELS,
    VECTOR,
    broadcast,
    combine,
    intrinsic,
    is_float_array,
    load_vector,
    multiply_add,
    pointer_to,
    store_vector,
    strided,
    zero_block,
)
from .winograd_tables import OUTPUT, Matrix, butterfly, tables, transpose

ROWS, COLUMNS = (4, 4) if PIXELS == 4 else (2, 4)
"""Block of a weight gradient in the transformed domain: accumulators within the registers, a multiple of LANES."""


def _row_sum(builder: Any, row: tuple[Fraction, ...], x: list[Any]) -> Any:
    """Σ row[k] x[k] for constants row."""
    total = None
    for factor, vector in zip(row, x, strict=True):
        if factor == 0:
            continue
        constant = ir.Constant(VECTOR, [ir.Constant(FLOAT, float(factor))] * LANES)
        if total is None:
            total = vector if factor == 1 else builder.fmul(constant, vector)
        elif abs(factor) == 1:
            total = (builder.fadd if factor == 1 else builder.fsub)(total, vector)
        else:
            total = multiply_add(builder, constant, vector, total)
    return total


def _pairs(builder: Any, x: list[Any]) -> list[Any]:
    """x with the sum and the difference of each pair: the P of `butterfly`."""
    y = list(x)
    for k in range(1, len(x) - 1, 2):
        y[k], y[k + 1] = builder.fadd(x[k], x[k + 1]), builder.fsub(x[k], x[k + 1])
    return y


def _product(builder: Any, matrix: Matrix, x: list[Any]) -> list[Any]:
    """matrix x, where the rows (or, in a wide matrix, the columns) are values at 0, ±p, ..., infinity."""
    if len(matrix) >= len(x):
        return _pairs(builder, [_row_sum(builder, row, x) for row in butterfly(matrix)])
    columns = transpose(butterfly(transpose(matrix)))
    return [_row_sum(builder, row, _pairs(builder, x)) for row in columns]


def _window(builder: Any, base: Any, step: Any, count: int, begin: Any, end: Any) -> list[Any]:
    """The vectors base, base + step, ... of which only begin .. end-1 lie in memory; the others are zero."""
    vectors = []
    for k in range(count):
        exists = builder.and_(builder.icmp_signed("<=", begin, INT(k)), builder.icmp_signed(">", end, INT(k)))
        readable = builder.select(exists, INT(k), begin)
        vector = load_vector(builder, builder.gep(base, [builder.mul(step, readable)]))
        vectors.append(builder.select(exists, vector, ir.Constant(VECTOR, None)))
    return vectors


def _inputs(tile: Any, side: Any) -> Matrix:
    """The transform of a line of pixels to n values: Bᵀ for n pixels, its partner A for OUTPUT of a gradient."""
    table = tables(tile.count + 1 - OUTPUT)
    return table.Bt if side.count == tile.count else transpose(table.At)


@intrinsic
def transform_line(
    typing_context: Any,
    tile: Any,
    side: Any,
    x: Any,
    at: Any,
    step: Any,
    begin: Any,
    end: Any,
    out: Any,
    out_at: Any,
    out_step: Any,
) -> Any:
    """out[out_at + i out_step :][:LANES] = Σ_k matrix[i, k] x[at + k step :][:LANES], k in begin .. end-1.

    The tuple `side` has the length of the line: n for an input, OUTPUT for a gradient.
    """
    if not (is_float_array(x) and is_float_array(out)):
        return None
    matrix = _inputs(tile, side)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, x, at, step, begin, end, out, out_at, out_step = arguments
        source = pointer_to(context, builder, signature.args[2], x, at)
        target = pointer_to(context, builder, signature.args[7], out, out_at)
        results = _product(builder, matrix, _window(builder, source, step, side.count, begin, end))
        for vector, address in zip(results, strided(builder, target, out_step, len(matrix)), strict=True):
            store_vector(builder, vector, address)
        return context.get_dummy_value()

    index = types.int64
    return types.void(tile, side, x, index, index, index, index, out, index, index), emit


@intrinsic
def weighted_sum(
    typing_context: Any,
    side: Any,
    factors: Any,
    first: Any,
    x: Any,
    at: Any,
    step: Any,
    begin: Any,
    end: Any,
    out: Any,
    out_at: Any,
) -> Any:
    """out[out_at :][:LANES] = Σ_k factors[first + k] x[at + k step :][:LANES] over the pixels k in begin .. end-1."""
    if not (is_float_array(x) and is_float_array(out) and is_float_array(factors)):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, factors, first, x, at, step, begin, end, out, out_at = arguments
        scalars = strided(builder, pointer_to(context, builder, signature.args[1], factors, first), INT(1), side.count)
        source = pointer_to(context, builder, signature.args[3], x, at)
        total = ir.Constant(VECTOR, None)
        for scalar, vector in zip(scalars, _window(builder, source, step, side.count, begin, end), strict=True):
            total = multiply_add(builder, broadcast(builder, builder.load(scalar)), vector, total)
        store_vector(builder, total, pointer_to(context, builder, signature.args[8], out, out_at))
        return context.get_dummy_value()

    index = types.int64
    return types.void(side, factors, index, x, index, index, index, index, out, index), emit


@intrinsic
def transform_output(
    typing_context: Any, tile: Any, x: Any, at: Any, step: Any, out: Any, out_at: Any, out_step: Any
) -> Any:
    """out[out_at + i out_step :][:LANES] = Σ_k Aᵀ[i, k] x[at + k step :][:LANES]: n values to OUTPUT pixels."""
    if not (is_float_array(x) and is_float_array(out)):
        return None
    matrix = tables(tile.count + 1 - OUTPUT).At

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, x, at, step, out, out_at, out_step = arguments
        source = pointer_to(context, builder, signature.args[1], x, at)
        target = pointer_to(context, builder, signature.args[4], out, out_at)
        results = _product(
            builder, matrix, [load_vector(builder, a) for a in strided(builder, source, step, tile.count)]
        )
        for vector, address in zip(results, strided(builder, target, out_step, OUTPUT), strict=True):
            store_vector(builder, vector, address)
        return context.get_dummy_value()

    return types.void(tile, x, types.int64, types.int64, out, types.int64, types.int64), emit


@intrinsic
def clear_vector(typing_context: Any, out: Any, at: Any) -> Any:
    """out[at :][:LANES] = 0."""
    if not is_float_array(out):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, at = arguments
        store_vector(builder, ir.Constant(VECTOR, None), pointer_to(context, builder, signature.args[0], out, at))
        return context.get_dummy_value()

    return types.void(out, types.int64), emit


zero_outer_block = zero_block(ROWS * COLUMNS)


@intrinsic
def add_outer(typing_context: Any, block: Any, z: Any, at: Any, step: Any, v: Any, v_at: Any, v_step: Any) -> Any:
    """block[r, c] += z[at + r step :][:LANES] v[v_at + c v_step :][:LANES], over ROWS and COLUMNS vectors."""
    if not (is_float_array(z) and is_float_array(v)):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, z, at, step, v, v_at, v_step = arguments
        rows = strided(builder, pointer_to(context, builder, signature.args[1], z, at), step, ROWS)
        columns = strided(builder, pointer_to(context, builder, signature.args[4], v, v_at), v_step, COLUMNS)
        return combine(
            builder, block, [load_vector(builder, a) for a in rows], [load_vector(builder, a) for a in columns]
        )

    return block(block, z, types.int64, types.int64, v, types.int64, types.int64), emit
