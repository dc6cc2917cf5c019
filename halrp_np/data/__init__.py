"""Data sets as host arrays, and the streams of tasks made of them."""

from .cache import cache_dir
from .catalog import data_sets, fetch, verify
from .images import Images, Stream, Task
from .mnist import Mnist, load_mnist
from .permuted_mnist import permuted_mnist

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
