"""The nearest training images of every training image, from which mixup may draw its partners.

Distances are Euclidean, between raw pixel values.  They depend on the images alone, not on a trial's seed, and the
table of neighbours is cached beside the data.  A trial then takes from it what its own training images are.

Source: Zhang et al. 2018 (arXiv 1710.09412), Table 5: partners among the 200 nearest training neighbours, within the
class or over all classes.  The paper does not say in which space; pixel values are our reading.
"""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.cache import Arrays, Inspection, locked, seal, seal_is_broken, sync

# Raised when the same images would have other neighbours; older files are then not used.
VERSION = 1

# One thread compares this many images with that many others at a time, in 100 MB however many images there are: 34 for
# keys, as much for a block of products as float and as integer, 21 for pixels, and 24 KB for each of k.
ROWS = 1024
COLUMNS = 4096

# Products of values in [-128, 127] are whole numbers up to 2**14, so float32, which holds whole numbers up to 2**24,
# adds this many without rounding, in any order and with any linear algebra.
EXACT_PIXELS = 2**10

SHORT_ROW_CHANCE = 1e-12
"""What `table_width` takes for never."""


def nearest_neighbours(
    images: NDArray[np.uint8], *, k: int, labels: NDArray[np.int64] | None = None, threads: int = 1
) -> NDArray[np.int32]:
    """Positions of the k other images nearest to each image: (n, k), the nearest first, -1 where there are no more.

    images: (n, C, H, W) uint8.  labels: (n,); with them, only images of the same label are neighbours.  Of two at the
    same distance the one at the smaller position comes first; an identical image is a neighbour at distance 0.

    All pairs are compared, and exactly: neither `threads` nor the machine changes the answer.  Needs 100 MB for each
    thread at a k of some hundreds, beside the images, the answer and, with labels, a copy of the images of each class
    in turn.  Raises ValueError if k < 1 or if labels are not one for each image.
    """
    from threadpoolctl import threadpool_limits

    if k < 1:
        raise ValueError(f"{k} nearest neighbours: ask for at least 1")
    if labels is not None and labels.shape != (len(images),):
        raise ValueError(f"labels {labels.shape} for {len(images)} images: give each image one")
    neighbours = np.full((len(images), k), -1, dtype=np.int32)
    pixels = np.asarray(images).reshape(len(images), math.prod(images.shape[1:]))
    # One thread of linear algebra for each of ours, which also share out the selection.
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        if labels is None:
            _fill(neighbours, pixels, pool)
        else:
            for label in np.unique(labels):
                members = np.flatnonzero(labels == label).astype(np.int32)
                among_members = np.full((len(members), k), -1, dtype=np.int32)
                _fill(among_members, pixels[members], pool)
                neighbours[members] = np.where(among_members < 0, -1, members[among_members])
    return neighbours


def open_neighbours(
    arrays: Arrays,
    *,
    dataset: str,
    cache_root: Path,
    k: int,
    chosen: NDArray[np.int64] | None = None,
    labels: NDArray[np.int64] | None = None,
    threads: int = 1,
    inspection: Inspection | None = None,
) -> NDArray[np.int32]:
    """`nearest_neighbours` of a data set's training images, or of those chosen: memory-mapped and read-only.

    chosen: (n,) sorted positions of training images; rows and values of the answer (n, k) are then positions in it.
    labels: (n,), one for each row of the answer; with them, neighbours are within the class.

    The first call computes it, into a file below cache_root that is named after the data set, its digest, and a digest
    of k, chosen and labels; one process does the work and the others wait.  A file that is damaged, or that belongs
    under another name, is made anew, and `inspection` says so.  Raises ValueError as `nearest_neighbours` does.
    """
    wanted = hashlib.sha256(f"{k}\n".encode())
    for positions in (chosen, labels):
        wanted.update(b"none\n" if positions is None else f"{len(positions)}\n".encode())
        wanted.update(b"" if positions is None else positions.astype("<i8").tobytes())
    key = f"{VERSION} {arrays.sha256} {wanted.hexdigest()}".encode()
    folder = cache_root / f"neighbours-v{VERSION}"
    path = folder / f"{dataset}-{arrays.sha256[:16]}-{wanted.hexdigest()[:16]}.npy"
    cached = _open(path, key)
    if cached is not None:
        return cached
    folder.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        cached = _open(path, key)  # another process may have made it while this one waited
        if cached is None:
            if inspection is not None and path.exists():
                inspection.say(f"the cached {path} is damaged: it is made anew")
            images = arrays.train_images if chosen is None else arrays.train_images[chosen]
            partial = path.with_suffix(".partial.npy")
            try:
                np.save(partial, nearest_neighbours(images, k=k, labels=labels, threads=threads))
                seal(partial, key=key)
                sync(partial)
                partial.rename(path)
            except OSError:
                partial.unlink(missing_ok=True)  # a disk that is full needs its space
                raise
            cached = _open(path, key)
    assert cached is not None, f"{path} is damaged as soon as written"
    return cached


