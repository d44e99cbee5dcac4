"""AugMix's operations against Pillow on the same images, its mixture against the authors' loop over Pillow images."""

import math
import platform
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import stats
from torch import Tensor

from bench.mixing import image_operations
from bench.mixing.image_operations import OPERATIONS, Recipe, augmix, draw_recipe

SIZES = [(32, 32), (11, 11), (20, 13), (3, 1)]
"""(H, W), even and odd, square and not; the small ones have fewer pixels than equalize has levels."""

PORTABLE = platform.machine() in ("x86_64", "AMD64")
"""Elsewhere, as on ARM, a compiler may fuse Pillow's products and sums, which rounds otherwise."""


def make_images(channels: int, height: int, width: int) -> Tensor:
    """Noise of high and low contrast, gradients, edges, single pixels and plain images: (16, C, H, W)."""
    rng = np.random.default_rng(height * 1000 + width * 10 + channels)
    y, x = np.mgrid[:height, :width]
    plain = np.zeros((height, width))
    spot = plain.copy()
    spot[height // 2, width // 2] = 255
    patterns = [
        x * 255 / max(width - 1, 1),
        y * 255 / max(height - 1, 1),
        (x + y) % 2 * 255,
        (x // 3 + y // 3) % 2 * 90 + 60,
        (x > y) * 200,
        spot,
        255 - spot,
        np.maximum(spot, 254),
        plain,
        plain + 255,
        plain + 77,
    ]
    images = np.stack([np.stack([pattern] * channels) for pattern in patterns])
    images[:8, 1:] = 255 - images[:8, 1:]  # the channels of an image differ
    noise = [
        rng.integers(low, high, size=(channels, height, width))
        for low, high in [(0, 256), (0, 256), (100, 112), (3, 250), (0, 2)]
    ]
    return torch.from_numpy(np.concatenate([images, np.stack(noise)]).astype(np.uint8))


def to_pil(image: Tensor) -> Image.Image:
    array = image.numpy()
    return Image.fromarray(array[0]) if len(array) == 1 else Image.fromarray(array.transpose(1, 2, 0).copy())


def from_pil(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


PIL_OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "posterize": ImageOps.posterize,
    "solarize": ImageOps.solarize,
    "rotate": lambda image, degrees: image.rotate(degrees, resample=Image.Resampling.BILINEAR),
    "shear_x": lambda image, factor: affine(image, 1, factor, 0, 0, 1, 0),
    "shear_y": lambda image, factor: affine(image, 1, 0, 0, factor, 1, 0),
    "translate_x": lambda image, pixels: affine(image, 1, 0, pixels, 0, 1, 0),
    "translate_y": lambda image, pixels: affine(image, 1, 0, 0, 0, 1, pixels),
}

PARAMETERS: dict[str, list[int] | list[float]] = {
    "posterize": [*range(1, 9)],
    "solarize": [0, 1, 60, 77, 78, 128, 180, 254, 255, 256],
    "rotate": [0, 1, -1, 9, -9, 29, 30, -30, 45, 60, 90, -90, 135, 180, 270, 359, 360, 400],
    "shear_x": [0.0, 0.003, -0.003, 0.0899, 0.1, -0.1, 0.25, -0.25, 0.2987, 1 / 3, 0.5, -0.5, 1.0, -1.5, 3.7, -40.0],
    "translate_x": [0, 1, -1, 2, -3, 10, -10, 13, 14, -17, 31, -32, 33, 60],
}
PARAMETERS |= {"shear_y": PARAMETERS["shear_x"], "translate_y": PARAMETERS["translate_x"]}


def assert_as_pillow(name: str, images: Tensor, values: np.ndarray) -> None:
    """Equal in every pixel; where Pillow may round otherwise, within 1 in all but one pixel of a thousand."""
    before = images.clone()
    result = getattr(image_operations, name)(images, values)
    assert result.dtype == torch.uint8
    assert torch.equal(images, before), "the images were changed in place"
    expected = [from_pil(PIL_OPERATIONS[name](to_pil(i), v)) for i, v in zip(images, values.tolist(), strict=True)]
    if PORTABLE or name in ("posterize", "solarize", "translate_x", "translate_y"):
        np.testing.assert_array_equal(result.numpy(), np.stack(expected))
    else:
        assert (abs(result.numpy().astype(int) - np.stack(expected)) > 1).mean() <= 1e-3


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PARAMETERS)
def test_operations_are_pillows(name: str, channels: int, size: tuple[int, int]) -> None:
    """Every image with every parameter; neighbours in the batch have different ones."""
    images = make_images(channels, *size)
    values = np.array(PARAMETERS[name])
    assert_as_pillow(name, images.repeat_interleave(len(values), dim=0), np.tile(values, len(images)))


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y"])
def test_interpolation_is_pillows_at_any_angle_and_factor(name: str) -> None:
    rng = np.random.default_rng(3)
    images = torch.from_numpy(rng.integers(256, size=(300, 3, 32, 32), dtype=np.uint8))
    assert_as_pillow(name, images, rng.uniform(-180, 180, 300) if name == "rotate" else rng.normal(0, 0.5, 300))


@pytest.mark.parametrize("size", [*SIZES, (9, 40), (64, 64)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_operations_on_histograms_are_pillows(name: str, channels: int, size: tuple[int, int]) -> None:
    images = make_images(channels, *size)
    before = images.clone()
    result = getattr(image_operations, name)(images)
    assert result.dtype == torch.uint8
    assert torch.equal(images, before), "the images were changed in place"
    expected = np.stack([from_pil(PIL_OPERATIONS[name](to_pil(image), 0)) for image in images])
    np.testing.assert_array_equal(result.numpy(), expected)


def test_autocontrast_rounds_as_pillow_for_every_range() -> None:
    """All values between every seventh pair of a lowest and a highest one."""
    pairs = [(low, high) for low in range(256) for high in range(low, 256)][::7]
    low, high = np.array(pairs).T[:, :, None]
    images = torch.from_numpy(np.arange(256).clip(low, high).astype(np.uint8)).view(-1, 1, 16, 16)
    expected = np.stack([from_pil(ImageOps.autocontrast(to_pil(image))) for image in images])
    np.testing.assert_array_equal(image_operations.autocontrast(images).numpy(), expected)


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (20, 30)], ids=str)
def test_equalize_is_pillows_for_all_kinds_of_histograms(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    shape = (400, 1, *size)
    spread, centre = rng.uniform(0.3, 200, size=(400, 1, 1, 1)), rng.uniform(0, 255, size=(400, 1, 1, 1))
    images = torch.from_numpy(rng.normal(centre, spread, size=shape).clip(0, 255).astype(np.uint8))
    expected = np.stack([from_pil(ImageOps.equalize(to_pil(image))) for image in images])
    np.testing.assert_array_equal(image_operations.equalize(images).numpy(), expected)


def pil_chain(image: Image.Image, operations: np.ndarray, levels: np.ndarray) -> Image.Image:
    """The operations in turn, with the magnitudes of the authors' script."""
    names = list(OPERATIONS)
    for operation, level in zip(operations.tolist(), levels.tolist(), strict=True):
        if operation < 0:
            continue
        parameter = {
            "autocontrast": 0,
            "equalize": 0,
            "posterize": 4 - int(abs(level) * 4 / 10),
            "rotate": int(level * 30 / 10),
            "solarize": 256 - int(abs(level) * 256 / 10),
            "shear_x": level * 0.3 / 10.0,
            "shear_y": level * 0.3 / 10.0,
            "translate_x": int(level * (image.width / 3) / 10),
            "translate_y": int(level * (image.height / 3) / 10),
        }[names[operation]]
        image = PIL_OPERATIONS[names[operation]](image, parameter)
    return image


def pil_chains(recipe: Recipe, pixels: Tensor) -> np.ndarray:
    """Every chain on every image, one at a time: (width, B, C, H, W)."""
    _, width, n = recipe.operations.shape
    return np.stack(
        [
            [
                from_pil(pil_chain(to_pil(pixels[i]), recipe.operations[:, chain, i], recipe.levels[:, chain, i]))
                for i in range(n)
            ]
            for chain in range(width)
        ]
    )


class Fixed(np.random.Generator):
    """A generator whose mixture is given: m for all images, and all the weight on one chain."""

    def __init__(self, seed: int, *, m: float, chain: int = 0) -> None:
        super().__init__(np.random.PCG64(seed))
        self.m, self.chain = m, chain

    def beta(self, a: float, b: float, size: int) -> np.ndarray:  # type: ignore[override]
        return np.full(size, self.m)

    def dirichlet(self, alpha: list[float], size: int) -> np.ndarray:  # type: ignore[override]
        return np.eye(len(alpha))[[self.chain] * size]


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("depth", [None, 4])
@pytest.mark.parametrize("severity", [0.1, 3, 10])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 11, 20)], ids=str)
def test_the_mixture_is_the_authors(
    shape: tuple[int, int, int], severity: float, depth: int | None, width: int
) -> None:
    pixels = make_images(*shape)
    options = {"severity": severity, "width": width, "depth": depth, "alpha": 0.7}
    recipe = draw_recipe(np.random.default_rng(8), len(pixels), **options)
    m = recipe.m[:, None, None, None]
    mixed = np.einsum("bw,wbchv->bchv", recipe.weights, pil_chains(recipe, pixels))
    result = augmix(pixels, rng=np.random.default_rng(8), **options)
    assert result.dtype == torch.float32
    off = abs(result.numpy() - ((1 - m) * pixels.numpy() + m * mixed)) > 1e-3
    assert off.mean() <= (0 if PORTABLE else 1e-2)


