"""What the tasks cost: parameter counts in three conventions, and bytes on disk.

Shared by all conventions: the base network of task 0 counts once, with its head, and each later task adds its own
entries.
  released   per task: scalings, non-zero factor entries, BatchNorm scale and shift, head. What published sizes mean.
  dense      the same with every factor entry. What the pruning budget compares with.
  honest     released, plus the per-task biases and BatchNorm running statistics that the released count leaves out, and
             what is kept only to learn further tasks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..backend import array_module, to_host
from ..errors import ConfigError, ShapeError
from ..typing import Array
from .prune import Factors

ZERO = 1e-8
"""An entry counts when its absolute value is above this."""

HostArray: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TaskSize:
    """How many numbers one later task adds, by kind.

    `weights` are dense ones, of convolutions and linear layers, that the task has for itself; `training_state` is what
    the method keeps only to learn further tasks, all of it with the newest one.
    """

    scalings: int = 0
    factors_sparse: int = 0
    factors_dense: int = 0
    batchnorm: int = 0
    head: int = 0
    bias: int = 0
    running_stats: int = 0
    weights: int = 0
    training_state: int = 0

    @property
    def fixed(self) -> int:
        """What no pruning removes, in the released convention."""
        return self.weights + self.scalings + self.batchnorm + self.head

    @property
    def released(self) -> int:
        """The task's numbers in the released convention."""
        return self.fixed + self.factors_sparse

    @property
    def dense(self) -> int:
        """The task's numbers with every factor entry."""
        return self.fixed + self.factors_dense

    @property
    def honest(self) -> int:
        """The task's numbers with biases, running statistics and what is kept for training."""
        return self.released + self.bias + self.running_stats + self.training_state


def count_nonzero(array: Array) -> int:
    """Return how many entries exceed 1e-8 in absolute value; reads one number back from the device."""
    above = array_module(array).abs(array).reshape(-1) > ZERO
    return int(to_host(above.sum(keepdims=True)).item())


def task_size(factors: Factors, *, batchnorm: int, head: int, bias: int, running_stats: int) -> TaskSize:
    """Return one task's counts from its factors and the sizes of its other parts.

    Shapes: per layer A (r, I), B (J, r); the scalings S (I,) and R (J,) follow from them.
    Math:   scalings = Σ_l (I_l + J_l), factors = Σ_l r_l (I_l + J_l).
    Reference: HALRP (arXiv 2311.15161), model size.
    """
    pairs = list(factors.values())
    return TaskSize(
        scalings=sum(int(A.shape[1]) + int(B.shape[0]) for A, B in pairs),
        factors_sparse=sum(count_nonzero(x) for pair in pairs for x in pair),
        factors_dense=sum(int(x.size) for pair in pairs for x in pair),
        batchnorm=batchnorm,
        head=head,
        bias=bias,
        running_stats=running_stats,
    )


def released_count(base: int, sizes: Sequence[TaskSize]) -> int:
    """Return the parameters of the whole model as the released code counts them; `base` is task 0's network."""
    return _checked(base) + sum(size.released for size in sizes)


def dense_count(base: int, sizes: Sequence[TaskSize]) -> int:
    """Return the released count as if no factor entry were zero."""
    return _checked(base) + sum(size.dense for size in sizes)


def honest_count(base: int, sizes: Sequence[TaskSize]) -> int:
    """Return the released count with biases, running statistics and what only further tasks need added."""
    return _checked(base) + sum(size.honest for size in sizes)


def growth_released(base: int, sizes: Sequence[TaskSize]) -> float:
    """Return the unrounded increase over task 0 in the released convention."""
    return released_count(base, sizes) / int(base) - 1


def growth_dense(base: int, sizes: Sequence[TaskSize]) -> float:
    """Return the increase over task 0 before pruning, which a budget is compared with."""
    return dense_count(base, sizes) / int(base) - 1


def growth_honest(base: int, sizes: Sequence[TaskSize]) -> float:
    """Return the increase over task 0 with biases, running statistics and what only further tasks need."""
    return honest_count(base, sizes) / int(base) - 1


def growth_factors(base: int, sizes: Sequence[TaskSize]) -> float:
    """Return the part of the dense growth that pruning can remove."""
    return sum(size.factors_dense for size in sizes) / _checked(base)


def released_increase(base: int, sizes: Sequence[TaskSize]) -> float:
    """Return the released growth rounded to three decimals, as the released code reports it."""
    return round(growth_released(base, sizes), 3)


def pack_sparse(array: HostArray) -> dict[str, HostArray]:
    """Return host arrays that hold a host array in the fewer bytes: as it is, or one bit per entry and the non-zeros.

    Shapes: any. `{"dense": array}`, or `{"shape": (ndim,) int64, "mask": (⌈n/8⌉,) uint8, "values": (m,)}`.
            The dense part may share the input's memory.
    Math:   an entry is zero when all its bits are, so -0.0 and NaN survive and unpacking is exact.
    """
    dense = np.ascontiguousarray(array).reshape(array.shape)
    if dense.size == 0:
        return {"dense": dense}
    flat = dense.reshape(-1)
    nonzero = flat.view(np.uint8).reshape(flat.size, -1).any(axis=1)
    packed: dict[str, HostArray] = {
        "shape": np.array(dense.shape, dtype=np.int64),
        "mask": np.packbits(nonzero),
        "values": flat[nonzero],
    }
    return packed if _bytes(packed) < dense.nbytes else {"dense": dense}


def unpack_sparse(packed: Mapping[str, HostArray]) -> HostArray:
    """Return the array that `pack_sparse` was given.

    Raises: ShapeError when the parts are missing or do not belong together.
    """
    if set(packed) == {"dense"}:
        return packed["dense"].copy()
    if set(packed) != {"shape", "mask", "values"}:
        _refuse_packed("the parts dense, or shape, mask and values", ", ".join(sorted(packed)) or "none")
    shape = tuple(int(n) for n in packed["shape"])
    count = math.prod(shape)
    if min(shape, default=1) < 0 or packed["mask"].dtype != np.uint8 or packed["mask"].shape != ((count + 7) // 8,):
        _refuse_packed(f"a uint8 mask of {count} bits", f"{packed['mask'].dtype} {packed['mask'].shape}")
    nonzero = np.unpackbits(packed["mask"], count=count).astype(bool)
    if packed["values"].shape != (int(nonzero.sum()),):
        _refuse_packed(f"{int(nonzero.sum())} values", f"shape {packed['values'].shape}")
    flat = np.zeros(count, dtype=packed["values"].dtype)
    flat[nonzero] = packed["values"]
    return flat.reshape(shape)


def packed_bytes(array: HostArray) -> int:
    """Return the bytes that `pack_sparse` makes of a host array."""
    return _bytes(pack_sparse(array))


def _bytes(packed: Mapping[str, HostArray]) -> int:
    """Bytes of all parts."""
    return sum(part.nbytes for part in packed.values())


def _checked(base: int) -> int:
    """Refuse a base that growth cannot be measured against."""
    if base < 1:
        raise ConfigError(
            "model size",
            expected="a base network with at least one parameter",
            received=repr(base),
            next_step="Pass the parameter count of task 0's network, head included.",
        )
    return int(base)


def _refuse_packed(expected: str, received: str) -> None:
    """Raise the error for parts that pack_sparse did not make."""
    raise ShapeError(
        "unpack_sparse",
        expected=expected,
        received=received,
        next_step="The file is damaged or was not written by this package.",
    )
