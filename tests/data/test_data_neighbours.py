"""Nearest neighbours: against scikit-learn and distances worked out by hand, their cache, and what a trial draws."""

import gzip
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

import bench.data.neighbours as module
from bench.data.cache import Arrays
from bench.data.neighbours import (
    nearest_neighbours,
    open_neighbours,
    table_width,
    training_neighbours,
)
from bench.data.split import carve_validation


def by_scikit_learn(images: NDArray[np.uint8], k: int, labels: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """All others of every image, sorted by distance and then by position, cut or filled up to k."""
    n = len(images)
    if labels is None:
        labels = np.zeros(n, dtype=np.int64)
    flat = images.reshape(n, images[:1].size).astype(np.float64)
    result = np.full((n, k), -1)
    for members in (np.flatnonzero(labels == label) for label in set(labels.tolist())):
        search = NearestNeighbors(algorithm="brute").fit(flat[members])
        distances, positions = search.kneighbors(flat[members], n_neighbors=len(members))
        squared = np.round(distances**2)
        for i, order in enumerate(np.lexsort((positions, squared))):
            others = members[positions[i, order]]
            others = others[others != members[i]][:k]
            result[members[i], : len(others)] = others
    return result


def random_images(n: int, shape: tuple[int, int, int] = (1, 5, 7), *, values: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(values, size=(n, *shape), dtype=np.uint8)


def random_labels(n: int, num_classes: int = 3) -> NDArray[np.int64]:
    return np.random.default_rng(9).integers(num_classes, size=n)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks of rows, columns and pixels, none of which divides another or the number of images."""
    monkeypatch.setattr(module, "ROWS", 7)
    monkeypatch.setattr(module, "COLUMNS", 11)
    monkeypatch.setattr(module, "EXACT_PIXELS", 13)


IMAGES = {
    "grey": random_images(150),
    "colour": random_images(90, (3, 9, 11)),
    "one pixel, so hardly a row without ties": random_images(200, (1, 1, 1), values=20),
    "two values, so hundreds of ties": random_images(150, (1, 3, 3), values=2),
    "duplicates": random_images(40, (3, 2, 3))[np.random.default_rng(1).integers(40, size=160)],
    "all the same": np.full((60, 1, 4, 4), 200, dtype=np.uint8),
    "extreme values": random_images(60, (3, 20, 20), values=2) * np.uint8(255),
    "large": random_images(40, (3, 64, 64)),
    "two": random_images(2),
    "one": random_images(1),
    "none": random_images(0),
}


@pytest.mark.parametrize("chunks", ["usual", "small"])
@pytest.mark.parametrize("within_class", [False, True])
@pytest.mark.parametrize("name", IMAGES)
def test_agrees_with_scikit_learn(request: pytest.FixtureRequest, name: str, within_class: bool, chunks: str) -> None:
    if chunks == "small":
        request.getfixturevalue("small_chunks")
    images = IMAGES[name]
    labels = random_labels(len(images)) if within_class else None
    expected = by_scikit_learn(images, 210, labels)
    for k in (1, 20, 70, 210):  # up to more than there are in any class, or at all
        found = nearest_neighbours(images, k=k, labels=labels, threads=2)
        assert found.dtype == np.int32
        assert np.array_equal(found, expected[:, :k])


def test_agrees_with_scikit_learn_on_digits() -> None:
    bunch = load_digits()
    images = np.round(bunch.images * 15).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    assert np.array_equal(nearest_neighbours(images, k=200), by_scikit_learn(images, 200))
    within = nearest_neighbours(images, k=200, labels=labels)
    assert np.array_equal(within, by_scikit_learn(images, 200, labels))
    assert np.all(labels[within[within >= 0]] == np.repeat(labels, (within >= 0).sum(axis=1)))
    assert (within[:, -1] == -1).all()  # no class has 201


def test_by_hand() -> None:
    images = np.array([10, 20, 10, 0, 30, 20], dtype=np.uint8).reshape(6, 1, 1, 1)
    expected = [[2, 1, 3], [5, 0, 2], [0, 1, 3], [0, 2, 1], [1, 5, 0], [1, 0, 2]]
    assert nearest_neighbours(images, k=3).tolist() == expected
    labels = np.array([4, 4, 4, 4, 8, 0])
    within = nearest_neighbours(images, k=4, labels=labels).tolist()
    assert within == [[2, 1, 3, -1], [0, 2, 3, -1], [0, 1, 3, -1], [0, 2, 1, -1], [-1] * 4, [-1] * 4]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 224, 224)])
def test_distances_that_differ_by_one_are_told_apart(shape: tuple[int, int, int]) -> None:
    """From black to white images with a last value of 2, 1 and 0: squared, w + 4, w + 1 and w, with w up to 1e10."""
    images = np.full((4, *shape), 255, dtype=np.uint8)
    images[0] = 0
    images[1:, -1, -1, -1] = 2, 1, 0
    assert nearest_neighbours(images, k=3)[0].tolist() == [3, 2, 1]
    assert nearest_neighbours(255 - images, k=3)[0].tolist() == [3, 2, 1]


def test_neither_threads_nor_the_layout_change_the_answer(small_chunks: None) -> None:
    images = random_images(100, (3, 4, 5), values=4)
    expected = nearest_neighbours(images, k=9)
    assert np.array_equal(nearest_neighbours(images, k=9, threads=4), expected)
    turned = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert np.array_equal(nearest_neighbours(turned, k=9), expected)


def test_neighbours_that_cannot_be_are_refused() -> None:
    for k in (0, -2):
        with pytest.raises(ValueError, match="at least 1"):
            nearest_neighbours(random_images(5), k=k)
    with pytest.raises(ValueError, match=r"\(4,\) for 5 images"):
        nearest_neighbours(random_images(5), k=1, labels=np.zeros(4, dtype=np.int64))


def test_an_error_in_a_thread_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_squared_distances", lambda *_, **__: (_ for _ in ()).throw(MemoryError("all gone")))
    with pytest.raises(MemoryError, match="all gone"):
        nearest_neighbours(random_images(5), k=1)


def as_arrays(images: np.ndarray, sha256: str = "ab" * 32) -> Arrays:
    labels = random_labels(len(images))
    return Arrays(images, labels, images[:0], labels[:0], ("a", "b", "c"), sha256)


ARRAYS = as_arrays(random_images(300))


def open_(root: Path, arrays: Arrays = ARRAYS, **options: Any) -> NDArray[np.int32]:
    return open_neighbours(arrays, dataset="digits", cache_root=root, **({"k": 20} | options))


def must_not_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "nearest_neighbours", lambda *_, **__: pytest.fail("computed although it is there"))


def test_what_is_cached_is_what_was_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = open_(tmp_path)
    assert np.array_equal(made, nearest_neighbours(ARRAYS.train_images, k=20))
    assert isinstance(made, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        made[0] = 0
    (path,) = tmp_path.rglob("*.npy")
    assert path.parent.name == f"neighbours-v{module.VERSION}"
    assert path.name.startswith("digits-abababababababab-")
    must_not_compute(monkeypatch)
    assert np.array_equal(open_(tmp_path), made)


def test_of_chosen_images_and_within_classes(tmp_path: Path) -> None:
    chosen = np.arange(3, 300, 4)
    labels = random_labels(len(chosen), 2)
    images = ARRAYS.train_images[chosen]
    assert np.array_equal(open_(tmp_path, chosen=chosen), by_scikit_learn(images, 20))
    within = open_(tmp_path, chosen=chosen, labels=labels)
    assert np.array_equal(within, by_scikit_learn(images, 20, labels))
    with pytest.raises(ValueError, match="give each image one"):
        open_(tmp_path, chosen=chosen, labels=ARRAYS.train_labels)


def test_whatever_it_depends_on_makes_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some, others = np.arange(0, 300, 2), np.arange(1, 300, 2)
    labels = np.arange(150) % 2
    wanted: list[dict[str, Any]] = [
        {},
        {"k": 21},
        {"labels": ARRAYS.train_labels},
        {"arrays": as_arrays(ARRAYS.train_images[::-1], sha256="cd" * 32)},
        {"chosen": some},
        {"chosen": others},
        {"chosen": some, "labels": labels},
        {"chosen": some, "labels": 1 - labels[::-1]},  # the same classes under other names
        {"chosen": some, "labels": some},  # would be the same bytes as chosen alone, written twice
        {"labels": np.arange(300)},
    ]
    made = [np.array(open_(tmp_path, **options)) for options in wanted]
    assert len(list(tmp_path.rglob("*.npy"))) == len(wanted) - 1  # two of them are the same
    must_not_compute(monkeypatch)
    for options, expected in zip(wanted, made, strict=True):
        assert np.array_equal(open_(tmp_path, **options), expected)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 8)


def cut_short(path: Path) -> None:
    os.truncate(path, 20)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    """A page that never reached the disk; its values are positions like any other."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(512))


def a_plain_array(path: Path) -> None:
    np.save(path, np.zeros((300, 20), dtype=np.int32))


def another_shape(path: Path) -> None:
    np.save(path, np.load(path).reshape(20, 300))


def a_pickle(path: Path) -> None:
    np.save(path, np.array([{}]), allow_pickle=True)


def another_data_sets(path: Path) -> None:
    """Whole, of the right shape, but under a name that is not its own."""
    other = as_arrays(random_images(300, seed=5), sha256="cd" * 32)
    open_(path.parent / "other", other)
    next((path.parent / "other").rglob("*.npy")).rename(path)


DAMAGES = [cut, cut_short, lengthen, empty, zeros, a_plain_array, another_shape, a_pickle, another_data_sets]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    open_(tmp_path)
    (path,) = tmp_path.rglob("*.npy")
    before = path.read_bytes()
    damage(path)
    assert path.read_bytes() != before
    assert np.array_equal(open_(tmp_path), nearest_neighbours(ARRAYS.train_images, k=20))
    assert path.read_bytes() == before


def test_a_partial_file_left_by_another_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "seal", killed)
        with pytest.raises(KeyboardInterrupt):
            open_(tmp_path)
    (partial,) = tmp_path.rglob("*.npy")
    assert partial.name.endswith(".partial.npy")
    assert np.array_equal(open_(tmp_path), nearest_neighbours(ARRAYS.train_images, k=20))
    assert not partial.exists()


def test_one_works_while_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def slow(images: np.ndarray, *, k: int, **_: Any) -> np.ndarray:
        calls.append(k)
        time.sleep(0.3)
        return np.zeros((len(images), k), dtype=np.int32)

    monkeypatch.setattr(module, "nearest_neighbours", slow)
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(open_(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [20]
    assert len(found) == 4


OPEN = """
import os, sys, time
from pathlib import Path
import numpy as np
from bench.data import neighbours
from bench.data.cache import Arrays
root = Path(sys.argv[1])
images, labels = np.load(root / "images.npy"), np.load(root / "labels.npy")
arrays = Arrays(images, labels, images[:0], labels[:0], ("a", "b", "c"), "ab" * 32)
compute = neighbours.nearest_neighbours
def slowly(*arguments, **options):
    with (root / "calls").open("a") as file:
        file.write("computed, ")
    time.sleep(0.3)
    return compute(*arguments, **options)
neighbours.nearest_neighbours = slowly
(root / f"{os.getpid()}.ready").touch()
while len([*root.glob("*.ready")]) < 2:
    time.sleep(0.001)
table = neighbours.open_neighbours(arrays, dataset="digits", cache_root=root / "cache", k=20)
np.save(root / f"{os.getpid()}.found.npy", table)
"""


def test_two_processes_at_once_make_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "images.npy", ARRAYS.train_images)
    np.save(tmp_path / "labels.npy", ARRAYS.train_labels)
    processes = [subprocess.Popen([sys.executable, "-c", OPEN, tmp_path]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert (tmp_path / "calls").read_text() == "computed, "
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1
    expected = by_scikit_learn(ARRAYS.train_images, 20)
    found = [np.load(path) for path in tmp_path.glob("*.found.npy")]
    assert [np.array_equal(table, expected) for table in found] == [True, True]
    must_not_compute(monkeypatch)
    assert np.array_equal(open_(tmp_path / "cache"), expected)


@pytest.mark.parametrize("within_class", [False, True])
def test_neighbours_in_training_are_those_of_the_training_images_alone(small_chunks: None, within_class: bool) -> None:
    """A table of everything, read for a training set, is the table computed without the validation images."""
    images = random_images(200, (1, 2, 3), values=8)
    labels = random_labels(200) if within_class else None
    table = nearest_neighbours(images, k=199, labels=labels)
    train = np.sort(np.random.default_rng(2).permutation(200)[:150])
    for k in (1, 30, 160, 250):
        expected = nearest_neighbours(images[train], k=k, labels=None if labels is None else labels[train])
        assert np.array_equal(training_neighbours(table, train, k=k), expected)


def test_neighbours_in_training_by_hand() -> None:
    table = np.array([[1, 2, 3], [0, 2, 3], [3, 1, 0], [2, -1, -1], [-1, -1, -1]], dtype=np.int32)
    found = training_neighbours(table, np.array([3, 0, 1, 4]), k=2)  # positions 0, 1, 2 and 3, in this order
    assert found.dtype == np.int32
    assert found.tolist() == [[-1, -1], [2, 0], [1, 0], [-1, -1]]
    assert training_neighbours(table, np.arange(5), k=5)[0].tolist() == [1, 2, 3, -1, -1]
    assert training_neighbours(table, np.arange(0), k=5).shape == (0, 5)


@pytest.mark.parametrize("train", [[1, 2, 2], [0, -1], [-5, 0]])
def test_training_images_that_are_no_set_are_refused(train: list[int]) -> None:
    table = nearest_neighbours(random_images(5), k=2)
    with pytest.raises(ValueError, match="each image once"):
        training_neighbours(table, np.array(train), k=2)


@pytest.mark.parametrize("k", [1, 2, 20, 200, 250])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_a_table_is_wide_enough_and_hardly_wider(k: int, fraction: float) -> None:
    width = table_width(k, val_fraction=fraction)
    assert binom.cdf(k - 1, width, 1 - fraction) <= 1e-12
    narrower = width - 3 - width // 20
    assert narrower < k or binom.cdf(k - 1, narrower, 1 - fraction) > 1e-12


def test_width_by_hand() -> None:
    assert table_width(200, val_fraction=0) == 200
    assert table_width(1, val_fraction=0) == 1
    assert table_width(1, val_fraction=0.5) == 40  # 2**-40 is the first power below 1e-12
    assert table_width(1, val_fraction=0.09) == 12
    for wrong in (1, -0.1):
        with pytest.raises(ValueError, match="below 1"):
            table_width(5, val_fraction=wrong)
    with pytest.raises(ValueError, match="at least 1"):
        table_width(0, val_fraction=0.1)


@pytest.mark.parametrize("within_class", [False, True])
def test_the_split_of_a_trial_leaves_enough_of_a_table_of_that_width(within_class: bool) -> None:
    images = random_images(900, (1, 2, 2))
    labels = random_labels(900)
    width = table_width(50, val_fraction=0.3)
    assert width < 150  # so that the table does not hold the whole class
    table = nearest_neighbours(images, k=width, labels=labels if within_class else None)
    for seed in range(10):
        train, _ = carve_validation(labels, 0.3, np.random.default_rng(seed))
        assert training_neighbours(table, train, k=50).min() >= 0


def fashion_mnist(n: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    raw = Path(os.environ["BENCH_TEST_DATA"]) / "fashion-mnist/FashionMNIST/raw"
    images = np.frombuffer(gzip.decompress((raw / "train-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    labels = np.frombuffer(gzip.decompress((raw / "train-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    return images.reshape(-1, 1, 28, 28)[:n], labels[:n].astype(np.int64)


@pytest.mark.data
def test_agrees_with_scikit_learn_on_fashion_mnist() -> None:
    images, labels = fashion_mnist(1_500)  # more than one chunk of rows
    assert np.array_equal(nearest_neighbours(images, k=250, threads=2), by_scikit_learn(images, 250))
    within = nearest_neighbours(images, k=250, labels=labels, threads=2)
    assert np.array_equal(within, by_scikit_learn(images, 250, labels))


@pytest.mark.data
def test_a_nearest_neighbour_classifies_fashion_mnist() -> None:
    """1-nearest-neighbour errs on about 15% of the test images with all of training, and more with a twelfth of it."""
    images, labels = fashion_mnist(5_000)
    nearest = nearest_neighbours(images, k=1, threads=2)[:, 0]
    assert np.mean(labels[nearest] == labels) == pytest.approx(0.80, abs=0.03)
