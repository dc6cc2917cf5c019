"""The CPU column of the table of hot loops: the same functions as reference.py, compiled by Numba on first use.

Each wrapper checks shapes (the kernels check no bounds), settles one floating type, takes the output from buffers.py
and calls a kernel. No result depends on the number of threads.
"""

from .numba_block import conv_block, conv_block_apply, conv_block_backward
from .numba_conv import conv2d, conv2d_grad_input, conv2d_grad_weight, conv2d_weight_squares
from .numba_linear import linear, linear_add, matmul
from .numba_norm import (
    batchnorm_apply,
    batchnorm_backward,
    batchnorm_train,
    norm_relu,
    norm_relu_backward,
    row_dots,
)
from .numba_pointwise import (
    adam_flat,
    add,
    dropout,
    dropout_again,
    gather_augmented,
    gather_images,
    pull,
    relu,
    relu_backward,
    softmax_cross_entropy,
)
from .numba_pool import avgpool2d, avgpool2d_backward, maxpool2d, maxpool2d_backward, maxpool2d_take
from .numba_weight import effective_weight, window_sums

__all__ = [
    "adam_flat",
    "add",
    "avgpool2d",
    "avgpool2d_backward",
    "batchnorm_apply",
    "batchnorm_backward",
    "batchnorm_train",
    "conv2d",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "conv2d_weight_squares",
    "conv_block",
    "conv_block_apply",
    "conv_block_backward",
    "dropout",
    "dropout_again",
    "effective_weight",
    "gather_augmented",
    "gather_images",
    "linear",
    "linear_add",
    "matmul",
    "maxpool2d",
    "maxpool2d_backward",
    "maxpool2d_take",
    "norm_relu",
    "norm_relu_backward",
    "pull",
    "relu",
    "relu_backward",
    "row_dots",
    "softmax_cross_entropy",
    "window_sums",
]
