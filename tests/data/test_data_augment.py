"""Augmentation against torch and torchvision one image at a time, and statistics against numpy in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torchvision.transforms import functional as tv

from bench.data.augment import channel_statistics, crop, draw_crop_offsets, draw_flips, flip, normalise


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("shape", "padding"), [((16, 3, 32, 32), 4), ((9, 1, 8, 8), 1), ((5, 2, 6, 10), 3)])
def test_crop_is_pad_and_slice(shape: tuple[int, ...], padding: int, dtype: torch.dtype) -> None:
    images = torch.from_numpy(random_images(*shape)).to(dtype)
    offsets = torch.from_numpy(draw_crop_offsets(np.random.default_rng(1), shape[0], padding))
    padded = F.pad(images, (padding, padding, padding, padding))
    height, width = shape[2:]
    expected = torch.stack(
        [image[:, top : top + height, left : left + width] for image, (top, left) in zip(padded, offsets, strict=True)]
    )
    assert torch.equal(crop(images, offsets, padding=padding), expected)


def test_crop_in_the_middle_and_without_padding_change_nothing() -> None:
    images = torch.from_numpy(random_images(4, 3, 8, 8))
    assert torch.equal(crop(images, torch.full((4, 2), 2), padding=2), images)
    assert torch.equal(crop(images, torch.zeros(4, 2, dtype=torch.int64), padding=0), images)


def test_crop_at_the_corner_shows_black() -> None:
    images = torch.full((1, 1, 4, 4), 7, dtype=torch.uint8)
    cropped = crop(images, torch.tensor([[0, 4]]), padding=2)[0, 0]
    assert cropped.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [7, 7, 0, 0], [7, 7, 0, 0]]


def test_flip_is_torchvisions_where_asked() -> None:
    images = torch.from_numpy(random_images(6, 3, 5, 7))
    flips = torch.tensor([True, False, True, True, False, False])
    for image, flipped, wanted in zip(images, flip(images, flips), flips, strict=True):
        assert torch.equal(flipped, tv.hflip(image) if wanted else image)


def test_offsets_are_uniform_over_all_windows() -> None:
    offsets = draw_crop_offsets(np.random.default_rng(2), 25_000, 2)
    assert offsets.shape == (25_000, 2)
    assert offsets.dtype == np.int64
    counts = np.zeros((5, 5))
    np.add.at(counts, (offsets[:, 0], offsets[:, 1]), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_half_are_flipped() -> None:
    flips = draw_flips(np.random.default_rng(3), 20_000)
    assert flips.shape == (20_000,)
    assert flips.dtype == np.bool_
    assert stats.binomtest(int(flips.sum()), 20_000, 0.5).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(2500, 3, 8, 8), (7, 1, 28, 28)])
def test_statistics_are_those_of_numpy(shape: tuple[int, ...]) -> None:
    images = random_images(*shape, seed=4) // np.arange(1, shape[1] + 1, dtype=np.uint8)[:, None, None]
    mean, std = channel_statistics(images)
    pixels = images.astype(np.float64) / 255
    assert mean.dtype == std.dtype == torch.float32
    np.testing.assert_allclose(mean.numpy(), pixels.mean(axis=(0, 2, 3)), rtol=1e-7)
    np.testing.assert_allclose(std.numpy(), pixels.std(axis=(0, 2, 3)), rtol=1e-7)


def test_a_constant_channel_has_std_1() -> None:
    images = np.full((3, 2, 4, 4), 51, dtype=np.uint8)
    images[0, 1, 0, 0] = 52
    mean, std = channel_statistics(images)
    assert mean[0] == np.float32(0.2)
    assert std[0] == 1
    assert 0 < std[1] < 1


def test_statistics_take_a_read_only_memory_map(tmp_path: Path) -> None:
    images = random_images(50, 3, 4, 4)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for ours, expected in zip(channel_statistics(mapped), channel_statistics(images), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalise_is_torchvisions(memory_format: torch.memory_format) -> None:
    array = random_images(10, 3, 6, 6, seed=5)
    mean, std = channel_statistics(array)
    images = torch.from_numpy(array).to(memory_format=memory_format)
    scale, shift = (1 / (255 * std)).view(1, -1, 1, 1), (-mean / std).view(1, -1, 1, 1)
    expected = tv.normalize(images / 255, mean.tolist(), std.tolist())
    ours = normalise(images, scale, shift)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    assert ours.is_contiguous(memory_format=memory_format)
    assert ours.mean().abs() < 1e-5
