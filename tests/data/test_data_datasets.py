"""Data sets by name: the contract of all, each one's counts and content, and what is said when they cannot be had.

CIFAR and SVHN are only tested as far as missing and damaged files go: torchvision accepts nothing but the originals,
by their MD5 sums.
"""

import gzip
import inspect
import os
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from torchvision import datasets as tv

from bench.data.datasets import DATASETS, DataError, Facts, describe, load

BUILT_IN = [name for name in DATASETS if name != "image_folder"]
MNIST_LIKE = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
AT_HAND = ["digits", *(pytest.param(name, marks=pytest.mark.data) for name in ("mnist", "fashion_mnist"))]


@pytest.fixture(scope="module")
def data_root() -> Path:
    """The folder of real data sets; digits need none."""
    return Path(os.environ.get("BENCH_TEST_DATA", "/nonexistent"))


@pytest.fixture(autouse=True)
def _needs_data(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("data") and "BENCH_TEST_DATA" not in os.environ:
        pytest.skip("BENCH_TEST_DATA is not set")


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", AT_HAND)
def test_contract(name: str, data_root: Path, cache_root: Path) -> None:
    arrays, facts = load(name, data_root=data_root, cache_root=cache_root), describe(name)
    shape = (facts.channels, facts.height, facts.width)
    assert arrays.train_images.shape == (facts.num_train, *shape)
    assert arrays.test_images.shape == (facts.num_test, *shape)
    for images, labels in (
        (arrays.train_images, arrays.train_labels),
        (arrays.test_images, arrays.test_labels),
    ):
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert labels.shape == images.shape[:1]
        assert np.unique(labels).tolist() == list(range(facts.num_classes))
        assert images.min() == 0
        assert images.max() == 255
    assert len(arrays.class_names) == len(set(arrays.class_names)) == facts.num_classes
    assert not set(map(bytes, arrays.train_images[:500])) & set(map(bytes, arrays.test_images))


@pytest.mark.parametrize("name", DATASETS)
def test_each_has_its_source_in_its_docstring(name: str) -> None:
    docstring = inspect.getdoc(DATASETS[name]) or ""
    if name == "image_folder":
        return
    facts = describe(name)
    assert "Source:" in docstring
    assert f"{facts.num_train:,}" in docstring
    assert f"{facts.num_test:,}" in docstring
    assert f"{facts.channels} x {facts.height} x {facts.width}" in docstring


def test_digits_are_scikit_learns_each_once(data_root: Path, cache_root: Path) -> None:
    arrays = load("digits", data_root=data_root, cache_root=cache_root)
    theirs = load_digits()
    ours = np.concatenate([arrays.train_images, arrays.test_images])[:, 0]
    labels = np.concatenate([arrays.train_labels, arrays.test_labels])
    assert np.array_equal(np.unique(ours), [round(p * 255 / 16) for p in range(17)])
    back = np.rint(ours / 255 * 16).reshape(1797, 64)
    assert sorted(map(tuple, np.column_stack([back, labels]))) == sorted(
        map(tuple, np.column_stack([theirs.data, theirs.target]))
    )


def test_digits_are_split_by_class(data_root: Path, cache_root: Path) -> None:
    arrays = load("digits", data_root=data_root, cache_root=cache_root)
    expected = np.bincount(load_digits().target) * 797 / 1797
    assert np.abs(np.bincount(arrays.test_labels) - expected).max() < 1
    assert len(arrays.test_labels) == 797


def test_digits_never_change(data_root: Path, cache_root: Path) -> None:
    """Their split is part of what a result means: if this fails, CACHE_VERSION and the numerics version must rise."""
    arrays = load("digits", data_root=data_root, cache_root=cache_root)
    assert arrays.sha256 == "da29ffbe98824f72be37be33fb98f9377cfd8d1fee9ef4c70d42fb9153bf31ad"


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_sets_are_torchvisions(name: str, data_root: Path, cache_root: Path, tmp_path: Path) -> None:
    """torchvision reads the unpacked files, we the packed ones."""
    arrays = load(name, data_root=data_root, cache_root=cache_root)
    raw = tmp_path / MNIST_LIKE[name] / "raw"
    raw.mkdir(parents=True)
    for packed in (data_root / name.replace("_", "-") / MNIST_LIKE[name] / "raw").glob("*.gz"):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    for train, images, labels in (
        (True, arrays.train_images, arrays.train_labels),
        (False, arrays.test_images, arrays.test_labels),
    ):
        theirs = getattr(tv, MNIST_LIKE[name])(tmp_path, train=train)
        assert np.array_equal(images[:, 0], theirs.data.numpy())
        assert np.array_equal(labels, theirs.targets.numpy())


@pytest.mark.data
def test_the_root_may_be_torchvisions_own(data_root: Path, tmp_path: Path, cache_root: Path) -> None:
    ours = load("mnist", data_root=data_root, cache_root=cache_root)
    theirs = load("mnist", data_root=data_root / "mnist", cache_root=tmp_path)
    assert ours.sha256 == theirs.sha256


def write_idx_set(root: Path, name: str, *, num_train: int = 60_000) -> None:
    """A set of the right shape with black images and labels 0..9 in turn, unpacked but for one file."""
    raw = root / MNIST_LIKE[name] / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", num_train), ("t10k", 10_000)):
        labels = bytes(i % 10 for i in range(count))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels)
        images = struct.pack(">IIII", 0x803, count, 28, 28) + bytes(count * 784)
        if prefix == "train":
            (raw / "train-images-idx3-ubyte").write_bytes(images)
        else:
            (raw / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, compresslevel=1))


