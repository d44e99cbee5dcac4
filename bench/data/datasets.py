"""Data sets by name: their facts before anything is read, and their images as memory-mapped arrays.

A data set is a function that returns a Source, and its name in DATASETS.
"""

import difflib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.cache import Arrays, Decoded, Inspection, locked, open_or_build, sync
from bench.data.errors import DataError
from bench.data.image_folder import SAMPLE, ImageFiles, decode_images, list_images, sample_histogram
from bench.data.split import hold_out
from bench.data.torchvision_sets import read_cifar, read_mnist_like, read_svhn

__all__ = ["DATASETS", "Arrays", "DataError", "Facts", "StreamedSet", "describe", "load", "load_streamed"]

# Raised when a loader gives other pixels, labels or another order than before; older caches are then not used.
CACHE_VERSION = 1

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Facts:
    """What a plan needs to know of a data set.  Images are channels x height x width, uint8.

    fingerprint: identifies the files of an image folder; "" for the built-in sets, which their name identifies.
    """

    num_train: int
    num_test: int
    num_classes: int
    channels: int
    height: int
    width: int
    fingerprint: str = ""


@dataclass(frozen=True)
class StreamedSet:
    """An image folder whose images stay in their files; labels (n,) int64, known from the listing.

    histogram: (3, 256) of a sample of the training images, see sample_histogram.  sha256: of the files' names and
    sizes, the listing's fingerprint.
    """

    train_images: ImageFiles
    train_labels: NDArray[np.int64]
    test_images: ImageFiles
    test_labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    sha256: str
    histogram: NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """A data set that can be read: read(data_root) decodes it, and variant tells its caches apart if it has several.

    streamed(histogram): the set with its images left in their files; None where it cannot be had so.
    sample: reads the histogram.
    """

    facts: Facts
    read: Callable[[Path], Decoded]
    variant: str = ""
    streamed: Callable[[NDArray[np.int64]], StreamedSet] | None = None
    sample: Callable[[], NDArray[np.int64]] | None = None


def describe(
    name: str, *, root: Path | None = None, image_size: int | None = None, test_fraction: float | None = None
) -> Facts:
    """The facts of a data set, without reading it: constants for a built-in set, a listing for an image folder.

    root, image_size (pixels) and test_fraction, and `load`'s resize (pixels), belong to image_folder.  Raises DataError
    for an unknown name, an argument the data set does not take or lacks, and for a folder that will not do.
    """
    return _source(name, root=root, image_size=image_size, test_fraction=test_fraction).facts


def load(
    name: str,
    *,
    data_root: Path,
    cache_root: Path,
    root: Path | None = None,
    image_size: int | None = None,
    resize: int | None = None,
    test_fraction: float | None = None,
    fingerprint: str | None = None,
    inspection: Inspection | None = None,
) -> Arrays:
    """A data set as memory-mapped arrays; the first call decodes it into a cache below cache_root.

    data_root: a root of torchvision's data sets, or a folder with one such root for each data set, named after it.
    What is not there is downloaded into it.  fingerprint: what `describe` gave when the trials were planned.
    inspection: has what is cached checked against its checksum, and built anew where it differs.  The other arguments
    are those of `describe`.  Raises DataError if the data cannot be had, are not what `describe` says, or have another
    fingerprint by now.
    """
    source = _source(name, root=root, image_size=image_size, resize=resize, test_fraction=test_fraction)
    _check_unchanged(source, root, fingerprint)

    def build() -> Decoded:
        decoded = source.read(data_root)
        _check(f"{name} below {data_root}", decoded, source.facts)
        return decoded

    folder = cache_root / f"{name}-v{CACHE_VERSION}{source.variant}"
    return open_or_build(folder, build, inspection=inspection)


