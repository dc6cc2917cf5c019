"""CUDA C of batch normalisation, alone and with the ReLU and the pooling that follow it.

Sums over a channel are kept in double and taken about its first entry, so that a large mean costs no digits. A channel
of many entries is summed by several blocks, its parts are added by one thread, which also forms the coefficients that
every entry needs; features have few entries a channel, and one block does all of it.
"""

SOURCE = r"""
// partial[0, c, block] and [1, c, block]: a block's share of sum (x - x0) and of sum (x - x0)^2, x0 = x[c, 0]
__global__ void moments(const real* x, double* partial, int channels, wide count) {
    __shared__ double share[BLOCK];
    FOR_CHANNELS {
        const double first = x[c * count];
        double sum = 0, squares = 0;
        FOR_EACH(k, count) {
            const double offset = x[c * count + k] - first;
            sum += offset;
            squares += offset * offset;
        }
        sum = block_sum(sum, share);
        squares = block_sum(squares, share);
        if (threadIdx.x == 0) {
            partial[(wide)c * gridDim.x + blockIdx.x] = sum;
            partial[(wide)(channels + c) * gridDim.x + blockIdx.x] = squares;
        }
    }
}

// centre, mean and var of the channels, and scale = gamma/sqrt(var + eps), for y = (x - centre) scale + beta.
// A bias that was left out of x moves the mean alone; one that is not finite spoils everything, as it would have.
__global__ void norm_coefficients(const real* x, const double* partial, const real* gamma, const real* bias, double eps,
                                  real* centre, real* mean, real* var, real* scale, int channels, wide count,
                                  int parts) {
    FOR_EACH(c, channels) {
        double sum = 0, squares = 0;
        for (int p = 0; p < parts; ++p) {
            sum += partial[c * parts + p];
            squares += partial[(channels + c) * parts + p];
        }
        const double offset = sum / count, spread = squares / count - offset * offset, start = bias ? bias[c] : 0.0;
        const double variance = (spread < 0 ? 0.0 : spread) + (start - start), middle = (double)x[c * count] + offset;
        centre[c] = (real)middle;
        mean[c] = (real)(middle + start);
        var[c] = (real)variance;
        scale[c] = (real)(gamma[c] / sqrt(variance + eps));
    }
}

// y = (x - centre) scale + beta, row by row
__global__ void normalise(const real* x, const real* centre, const real* scale, const real* beta, real* y, int channels,
                          wide count) {
    FOR_CHANNELS FOR_EACH(k, count) y[c * count + k] = (x[c * count + k] - centre[c]) * scale[c] + beta[c];
}

// y = scale x + shift, row by row
__global__ void batchnorm_apply(const real* x, const real* scale, const real* shift, real* y, int channels,
                                wide count) {
    FOR_CHANNELS FOR_EACH(k, count) y[c * count + k] = scale[c] * x[c * count + k] + shift[c];
}

// partial[0, c, block] and [1, c, block]: each block's share of sum gy and of sum gy (x - mean)
__global__ void batchnorm_sums(const real* gy, const real* x, const real* mean, double* partial, int channels,
                               wide count) {
    __shared__ double share[BLOCK];
    FOR_CHANNELS {
        double total = 0, along = 0;
        FOR_EACH(k, count) {
            const double g = gy[c * count + k];
            total += g;
            along += g * ((double)x[c * count + k] - (double)mean[c]);
        }
        total = block_sum(total, share);
        along = block_sum(along, share);
        if (threadIdx.x == 0) {
            partial[(wide)c * gridDim.x + blockIdx.x] = total;
            partial[(wide)(channels + c) * gridDim.x + blockIdx.x] = along;
        }
    }
}

// The gradients of gamma and beta, and the coefficients of gx = a gy + b (x - mean) + d: a, b, d of channel c lie at
// c, channels + c and 2 channels + c.
__global__ void gradient_coefficients(const double* partial, const real* gamma, const real* var, double eps,
                                      real* coefficients, real* ggamma, real* gbeta, int channels, wide count,
                                      int parts) {
    FOR_EACH(c, channels) {
        double total = 0, along = 0;
        for (int p = 0; p < parts; ++p) {
            total += partial[c * parts + p];
            along += partial[(channels + c) * parts + p];
        }
        const double inverse = 1 / sqrt((double)var[c] + eps), a = gamma[c] * inverse;
        ggamma[c] = (real)(along * inverse);
        gbeta[c] = (real)total;
        coefficients[c] = (real)a;
        coefficients[channels + c] = (real)(-a * inverse * inverse * along / count);
        coefficients[2 * channels + c] = (real)(-a * total / count);
    }
}

__global__ void batchnorm_gradient(const real* gy, const real* x, const real* mean, const real* coefficients, real* gx,
                                   int channels, wide count) {
    FOR_CHANNELS {
        const real a = coefficients[c], b = coefficients[channels + c], d = coefficients[2 * channels + c];
        FOR_EACH(k, count) gx[c * count + k] = a * gy[c * count + k] + b * (x[c * count + k] - mean[c]) + d;
    }
}

// y = max((x - mean) gamma/sqrt(var + eps) + beta, 0) over the rows of features, a block a row
__global__ void norm_relu(const real* x, const real* gamma, const real* beta, double eps, real* y, real* mean,
                          real* var, int channels, wide count) {
    __shared__ double share[BLOCK];
    FOR_CHANNELS {
        const real* row = x + c * count;
        double sum = 0, squares = 0;
        for (wide k = threadIdx.x; k < count; k += blockDim.x) sum += row[k];
        const double middle = block_sum(sum, share) / count;
        for (wide k = threadIdx.x; k < count; k += blockDim.x) squares += (row[k] - middle) * (row[k] - middle);
        const double variance = block_sum(squares, share) / count;
        const real centre = (real)middle, scale = (real)(gamma[c] / sqrt(variance + eps));
        for (wide k = threadIdx.x; k < count; k += blockDim.x)
            y[c * count + k] = rectified((row[k] - centre) * scale + beta[c]);
        if (threadIdx.x == 0) {
            mean[c] = centre;
            var[c] = (real)variance;
        }
    }
}

// The way back of norm_relu, a block a row
__global__ void norm_relu_backward(const real* gy, const real* y, const real* x, const real* gamma, const real* mean,
                                   const real* var, double eps, real* gx, real* ggamma, real* gbeta, int channels,
                                   wide count) {
    __shared__ double share[BLOCK];
    FOR_CHANNELS {
        double total = 0, along = 0;
        for (wide k = c * count + threadIdx.x; k < (c + 1) * count; k += blockDim.x) {
            const double g = gy[k] * (y[k] > 0 ? (real)1 : (real)0);
            total += g;
            along += g * ((double)x[k] - (double)mean[c]);
        }
        total = block_sum(total, share);
        along = block_sum(along, share);
        const double inverse = 1 / sqrt((double)var[c] + eps), scale = gamma[c] * inverse;
        const real a = (real)scale, b = (real)(-scale * inverse * inverse * along / count);
        const real d = (real)(-scale * total / count);
        for (wide k = c * count + threadIdx.x; k < (c + 1) * count; k += blockDim.x)
            gx[k] = a * (gy[k] * (y[k] > 0 ? (real)1 : (real)0)) + b * (x[k] - mean[c]) + d;
        if (threadIdx.x == 0) {
            ggamma[c] = (real)(along * inverse);
            gbeta[c] = (real)total;
        }
    }
}
"""
