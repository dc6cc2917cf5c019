"""CUDA C of max pooling, alone and behind normalisation and ReLU; a block stands for a pixel (x) of a channel (y)."""

SOURCE = r"""
// The first window position u with u stride + kernel > at: the first that covers position `at`.
static __device__ int first_window(int at, int kernel, int stride) {
    return at < kernel ? 0 : (at - kernel) / stride + 1;
}

// A NaN beats every number and nothing beats it; of equal entries the first stays.
static __device__ bool beats(real value, real best) { return value > best || (value != value && best == best); }

__global__ void maxpool2d(const real* x, real* y, unsigned char* argmax, int channels, int height, int width, int batch,
                          int kernel, int stride, int rows, int cols) {
    const int u = (int)blockIdx.x / cols, v = (int)blockIdx.x % cols;
    FOR_CHANNELS FOR_BATCH {
        const wide corner = (((wide)c * height + u * stride) * width + v * stride) * batch + n;
        real best = x[corner];
        int where = 0;
        for (int k = 1; k < kernel * kernel; ++k) {
            const real value = x[corner + ((wide)(k / kernel) * width + k % kernel) * batch];
            if (beats(value, best)) best = value, where = k;
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

// y[c, u, v, n] = the entry of the window at the given position, 0 if it has none of that number
__global__ void maxpool2d_take(const real* x, const unsigned char* argmax, real* y, int channels, int height, int width,
                               int batch, int kernel, int stride, int rows, int cols) {
    const int u = (int)blockIdx.x / cols, v = (int)blockIdx.x % cols;
    FOR_CHANNELS FOR_BATCH {
        const wide to = (((wide)c * rows + u) * cols + v) * batch + n;
        const int k = argmax[to];
        const wide from = (((wide)c * height + u * stride + k / kernel) * width + v * stride + k % kernel) * batch + n;
        y[to] = k < kernel * kernel ? x[from] : (real)0;
    }
}

// y = the maximum, over windows side by side, of (z - centre) scale + beta, rectified if asked, and its position
__global__ void norm_pool(const real* z, const real* centre, const real* scale, const real* beta, real* y,
                          unsigned char* argmax, int channels, int height, int width, int batch, int kernel, int rows,
                          int cols, int rectify) {
    const int u = (int)blockIdx.x / cols, v = (int)blockIdx.x % cols;
    FOR_CHANNELS FOR_BATCH {
        const wide corner = (((wide)c * height + u * kernel) * width + v * kernel) * batch + n;
        real best = 0;
        int where = 0;
        for (int k = 0; k < kernel * kernel; ++k) {
            const wide from = corner + ((wide)(k / kernel) * width + k % kernel) * batch;
            real value = (z[from] - centre[c]) * scale[c] + beta[c];
            if (rectify) value = rectified(value);
            if (k == 0 || beats(value, best)) best = value, where = k;
        }
        const wide to = (((wide)c * rows + u) * cols + v) * batch + n;
        y[to] = best;
        argmax[to] = (unsigned char)where;
    }
}

// As batchnorm_sums, of the gradient that norm_pool sends back: gy at each window's maximum, where ReLU let it through
__global__ void norm_pool_sums(const real* gy, const real* y, const unsigned char* argmax, const real* z,
                               const real* centre, double* partial, int channels, int height, int width, int batch,
                               int kernel, int rows, int cols, int rectify) {
    __shared__ double share[BLOCK];
    FOR_CHANNELS {
        double total = 0, along = 0;
        for (int pixel = blockIdx.x; pixel < rows * cols; pixel += gridDim.x) {
            const wide corner = ((wide)c * height + pixel / cols * kernel) * width + pixel % cols * kernel;
            FOR_BATCH {
                const wide at = ((wide)c * rows * cols + pixel) * batch + n;
                const double g = gy[at] * (!rectify || y[at] > 0 ? (real)1 : (real)0);
                const real value = z[(corner + argmax[at] / kernel * width + argmax[at] % kernel) * batch + n];
                total += g;
                along += g * ((double)value - (double)centre[c]);
            }
        }
        total = block_sum(total, share);
        along = block_sum(along, share);
        if (threadIdx.x == 0) {
            partial[(wide)c * gridDim.x + blockIdx.x] = total;
            partial[(wide)(channels + c) * gridDim.x + blockIdx.x] = along;
        }
    }
}

// gz = a g + b (z - centre) + d, g as in norm_pool_sums; pixels behind the last window have none
__global__ void norm_pool_gradient(const real* gy, const real* y, const unsigned char* argmax, const real* z,
                                   const real* centre, const real* coefficients, real* gz, int channels, int height,
                                   int width, int batch, int kernel, int rows, int cols, int rectify) {
    const int a = (int)blockIdx.x / width, b = (int)blockIdx.x % width, u = a / kernel, v = b / kernel;
    const bool covered = u < rows && v < cols;
    const int place = (a - u * kernel) * kernel + b - v * kernel;
    FOR_CHANNELS {
        const real of_g = coefficients[c], of_z = coefficients[channels + c], rest = coefficients[2 * channels + c];
        FOR_BATCH {
            const wide at = (((wide)c * rows + u) * cols + v) * batch + n;
            const wide to = (((wide)c * height + a) * width + b) * batch + n;
            real g = 0;
            if (covered && argmax[at] == place) g = gy[at] * (!rectify || y[at] > 0 ? (real)1 : (real)0);
            gz[to] = of_g * g + of_z * (z[to] - centre[c]) + rest;
        }
    }
}
"""
