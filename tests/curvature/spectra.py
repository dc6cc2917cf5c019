"""Symmetric matrices of known spectrum, and operators that hold them and count their products."""

from functools import lru_cache
from typing import Any

import numpy as np

from strict import StrictArray
from strict import xp as strict_xp

SIZE = 200
_i = np.arange(SIZE)

SPECTRA: dict[str, Any] = {
    "decaying": 1.0 / (1 + _i),
    "steep": 1.0 / (1 + _i) ** 2,
    "indefinite": np.where(_i % 3 == 0, -1.0, 1.0) * 0.9**_i,
    "negative": -(0.95**_i),
    "clustered": np.select([_i < 5, _i < 50], [10.0, 1.0], 0.01),
    "low rank": np.where(_i < 40, 1.0 + _i / 40, 0.0),
}


@lru_cache
def rotation(size: int) -> np.ndarray:
    """A fixed orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(7).normal(size=(size, size)))[0]


def matrix(eigenvalues: Any, dtype: Any = np.float64) -> np.ndarray:
    """A dense symmetric matrix with these eigenvalues."""
    eigenvalues = np.asarray(eigenvalues, np.float64)
    U = rotation(len(eigenvalues))
    A = (U * eigenvalues) @ U.T
    return ((A + A.T) / 2).astype(dtype)


class Counted:
    """An operator that takes vectors of its own dtype only and counts them; without `xp`, as SciPy's have none."""

    def __init__(self, A: np.ndarray) -> None:
        self.A, self.products, self.widest = A, 0, 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.A.shape

    @property
    def dtype(self) -> Any:
        return self.A.dtype

    def __matmul__(self, v: Any) -> Any:
        assert v.dtype == self.A.dtype
        assert v.shape[0] == len(self.A)
        width = 1 if v.ndim == 1 else v.shape[1]
        self.products, self.widest = self.products + width, max(self.widest, width)
        return self.A @ v


class OnDevice(Counted):
    """The same on a device whose arrays refuse every silent way to the host."""

    xp = strict_xp

    def __init__(self, A: np.ndarray) -> None:
        super().__init__(A)
        self.device = StrictArray(A)

    def __matmul__(self, v: Any) -> Any:
        assert isinstance(v, StrictArray)
        super().__matmul__(v._data)
        return self.device @ v


def known(name: str, dtype: Any = np.float64) -> Counted:
    """The operator of a spectrum by name."""
    return Counted(matrix(SPECTRA[name], dtype))
