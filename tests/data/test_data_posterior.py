"""The class posterior: against another way of computing it, what it may not know, and its cache."""

import gzip
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

import bench.data.posterior as module
from bench.data.cache import Arrays
from bench.data.label_noise import instance_noise
from bench.data.posterior import class_posterior, open_posterior, posterior_sha256


def digits(n: int = 1797) -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    return np.round(bunch.images[:n] * 15).astype(np.uint8)[:, None], bunch.target[:n].astype(np.int64)


def as_arrays(images: np.ndarray, labels: np.ndarray, sha256: str = "ab" * 32) -> Arrays:
    names = tuple(str(k) for k in range(labels.max() + 1))
    return Arrays(images, labels, images[:0], labels[:0], names, sha256)


def test_agrees_with_a_singular_value_decomposition_and_scikit_learns_own_cross_validation() -> None:
    images, labels = digits(1_000)
    pixels = images.reshape(1_000, -1) / 255
    centred = pixels - pixels.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    whitened = (u * np.sqrt(len(u) - 1))[:, s**2 > 1e-6 * s[0] ** 2]
    folds = np.empty(1_000, dtype=int)
    seen: dict[int, int] = {}
    for i, label in enumerate(labels.tolist()):
        folds[i] = seen.get(label, 0) % 5
        seen[label] = seen.get(label, 0) + 1
    model = LogisticRegression(tol=1e-8, max_iter=10_000)
    expected = cross_val_predict(model, whitened, labels, cv=PredefinedSplit(folds), method="predict_proba")
    # ours stops at scikit-learn's usual tolerance, before the last digits are settled
    difference = np.abs(class_posterior(images, labels, num_classes=10) - expected)
    assert difference.mean() < 5e-4
    assert difference.max() < 0.05


def test_rows_are_probabilities_and_mostly_right() -> None:
    images, labels = digits()
    posterior = class_posterior(images, labels, num_classes=10)
    assert posterior.dtype == np.float32
    assert posterior.shape == (1797, 10)
    assert posterior.min() >= 0
    np.testing.assert_allclose(posterior.sum(axis=1), 1, atol=1e-5)
    assert np.mean(posterior.argmax(axis=1) == labels) > 0.93


def test_the_same_data_give_the_same_bits_and_other_labels_others() -> None:
    images, labels = digits(400)
    first = class_posterior(images, labels, num_classes=10)
    np.random.default_rng(0).random(5)
    assert posterior_sha256(class_posterior(images.copy(), labels.copy(), num_classes=10)) == posterior_sha256(first)
    assert posterior_sha256(class_posterior(images, (labels + 1) % 10, num_classes=10)) != posterior_sha256(first)


def test_no_image_is_judged_by_a_model_that_knows_its_label() -> None:
    """Random labels of noise images: whoever has seen them remembers them, whoever has not can only guess."""
    rng = np.random.default_rng(1)
    images = rng.integers(256, size=(600, 1, 20, 20), dtype=np.uint8)
    labels = rng.integers(2, size=600)
    posterior = class_posterior(images, labels, num_classes=2)
    right = float(np.mean(posterior.argmax(axis=1) == labels))
    assert abs(right - 0.5) < 4 * np.sqrt(0.25 / 600)
    pixels = images.reshape(600, -1) / 255
    in_sample = LogisticRegression(C=100, max_iter=10_000).fit(pixels, labels).score(pixels, labels)
    assert in_sample > 0.9


def test_large_images_are_shrunk_by_means_over_squares() -> None:
    rng = np.random.default_rng(2)
    small = rng.integers(256, size=(120, 3, 18, 16), dtype=np.uint8)  # 864 values, so sides are halved below
    labels = (small[:, 0, :9].mean(axis=(1, 2)) > small[:, 0, 9:].mean(axis=(1, 2))).astype(np.int64)
    large = small.repeat(2, axis=2).repeat(2, axis=3)
    expected = class_posterior(small, labels, num_classes=2)
    np.testing.assert_allclose(class_posterior(large, labels, num_classes=2), expected, atol=1e-4)


def test_squares_at_the_edge_may_be_smaller() -> None:
    images = np.random.default_rng(3).integers(256, size=(2, 1, 33, 35), dtype=np.uint8)
    pixels = module._pixels(images).reshape(2, 17, 18)
    assert pixels[1, 3, 4] == pytest.approx(images[1, 0, 6:8, 8:10].mean() / 255)
    assert pixels[1, 16, 4] == pytest.approx(images[1, 0, 32:, 8:10].mean() / 255)
    assert pixels[1, 16, 17] == pytest.approx(images[1, 0, 32, 34] / 255)


