"""CUDA C of what looks at one entry, one sample or one row at a time."""

SOURCE = r"""
__global__ void relu(const real* x, real* y, wide count) {
    FOR_EACH(k, count) y[k] = rectified(x[k]);
}

// A product, so that a NaN gradient shows even where the output is 0.
__global__ void relu_backward(const real* y, const real* gy, real* gx, wide count) {
    FOR_EACH(k, count) gx[k] = gy[k] * (y[k] > 0 ? (real)1 : (real)0);
}

__global__ void add(const real* a, const real* b, real* y, int rectify, wide count) {
    FOR_EACH(k, count) y[k] = rectify ? rectified(a[k] + b[k]) : a[k] + b[k];
}

static __device__ unsigned mixed_bits(unsigned h) {
    h = (h ^ (h >> 16)) * 0x7FEB352Du;
    h = (h ^ (h >> 15)) * 0x846CA68Bu;
    return h ^ (h >> 16);
}

// A product, so that a NaN shows even where it is dropped.
__global__ void dropout(const real* x, real* y, unsigned char* kept, unsigned first, unsigned second, unsigned limit,
                        real factor, wide count) {
    FOR_EACH(k, count) {
        const bool stays = mixed_bits(mixed_bits((unsigned)k ^ first) ^ second) >= limit;
        kept[k] = stays;
        y[k] = x[k] * (stays ? factor : (real)0);
    }
}

// K rows of r (..., K, N) share one of kept (..., N).
__global__ void dropout_again(const real* r, const unsigned char* kept, real* out, real factor, int tangents,
                              wide batch, wide count) {
    FOR_EACH(k, count) out[k] = r[k] * (kept[k / batch / tangents * batch + k % batch] ? factor : (real)0);
}

// One thread a sample; a label out of range gives NaN: to raise an error would mean to wait for the GPU.
__global__ void softmax_cross_entropy(const real* logits, const wide* labels, real* loss, real* chances, int classes,
                                      wide batch) {
    FOR_EACH(n, batch) {
        real most = logits[n];
        for (int c = 1; c < classes; ++c) {
            const real value = logits[c * batch + n];
            if (value > most || value != value) most = value;
        }
        real total = 0;
        for (int c = 0; c < classes; ++c) total += exp(logits[c * batch + n] - most);
        const real log_sum = log(total);
        for (int c = 0; c < classes; ++c) chances[c * batch + n] = exp(logits[c * batch + n] - most - log_sum);
        const wide label = labels[n];
        const bool known = label >= 0 && label < classes;
        loss[n] = known ? log_sum - (logits[label * batch + n] - most) : (real)nan("");
    }
}

// sums[c] = sum over n of a[c, n] b[c, n], a block a row
__global__ void row_dots(const real* a, const real* b, real* sums, int channels, wide count) {
    __shared__ double share[BLOCK];
    FOR_CHANNELS {
        double along = 0;
        for (wide k = threadIdx.x; k < count; k += blockDim.x)
            along += (double)a[c * count + k] * (double)b[c * count + k];
        along = block_sum(along, share);
        if (threadIdx.x == 0) sums[c] = (real)along;
    }
}

// factors: beta1, 1 - beta1, beta2, 1 - beta2, lr/(1 - beta1^n), 1/sqrt(1 - beta2^n), eps, scale; entry k belongs to
// the first segment that ends behind it, none if no segment does.
__global__ void adam_flat(real* theta, const real* grad, real* m, real* v, const real* factors, const wide* ends,
                          const real* l1, const real* l2, const real* centre, int segments, wide count) {
    const real beta1 = factors[0], other1 = factors[1], beta2 = factors[2], other2 = factors[3];
    const real rate = factors[4], root = factors[5], eps = factors[6], scale = factors[7];
    FOR_EACH(k, count) {
        int low = 0, high = segments;
        while (low < high) {
            const int middle = (low + high) / 2;
            if (ends[middle] <= k) low = middle + 1; else high = middle;
        }
        if (low == segments) continue;
        const real value = theta[k];
        const real sign = value > 0 ? (real)1 : (value < 0 ? (real)-1 : value);  // a NaN stays one
        const real g = scale * (grad[k] + l1[low] * sign + l2[low] * (value - centre[low]));
        const real mean = beta1 * m[k] + other1 * g, square = beta2 * v[k] + other2 * g * g;
        m[k] = mean;
        v[k] = square;
        theta[k] = value - rate * mean / (sqrt(square) * root + eps);
    }
}

__global__ void pull(real* grad, const real* theta, const real* strength, const real* centre, wide count) {
    FOR_EACH(k, count) grad[k] += strength[k] * (theta[k] - centre[k]);
}

// An index out of range gives NaN, as a label does: to read there might end the program.
__global__ void gather_images(const unsigned char* images, const wide* rows, const wide* source, const real* table,
                              const wide* table_row, real* out, int batch, wide samples, wide pixels,
                              wide tables) {
    const int d = blockIdx.x;
    const bool known = source[d] >= 0 && source[d] < pixels && table_row[d] >= 0 && table_row[d] < tables;
    FOR_BATCH {
        const wide row = rows[n];
        const bool inside = known && row >= 0 && row < samples;
        out[(wide)d * batch + n] =
            inside ? table[table_row[d] * 256 + images[row * pixels + source[d]]] : (real)nan("");
    }
}

// As gather_images, a block a value of the image; moves: dy, dx and mirrored. Where a shift leaves it, the pixel is 0.
__global__ void gather_augmented(const unsigned char* images, const wide* rows, const wide* source, const real* table,
                                 const wide* table_row, const wide* moves, real* out, int batch, int height, int width,
                                 wide samples, wide pixels, wide tables) {
    const int d = blockIdx.x, y = d / width % height, x = d % width, start = d - y * width - x;
    const wide line = table_row[d];
    FOR_BATCH {
        const wide row = rows[n], i = y + moves[3 * n];
        const wide j = (moves[3 * n + 2] != 0 ? width - 1 - x : x) + moves[3 * n + 1];
        const bool shown = i >= 0 && i < height && j >= 0 && j < width;
        const wide at = shown ? source[start + i * width + j] : 0;
        const bool known = row >= 0 && row < samples && at >= 0 && at < pixels && line >= 0 && line < tables;
        out[(wide)d * batch + n] =
            known ? table[line * 256 + (shown ? images[row * pixels + at] : 0)] : (real)nan("");
    }
}
"""
