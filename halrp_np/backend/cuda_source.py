"""The CUDA C of the GPU twins, for one floating type `real` that cupy_kernels.py defines in front of it.

Blocks stand for a pixel (x) of a channel (y) and the threads of a block for consecutive images of the batch, so reads
and writes are contiguous and a block's index arithmetic is paid once for all its images. Nothing is added
atomically: every output entry has one thread, and results do not depend on the order in which blocks run. Offsets are
64 bits wide; sizes along one axis are 32.
"""

SOURCE = r"""
typedef long long wide;

#define FOR_CHANNELS for (int c = blockIdx.y; c < channels; c += gridDim.y)
#define FOR_BATCH for (int n = threadIdx.x; n < batch; n += blockDim.x)

// The first window position u with u stride + kernel > at: the first that covers position `at` of the padded image.
static __device__ int first_window(int at, int kernel, int stride) {
    return at < kernel ? 0 : (at - kernel) / stride + 1;
}

extern "C" {

// columns[c, i, j, u, v, n] = x[c, u s - p + i, v s - p + j, n] for the output rows first .. first + rows - 1
__global__ void im2col(const real* x, real* columns, int channels, int height, int width, int batch, int kh, int kw,
                       int stride, int padding, int first, int rows, int cols) {
    const int top = (first + (int)blockIdx.x / cols) * stride - padding;
    const int left = ((int)blockIdx.x % cols) * stride - padding;
    FOR_CHANNELS {
        for (int i = 0; i < kh; ++i) {
            for (int j = 0; j < kw; ++j) {
                const int a = top + i, b = left + j;
                const bool inside = a >= 0 && a < height && b >= 0 && b < width;
                const wide from = (((wide)c * height + a) * width + b) * batch;
                const wide to = ((((wide)c * kh + i) * kw + j) * rows * cols + blockIdx.x) * batch;
                FOR_BATCH columns[to + n] = inside ? x[from + n] : (real)0;
            }
        }
    }
}

// gx[c, a, b, n] += the entries of columns that im2col copied from there, for the image rows from `top` on
__global__ void col2im(const real* columns, real* gx, int channels, int height, int width, int batch, int kh, int kw,
                       int stride, int padding, int first, int rows, int cols, int top) {
    const int a = top + (int)blockIdx.x / width, b = (int)blockIdx.x % width;
    const int u0 = max(first_window(a + padding, kh, stride), first), v0 = first_window(b + padding, kw, stride);
    const int u1 = min((a + padding) / stride, first + rows - 1), v1 = min((b + padding) / stride, cols - 1);
    FOR_CHANNELS FOR_BATCH {
        real total = 0;
        for (int u = u0; u <= u1; ++u) {
            for (int v = v0; v <= v1; ++v) {
                const int i = a + padding - u * stride, j = b + padding - v * stride;
                const wide pixel = (wide)(u - first) * cols + v;
                total += columns[((((wide)c * kh + i) * kw + j) * rows * cols + pixel) * batch + n];
            }
        }
        gx[(((wide)c * height + a) * width + b) * batch + n] += total;
    }
}

// A NaN beats every number and nothing beats it; of equal entries the first stays.
__global__ void maxpool2d(const real* x, real* y, unsigned char* argmax, int channels, int height, int width, int batch,
                          int kernel, int stride, int rows, int cols) {
    const int u = (int)blockIdx.x / cols, v = (int)blockIdx.x % cols;
    FOR_CHANNELS FOR_BATCH {
        const wide corner = (((wide)c * height + u * stride) * width + v * stride) * batch + n;
        real best = x[corner];
        int where = 0;
        for (int i = 0; i < kernel; ++i) {
            for (int j = 0; j < kernel; ++j) {
                const real value = x[corner + ((wide)i * width + j) * batch];
                if (value > best || (value != value && best == best)) {
                    best = value;
                    where = i * kernel + j;
                }
            }
        }
        const wide to = (((wide)c * rows + u) * cols + v) * batch + n;
        y[to] = best;
        argmax[to] = (unsigned char)where;
    }
}

// gx[c, a, b, n] = the gradients of the windows whose first maximum lies there
__global__ void maxpool2d_backward(const real* gy, const unsigned char* argmax, real* gx, int channels, int height,
                                   int width, int batch, int kernel, int stride, int rows, int cols) {
    const int a = (int)blockIdx.x / width, b = (int)blockIdx.x % width;
    const int u0 = first_window(a, kernel, stride), u1 = min(a / stride, rows - 1);
    const int v0 = first_window(b, kernel, stride), v1 = min(b / stride, cols - 1);
    FOR_CHANNELS FOR_BATCH {
        real total = 0;
        for (int u = u0; u <= u1; ++u) {
            for (int v = v0; v <= v1; ++v) {
                const wide at = (((wide)c * rows + u) * cols + v) * batch + n;
                if (argmax[at] == (a - u * stride) * kernel + b - v * stride) total += gy[at];
            }
        }
        gx[(((wide)c * height + a) * width + b) * batch + n] = total;
    }
}

// A product, so that a NaN gradient shows even where the output is 0.
__global__ void relu_backward(const real* y, const real* gy, real* gx, wide count) {
    for (wide k = (wide)blockIdx.x * blockDim.x + threadIdx.x; k < count; k += (wide)gridDim.x * blockDim.x)
        gx[k] = gy[k] * (y[k] > 0 ? (real)1 : (real)0);
}

// y = scale x + shift, row by row
__global__ void batchnorm_apply(const real* x, const real* scale, const real* shift, real* y, int channels,
                                wide count) {
    FOR_CHANNELS {
        const real a = scale[c], b = shift[c];
        for (wide k = (wide)blockIdx.x * blockDim.x + threadIdx.x; k < count; k += (wide)gridDim.x * blockDim.x)
            y[c * count + k] = a * x[c * count + k] + b;
    }
}

// partial[0, c, block] and [1, c, block]: each block's share of sum gy and of sum gy (x - mean), in double
__global__ void batchnorm_sums(const real* gy, const real* x, const real* mean, double* partial, int channels,
                               wide count) {
    __shared__ double total[BLOCK], along[BLOCK];
    FOR_CHANNELS {
        double t = 0, s = 0;
        for (wide k = (wide)blockIdx.x * blockDim.x + threadIdx.x; k < count; k += (wide)gridDim.x * blockDim.x) {
            const double g = gy[c * count + k];
            t += g;
            s += g * ((double)x[c * count + k] - (double)mean[c]);
        }
        total[threadIdx.x] = t;
        along[threadIdx.x] = s;
        for (int half = BLOCK / 2; half > 0; half /= 2) {
            __syncthreads();
            if (threadIdx.x < half) {
                total[threadIdx.x] += total[threadIdx.x + half];
                along[threadIdx.x] += along[threadIdx.x + half];
            }
        }
        if (threadIdx.x == 0) {
            partial[(wide)c * gridDim.x + blockIdx.x] = total[0];
            partial[(wide)(channels + c) * gridDim.x + blockIdx.x] = along[0];
        }
        __syncthreads();
    }
}

// gx = a gy + b (x - mean) + d, a block's three coefficients formed by its first thread
__global__ void batchnorm_gradient(const real* gy, const real* x, const real* gamma, const real* mean, const real* var,
                                   const double* partial, double eps, real* gx, real* ggamma, real* gbeta, int channels,
                                   wide count, int parts) {
    __shared__ real a, b, d;
    FOR_CHANNELS {
        if (threadIdx.x == 0) {
            double total = 0, along = 0;
            for (int k = 0; k < parts; ++k) {
                total += partial[(wide)c * parts + k];
                along += partial[(wide)(channels + c) * parts + k];
            }
            const double inverse = 1 / sqrt((double)var[c] + eps);
            if (blockIdx.x == 0) {
                ggamma[c] = (real)(along * inverse);
                gbeta[c] = (real)total;
            }
            a = (real)(gamma[c] * inverse);
            b = (real)(-gamma[c] * inverse * inverse * inverse * along / count);
            d = (real)(-gamma[c] * inverse * total / count);
        }
        __syncthreads();
        for (wide k = (wide)blockIdx.x * blockDim.x + threadIdx.x; k < count; k += (wide)gridDim.x * blockDim.x)
            gx[c * count + k] = a * gy[c * count + k] + b * (x[c * count + k] - mean[c]) + d;
        __syncthreads();
    }
}

__global__ void adam_step(real* theta, const real* grad, real* m, real* v, wide count, real beta1, real other1,
                          real beta2, real other2, real rate, real root, real eps, real l1, real l2, real centre,
                          real scale) {
    for (wide k = (wide)blockIdx.x * blockDim.x + threadIdx.x; k < count; k += (wide)gridDim.x * blockDim.x) {
        const real value = theta[k];
        const real sign = value > 0 ? (real)1 : (value < 0 ? (real)-1 : value);  // a NaN stays one
        const real g = scale * (grad[k] + l1 * sign + l2 * (value - centre));
        m[k] = beta1 * m[k] + other1 * g;
        v[k] = beta2 * v[k] + other2 * g * g;
        theta[k] = value - rate * m[k] / (sqrt(v[k]) * root + eps);
    }
}

// An index out of range gives NaN: to raise an error would mean to wait for the GPU, to read there might end it.
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

}
"""