def test_classes_of_one_image_and_pixels_that_never_change() -> None:
    images, labels = digits(60)
    images[:, :, 0] = 7
    labels[:] = np.arange(60) % 3
    labels[5] = 3
    posterior = class_posterior(images, labels, num_classes=5)
    np.testing.assert_allclose(posterior.sum(axis=1), 1, atol=1e-5)
    assert posterior[5, 3] == 0  # the others know no class 3
    assert not posterior[:, 4].any()


def test_four_images_are_few_and_three_too_few() -> None:
    images, _ = digits(4)
    assert class_posterior(images, np.array([0, 1, 0, 1]), num_classes=2).shape == (4, 2)
    with pytest.raises(ValueError, match="two classes with two images each"):
        class_posterior(images, np.array([0, 0, 0, 1]), num_classes=2)


def test_what_is_cached_is_what_was_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = digits(300)
    made = open_posterior(as_arrays(images, labels), dataset="digits", cache_root=tmp_path)
    assert np.array_equal(made, class_posterior(images, labels, num_classes=10))
    assert [path.name for path in tmp_path.rglob("*.npy")] == ["digits-abababababababab.npy"]
    with pytest.raises(ValueError, match="read-only"):
        made[0] = 0
    monkeypatch.setattr(module, "class_posterior", lambda *_, **__: pytest.fail("estimated although it is there"))
    assert np.array_equal(open_posterior(as_arrays(images, labels), dataset="digits", cache_root=tmp_path), made)


def test_other_data_have_an_estimate_of_their_own(tmp_path: Path) -> None:
    images, labels = digits(300)
    first = open_posterior(as_arrays(images, labels), dataset="digits", cache_root=tmp_path)
    other = as_arrays(images[::-1], labels[::-1], sha256="cd" * 32)
    assert not np.array_equal(open_posterior(other, dataset="digits", cache_root=tmp_path), first)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 8)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    """A page that never reached the disk."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(512))


def another_shape(path: Path) -> None:
    np.save(path, np.full((10, 300), 0.1, dtype=np.float32))


def another_type(path: Path) -> None:
    np.save(path, np.full((300, 10), 0.1))


def a_pickle(path: Path) -> None:
    np.save(path, np.array([{}]), allow_pickle=True)


@pytest.mark.parametrize("damage", [cut, empty, zeros, another_shape, another_type, a_pickle])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    images, labels = digits(300)
    arrays = as_arrays(images, labels)
    before = posterior_sha256(open_posterior(arrays, dataset="digits", cache_root=tmp_path))
    damage(next(tmp_path.rglob("*.npy")))
    assert posterior_sha256(open_posterior(arrays, dataset="digits", cache_root=tmp_path)) == before


def test_one_works_while_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = digits(300)
    calls: list[int] = []

    def slow(images: np.ndarray, labels: np.ndarray, *, num_classes: int) -> np.ndarray:
        calls.append(num_classes)
        time.sleep(0.3)
        return np.full((len(images), num_classes), 1 / num_classes, dtype=np.float32)

    monkeypatch.setattr(module, "class_posterior", slow)
    found: list[np.ndarray] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(open_posterior(as_arrays(images, labels), dataset="d", cache_root=tmp_path))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [10]
    assert len(found) == 4


def test_the_digest_is_of_shape_and_values() -> None:
    posterior = softmax(np.random.default_rng(4).normal(size=(6, 4)), axis=1).astype(np.float32)
    expected = hashlib.sha256(b"(6, 4)\n" + posterior.tobytes()).hexdigest()
    assert posterior_sha256(posterior) == expected
    assert posterior_sha256(np.asfortranarray(posterior)) == expected
    assert posterior_sha256(posterior.reshape(4, 6)) != expected


@pytest.mark.data
@pytest.mark.slow
def test_fashion_mnist_is_mistaken_as_people_would() -> None:
    """The classes that the estimate takes most often for one another are those that look alike."""
    raw = Path(os.environ["BENCH_TEST_DATA"]) / "fashion-mnist/FashionMNIST/raw"
    images = np.frombuffer(gzip.decompress((raw / "train-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    labels = np.frombuffer(gzip.decompress((raw / "train-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    images, labels = images.reshape(-1, 1, 28, 28), labels.astype(np.int64)
    posterior = class_posterior(images, labels, num_classes=10)
    assert np.mean(posterior.argmax(axis=1) == labels) == pytest.approx(0.85, abs=0.01)
    second, _ = instance_noise(labels, posterior, rate=0.2)
    usual = [int(np.bincount(second[labels == k], minlength=10).argmax()) for k in range(10)]
    assert usual[6] in (0, 2, 4)  # shirts: T-shirts, pullovers, coats
    assert usual[5] in (7, 9)  # sandals: sneakers, boots
    assert usual[7] in (5, 9)
    assert usual[9] in (5, 7)
