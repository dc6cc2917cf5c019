"""The GPU column of the table of hot loops: the same functions as reference.py, compiled by NVRTC on first use.

Each wrapper checks shapes (the kernels check no bounds), settles one floating type, makes its arguments contiguous and
launches a kernel of cuda_source.py. Every result is the same on every run.
"""

from .cupy_conv import conv2d, conv2d_grad_input, conv2d_grad_weight, linear, linear_add, matmul
from .cupy_norm import (
    batchnorm_apply,
    batchnorm_backward,
    batchnorm_train,
    conv_block,
    conv_block_apply,
    conv_block_backward,
    norm_relu,
    norm_relu_backward,
)
from .cupy_pointwise import (
    adam_flat,
    add,
    dropout,
    dropout_again,
    gather_augmented,
    gather_images,
    pull,
    relu,
    relu_backward,
    row_dots,
    softmax_cross_entropy,
)
from .cupy_pool import maxpool2d, maxpool2d_backward, maxpool2d_take

__all__ = [
    "adam_flat",
    "add",
    "batchnorm_apply",
    "batchnorm_backward",
    "batchnorm_train",
    "conv2d",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "conv_block",
    "conv_block_apply",
    "conv_block_backward",
    "dropout",
    "dropout_again",
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
]