@pytest.mark.parametrize("below", ["", "kmnist"])
def test_kmnist_from_files_in_its_format(tmp_path: Path, below: str) -> None:
    write_idx_set(tmp_path / "data" / below, "kmnist")
    arrays = load("kmnist", data_root=tmp_path / "data", cache_root=tmp_path / "cache")
    assert arrays.train_images.shape == (60_000, 1, 28, 28)
    assert arrays.test_labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_too_few_images_are_noticed(tmp_path: Path) -> None:
    write_idx_set(tmp_path, "kmnist", num_train=59_990)
    with pytest.raises(DataError, match=r"\(59990, 1, 28, 28\).*not \(60000, 1, 28, 28\)"):
        load("kmnist", data_root=tmp_path, cache_root=tmp_path / "cache")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    write_idx_set(tmp_path, "kmnist")
    culprit = tmp_path / "KMNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    os.truncate(culprit, culprit.stat().st_size // 2)
    with pytest.raises(DataError, match="truncated") as caught:
        load("kmnist", data_root=tmp_path, cache_root=tmp_path / "cache")
    assert str(culprit) in str(caught.value)
    assert not list((tmp_path / "cache").glob("*/meta.json"))


def test_an_unpacked_file_is_checked_against_the_packed_one_beside_it(tmp_path: Path) -> None:
    """One pixel of 47 million: size and header are as they should be."""
    write_idx_set(tmp_path, "kmnist")
    culprit = tmp_path / "KMNIST" / "raw" / "train-images-idx3-ubyte"
    culprit.with_name(f"{culprit.name}.gz").write_bytes(gzip.compress(culprit.read_bytes(), compresslevel=1))
    load("kmnist", data_root=tmp_path, cache_root=tmp_path / "cache")
    with culprit.open("r+b") as file:
        file.seek(12_345_678)
        file.write(b"\x01")
    with pytest.raises(DataError, match=r"not what train-images-idx3-ubyte\.gz beside it holds") as caught:
        load("kmnist", data_root=tmp_path, cache_root=tmp_path / "other")
    assert str(culprit) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cifar10", [f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)]),
        ("cifar100", ["cifar-100-python/train"]),
        ("svhn", ["train_32x32.mat"]),
    ],
)
def test_a_damaged_pickle_is_named_and_never_opened(tmp_path: Path, name: str, files: list[str]) -> None:
    """Real files cannot be had here: this is as far as torchvision's sums let a test go."""
    others = {
        "cifar10": ["cifar-10-batches-py/test_batch", "cifar-10-batches-py/batches.meta"],
        "cifar100": ["cifar-100-python/test", "cifar-100-python/meta"],
        "svhn": ["test_32x32.mat"],
    }
    root = tmp_path / name
    for file in [*files, *others[name]]:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"\x80\x04damaged")
    with pytest.raises(DataError, match="damaged") as caught:
        load(name, data_root=tmp_path, cache_root=tmp_path / "cache")
    assert str(root / files[0]) in str(caught.value)


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "digits"])
def test_without_network_the_remedy_is_told_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy on a port where nobody listens: every download is refused."""
    monkeypatch.setattr(urllib.request, "_opener", None)  # urllib keeps the first opener it made, proxies and all
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    start = time.monotonic()
    with pytest.raises(DataError, match="download failed") as caught:
        load(name, data_root=tmp_path / "data", cache_root=tmp_path / "cache")
    assert time.monotonic() - start < 5
    for remedy in (str(tmp_path / "data"), "Put these files there", "BENCH_DATA", "--data-root"):
        assert remedy in str(caught.value)


def test_incomplete_files_are_not_taken_for_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx_set(tmp_path, "kmnist")
    (tmp_path / "KMNIST" / "raw" / "train-labels-idx1-ubyte").unlink()
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="train-labels-idx1-ubyte"):
        load("kmnist", data_root=tmp_path, cache_root=tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar-10", {}, "did you mean 'cifar10'"),
        ("imagenet", {}, "choose from digits, mnist"),
        ("mnist", {"root": Path("x")}, "mnist takes no root"),
        ("digits", {"image_size": 8}, "digits takes no image_size"),
        ("svhn", {"test_fraction": 0.2}, "svhn takes no test_fraction"),
    ],
)
def test_names_and_options_are_checked(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        describe(name, **options)
    with pytest.raises(DataError, match=message):
        load(name, data_root=tmp_path, cache_root=tmp_path, **options)


def test_facts_of_the_papers() -> None:
    grey, colour = (1, 28, 28), (3, 32, 32)
    assert {name: describe(name) for name in BUILT_IN} == {
        "digits": Facts(1_000, 797, 10, 1, 8, 8, ""),
        "mnist": Facts(60_000, 10_000, 10, *grey, ""),
        "fashion_mnist": Facts(60_000, 10_000, 10, *grey, ""),
        "kmnist": Facts(60_000, 10_000, 10, *grey, ""),
        "cifar10": Facts(50_000, 10_000, 10, *colour, ""),
        "cifar100": Facts(50_000, 10_000, 100, *colour, ""),
        "svhn": Facts(73_257, 26_032, 10, *colour, ""),
    }


def test_names_and_facts_cost_no_heavy_import() -> None:
    script = """
import sys
import bench.data.datasets, bench.data.split, bench.data.label_noise
for name in bench.data.datasets.DATASETS:
    if name != "image_folder":
        bench.data.datasets.describe(name)
print(*sorted({"torch", "torchvision", "timm", "sklearn", "PIL", "scipy", "pandas"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
