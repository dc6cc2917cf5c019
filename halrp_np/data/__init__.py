"""Data sets as host arrays, and the streams of tasks made of them."""

from halrp_np.data.cache import cache_dir
from halrp_np.data.catalog import data_sets, fetch, verify
from halrp_np.data.mnist import Mnist, load_mnist
from halrp_np.data.streams import Images, Stream, Task, permuted_mnist

__all__ = [
    "Images",
    "Mnist",
    "Stream",
    "Task",
    "cache_dir",
    "data_sets",
    "fetch",
    "load_mnist",
    "permuted_mnist",
    "verify",
]