def load_streamed(
    name: str,
    *,
    cache_root: Path,
    root: Path | None,
    image_size: int | None,
    resize: int | None = None,
    test_fraction: float | None = None,
    fingerprint: str | None = None,
) -> StreamedSet:
    """As `load`, but the images stay in their files: all that is decoded, and cached, is a sample for its histogram.

    Raises DataError too where the data set is no image folder.
    """
    source = _source(name, root=root, image_size=image_size, resize=resize, test_fraction=test_fraction)
    _check_unchanged(source, root, fingerprint)
    if source.streamed is None or source.sample is None:
        raise DataError(f"{name} cannot be streamed: an image_folder can")
    path = cache_root / f"{name}-v{CACHE_VERSION}{source.variant}-sample.json"
    histogram = _read_histogram(path, source.facts)
    if histogram is None:
        cache_root.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            histogram = _read_histogram(path, source.facts)  # another process may have made it meanwhile
            if histogram is None:
                histogram = source.sample()
                partial_path = path.with_suffix(".partial")
                partial_path.write_text(json.dumps(histogram.tolist()))
                sync(partial_path)
                partial_path.rename(path)
    return source.streamed(histogram)


def _read_histogram(path: Path, facts: Facts) -> NDArray[np.int64] | None:
    """The cached one; None where there is none, or one that does not count every pixel of the sample."""
    try:
        histogram = np.array(json.loads(path.read_bytes()), dtype=np.int64)
    except (OSError, ValueError, TypeError):
        return None
    pixels = min(SAMPLE, facts.num_train) * facts.height * facts.width
    if histogram.shape != (facts.channels, 256) or (histogram.sum(axis=1) != pixels).any():
        return None
    return histogram


def _check_unchanged(source: Source, root: Path | None, fingerprint: str | None) -> None:
    if fingerprint is not None and source.facts.fingerprint != fingerprint:
        raise DataError(
            f"{root}: files were added, removed or changed since the trials were planned; start the run anew"
        )


def digits() -> Source:
    """scikit-learn's digits: 1,000 to train and 797 to test on, 1 x 8 x 8, 10 classes.

    Comes with scikit-learn.  It has no official test set: ours is fixed, stratified, and the same for every trial.
    Levels 0..16 become 0..255.  Source: Alpaydin and Kaynak 1998, UCI repository, test part.
    """
    return Source(Facts(1_000, 797, 10, 1, 8, 8), lambda _: _read_digits())


def mnist() -> Source:
    """MNIST: 60,000 + 10,000, 1 x 28 x 28, 10 classes.  Source: LeCun et al. 1998."""
    return _mnist_like("mnist", "MNIST", DIGITS)


def fashion_mnist() -> Source:
    """Fashion-MNIST: 60,000 + 10,000, 1 x 28 x 28, 10 classes.  Source: Xiao et al. 2017."""
    class_names = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
    return _mnist_like("fashion_mnist", "FashionMNIST", tuple(class_names.split(", ")))


def kmnist() -> Source:
    """Kuzushiji-MNIST: 60,000 + 10,000, 1 x 28 x 28, 10 classes.  Source: Clanuwat et al. 2018."""
    return _mnist_like("kmnist", "KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"))


def cifar10() -> Source:
    """CIFAR-10: 50,000 + 10,000, 3 x 32 x 32, 10 classes.  Source: Krizhevsky 2009."""
    facts = Facts(50_000, 10_000, 10, 3, 32, 32)
    return Source(facts, partial(read_cifar, name="cifar10", torchvision_class="CIFAR10"))


def cifar100() -> Source:
    """CIFAR-100: 50,000 + 10,000, 3 x 32 x 32, 100 (fine) classes.  Source: Krizhevsky 2009."""
    facts = Facts(50_000, 10_000, 100, 3, 32, 32)
    return Source(facts, partial(read_cifar, name="cifar100", torchvision_class="CIFAR100"))


