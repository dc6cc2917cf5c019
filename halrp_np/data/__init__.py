"""Data sets as host arrays, and the streams of tasks made of them."""

from .cache import cache_dir
from .catalog import data_sets, fetch, verify
from .mnist import Mnist, load_mnist
from .streams import Images, Stream, Task, permuted_mnist

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
