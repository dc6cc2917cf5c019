"""CUDA C of convolution: direct, in registers, for any kernel, stride and padding; no windows are laid out in memory.

A thread of `convolve` forms PIXELS neighbouring pixels of one image for OUTS output channels. Each tap costs it PIXELS
reads along the batch and two reads of four weights, the same for the whole block, and pays PIXELS x OUTS products.
The gradient of the input is the same sum with the kernel turned around: the output's gradient, with up - 1 zeros
between its pixels where the stride is `up`, is convolved at stride 1.

A block of `conv_weight_gradient` forms OUTS x TAPS entries. Its threads take the images of the batch (and, of a small
one, several columns at a time), each sums its share over the rows of the part, and the block adds the shares up.
"""

PIXELS, OUTS, TAPS = 4, 8, 8
"""Registers of a thread: PIXELS x OUTS sums forward, OUTS x TAPS sums of the weight's gradient."""
ADDING = 128
"""Threads of a block that forms weight gradients."""

SOURCE = (
    f"#define PIXELS {PIXELS}\n#define OUTS {OUTS}\n#define TAPS {TAPS}\n#define ADDING {ADDING}\n"
    + r"""
// packed[c, i, j, o] = w[o, c, i, j], or turned: packed[o, i, j, c] = w[o, c, kh - 1 - i, kw - 1 - j]; the last axis is
// filled up to `padded` with zeros.
__global__ void pack_weights(const real* w, real* packed, int outs, int channels, int kh, int kw, int padded,
                             int turned) {
    const wide count = (wide)(turned ? outs : channels) * kh * kw * padded;
    FOR_EACH(k, count) {
        const int to = (int)(k % padded), tap = (int)(k / padded % (kh * kw)), from = (int)(k / padded / (kh * kw));
        const int o = turned ? from : to, c = turned ? to : from;
        const bool real_one = o < outs && c < channels;
        const wide at = ((wide)o * channels + c) * kh * kw + (turned ? kh * kw - 1 - tap : tap);
        packed[k] = real_one ? w[at] : (real)0;
    }
}

// Which of `size` entries lies at position t of the axis with up - 1 zeros between entries; -1 if none does.
static __device__ int entry_at(int t, int up, int size) {
    if (t < 0 || (up > 1 && t % up)) return -1;
    t /= up;
    return t < size ? t : -1;
}

// y[o, u, v, n] = bias[o] + sum over c, i, j of packed[c, i, j, o] x[c, (u s - top + i)/up, (v s - left + j)/up, n],
// over the whole quotients inside the image; rectified if asked.
__global__ void convolve(const real* __restrict__ x, const four* __restrict__ packed, const real* bias,
                         real* __restrict__ y, int channels, int height, int width, int batch, int outs, int padded,
                         int rows, int cols, int kh, int kw, int stride, int up, int top, int left, int rectify) {
    const int tiles = (cols + PIXELS - 1) / PIXELS, o = (int)blockIdx.y * OUTS;
    const wide at = (wide)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (wide)rows * tiles * batch) return;
    const int n = (int)(at % batch), tile = (int)(at / batch), u = tile / tiles, v = tile % tiles * PIXELS;
    real total[PIXELS][OUTS] = {};
    for (int c = 0; c < channels; ++c) {
        for (int i = 0; i < kh; ++i) {
            const int a = entry_at(u * stride - top + i, up, height);
            if (a < 0) continue;
            const real* line = x + ((wide)c * height + a) * width * batch + n;
            const four* weights = packed + (((wide)c * kh + i) * kw * padded + o) / 4;
            for (int j = 0; j < kw; ++j, weights += padded / 4) {
                const four low = weights[0], high = weights[1];
                #pragma unroll
                for (int p = 0; p < PIXELS; ++p) {
                    const int b = entry_at((v + p) * stride - left + j, up, width);
                    const real value = b < 0 ? (real)0 : line[(wide)b * batch];
                    #pragma unroll
                    for (int q = 0; q < 4; ++q) {
                        total[p][q] += low.at[q] * value;
                        total[p][q + 4] += high.at[q] * value;
                    }
                }
            }
        }
    }
    #pragma unroll
    for (int q = 0; q < OUTS; ++q) {
        const real start = bias && o + q < outs ? bias[o + q] : (real)0;
        #pragma unroll
        for (int p = 0; p < PIXELS; ++p) {
            const real value = total[p][q] + start;
            if (o + q < outs && v + p < cols)
                y[(((wide)(o + q) * rows + u) * cols + v + p) * batch + n] = rectify ? rectified(value) : value;
        }
    }
}

// partial[part, o, c, i, j] = sum over the part's rows u, all v, n of gy[o, u, v, n] x[c, u s - p + i, v s - p + j, n]
__global__ void __launch_bounds__(ADDING)
conv_weight_gradient(const real* __restrict__ gy, const real* __restrict__ x, real* partial, int channels, int height,
                     int width, int batch, int outs, int rows, int cols, int kh, int kw, int stride, int padding,
                     int lanes) {
    __shared__ real share[OUTS][ADDING];
    const int taps = channels * kh * kw, k0 = (int)blockIdx.x * TAPS, o0 = (int)blockIdx.y * OUTS;
    const int lane = (int)threadIdx.x % lanes, group = (int)threadIdx.x / lanes, groups = ADDING / lanes;
    int down[TAPS], right[TAPS];
    wide origin[TAPS];
    #pragma unroll
    for (int q = 0; q < TAPS; ++q) {
        const int k = min(k0 + q, taps - 1);
        down[q] = k / kw % kh - padding;
        right[q] = k % kw - padding;
        origin[q] = (((wide)(k / kw / kh) * height + down[q]) * width + right[q]) * batch;
    }
    const wide plane = (wide)rows * cols * batch;
    real total[OUTS][TAPS] = {};
    for (int u = blockIdx.z; u < rows; u += gridDim.z) {
        for (int v = group < groups ? group : cols; v < cols; v += groups) {
            const wide corner = ((wide)u * width + v) * stride * batch, pixel = ((wide)u * cols + v) * batch;
            #pragma unroll 1  // two rounds at once would not fit into the registers
            for (int n = lane; n < batch; n += lanes) {
                real value[TAPS];
                #pragma unroll
                for (int q = 0; q < TAPS; ++q) {
                    const int a = u * stride + down[q], b = v * stride + right[q];
                    const bool inside = a >= 0 && a < height && b >= 0 && b < width;
                    value[q] = inside ? x[origin[q] + corner + n] : (real)0;
                }
                const real* at = gy + o0 * plane + pixel + n;
                #pragma unroll
                for (int r = 0; r < OUTS; ++r) {
                    const real g = *at;
                    if (o0 + r + 1 < outs) at += plane;  // beyond the last, the last again
                    #pragma unroll
                    for (int q = 0; q < TAPS; ++q) total[r][q] += g * value[q];
                }
            }
        }
    }
    #pragma unroll
    for (int q = 0; q < TAPS; ++q) {
        __syncthreads();
        #pragma unroll
        for (int r = 0; r < OUTS; ++r) share[r][threadIdx.x] = total[r][q];
        for (int half = ADDING / 2; half > 0; half /= 2) {
            __syncthreads();
            if ((int)threadIdx.x < half) {
                #pragma unroll
                for (int r = 0; r < OUTS; ++r) share[r][threadIdx.x] += share[r][threadIdx.x + half];
            }
        }
        __syncthreads();
        const int o = o0 + (int)threadIdx.x;
        if (threadIdx.x < OUTS && o < outs && k0 + q < taps)
            partial[((wide)blockIdx.z * outs + o) * taps + k0 + q] = share[threadIdx.x][0];
    }
}
"""
)
