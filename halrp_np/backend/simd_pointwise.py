"""Arithmetic on register blocks, vector by vector, as Numba intrinsics: what passes over images need beside simd.py.

Blocks are those of simd.py, of one vector or of OUTPUTS vectors (the same pixels of neighbouring channels). NaN keeps
its meaning everywhere. Offsets count elements and are not checked; `lanes` says how many of a vector's lanes exist in
an array: the others are read as 0 and never written.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from .simd import (
    FLOAT,
    INT,
    LANES,
    OUTPUTS,
    VECTOR,
    Block,
    broadcast,
    intrinsic,
    is_float_array,
    load_vector,
    pointer_to,
    store_vector,
    strided,
)
from .simd import multiply_add as multiply_add_vectors

_BYTE, _WORD = ir.IntType(8), ir.IntType(32)
_ZERO = ir.Constant(VECTOR, None)


def _map(builder: Any, function: Any, *blocks: Any) -> Any:
    """function(vectors) for the k-th vector of every block, as a block."""
    result = blocks[0]
    for k in range(result.type.count):
        result = builder.insert_value(result, function(*(builder.extract_value(block, k) for block in blocks)), k)
    return result


def _elementwise(count: int, function: Any) -> Any:
    """The intrinsic that applies function(builder, vectors) to `count` blocks of one size."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _map(builder, lambda *vectors: function(builder, *vectors), *arguments)

    def one(typing_context: Any, a: Any) -> Any:
        return a(a), emit

    def two(typing_context: Any, a: Any, b: Any) -> Any:
        return a(a, b), emit

    def three(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
        return a(a, b, c), emit

    def four(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        return a(a, b, c, d), emit

    return intrinsic((one, two, three, four)[count - 1])


def _first_greater(builder: Any, key: Any, best: Any, a: Any, b: Any) -> Any:
    """Lanes of a where key beats best, as max pooling has it: a NaN beats every number, and nothing beats it."""
    beats = builder.and_(builder.fcmp_unordered(">", key, best), builder.fcmp_ordered("ord", best, best))
    return builder.select(beats, a, b)


add = _elementwise(2, lambda builder, a, b: builder.fadd(a, b))
subtract = _elementwise(2, lambda builder, a, b: builder.fsub(a, b))
multiply = _elementwise(2, lambda builder, a, b: builder.fmul(a, b))
multiply_add = _elementwise(3, multiply_add_vectors)  # a b + c
pick = _elementwise(4, _first_greater)  # (key, best, a, b): a where key beats best, else b
rectified = _elementwise(1, lambda builder, a: builder.select(builder.fcmp_ordered("<=", a, _ZERO), _ZERO, a))
positive = _elementwise(
    1,
    lambda builder, a: builder.select(
        builder.fcmp_ordered(">", a, _ZERO), ir.Constant(VECTOR, [ir.Constant(FLOAT, 1.0)] * LANES), _ZERO
    ),
)  # 1 where a > 0, else 0


def _of_vectors(vectors: list[Any], builder: Any) -> Any:
    """A block of these vectors."""
    block = ir.Constant(ir.ArrayType(VECTOR, len(vectors)), ir.Undefined)
    for k, vector in enumerate(vectors):
        block = builder.insert_value(block, vector, k)
    return block


def _addresses(context: Any, builder: Any, kind: Any, place: Any, count: int) -> list[Any]:
    """Pointers to array[at], array[at + step], ... for a place (array, at, step)."""
    array, at, step = place
    return strided(builder, pointer_to(context, builder, kind, array, at), step, count)


@intrinsic
def load_outputs(typing_context: Any, x: Any, at: Any, step: Any) -> Any:
    """The OUTPUTS vectors x[at + k step :][:LANES]."""
    if not is_float_array(x):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        places = _addresses(context, builder, signature.args[0], arguments, OUTPUTS)
        return _of_vectors([load_vector(builder, place) for place in places], builder)

    return Block(OUTPUTS)(x, types.int64, types.int64), emit


@intrinsic
def spread_outputs(typing_context: Any, x: Any, at: Any) -> Any:
    """OUTPUTS vectors, x[at + k] in every lane of the k-th."""
    if not is_float_array(x):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        places = _addresses(context, builder, signature.args[0], (*arguments, INT(1)), OUTPUTS)
        return _of_vectors([broadcast(builder, builder.load(place)) for place in places], builder)

    return Block(OUTPUTS)(x, types.int64), emit


@intrinsic
def spread(typing_context: Any, value: Any) -> Any:
    """One vector with `value` in every lane."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _of_vectors([broadcast(builder, arguments[0])], builder)

    return Block(1)(types.float32), emit


@intrinsic
def filled(typing_context: Any, like: Any, value: Any) -> Any:
    """A block of the size of `like` with `value` everywhere."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _of_vectors([broadcast(builder, arguments[1])] * signature.args[0].size, builder)

    return like(like, types.float32), emit


@intrinsic
def load_one(typing_context: Any, x: Any, at: Any) -> Any:
    """The vector x[at :][:LANES]."""
    if not is_float_array(x):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _of_vectors([load_vector(builder, pointer_to(context, builder, signature.args[0], *arguments))], builder)

    return Block(1)(x, types.int64), emit


@intrinsic
def store(typing_context: Any, block: Any, x: Any, at: Any, step: Any) -> Any:
    """x[at + k step :][:LANES] = block[k]."""
    if not is_float_array(x):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, *place = arguments
        for k, address in enumerate(_addresses(context, builder, signature.args[1], place, block.type.count)):
            store_vector(builder, builder.extract_value(block, k), address)
        return context.get_dummy_value()

    return types.void(block, x, types.int64, types.int64), emit


# ---- some lanes of a vector -----------------------------------------------------------------------------------------


def _mask(builder: Any, lanes: Any) -> Any:
    """True in the first `lanes` lanes."""
    words = ir.VectorType(_WORD, LANES)
    number = ir.Constant(words, list(range(LANES)))
    first = builder.insert_element(ir.Constant(words, ir.Undefined), builder.trunc(lanes, _WORD), _WORD(0))
    limit = builder.shuffle_vector(first, ir.Constant(words, ir.Undefined), ir.Constant(words, [0] * LANES))
    return builder.icmp_signed("<", number, limit)


def _masked(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Call LLVM's masked load or store."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.{name}.v{LANES}f32.p0")  # type: ignore[no-untyped-call]
    return builder.call(function, arguments)


@intrinsic
def load_some(typing_context: Any, x: Any, at: Any, lanes: Any) -> Any:
    """The vector x[at :][:lanes], zeros in its other lanes."""
    if not is_float_array(x):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, at, lanes = arguments
        place = builder.bitcast(pointer_to(context, builder, signature.args[0], x, at), VECTOR.as_pointer())
        vector = _masked(builder, "load", VECTOR, [place, _WORD(4), _mask(builder, lanes), _ZERO])
        return _of_vectors([vector], builder)

    return Block(1)(x, types.int64, types.int64), emit


@intrinsic
def store_some(typing_context: Any, block: Any, x: Any, at: Any, step: Any, lanes: Any) -> Any:
    """x[at + k step :][:lanes] = the first lanes of block[k]."""
    if not is_float_array(x):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, *place, lanes = arguments
        mask = _mask(builder, lanes)
        for k, address in enumerate(_addresses(context, builder, signature.args[1], place, block.type.count)):
            target = builder.bitcast(address, VECTOR.as_pointer())
            _masked(builder, "store", ir.VoidType(), [builder.extract_value(block, k), target, _WORD(4), mask])
        return context.get_dummy_value()

    return types.void(block, x, types.int64, types.int64, types.int64), emit


# ---- positions in a pooling window, a byte each ---------------------------------------------------------------------


@intrinsic
def store_positions(typing_context: Any, block: Any, codes: Any, at: Any, step: Any) -> Any:
    """codes[at + k step :][:LANES] = block[k], floats from 0 to 255, as bytes."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, *place = arguments
        kind = ir.VectorType(_BYTE, LANES)
        for k, address in enumerate(_addresses(context, builder, signature.args[1], place, block.type.count)):
            words = builder.fptoui(builder.extract_value(block, k), ir.VectorType(_WORD, LANES))
            builder.store(builder.trunc(words, kind), builder.bitcast(address, kind.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(block, codes, types.int64, types.int64), emit


@intrinsic
def where_position(typing_context: Any, codes: Any, at: Any, position: Any, block: Any) -> Any:
    """A block of one vector where codes[at :][:LANES] say `position`, zeros elsewhere."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes, at, position, block = arguments
        kind = ir.VectorType(_BYTE, LANES)
        place = builder.bitcast(pointer_to(context, builder, signature.args[0], codes, at), kind.as_pointer())
        first = builder.insert_element(ir.Constant(kind, ir.Undefined), builder.trunc(position, _BYTE), _WORD(0))
        zeros = ir.Constant(ir.VectorType(_WORD, LANES), [0] * LANES)
        wanted = builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)
        mine = builder.icmp_unsigned("==", builder.load(place, align=1, typ=kind), wanted)
        return _map(builder, lambda vector: builder.select(mine, vector, _ZERO), block)

    return block(codes, types.int64, types.int64, block), emit