def svhn() -> Source:
    """SVHN's cropped digits without the extra set: 73,257 + 26,032, 3 x 32 x 32, 10 classes.

    Source: Netzer et al. 2011.
    """
    return Source(Facts(73_257, 26_032, 10, 3, 32, 32), read_svhn)


def image_folder(
    *, root: Path, image_size: int, resize: int | None = None, test_fraction: float | None = None
) -> Source:
    """The user's own images, 3 x image_size x image_size: see bench/data/image_folder.py."""
    if image_size < 1:
        raise DataError(f"an image_size of {image_size}: it is a number of pixels, at least 1")
    root = root.expanduser()
    listing = list_images(root, test_fraction=test_fraction)
    num_train, num_test, num_classes = len(listing.train), len(listing.test), len(listing.class_names)
    facts = Facts(num_train, num_test, num_classes, 3, image_size, image_size, listing.fingerprint)

    def read(_: Path) -> Decoded:
        images = decode_images(root, listing.train + listing.test, image_size=image_size, resize=resize)
        labels = np.array([file.label for file in listing.train + listing.test], dtype=np.int64)
        return Decoded(
            images[:num_train], labels[:num_train], images[num_train:], labels[num_train:], listing.class_names
        )

    def streamed(histogram: NDArray[np.int64]) -> StreamedSet:
        train, test = (
            ImageFiles.of(root, files, image_size=image_size, resize=resize or image_size)
            for files in (listing.train, listing.test)
        )
        train_labels, test_labels = (
            np.array([file.label for file in files], dtype=np.int64) for files in (listing.train, listing.test)
        )
        return StreamedSet(train, train_labels, test, test_labels, listing.class_names, listing.fingerprint, histogram)

    def sample() -> NDArray[np.int64]:
        return sample_histogram(root, listing.train, image_size=image_size, resize=resize)

    resized = "" if resize is None else f"-from{resize}px"
    split = "" if test_fraction is None else f"-test{test_fraction}"
    variant = f"-{listing.fingerprint[:16]}-{image_size}px{resized}{split}"
    return Source(facts, read, variant, streamed, sample)


DATASETS: dict[str, Callable[..., Source]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "kmnist": kmnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
    "image_folder": image_folder,
}


def _source(name: str, **options: Any) -> Source:
    if name not in DATASETS:
        nearest = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise DataError(f"unknown data set {name!r}: choose from {', '.join(DATASETS)}{hint}")
    parameters = inspect.signature(DATASETS[name]).parameters
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in parameters:
            raise DataError(f"the data set {name} takes no {key}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in given:
            raise DataError(f"the data set {name} needs {key}")
    return DATASETS[name](**given)


def _check(where: str, decoded: Decoded, facts: Facts) -> None:
    """Raise DataError unless what was read is what the data set is known to be."""
    for split, images, labels, count in (
        ("training", decoded.train_images, decoded.train_labels, facts.num_train),
        ("test", decoded.test_images, decoded.test_labels, facts.num_test),
    ):
        shape = (count, facts.channels, facts.height, facts.width)
        if images.shape != shape or labels.shape != (count,):
            raise DataError(
                f"{where}: {split} images {images.shape} and labels {labels.shape}; not {shape} and {(count,)}"
            )
        if not np.array_equal(np.unique(labels), np.arange(facts.num_classes)):
            raise DataError(f"{where}: the {split} labels are not 0..{facts.num_classes - 1}, each at least once")


def _read_digits() -> Decoded:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = np.asarray(bunch.target, dtype=np.int64)
    train, test = hold_out([b"digits/%d" % i for i in range(len(labels))], labels, 797 / 1797)
    return Decoded(images[train], labels[train], images[test], labels[test], DIGITS)


def _mnist_like(name: str, torchvision_class: str, class_names: tuple[str, ...]) -> Source:
    read = partial(read_mnist_like, name=name, torchvision_class=torchvision_class, class_names=class_names)
    return Source(Facts(60_000, 10_000, 10, 1, 28, 28), read)
