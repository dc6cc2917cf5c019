"""CUDA C of a matrix product for the sizes of a training step, which cuBLAS may not serve inside a CUDA graph.

A block forms TILE x TILE entries, a thread 4 x 4 of them in registers. DEPTH columns of a and rows of b at a time are
laid into shared memory, read along whichever axis is contiguous, so that no operand is ever transposed in memory.
Where that makes too few blocks to fill a GPU, the inner sum is cut into parts, added afterwards in their order.
"""

TILE = 64
DEPTH = 16

SOURCE = (
    f"#define TILE {TILE}\n#define DEPTH {DEPTH}\n"
    + r"""
// Where entry `slot` of a TILE x DEPTH panel lies: neighbours in memory go to neighbouring threads.
#define PANEL(slot, wide_first, side, deep) \
    const int side = wide_first ? (slot) % TILE : (slot) / DEPTH, deep = wide_first ? (slot) / TILE : (slot) % DEPTH

// partial[part, i, j] = sum over the part's k of a[i, k] weight[k] b[k, j], without weights if there are none;
// strides in entries, 16 x 16 threads
__global__ void matmul(const real* a, const real* b, const real* weight, real* partial, int rows, int inner, int cols,
                       wide a_row, wide a_col, wide b_row, wide b_col, int share) {
    __shared__ four left[DEPTH][TILE / 4], right[DEPTH][TILE / 4];
    const int i0 = (int)blockIdx.x * TILE, j0 = (int)blockIdx.y * TILE;
    const int first = (int)blockIdx.z * share, last = min(inner, first + share);
    const int down = (int)threadIdx.x / 16, across = (int)threadIdx.x % 16;
    real total[4][4] = {};
    for (int k0 = first; k0 < last; k0 += DEPTH) {
        for (int slot = threadIdx.x; slot < TILE * DEPTH; slot += blockDim.x) {
            PANEL(slot, a_row == 1, i, p);
            PANEL(slot, b_col == 1, j, q);
            const bool in_a = i0 + i < rows && k0 + p < last, in_b = j0 + j < cols && k0 + q < last;
            left[p][i / 4].at[i % 4] = in_a ? a[(i0 + i) * a_row + (k0 + p) * a_col] : (real)0;
            const real factor = in_b && weight ? weight[k0 + q] : (real)1;
            right[q][j / 4].at[j % 4] = in_b ? factor * b[(k0 + q) * b_row + (j0 + j) * b_col] : (real)0;
        }
        __syncthreads();
        #pragma unroll
        for (int k = 0; k < DEPTH; ++k) {
            const four l = left[k][down], r = right[k][across];
            #pragma unroll
            for (int i = 0; i < 4; ++i) {
                #pragma unroll
                for (int j = 0; j < 4; ++j) total[i][j] += l.at[i] * r.at[j];
            }
        }
        __syncthreads();
    }
    #pragma unroll
    for (int i = 0; i < 4; ++i) {
        #pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int row = i0 + 4 * down + i, col = j0 + 4 * across + j;
            if (row < rows && col < cols) partial[((wide)blockIdx.z * rows + row) * cols + col] = total[i][j];
        }
    }
}

// y[i, j] = the parts of the entry, added in their order, + bias[i] + scale[i] start[i, j], each where there is one
__global__ void add_parts(const real* partial, const real* bias, const real* scale, const real* start, real* y,
                          wide count, wide cols, int parts) {
    FOR_EACH(k, count) {
        real total = partial[k];
        for (int p = 1; p < parts; ++p) total += partial[p * count + k];
        if (bias) total += bias[k / cols];
        if (start) total += scale[k / cols] * start[k];
        y[k] = total;
    }
}
"""
)
