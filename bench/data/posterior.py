"""How sure a simple classifier is of every training image: what instance-dependent label noise goes by.

The estimate depends on the images and their true labels alone, not on a trial's seed, and is cached beside the data.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.cache import SEAL_BYTES, Arrays, Inspection, locked, seal, seal_is_broken, sync

# Raised when the same data would give another estimate; older files are then not used.
VERSION = 1

NUM_FOLDS = 5
MAX_PIXELS = 1024
"""Values of an image, over all channels; a larger image is shrunk until it has no more."""
NUM_COMPONENTS = 100
# A component with less than this share of the first one's variance is rounding error.
MIN_VARIANCE = 1e-6

CHUNK = 4096


def class_posterior(images: NDArray[np.uint8], labels: NDArray[np.int64], *, num_classes: int) -> NDArray[np.float32]:
    """Estimated class probabilities of each image, by a classifier that has not seen it: (n, K), rows sum to 1.

    images: (n, C, H, W) uint8.  labels: (n,) in [0, K), the true ones.  Multinomial logistic regression
    (scikit-learn's, L2 penalty with C = 1) on the first 100 principal components, each scaled to unit variance, of
    the images shrunk to at most 1,024 values.  The components are those of all images, without their labels; the
    regression is fitted five times, each time without the fifth of the images that it then judges.  The i-th image of
    a class belongs to fold i mod 5.

    No randomness, and one thread, so that the machine's cores do not change it; another version of scikit-learn or
    of its linear algebra may, in the last digits.  Raises ValueError unless two classes have two images each.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    counts = np.bincount(labels, minlength=num_classes)
    if np.sum(counts >= 2) < 2:
        raise ValueError("a class posterior needs at least two classes with two images each")
    folds = _folds(labels, num_classes)
    posterior = np.zeros((len(labels), num_classes), dtype=np.float32)
    with threadpool_limits(1):
        features = _features(images)
        for held_out in range(folds.max() + 1):
            judged = folds == held_out
            model = LogisticRegression(max_iter=1000).fit(features[~judged], labels[~judged])
            posterior[np.ix_(judged, model.classes_)] = model.predict_proba(features[judged])
    return posterior


def open_posterior(
    arrays: Arrays, *, dataset: str, cache_root: Path, inspection: Inspection | None = None
) -> NDArray[np.float32]:
    """`class_posterior` of a data set's training images: (n, K), memory-mapped and read-only.

    The first call estimates it, into a file below cache_root that is named after the data set and its digest; one
    process does the work and the others wait.  A file that is damaged is made anew, and `inspection` says so.
    """
    path = cache_root / f"posterior-v{VERSION}" / f"{dataset}-{arrays.sha256[:16]}.npy"
    shape = (len(arrays.train_labels), len(arrays.class_names))
    key = f"{VERSION} {arrays.sha256} {shape}".encode()
    cached = _open(path, shape, key)
    if cached is not None:
        return cached
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        cached = _open(path, shape, key)  # another process may have made it while this one waited
        if cached is None:
            if inspection is not None and path.exists():
                inspection.say(f"the cached {path} is damaged: it is made anew")
            labels = np.array(arrays.train_labels)
            partial = path.with_suffix(".partial.npy")
            try:
                np.save(partial, class_posterior(arrays.train_images, labels, num_classes=shape[1]))
                seal(partial, key=key)
                sync(partial)
                partial.rename(path)
            finally:
                partial.unlink(missing_ok=True)
            cached = _open(path, shape, key)
    assert cached is not None, f"{path} is damaged as soon as written"
    return cached


def posterior_sha256(posterior: NDArray[np.float32]) -> str:
    """The hex digest that tells whether two machines went by the same estimate: of its shape and float32 values."""
    values = np.ascontiguousarray(posterior, dtype="<f4")
    return hashlib.sha256(f"{values.shape}\n".encode() + values.tobytes()).hexdigest()


def _open(path: Path, shape: tuple[int, int], key: bytes) -> NDArray[np.float32] | None:
    """The cached estimate, or None if it is absent, cannot be one of that shape, or differs from its checksum.

    Files of earlier versions have none, and end with the array.
    """
    try:
        posterior = np.load(path, mmap_mode="r")
        assert isinstance(posterior, np.memmap)
        behind = path.stat().st_size - posterior.offset - posterior.nbytes
        if behind not in (0, SEAL_BYTES) or (behind and seal_is_broken(path, key=key)):
            return None
    except Exception:  # numpy's reader raises OSError, ValueError, EOFError, BadZipFile, ...
        return None
    fits = posterior.dtype == np.float32 and posterior.shape == shape
    return posterior if fits and np.all(np.abs(posterior.sum(axis=1) - 1) < 1e-3) else None


def _folds(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    folds = np.empty(len(labels), dtype=np.int64)
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        folds[members] = np.arange(len(members)) % NUM_FOLDS
    return folds


def _features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Principal components of unit variance: (n, at most NUM_COMPONENTS)."""
    from sklearn.decomposition import PCA

    pixels = _pixels(images)
    pca = PCA(min(NUM_COMPONENTS, *pixels.shape), svd_solver="covariance_eigh").fit(pixels)
    kept = pca.explained_variance_ > MIN_VARIANCE * pca.explained_variance_[0]
    scale = np.sqrt(pca.explained_variance_[kept])
    features: NDArray[np.float64] = pca.transform(pixels)[:, kept].astype(np.float64) / scale
    return features


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, at most MAX_PIXELS) float32 in [0, 1]: means over squares of the smallest side that makes few enough."""
    n, channels, height, width = images.shape
    side = 1
    while channels * -(-height // side) * -(-width // side) > MAX_PIXELS:
        side += 1
    rows, columns = np.arange(0, height, side), np.arange(0, width, side)
    areas = np.diff(rows, append=height)[:, None] * np.diff(columns, append=width)
    pixels = np.empty((n, channels, len(rows), len(columns)), dtype=np.float32)
    for start in range(0, n, CHUNK):
        chunk = images[start : start + CHUNK].astype(np.float32)
        sums = np.add.reduceat(np.add.reduceat(chunk, rows, axis=2), columns, axis=3)
        pixels[start : start + CHUNK] = sums / (255 * areas)
    return pixels.reshape(n, -1)