def test_an_image_of_weight_one_is_itself() -> None:
    pixels = make_images(3, 16, 16)
    assert torch.equal(augmix(pixels, rng=Fixed(2, m=0)), pixels.to(torch.float32))


@pytest.mark.skipif(not PORTABLE, reason="Pillow may round otherwise")
@pytest.mark.parametrize("chain", range(3))
def test_a_chain_of_weight_one_is_that_chain(chain: int) -> None:
    pixels = make_images(3, 16, 16)
    recipe = draw_recipe(Fixed(2, m=1), len(pixels), severity=3, width=3, depth=None, alpha=1)
    result = augmix(pixels, rng=Fixed(2, m=1, chain=chain))
    np.testing.assert_array_equal(result.numpy(), pil_chains(recipe, pixels)[chain])


def test_draws_have_their_distributions() -> None:
    """Operations, depths and signs uniform, levels uniform in [0.1, severity), m and w from Beta and Dirichlet."""
    n, alpha = 20_000, 0.6
    recipe = draw_recipe(np.random.default_rng(11), n, severity=2.5, width=4, depth=None, alpha=alpha)
    applied = recipe.operations >= 0
    _, counts = np.unique(recipe.operations[applied], return_counts=True)
    assert len(counts) == 9
    assert stats.chisquare(counts).pvalue > 1e-3
    assert (np.sort(applied, axis=0)[::-1] == applied).all(), "a chain goes on after its end"
    _, counts = np.unique(applied.sum(axis=0), return_counts=True)
    assert len(counts) == 3
    assert stats.chisquare(counts).pvalue > 1e-3
    levels = recipe.levels[applied]
    assert stats.kstest(abs(levels), stats.uniform(0.1, 2.4).cdf).pvalue > 1e-3
    assert stats.binomtest(int((levels > 0).sum()), len(levels)).pvalue > 1e-3
    assert stats.kstest(recipe.m, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    for weights in recipe.weights.T:
        assert stats.kstest(weights, stats.beta(alpha, 3 * alpha).cdf).pvalue > 1e-3


def test_operations_of_an_image_are_independent() -> None:
    """Of one another, of the level and of the sign."""
    recipe = draw_recipe(np.random.default_rng(12), 20_000, severity=3, width=2, depth=2, alpha=1)
    first = recipe.operations[0, 0]
    for other in (recipe.operations[1, 0], recipe.operations[0, 1], recipe.levels[0, 0] > 0, recipe.levels[0, 0] // 1):
        assert stats.chi2_contingency(stats.contingency.crosstab(first, other).count).pvalue > 1e-3


def test_magnitudes_of_the_paper_at_full_strength() -> None:
    """Worked out by hand: just below level 10 a third of the image, 30 degrees, a slope of 0.3."""
    column = torch.zeros(2, 1, 9, 9, dtype=torch.uint8)
    column[:, :, :, 4] = 200
    moved = OPERATIONS["translate_x"](column, np.array([9.9999, -9.9999]))
    assert moved[:, 0, 0].argmax(1).tolist() == [2, 6]  # int(9.9999 * 3 / 10) = 2, to the left and to the right
    grey = torch.full((2, 1, 1, 1), 37, dtype=torch.uint8)
    assert OPERATIONS["posterize"](grey, np.array([2.4, -2.6])).flatten().tolist() == [32, 32]
    assert OPERATIONS["posterize"](grey + 20, np.array([2.4, -2.6])).flatten().tolist() == [48, 32]  # 4 and 3 bits
    assert OPERATIONS["solarize"](grey + 180, np.array([1.5, -1.6])).flatten().tolist() == [217, 38]  # from 218, 216


@pytest.mark.parametrize("size", [1, 2, 50])
def test_same_generator_same_images(size: int) -> None:
    pixels = torch.from_numpy(np.random.default_rng(1).integers(256, size=(size, 3, 12, 12), dtype=np.uint8))
    before = pixels.clone()
    first, again, other = (augmix(pixels, rng=np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first.shape == pixels.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(pixels, before), "the images were changed in place"


def test_draws_only_from_its_generator() -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  (the global state is what must stay untouched)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    augmix(make_images(3, 12, 12), rng=np.random.default_rng(5))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


def test_white_is_not_exceeded() -> None:
    """Weights whose rounded sum is above 1 would."""
    mixed = augmix(torch.full((500, 1, 4, 4), 255, dtype=torch.uint8), rng=np.random.default_rng(0))
    assert mixed.max() == 255
    assert mixed.min() >= 0


def test_the_layout_in_memory_does_not_matter() -> None:
    pixels = make_images(3, 12, 18)
    plain, strided = (
        augmix(images, rng=np.random.default_rng(7))
        for images in (pixels, pixels.contiguous(memory_format=torch.channels_last))
    )
    assert torch.equal(plain, strided)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"severity": 0.05}, "severity is 0.05"),
        ({"severity": 11}, "severity is 11"),
        ({"severity": math.nan}, "severity is nan"),
        ({"width": 0}, "width is 0"),
        ({"depth": 0}, "depth 0"),
        ({"alpha": 0}, "alpha is 0"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(option: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augmix(make_images(1, 4, 4), rng=np.random.default_rng(0), **option)  # type: ignore[arg-type]


def test_normalised_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.float32"):
        augmix(torch.zeros(2, 3, 4, 4), rng=np.random.default_rng(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_same() -> None:
    """To the rounding of the last sum; a GPU fuses its products and sums."""
    pixels = make_images(3, 32, 32).repeat(8, 1, 1, 1)
    cpu, gpu = (augmix(images, rng=np.random.default_rng(9)).cpu() for images in (pixels, pixels.cuda()))
    torch.testing.assert_close(gpu, cpu, rtol=0, atol=1e-3)
