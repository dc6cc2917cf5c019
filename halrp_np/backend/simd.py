"""Register blocks of float32 vectors as a Numba type: the one thing a compiler does not find in a loop over an array.

A block is a small matrix of vectors that the processor keeps in its registers while a kernel walks along a sum. Each
step loads a few vectors and a few scalars (or vectors) and combines every one with every other, so it does about 20
multiply-adds for 9 loads; a plain loop does one for two. The functions below are Numba intrinsics: they take flat,
contiguous float32 arrays and element offsets, and write the unrolled LLVM instructions of one step. They check no
bounds; their callers do the arithmetic, and direct_conv.py says why blocks have the shapes they have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import models, register_model


def _vector_registers() -> tuple[int, int]:
    """Floats of a vector register and their number, on the processor that Numba compiles for.

    LLVM itself is asked, by a sum of 16 floats: NUMBA_CPU_NAME and NUMBA_CPU_FEATURES may name a processor that is not
    this one, and a processor's name implies features that no list states.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = getattr(config, "CPU_NAME", None), getattr(config, "CPU_FEATURES", None)
    name = name or llvm.get_host_cpu_name()
    features = get_host_cpu_features() if features is None else features  # type: ignore[no-untyped-call]
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=name, features=features)
    kind = "<16 x float>"
    text = f"define {kind} @f({kind} %a, {kind} %b) {{ %c = fadd {kind} %a, %b\n ret {kind} %c }}"
    assembly = machine.emit_assembly(llvm.parse_assembly(text))
    if "zmm" in assembly:
        return 16, 32
    if "ymm" in assembly:
        return 8, 16
    return 4, 32 if machine.triple.startswith(("aarch64", "arm64")) else 16


LANES, REGISTERS = _vector_registers()
"""Floats of one vector: images of a batch slice, side by side. 16 with AVX-512, 8 with AVX, 4 elsewhere."""
PIXELS, OUTPUTS = (4, 5) if REGISTERS == 32 else (2, 5)
"""Block of a convolution's output: 20 accumulators of 32 registers, or 10 of 16, so that operands have room too."""
TAPS = 5 if REGISTERS == 32 else 2
"""Block of a weight gradient: TAPS x OUTPUTS accumulators."""

FLOAT = ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
INT = ir.IntType(64)
_FMA = f"llvm.fmuladd.v{LANES}f32"


