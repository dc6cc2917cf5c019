"""The inputs on which every column of the table of ops must agree with the reference; a row without any fails a test.

Whole numbers stand where ties matter (pooling, ReLU).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from halrp_np.training.optimizer import adam_factors

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Case:
    """Arguments of one call; `draw` makes the arrays in a floating type, `changed` are those updated in place.

    `call`, where an op needs more than one call, runs it with the ops of a column.
    """

    op: str
    label: str
    draw: Callable[[np.random.Generator, Any], Arrays]
    options: dict[str, Any] = field(default_factory=dict)
    changed: tuple[int, ...] = ()
    call: Callable[..., Any] | None = None

    def run(self, column: Any, arrays: Any) -> tuple[Any, ...]:
        """The arrays that the op returns, run as `column` has it."""
        function = getattr(column, self.op) if self.call is None else partial(self.call, column)
        returned = function(*arrays, **self.options)
        return returned if isinstance(returned, tuple) else () if returned is None else (returned,)

    def __str__(self) -> str:
        return f"{self.op}-{self.label}"


def normal(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator, Any], Arrays]:
    """Standard normal arrays of these shapes."""
    return lambda rng, dtype: tuple(rng.normal(size=shape).astype(dtype) for shape in shapes)


def whole(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator, Any], Arrays]:
    """Arrays of whole numbers from -2 to 2."""
    return lambda rng, dtype: tuple(rng.integers(-2, 3, size=shape).astype(dtype) for shape in shapes)


def conv_cases(x: tuple[int, ...], w: tuple[int, ...], stride: int, padding: int) -> list[Case]:
    """The three bilinear maps of one convolution, and the third's squares."""
    rows, cols = ((x[k + 1] + 2 * padding - w[k + 2]) // stride + 1 for k in (0, 1))
    gy = (w[0], rows, cols, x[3])
    label = f"{x}*{w}/{stride}+{padding}".replace(" ", "")
    window = {"stride": stride, "padding": padding}
    return [
        Case("conv2d", label, normal(x, w), window),
        Case("conv2d_grad_input", label, normal(gy, w), {"x_shape": x, **window}),
        Case("conv2d_grad_weight", label, normal(gy, x), {"w_shape": w, **window}),
        Case("conv2d_weight_squares", label, normal(gy, x), {"w_shape": w, **window}),
    ]


def batchnorm_cases(channels: int, count: int) -> list[Case]:
    """The three passes of one batch normalisation; the statistics of the backward pass are its own batch's."""
    rows, row = (channels, count), (channels,)

    def backward(rng: np.random.Generator, dtype: Any) -> Arrays:
        gy, x, gamma = normal(rows, rows, row)(rng, dtype)
        return gy, x, gamma, x.mean(axis=1), x.var(axis=1)

    return [
        Case("batchnorm_train", f"{rows}", normal(rows, row, row), {"eps": 1e-3}),
        Case("batchnorm_apply", f"{rows}", normal(rows, row, row)),
        Case("batchnorm_backward", f"{rows}", backward, {"eps": 1e-3}),
    ]


def linear_cases(outputs: int, inputs: int, batch: int) -> list[Case]:
    """A linear layer with its bias and scale, and one on top of something scaled."""
    x, W, y = (inputs, batch), (outputs, inputs), (outputs, batch)
    label = f"{outputs}x{inputs}x{batch}"
    return [
        Case("linear", label, normal(x, W, (outputs,), (inputs,))),
        Case("linear_add", label, normal(y, (outputs,), x, W, (outputs,))),
        Case("row_dots", label, normal(y, y)),
    ]


def weight_cases(*shape: int) -> list[Case]:
    """A perturbed layer's dense weight, and what its gradient says of the factors."""
    J, I = shape[:2]
    label = "x".join(map(str, shape))
    return [
        Case("effective_weight", label, normal(shape, (J,), (I,), (J, I))),
        Case("window_sums", label, normal(shape, shape)),
    ]


def norm_relu_cases(channels: int, count: int) -> list[Case]:
    """Normalisation with its rectifier, and back with many zeros in the output."""
    rows, row = (channels, count), (channels,)

    def backward(rng: np.random.Generator, dtype: Any) -> Arrays:
        gy, x, gamma = normal(rows, rows, row)(rng, dtype)
        return gy, *whole(rows)(rng, dtype), x, gamma, x.mean(axis=1), x.var(axis=1)

    return [
        Case("norm_relu", f"{rows}", normal(rows, row, row), {"eps": 1e-3}),
        Case("norm_relu_backward", f"{rows}", backward, {"eps": 1e-3}),
    ]


def pool_cases(x: tuple[int, ...], kernel: int, stride: int) -> list[Case]:
    """Pooling with ties, its backward pass, and its tangent."""
    pooled = (x[0], (x[1] - kernel) // stride + 1, (x[2] - kernel) // stride + 1, x[3])
    options = {"kernel": kernel, "stride": stride}

    def backward(rng: np.random.Generator, dtype: Any) -> Arrays:
        return (*normal(pooled)(rng, dtype), rng.integers(kernel**2, size=pooled).astype(np.uint8))

    def take(rng: np.random.Generator, dtype: Any) -> Arrays:
        return (*normal(x)(rng, dtype), rng.integers(kernel**2, size=pooled).astype(np.uint8))

    return [
        Case("maxpool2d", f"{x}k{kernel}s{stride}", whole(x), options),
        Case("maxpool2d_backward", f"{x}k{kernel}s{stride}", backward, {"x_shape": x, **options}),
        Case("maxpool2d_take", f"{x}k{kernel}s{stride}", take, options),
    ]


def conv_block_cases(
    x: tuple[int, ...], w: tuple[int, ...], stride: int, padding: int, pool: int, rectify: bool = True
) -> list[Case]:
    """A block in train mode, its gradients, and a block in evaluation mode."""
    rows, cols = ((x[k + 1] + 2 * padding - w[k + 2]) // stride + 1 for k in (0, 1))
    row, gy = w[:1], (w[0], rows // pool, cols // pool, x[3])
    window = {"stride": stride, "padding": padding, "pool": pool, "rectify": rectify}
    label = f"{x}*{w}/{stride}+{padding}p{pool}{'' if rectify else '-linear'}".replace(" ", "")

    def forward(column: Any, *arrays: Any, **options: Any) -> Any:
        return column.conv_block(*arrays, **options)[:3]

    def backward(column: Any, gy: Any, *arrays: Any, **options: Any) -> Any:
        y, _, _, saved = column.conv_block(*arrays, **options)
        return (y, *column.conv_block_backward(gy, saved))

    return [
        Case("conv_block", label, normal(x, w, row, row, row), {"eps": 1e-3, **window}, call=forward),
        Case("conv_block_backward", label, normal(gy, x, w, row, row, row), {"eps": 1e-3, **window}, call=backward),
        Case("conv_block_apply", label, normal(x, w, row), window),
    ]


def relu_backward_case(shape: tuple[int, ...], tangents: int = 0) -> Case:
    """An output with many zeros, and a gradient, or several before the batch axis."""
    wide = (*shape[:-1], tangents, shape[-1]) if tangents else shape
    return Case("relu_backward", f"{wide}", lambda rng, dtype: (*whole(shape)(rng, dtype), *normal(wide)(rng, dtype)))


def dropout_cases(shape: tuple[int, ...], rate: float, tangents: int = 0) -> list[Case]:
    """A mask, and the same mask over a gradient or over several tangents before the batch axis."""
    wide = (*shape[:-1], tangents, shape[-1]) if tangents else shape

    def again(rng: np.random.Generator, dtype: Any) -> Arrays:
        return (*normal(wide)(rng, dtype), rng.integers(2, size=shape).astype(np.uint8))

    label = f"{wide}-{rate}"
    return [
        Case("dropout", label, normal(shape), {"seed": (2**32 - 1, 77), "rate": rate}),
        Case("dropout_again", label, again, {"rate": rate}),
    ]


def average_cases(x: tuple[int, ...], kernel: int, stride: int) -> list[Case]:
    """Means of windows, and their adjoint."""
    pooled = (x[0], (x[1] - kernel) // stride + 1, (x[2] - kernel) // stride + 1, x[3])
    options, label = {"kernel": kernel, "stride": stride}, f"{x}k{kernel}s{stride}"
    return [
        Case("avgpool2d", label, normal(x), options),
        Case("avgpool2d_backward", label, normal(pooled), {"x_shape": x, **options}),
    ]


def softmax_case(classes: int, samples: int, kind: Any) -> Case:
    """Logits of some size and labels of an integer type."""

    def draw(rng: np.random.Generator, dtype: Any) -> Arrays:
        logits = 20 * rng.normal(size=(classes, samples))
        return logits.astype(dtype), rng.integers(classes, size=samples).astype(kind)

    return Case("softmax_cross_entropy", f"{classes}x{samples}-{np.dtype(kind)}", draw)


def adam_case(ends: list[int], number: int, **options: float) -> Case:
    """One update of segments that end there; some entries of theta are 0, where the sign is 0."""
    flat, each = (ends[-1],), (len(ends),)

    def draw(rng: np.random.Generator, dtype: Any) -> Arrays:
        theta, grad, m, v, l1, l2, centre = normal(flat, flat, flat, flat, each, each, each)(rng, dtype)
        zero = rng.random(flat) < 0.3
        zero.flat[0] = False
        theta[zero] = 0
        factors = adam_factors(0.01, number, **options).astype(dtype)
        return theta, grad, m, abs(v), factors, np.array(ends), abs(l1), abs(l2), centre

    return Case("adam_flat", f"{ends}-{number}", draw, changed=(0, 2, 3))


def pull_case(count: int) -> Case:
    """Strengths and centres for every entry."""
    return Case("pull", f"{count}", normal(*4 * [(count,)]), changed=(0,))


def gather_case(samples: int, pixels: int, batch: int, tables: int, kind: Any) -> Case:
    """Pixels 0 to 3 of images, permuted, some features twice, looked up in one table a channel."""

    def draw(rng: np.random.Generator, dtype: Any) -> Arrays:
        images = rng.integers(4, size=(samples, pixels)).astype(np.uint8)
        images[:, 0] = 0  # so that table[0, 0] is used
        source = np.concatenate([[0], rng.integers(pixels, size=pixels + 2)]).astype(np.int32)
        table_row = rng.integers(tables, size=source.size).astype(np.uint8)
        table_row[0] = 0
        rows = rng.integers(samples, size=batch).astype(kind)
        return images, rows, source, rng.normal(size=(tables, 256)).astype(dtype), table_row

    return Case("gather_images", f"{samples}x{pixels}-{batch}-{np.dtype(kind)}", draw)


def augmented_case(shape: tuple[int, int, int], batch: int, tables: int, reach: int, stored: int) -> Case:
    """Images stored whole, or one channel shown as several, shifted by up to `reach` (past the border) and mirrored."""

    def draw(rng: np.random.Generator, dtype: Any) -> Arrays:
        size = int(np.prod(shape))
        images = rng.integers(256, size=(9, stored)).astype(np.uint8)
        source, table_row = (np.arange(size) % stored).astype(np.int32), rng.integers(tables, size=size)
        moves = np.concatenate([rng.integers(-reach, reach + 1, (batch, 2)), rng.integers(0, 2, (batch, 1))], axis=1)
        images[:, 0], moves[0], table_row[0] = 0, 0, 0  # so that table[0, 0] is used
        table = rng.normal(size=(tables, 256)).astype(dtype)
        return images, rng.integers(9, size=batch), source, table, table_row.astype(np.uint8), moves

    label = f"{shape}-{batch}+{reach}".replace(" ", "")
    return Case("gather_augmented", label, draw, {"shape": shape})


CASES: list[Case] = [
    *(Case("matmul", f"{m}x{k}x{n}", normal((m, k), (k, n))) for m, k, n in [(1, 1, 1), (5, 7, 3), (33, 20, 65)]),
    *(case for shape in [(5, 7), (4, 3, 5, 5), (1, 2, 1, 3)] for case in weight_cases(*shape)),
    *(case for shape in [(1, 1, 1), (5, 7, 3), (33, 20, 65), (7, 150, 33)] for case in linear_cases(*shape)),
    *(case for shape in [(3, 6), (5, 40), (2, 3001)] for case in norm_relu_cases(*shape)),
    *conv_cases((3, 9, 7, 17), (5, 3, 3, 3), 1, 1),
    *conv_cases((1, 8, 8, 33), (4, 1, 5, 5), 1, 2),
    *conv_cases((2, 7, 5, 1), (3, 2, 2, 2), 3, 0),  # pixels that no window meets
    *conv_cases((2, 6, 7, 9), (3, 2, 2, 3), 2, 3),  # padding wider than the kernel, which is not square
    *conv_cases((4, 5, 5, 16), (6, 4, 1, 1), 2, 0),
    *conv_block_cases((3, 9, 8, 17), (6, 3, 3, 3), 1, 1, 2),  # a row of pixels in no window
    *conv_block_cases((2, 7, 7, 21), (5, 2, 5, 5), 2, 2, 1, rectify=False),
    *conv_block_cases((1, 8, 8, 2), (3, 1, 3, 3), 1, 0, 3),
    *(case for shape in [(3, 6), (5, 40), (2, 3001)] for case in batchnorm_cases(*shape)),
    *(Case("relu", f"{shape}", whole(shape)) for shape in [(1,), (7, 33), (2, 3, 4, 17)]),
    *(relu_backward_case(*shape) for shape in [((9,),), ((3, 2, 5, 7),), ((4, 17), 1), ((2, 3, 2, 5), 6)]),
    *pool_cases((2, 8, 8, 17), 2, 2),
    *pool_cases((1, 7, 9, 40), 3, 2),  # windows overlap
    *pool_cases((3, 8, 9, 1), 2, 3),  # pixels between windows
    *(
        Case("add", f"{s}-{rectify}", whole(s, s), {"rectify": rectify})
        for s, rectify in [((7,), True), ((3, 2, 33), False)]
    ),
    *(case for about in [((9,), 0.5), ((3, 2, 5, 7), 0.2), ((4, 1000), 0.9, 2)] for case in dropout_cases(*about)),
    *average_cases((2, 8, 8, 17), 2, 2),
    *average_cases((1, 7, 9, 40), 3, 2),  # windows overlap
    *average_cases((3, 8, 9, 1), 2, 3),  # pixels between windows
    *(softmax_case(*shape) for shape in [(1, 3, np.int64), (10, 33, np.int32), (7, 1, np.uint8)]),
    adam_case([5], 1),
    adam_case([1, 1, 48, 120], 7, scale=10.0),  # one segment is empty
    adam_case([31, 9000, 40000], 1000),
    pull_case(1),
    pull_case(20001),
    gather_case(11, 12, 5, 1, np.int64),
    gather_case(40, 36, 33, 3, np.int32),
    augmented_case((3, 5, 7), 33, 3, 2, stored=105),
    augmented_case((3, 4, 4), 17, 1, 5, stored=16),
    augmented_case((1, 6, 1), 1, 1, 0, stored=6),
]


def rows_without_a_case(table: dict[str, Any]) -> set[str]:
    """Names in the table of ops that no case covers."""
    return set(table) - {case.op for case in CASES}
