"""The CUDA C of the GPU twins for one floating type `real`: what every kernel uses, then the kernels by subject.

The threads of a warp stand for consecutive images of the batch, so reads and writes are contiguous, and what does not
depend on the image (a weight, a pixel's place) is the same for the whole warp. Nothing is added atomically: every
output entry has one thread, sums over many entries are formed in parts that are added in a fixed order, and no result
depends on the order in which blocks run. Offsets are 64 bits wide; sizes along one axis are 32.
"""

from __future__ import annotations

from . import cuda_conv, cuda_matmul, cuda_norm, cuda_pointwise, cuda_pool

BLOCK = 256
"""Most threads of a block, and exactly those of a block that adds up."""

PRELUDE = r"""
typedef long long wide;

#define FOR_CHANNELS for (int c = blockIdx.y; c < channels; c += gridDim.y)
#define FOR_BATCH for (int n = threadIdx.x; n < batch; n += blockDim.x)
#define FOR_EACH(k, count) \
    for (wide k = (wide)blockIdx.x * blockDim.x + threadIdx.x; k < (count); k += (wide)gridDim.x * blockDim.x)

// Four neighbours in one read of up to 16 bytes.
typedef struct __align__(16) { real at[4]; } four;

// The sum of every thread's value, the same for all; all threads of the block, a power of two, take part.
static __device__ double block_sum(double value, double* share) {
    __syncthreads();  // the last sum has been read
    share[threadIdx.x] = value;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) share[threadIdx.x] += share[threadIdx.x + half];
    }
    __syncthreads();
    return share[0];
}

// max(value, 0); a NaN stays a NaN.
static __device__ real rectified(real value) { return value > 0 || value != value ? value : (real)0; }
"""

SUBJECTS = (cuda_pointwise.SOURCE, cuda_matmul.SOURCE, cuda_conv.SOURCE, cuda_norm.SOURCE, cuda_pool.SOURCE)


def source(real: str) -> str:
    """All kernels for `float` or `double`."""
    defines = f"#define BLOCK {BLOCK}\ntypedef {real} real;\n"
    return "\n".join([defines, PRELUDE, 'extern "C" {', *SUBJECTS, "}"])
