"""The CPU column of the table of hot loops: the same functions as reference.py, compiled by Numba on first use.

Each wrapper checks shapes (the kernels check no bounds), settles one floating type, takes the output from buffers.py
and calls a kernel. No result depends on the number of threads.
"""

from .numba_conv import conv2d, conv2d_grad_input, conv2d_grad_weight, matmul
from .numba_norm import batchnorm_apply, batchnorm_backward, batchnorm_train
from .numba_pointwise import adam_step, gather_images, relu, relu_backward, softmax_cross_entropy
from .numba_pool import maxpool2d, maxpool2d_backward, maxpool2d_take

__all__ = [
    "adam_step",
    "batchnorm_apply",
    "batchnorm_backward",
    "batchnorm_train",
    "conv2d",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "gather_images",
    "matmul",
    "maxpool2d",
    "maxpool2d_backward",
    "maxpool2d_take",
    "relu",
    "relu_backward",
    "softmax_cross_entropy",
]
