"""The data sets that torchvision knows, from the files that it downloads: found, checked and read whole.

MNIST and its successors are read from their IDX files directly, gzipped or not, so that a read-only folder will do;
CIFAR and SVHN through torchvision's classes, CIFAR's files being pickles, which are opened only where their MD5 sums
are those of the originals.  Each reader raises DataError, naming the file, where one is missing or
damaged.
"""

import http.client
import socket
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench.data.cache import Decoded
from bench.data.errors import DataError
from bench.data.idx import read_idx

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
DOWNLOAD_TIMEOUT_SECONDS = 20.0


def read_mnist_like(data_root: Path, *, name: str, torchvision_class: str, class_names: tuple[str, ...]) -> Decoded:
    def download() -> None:
        from torchvision import datasets

        getattr(datasets, torchvision_class)(data_root, download=True)

    files = [f"{torchvision_class}/raw/{file}" for file in IDX_FILES]
    root = _obtain(name, data_root, files, download)
    for file in files:
        _check_against_gz(root / file)
    train_images, train_labels, test_images, test_labels = (read_idx(_plain_or_gz(root / file)) for file in files)
    return Decoded(
        train_images[:, None],
        train_labels.astype(np.int64),
        test_images[:, None],
        test_labels.astype(np.int64),
        class_names,
    )


def read_cifar(data_root: Path, *, name: str, torchvision_class: str) -> Decoded:
    from torchvision import datasets

    dataset = getattr(datasets, torchvision_class)
    sums = dict([*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])])
    sums = {f"{dataset.base_folder}/{file}": md5 for file, md5 in sums.items()}
    root = _obtain(name, data_root, list(sums), lambda: dataset(data_root, download=True))
    _check_md5(root, sums)
    train, test = dataset(root, train=True), dataset(root, train=False)
    return Decoded(
        train.data.transpose(0, 3, 1, 2),
        np.array(train.targets, dtype=np.int64),
        test.data.transpose(0, 3, 1, 2),
        np.array(test.targets, dtype=np.int64),
        tuple(train.classes),
    )


def read_svhn(data_root: Path) -> Decoded:
    from torchvision.datasets import SVHN

    def download() -> None:
        for split in ("train", "test"):
            SVHN(data_root, split=split, download=True)

    sums = {SVHN.split_list[split][1]: SVHN.split_list[split][2] for split in ("train", "test")}
    root = _obtain("svhn", data_root, list(sums), download)
    _check_md5(root, sums)
    train, test = SVHN(root, split="train"), SVHN(root, split="test")
    return Decoded(train.data, train.labels, test.data, test.labels, tuple("0123456789"))


def _obtain(name: str, data_root: Path, files: Sequence[str], download: Callable[[], object]) -> Path:
    """The root, in torchvision's sense, that holds all the files; downloaded into data_root if none does."""
    roots = list(dict.fromkeys([data_root, data_root / name, data_root / name.replace("_", "-")]))
    for root in roots:
        if all(_plain_or_gz(root / file).exists() for file in files):
            return root
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT_SECONDS):
            download()
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise DataError(
            f"{name}: not found in {' or '.join(map(str, roots))}, and the download failed: {error}\n"
            f"Put these files there: {', '.join(files)} (MNIST's and its successors' also as .gz), as torchvision "
            "leaves them on a machine with a network; or say with BENCH_DATA or --data-root where they are."
        ) from error
    return data_root


def _plain_or_gz(path: Path) -> Path:
    return path if path.exists() else path.with_name(path.name + ".gz")


def _check_against_gz(path: Path) -> None:
    """Raise DataError where an unpacked file is not what the packed one beside it holds: torchvision leaves both.

    Nobody publishes checksums of the unpacked ones, and a packed one ends with that of its content.
    """
    packed = path.with_name(path.name + ".gz")
    if not path.exists() or not packed.exists():
        return
    content = path.read_bytes()
    if packed.read_bytes()[-8:] != struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF):
        raise DataError(f"{path}: not what {packed.name} beside it holds; remove the one that is damaged")


def _check_md5(root: Path, sums: dict[str, str]) -> None:
    from torchvision.datasets.utils import check_integrity

    for file, md5 in sums.items():
        if not check_integrity(root / file, md5):
            raise DataError(f"{root / file}: damaged (its MD5 sum should be {md5}); fetch it again")


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision opens its connections without a timeout: a firewall that drops packets would hold us for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
