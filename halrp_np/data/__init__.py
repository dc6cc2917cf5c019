"""Data sets as host arrays, and the streams of tasks made of them."""

from .cache import cache_dir
from .catalog import data_sets, fetch, load, verify
from .cifar import load_cifar10, load_cifar100
from .cifar_streams import cifar100_split, cifar100_superclass
from .custom import custom_stream
from .dataset import DataSet
from .fashion_mnist import load_fashion_mnist
from .five import five_datasets
from .images import Augmentation, Images, Stream, Task
from .mnist import load_mnist
from .notmnist import load_notmnist
from .omniglot import load_omniglot
from .omniglot_stream import omniglot_rotation
from .permuted_mnist import permuted_mnist
from .svhn import load_svhn
from .synthetic import synthetic
from .tiny_imagenet import load_tiny_imagenet
from .tiny_stream import tiny_imagenet_split

__all__ = [
    "Augmentation",
    "DataSet",
    "Images",
    "Stream",
    "Task",
    "cache_dir",
    "cifar100_split",
    "cifar100_superclass",
    "custom_stream",
    "data_sets",
    "fetch",
    "five_datasets",
    "load",
    "load_cifar10",
    "load_cifar100",
    "load_fashion_mnist",
    "load_mnist",
    "load_notmnist",
    "load_omniglot",
    "load_svhn",
    "load_tiny_imagenet",
    "omniglot_rotation",
    "permuted_mnist",
    "synthetic",
    "tiny_imagenet_split",
    "verify",
]
