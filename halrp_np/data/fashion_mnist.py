"""Fashion-MNIST: articles of clothing in the format of MNIST, from a folder, the cache or a mirror."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .dataset import DataSet, FileRow
from .idx_sets import IdxSet, OfficialFile, read_set, verify_set
from .sources import Say, Source, load_published

FASHION = IdxSet(
    "fashion-mnist",
    "Fashion-MNIST",
    "fashion-mnist",
    (
        OfficialFile(
            "train-images-idx3-ubyte",
            3,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        OfficialFile(
            "train-labels-idx1-ubyte",
            1,
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        OfficialFile(
            "t10k-images-idx3-ubyte",
            3,
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        OfficialFile(
            "t10k-labels-idx1-ubyte",
            1,
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    ("FashionMNIST/raw", "raw", "."),
    (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)


def load_fashion_mnist(source: Source = "auto", data_dir: Path | str | None = None, say: Say | None = None) -> DataSet:
    """Load Fashion-MNIST, 28x28 grey: from `data_dir` if given, else from the cache, else from a mirror.

    `data_dir` holds FashionMNIST/raw, or the four files themselves, as Debian's package dataset-fashion-mnist has them.
    `full` refuses any other content; `sample` is the synthetic stand-in. `say` is told a line before a download.

    Raises: ConfigError for another source; DataError if what was asked for is absent or damaged.
    """
    return load_published(FASHION.published, read, source, data_dir, say)


def read(data_dir: Path) -> DataSet:
    """Read the files below a data folder.

    Raises: DataError if they are absent or damaged.
    """
    return read_set(_below(data_dir), data_dir)


def verify(data_dir: Path) -> list[FileRow]:
    """Read the four files with every check; one row a file.

    Raises: DataError if none of them is there.
    """
    return verify_set(_below(data_dir), data_dir)


def _below(data_dir: Path) -> IdxSet:
    """The set with its layouts: beside MNIST's folder, files of these names in `data_dir` itself are not meant."""
    return replace(FASHION, layouts=FASHION.layouts[:1]) if (data_dir / "MNIST" / "raw").is_dir() else FASHION