class Block(types.Type):
    """The Numba type of `size` float32 vectors held together."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(name=f"Block({size} x float32x{LANES})")


@register_model(Block)
class _BlockModel(models.PrimitiveModel):
    """In LLVM a block is an array of vectors, which the optimiser takes apart into registers."""

    def __init__(self, dmm: Any, fe_type: Block) -> None:
        super().__init__(dmm, fe_type, ir.ArrayType(VECTOR, fe_type.size))  # type: ignore[no-untyped-call]


_Emit = Callable[..., Any]
intrinsic: Any = numba_intrinsic  # its own annotations describe the Python function, not the compiled one


def pointer_to(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Address of element `offset` of a flat array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset])


def load_vector(builder: Any, pointer: Any) -> Any:
    """One vector from memory, aligned or not."""
    return builder.load(builder.bitcast(pointer, VECTOR.as_pointer()), align=4, typ=VECTOR)


def store_vector(builder: Any, vector: Any, pointer: Any) -> None:
    """One vector to memory, aligned or not."""
    builder.store(vector, builder.bitcast(pointer, VECTOR.as_pointer()), align=4)


def strided(builder: Any, base: Any, step: Any, count: int) -> list[Any]:
    """The addresses base, base + step, ..."""
    return [builder.gep(base, [builder.mul(step, INT(k))]) for k in range(count)]


def broadcast(builder: Any, scalar: Any) -> Any:
    """A vector with the same float in each lane."""
    first = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(VECTOR, ir.Undefined), zeros)


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, one instruction where the processor has it."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, _FMA)  # type: ignore[no-untyped-call]
    return builder.call(function, [a, b, c])


def combine(builder: Any, block: Any, rows: Sequence[Any], columns: Sequence[Any]) -> Any:
    """block[r, c] += rows[r] columns[c], for a block stored row by row."""
    for r, row in enumerate(rows):
        for c, column in enumerate(columns):
            at = r * len(columns) + c
            sum_ = multiply_add(builder, row, column, builder.extract_value(block, at))
            block = builder.insert_value(block, sum_, at)
    return block


def is_float_array(kind: Any) -> bool:
    """Whether a Numba type is a flat contiguous float32 array."""
    return isinstance(kind, types.Array) and kind.dtype == types.float32 and kind.ndim == 1 and kind.layout == "C"


def zero_block(size: int) -> Any:
    """The intrinsic () -> Block(size) of zeros."""

    def typed(typing_context: Any) -> tuple[Any, _Emit]:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return ir.Constant(ir.ArrayType(VECTOR, size), None)

        return Block(size)(), emit

    return intrinsic(typed)


zero_pixel_block = zero_block(PIXELS * OUTPUTS)
zero_tap_block = zero_block(TAPS * OUTPUTS)


@intrinsic
def pixel_block_of(typing_context: Any, values: Any, at: Any) -> Any:
    """block[p, o] = values[at + o] in every lane: where a convolution with a bias starts."""
    if not is_float_array(values):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base = pointer_to(context, builder, signature.args[0], *arguments)
        vectors = [broadcast(builder, builder.load(builder.gep(base, [INT(o)]))) for o in range(OUTPUTS)]
        block = ir.Constant(ir.ArrayType(VECTOR, PIXELS * OUTPUTS), ir.Undefined)
        for at in range(PIXELS * OUTPUTS):
            block = builder.insert_value(block, vectors[at % OUTPUTS], at)
        return block

    return Block(PIXELS * OUTPUTS)(values, types.int64), emit


@intrinsic
def add_scaled(typing_context: Any, block: Any, x: Any, at: Any, step: Any, w: Any, w_at: Any, w_step: Any) -> Any:
    """block[p, o] += x[at + p step :][:LANES] w[w_at + o w_step], over PIXELS vectors and OUTPUTS scalars."""
    if not (is_float_array(x) and is_float_array(w)):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, x, at, step, w, w_at, w_step = arguments
        pixel = pointer_to(context, builder, signature.args[1], x, at)
        weight = pointer_to(context, builder, signature.args[4], w, w_at)
        pixels = [load_vector(builder, place) for place in strided(builder, pixel, step, PIXELS)]
        scalars = [builder.load(place) for place in strided(builder, weight, w_step, OUTPUTS)]
        return combine(builder, block, pixels, [broadcast(builder, scalar) for scalar in scalars])

    return block(block, x, types.int64, types.int64, w, types.int64, types.int64), emit


@intrinsic
def add_products(
    typing_context: Any, block: Any, x: Any, at: Any, taps: Any, tap: Any, gy: Any, gy_at: Any, gy_step: Any
) -> Any:
    """block[t, o] += x[at + taps[tap + t] :][:LANES] gy[gy_at + o gy_step :][:LANES], over TAPS and OUTPUTS vectors."""
    if not (is_float_array(x) and is_float_array(gy)):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, x, at, taps, tap, gy, gy_at, gy_step = arguments
        image = pointer_to(context, builder, signature.args[1], x, at)
        offsets = pointer_to(context, builder, signature.args[3], taps, tap)
        gradient = pointer_to(context, builder, signature.args[5], gy, gy_at)
        shifts = [builder.load(builder.gep(offsets, [INT(t)])) for t in range(TAPS)]
        rows = [load_vector(builder, builder.gep(image, [shift])) for shift in shifts]
        columns = [load_vector(builder, place) for place in strided(builder, gradient, gy_step, OUTPUTS)]
        return combine(builder, block, rows, columns)

    return block(block, x, types.int64, taps, types.int64, gy, types.int64, types.int64), emit


@intrinsic
def store_pixels(typing_context: Any, block: Any, y: Any, at: Any, step: Any, output_step: Any) -> Any:
    """y[at + p step + o output_step :][:LANES] = block[p, o]."""
    if not is_float_array(y):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, y, at, step, output_step = arguments
        base = pointer_to(context, builder, signature.args[1], y, at)
        for p, pixel in enumerate(strided(builder, base, step, PIXELS)):
            for o, target in enumerate(strided(builder, pixel, output_step, OUTPUTS)):
                store_vector(builder, builder.extract_value(block, p * OUTPUTS + o), target)
        return context.get_dummy_value()

    return types.void(block, y, types.int64, types.int64, types.int64), emit


@intrinsic
def add_lane_sums(typing_context: Any, block: Any, out: Any, at: Any) -> Any:
    """out[at + k] += Σ over the lanes of the block's vector k; what follows, up to a multiple of LANES, stays."""
    if not (is_float_array(out) and isinstance(block, Block)):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block, out, at = arguments
        base = pointer_to(context, builder, signature.args[1], out, at)
        vectors = [builder.extract_value(block, k) for k in range(signature.args[0].size)]
        vectors += [ir.Constant(VECTOR, None)] * (-len(vectors) % LANES)
        for first in range(0, len(vectors), LANES):
            address = builder.gep(base, [INT(first)])
            sums = _lane_sums(builder, vectors[first : first + LANES])
            store_vector(builder, builder.fadd(load_vector(builder, address), sums), address)
        return context.get_dummy_value()

    return types.void(block, out, types.int64), emit


def _lane_sums(builder: Any, vectors: list[Any]) -> Any:
    """One vector whose lane k is the sum over the lanes of vectors[k], for LANES vectors.

    Two vectors become one: their lanes are cut into groups, one group for each sum on its way, and the halves of every
    group are added. So LANES vectors need LANES - 1 additions, where one by one they would need log2(LANES) each.
    """
    width = LANES
    while len(vectors) > 1:
        groups = range(0, 2 * LANES, width)
        low, high = (
            ir.Constant(ir.VectorType(ir.IntType(32), LANES), [g + half + k for g in groups for k in range(width // 2)])
            for half in (0, width // 2)
        )
        vectors = [
            builder.fadd(builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        width //= 2
    return vectors[0]