def training_neighbours(table: NDArray[np.int32], train: NDArray[np.int64], *, k: int) -> NDArray[np.int32]:
    """The k nearest training images of each training image: (n_train, k), the nearest first.

    table: (n, M), `nearest_neighbours` of n images.  train: (n_train,) distinct positions among these, in any order.
    The values of the answer are positions in train, so that images outside it are nobody's neighbours; at the end of
    a row stands -1 where fewer than k of its M neighbours are in train (see `table_width`).  Raises ValueError if a
    position is negative or comes twice.
    """
    place = np.full(len(table) + 1, -1, dtype=np.int32)  # the last one answers for the table's -1
    place[train] = np.arange(len(train))
    if np.any(train < 0) or np.count_nonzero(place >= 0) != len(train):
        raise ValueError("a position among the training images is negative or repeated: give each image once")
    neighbours = np.full((len(train), k), -1, dtype=np.int32)
    for start in range(0, len(train), COLUMNS):
        rows = slice(start, start + COLUMNS)
        found = place[table[train[rows]]]
        kept = found >= 0
        kept &= np.cumsum(kept, axis=1, dtype=np.int32) <= k
        filled = np.arange(k) < np.count_nonzero(kept, axis=1)[:, None]
        neighbours[rows][filled] = found[kept]  # both masks are read row by row, and have as many in each
    return neighbours


def table_width(k: int, *, val_fraction: float) -> int:
    """How many neighbours a table must hold so that k of them are left when a share of the images is taken away.

    val_fraction: the share taken for validation, in [0, 1); at 0 the answer is k.  The chance that an image is left
    with fewer than k is below 1e-12: below 1e-4 that it happens to any of 100,000 images in any of 1,000 trials.
    That holds for images taken independently and for a fixed number of them, of all or (but for the rounding to whole
    images) of each class.  Raises ValueError if k < 1 or for another fraction.

    Source: Hoeffding 1963, Theorem 1 and section 6, the Chernoff bound in terms of relative entropy.
    """
    if k < 1:
        raise ValueError(f"{k} nearest neighbours: ask for at least 1")
    if not 0 <= val_fraction < 1:
        raise ValueError(f"a validation fraction of {val_fraction}: it must be at least 0 and below 1")
    width = k
    while val_fraction and _chance_of_fewer(k, width, 1 - val_fraction) > SHORT_ROW_CHANCE:
        width += 1
    return width


def _fill(neighbours: NDArray[np.int32], pixels: NDArray[np.uint8], pool: ThreadPoolExecutor) -> None:
    """Write each row's neighbours, as many as there are, into the first columns of neighbours: (n, k)."""
    n, k = neighbours.shape
    num_found = min(k, n - 1)
    if num_found == 0:
        return

    def fill(start: int) -> None:
        rows = slice(start, min(start + ROWS, n))
        neighbours[rows, :num_found] = _nearest(pixels, rows, num_found)

    for _ in pool.map(fill, range(0, n, ROWS)):
        pass  # an error in a thread is raised here


def _nearest(pixels: NDArray[np.uint8], rows: slice, k: int) -> NDArray[np.int64]:
    """Positions of the k < n images nearest to those in rows: (number of rows, k).

    A pair's key holds its distance in the high bits and the neighbour's position in the low ones, so that keys of a row
    are distinct and sort as asked.  The k smallest keys so far stand before those of the next columns.
    """
    n, num_rows = len(pixels), rows.stop - rows.start
    bits = n.bit_length()
    keys = np.full((num_rows, k + min(COLUMNS, n)), np.iinfo(np.int64).max)
    for start in range(0, n, COLUMNS):
        stop = min(start + COLUMNS, n)
        new = keys[:, k : k + stop - start]
        _squared_distances(pixels[rows], pixels[start:stop], out=new)
        new <<= bits
        new += np.arange(start, stop)
        own = np.arange(max(rows.start, start), min(rows.stop, stop))
        new[own - rows.start, own - start] = np.iinfo(np.int64).max
        keys[:, : k + stop - start].partition(k - 1, axis=1)
    nearest: NDArray[np.int64] = np.sort(keys[:, :k], axis=1) & ((1 << bits) - 1)
    return nearest


def _squared_distances(x: NDArray[np.uint8], y: NDArray[np.uint8], *, out: NDArray[np.int64]) -> None:
    """Squared Euclidean distance of each pair, less a number that only depends on x's: (len(x), len(y)), exactly.

    Float32 products are fast but hold 24 bits, and a distance has up to 30 at 64x64x3, so that near ones would change
    places or seem equal.  Hence blocks of pixels short enough to be exact, added up as integers.
    """
    out[:] = 0
    squares = np.zeros(len(y), dtype=np.int64)
    for start in range(0, x.shape[1], EXACT_PIXELS):
        block = slice(start, start + EXACT_PIXELS)
        a, b = (values[:, block].astype(np.float32) - 128 for values in (x, y))
        out += (a @ b.T).astype(np.int32)
        squares += np.einsum("ij,ij->i", b, b).astype(np.int64)
    out *= -2
    out += squares


def _chance_of_fewer(k: int, width: int, kept_share: float) -> float:
    """An upper bound on the chance that fewer than k of width images are kept, each with chance kept_share < 1."""
    share = (k - 1) / width
    if share >= kept_share:
        return 1
    entropy = (1 - share) * math.log((1 - share) / (1 - kept_share))
    if share:
        entropy += share * math.log(share / kept_share)
    return math.exp(-width * entropy)


def _open(path: Path, key: bytes) -> NDArray[np.int32] | None:
    """The cached table, or None if it is absent or its bytes are not those that were written for this key.

    A page that never reached the disk reads as zeros, and 0 is a position like any other: only a checksum tells.  It
    takes 40 ms for 60,000 x 250.
    """
    try:
        if seal_is_broken(path, key=key):
            return None
    except (OSError, ValueError):
        return None
    table: NDArray[np.int32] = np.load(path, mmap_mode="r")
    return table
