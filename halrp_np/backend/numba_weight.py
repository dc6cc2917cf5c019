"""A perturbed layer's dense weight on the CPU, and the sums that project its gradient, in one pass each."""

from __future__ import annotations

from numba import prange

from ..typing import Array
from .arguments import floats
from .buffers import empty
from .checks import expect
from .jit import compiled, threads_for


@compiled(parallel=True)
def _effective_weight(W, R, S, low_rank, K):  # type: ignore[no-untyped-def]
    """One output a task; W and K (J, I, window)."""
    for j in prange(W.shape[0]):
        for i in range(W.shape[1]):
            scale, shift = R[j] * S[i], low_rank[j, i]
            for k in range(W.shape[2]):
                K[j, i, k] = scale * W[j, i, k] + shift


def effective_weight(W: Array, R: Array, S: Array, low_rank: Array) -> Array:
    """See reference.effective_weight."""
    fits = W.ndim >= 2 and (R.shape, S.shape, low_rank.shape) == (W.shape[:1], W.shape[1:2], W.shape[:2])
    expect("effective_weight", fits, "W (J, I, ...), R (J,), S (I,), low_rank (J, I)", W, R, S, low_rank)
    W, R, S, low_rank = floats(W, R, S, low_rank)
    K = empty(W.shape, W.dtype)
    if W.size:
        with threads_for(W.size):
            _effective_weight(_windows(W), R, S, low_rank, _windows(K))
    return K


@compiled(parallel=True)
def _window_sums(gW, W, C, D):  # type: ignore[no-untyped-def]
    """One output a task."""
    for j in prange(W.shape[0]):
        for i in range(W.shape[1]):
            along, total = gW[j, i, 0] * W[j, i, 0], gW[j, i, 0]
            for k in range(1, W.shape[2]):
                along += gW[j, i, k] * W[j, i, k]
                total += gW[j, i, k]
            C[j, i], D[j, i] = along, total


def window_sums(gW: Array, W: Array) -> tuple[Array, Array]:
    """See reference.window_sums."""
    expect("window_sums", W.ndim >= 2 and gW.shape == W.shape, "gW and W of one shape (J, I, ...)", gW, W)
    gW, W = floats(gW, W)
    C, D = empty(W.shape[:2], W.dtype), empty(W.shape[:2], W.dtype)
    if W.size:
        with threads_for(W.size):
            _window_sums(_windows(gW), _windows(W), C, D)
    return C, D


def _windows(W: Array) -> Array:
    """(J, I, ...) as (J, I, window)."""
    return W.reshape(W.shape[0], W.shape[1], -1)
