"""The corruptions: closed forms, SciPy, Pillow and colorsys as oracles, and what must hold for every one of them."""

import colorsys
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from corruption_fidelity import natural_images
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats

from bench.data.corruptions import EXTRA, SEVERITIES, STANDARD, corrupt
from bench.data.corruptions.blur import _displaced
from bench.data.corruptions.filters import motion_blur
from bench.data.corruptions.kinds import KINDS
from bench.data.corruptions.parameters import CIFAR, IMAGENET
from bench.data.corruptions.pixels import luma
from bench.data.corruptions.texture import PHOTOGRAPHS, frost_textures

ALL = STANDARD + EXTRA
SIZES = [(8, 8), (28, 28), (32, 32), (20, 36), (64, 64), (96, 96), (70, 31)]

# These severities are not ordered by how much they change pixels, in the authors' parameters either: see CIFAR.
UNORDERED = {"glass_blur", "motion_blur", "frost", "elastic_transform", "saturate", "spatter"}

Images = NDArray[np.uint8]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def flat(value: int, *, count: int = 20, channels: int = 3, side: int = 32) -> Images:
    return np.full((count, channels, side, side), value, dtype=np.uint8)


def test_every_kind_has_a_function_and_parameters() -> None:
    assert len(STANDARD) == 15
    assert len(EXTRA) == 4
    assert set(KINDS) == set(CIFAR) == set(IMAGENET) == set(ALL)
    assert all(len(table[kind]) == 5 for table in (CIFAR, IMAGENET) for kind in ALL)


def test_naming_the_kinds_loads_nothing_heavy() -> None:
    code = "import sys, bench.data.corruptions as c; c.check_kind('fog', 1); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "scipy", "PIL", "cv2", "sklearn"} & set(loaded)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_type_and_input(kind: str, channels: int) -> None:
    for height, width in SIZES:
        images = rng(1).integers(256, size=(3, channels, height, width), dtype=np.uint8)
        images.setflags(write=False)
        before = images.copy()
        for severity in SEVERITIES:
            out = corrupt(images, kind=kind, severity=severity, rng=rng())
            assert (out.shape, out.dtype) == (images.shape, np.uint8)
            # The least zoom is less than a pixel of 8, and grey has no saturation to scale.
            if (kind, height) != ("zoom_blur", 8) and (kind, channels) != ("saturate", 1):
                assert not np.array_equal(out, images)
        assert np.array_equal(images, before)
    assert corrupt(images[:0], kind=kind, severity=1, rng=rng()).shape == (0, *images.shape[1:])


@pytest.mark.parametrize("kind", ALL)
def test_the_same_generator_gives_the_same_pixels_whatever_the_threads(kind: str) -> None:
    images = natural_images(90, 32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = corrupt(images, kind=kind, severity=3, rng=rng(5))
        torch.set_num_threads(2)
        two = corrupt(np.asfortranarray(images), kind=kind, severity=3, rng=rng(5))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(one, two)


RANDOM = sorted(set(ALL) - {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"})


@pytest.mark.parametrize("kind", [kind for kind in RANDOM if kind not in ("gaussian_blur", "saturate")])
def test_each_image_and_each_seed_draws_anew(kind: str) -> None:
    images = np.repeat(natural_images(1, 32), 20, axis=0)
    out = corrupt(images, kind=kind, severity=3, rng=rng(5))
    # Motion has an angle for each image, but only so many lines of whole pixels.
    assert len({image.tobytes() for image in out}) > (5 if kind == "motion_blur" else 19)
    assert not np.array_equal(out, corrupt(images, kind=kind, severity=3, rng=rng(6)))


@pytest.mark.parametrize("kind", sorted(set(ALL) - UNORDERED))
@pytest.mark.parametrize("side", [32, 96])
def test_a_higher_severity_changes_more(kind: str, side: int) -> None:
    images = natural_images(300 if side == 32 else 20, side)
    changes = [np.abs(_change(images, kind, severity)).mean() for severity in SEVERITIES]
    assert changes == sorted(changes), changes
    assert changes[0] > 0.1


def _change(images: Images, kind: str, severity: int) -> NDArray[Any]:
    return corrupt(images, kind=kind, severity=severity, rng=rng()).astype(int) - images


@pytest.mark.parametrize("kind", sorted(set(ALL) - {"gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"}))
def test_a_grey_image_is_the_luma_of_its_colour_image(kind: str) -> None:
    grey = natural_images(10, 28)[:, :1]
    for severity in SEVERITIES:
        colour = corrupt(np.repeat(grey, 3, axis=1), kind=kind, severity=severity, rng=rng())
        expected = luma(torch.from_numpy(colour)).numpy().astype(int)
        found = corrupt(grey, kind=kind, severity=severity, rng=rng())
        # A grey JPEG spares the way to colour and back, which rounds.
        assert np.abs(found - expected).max() <= (2 if kind == "jpeg_compression" else 1)


def test_luma_is_pillows() -> None:
    images = rng().integers(256, size=(50, 3, 8, 8), dtype=np.uint8)
    theirs = [np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in images]
    assert np.array_equal(luma(torch.from_numpy(images))[:, 0].numpy(), np.stack(theirs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "gausian_noise"}, "did you mean 'gaussian_noise'"),
        ({"severity": 0}, "severity of 0"),
        ({"severity": 6}, "severity of 6"),
        ({"images": np.zeros((2, 3, 32, 32), dtype=np.float32)}, "float32"),
        ({"images": np.zeros((3, 32, 32), dtype=np.uint8)}, r"\(3, 32, 32\)"),
        ({"images": np.zeros((1, 4, 32, 32), dtype=np.uint8)}, "C 1 or 3"),
        ({"images": np.zeros((1, 3, 7, 32), dtype=np.uint8)}, "at least 8"),
    ],
)
def test_what_will_not_do_is_said(arguments: dict[str, Any], message: str) -> None:
    usual = {"images": flat(9), "kind": "fog", "severity": 1, "rng": rng()}
    with pytest.raises(ValueError, match=message):
        corrupt(**(usual | arguments))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_its_deviation(severity: int) -> None:
    noise = _change(flat(128), "gaussian_noise", severity)
    # Rounding down: half a level below, and a uniform error's variance.
    assert noise.mean() == pytest.approx(-0.5, abs=0.4)
    assert noise.std() == pytest.approx(math.hypot(CIFAR["gaussian_noise"][severity - 1] * 255, 12**-0.5), rel=0.02)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_speckle_noise_grows_with_the_value(severity: int) -> None:
    deviation = CIFAR["speckle_noise"][severity - 1] * 100
    assert _change(flat(100), "speckle_noise", severity).std() == pytest.approx(deviation, rel=0.02)
    assert not _change(flat(0), "speckle_noise", severity).any()


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("value", [1, 40, 128, 230, 255])
def test_shot_noise_is_poisson(value: int, severity: int) -> None:
    photons = CIFAR["shot_noise"][severity - 1]
    out = corrupt(flat(value), kind="shot_noise", severity=severity, rng=rng()).ravel()
    counts = stats.poisson.rvs(value / 255 * photons, size=out.size, random_state=rng(9))
    theirs = (np.minimum(counts / photons, 1) * 255).astype(np.uint8)
    found, expected = np.bincount(out, minlength=256), np.bincount(theirs, minlength=256)
    assert not found[expected + stats.poisson.pmf(0, expected) == 0].any()
    assert stats.ks_2samp(out, theirs).pvalue > 1e-4
    assert out.mean() == pytest.approx(theirs.mean(), abs=5 * theirs.std() * math.sqrt(2 / out.size) + 1e-9)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_is_salt_and_pepper_in_equal_shares(severity: int) -> None:
    out = corrupt(flat(77, count=100), kind="impulse_noise", severity=severity, rng=rng())
    half = CIFAR["impulse_noise"][severity - 1] / 2
    for value, share in ((0, half), (255, half), (77, 1 - 2 * half)):
        assert (out == value).mean() == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / out.size))


@pytest.mark.parametrize("side", [32, 96])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur_is_scipys(side: int, severity: int) -> None:
    images = natural_images(5, side)
    sigma = (CIFAR if side == 32 else IMAGENET)["gaussian_blur"][severity - 1]
    theirs = ndimage.gaussian_filter(images / 255, (0, 0, sigma, sigma), mode="nearest") * 255
    ours = corrupt(images, kind="gaussian_blur", severity=severity, rng=rng())
    difference = np.abs(ours - np.floor(theirs + 1e-9))
    assert difference.max() <= 1
    assert difference.mean() < 0.001


@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur_is_the_mean_over_scipys_zooms(severity: int) -> None:
    images = natural_images(3, 32)
    zooms = np.arange(1, *CIFAR["zoom_blur"][severity - 1])
    total = images / 255
    for zoom in zooms:
        kept = math.ceil(32 / zoom)
        first = (32 - kept) // 2
        middle = images[..., first : first + kept, first : first + kept] / 255
        large = ndimage.zoom(middle, (1, 1, zoom, zoom), order=1)
        trim = (large.shape[-1] - 32) // 2
        total = total + large[..., trim : trim + 32, trim : trim + 32]
    ours = corrupt(images, kind="zoom_blur", severity=severity, rng=rng())
    assert np.abs(ours - np.floor(total / (len(zooms) + 1) * 255)).max() <= 1


def test_motion_blur_of_a_point_is_half_a_gaussian_along_the_line() -> None:
    point = torch.zeros(2, 1, 41, 41)
    point[:, :, 20, 20] = 1
    right, down = motion_blur(point, radius=8, sigma=3, degrees=np.array([0.0, 90.0])).numpy()[:, 0]
    weights = np.exp(-(np.arange(17) ** 2) / 18)
    assert right[20, 20:3:-1] == pytest.approx(weights / weights.sum(), abs=1e-6)
    assert np.array_equal(down, right.T)
    assert right.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"])
def test_a_blur_keeps_a_flat_image(kind: str) -> None:
    for severity in SEVERITIES:
        for side in (20, 72):
            # The authors' softened disk of radius 8 sums to 1.01.
            largest = 2 if (kind, side) == ("defocus_blur", 72) else 1
            assert np.abs(_change(flat(200, count=2, side=side), kind, severity)).max() <= largest


@pytest.mark.parametrize(("height", "width", "reach"), [(8, 8, 1), (9, 14, 2), (20, 13, 4)])
def test_glass_blur_displaces_as_one_loop_over_the_pixels(height: int, width: int, reach: int) -> None:
    images = rng().integers(256, size=(3, 2, height, width), dtype=np.uint8)
    ours = _displaced(torch.from_numpy(images), reach, rng(7)).numpy()
    shape = (2, 3, height - 2 * reach, width - 2 * reach)
    moves = rng(7).integers(-reach, reach, size=shape)
    theirs = images.copy()
    for i, image in enumerate(theirs):
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                dy, dx = moves[:, i, h - reach - 1, w - reach - 1]
                image[:, h, w] = image[:, h + dy, w + dx]
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("kind", ["brightness", "saturate"])
def test_hsv_is_colorsys(kind: str, severity: int) -> None:
    images = rng().integers(256, size=(2, 3, 16, 16), dtype=np.uint8)
    images[0, :, :4] = rng().integers(256, size=(4, 16))  # greys
    images[1, :, 0] = 0
    parameter = CIFAR[kind][severity - 1]
    ours = corrupt(images, kind=kind, severity=severity, rng=rng())
    for image, out in zip(images, ours, strict=True):
        for pixel, found in zip(image.reshape(3, -1).T, out.reshape(3, -1).T, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
            if kind == "brightness":
                v = min(v + parameter, 1)
            else:
                s = min(max(s * parameter[0] + parameter[1], 0), 1)
            expected = np.array(colorsys.hsv_to_rgb(h, s, v)) * 255
            assert np.abs(found - np.floor(expected + 1e-6)).max() <= 1
            assert (np.abs(found - expected + 0.5) < 0.51).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_keeps_the_mean_and_its_share_of_the_deviation(severity: int) -> None:
    images = rng().integers(60, 200, size=(4, 3, 32, 32), dtype=np.uint8)
    out = corrupt(images, kind="contrast", severity=severity, rng=rng()).astype(float)
    assert out.mean(axis=(2, 3)) == pytest.approx(images.mean(axis=(2, 3)) - 0.5, abs=0.3)
    ratio = out.std(axis=(2, 3)) / images.std(axis=(2, 3))
    assert ratio == pytest.approx(CIFAR["contrast"][severity - 1], rel=0.02)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 36), (96, 70)])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_is_pillow_image_by_image(height: int, width: int, severity: int) -> None:
    images = natural_images(4, 96)[:, :, :height, :width]
    kept = (CIFAR if max(height, width) <= 64 else IMAGENET)["pixelate"][severity - 1]
    ours = corrupt(images, kind="pixelate", severity=severity, rng=rng())
    for image, out in zip(images, ours, strict=True):
        small = Image.fromarray(image.transpose(1, 2, 0)).resize((int(width * kept), int(height * kept)), Image.BOX)
        assert np.array_equal(out.transpose(1, 2, 0), np.asarray(small.resize((width, height), Image.BOX)))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("shape", [(32, 32), (20, 36), (80, 50)])
def test_fog_on_a_flat_image_goes_from_its_darkest_to_the_image_itself(shape: tuple[int, int], severity: int) -> None:
    images = np.full((200, 1, *shape), 204, dtype=np.uint8)
    out = corrupt(images, kind="fog", severity=severity, rng=rng())
    weight = (CIFAR if max(shape) <= 64 else IMAGENET)["fog"][severity - 1][0]
    darkest = 0.8 * 0.8 / (0.8 + weight)
    assert out.min() >= math.floor(darkest * 255)
    assert out.max() <= math.ceil((darkest + weight * 0.8 / (0.8 + weight)) * 255)
    if shape == (32, 32):  # the landscape is as large as the image, which shows all of it
        assert (out.min(axis=(1, 2, 3)) == math.floor(darkest * 255)).all()
        assert (out.max(axis=(1, 2, 3)) >= 203).all()


def test_the_elastic_transform_keeps_a_flat_image_and_the_middle_of_others() -> None:
    assert np.abs(_change(flat(90), "elastic_transform", 4)).max() <= 1
    # A bump in the middle stays there on average: points are moved at random, not in one direction.
    y, x = np.mgrid[:33, :33]
    bump = 250 * np.exp(-((y - 16) ** 2 + (x - 16) ** 2) / 30)
    images = np.broadcast_to(bump.astype(np.uint8), (2000, 1, 33, 33))
    for severity in SEVERITIES:
        mean = corrupt(images, kind="elastic_transform", severity=severity, rng=rng()).mean(axis=(0, 1))
        centre = [(mean * axis).sum() / mean.sum() for axis in (y, x)]
        assert centre == pytest.approx([16, 16], abs=0.15)


def test_frost_has_the_photographs_brightness_and_colour() -> None:
    textures = frost_textures()
    assert textures.shape == (5, 3, 640, 640)
    for texture, photograph in zip(textures, PHOTOGRAPHS, strict=True):
        assert texture.mean(axis=(1, 2)) == pytest.approx(photograph.colour, abs=3)
        grey = texture.mean(axis=0)
        assert np.quantile(grey, [0.05, 0.5, 0.95]) == pytest.approx(np.array(photograph.brightness)[[2, 4, 6]], abs=4)
        neighbours = np.corrcoef(grey.ravel(), np.roll(grey, 1, axis=1).ravel())[0, 1]
        afar = np.corrcoef(grey.ravel(), np.roll(grey, 32, axis=1).ravel())[0, 1]
        assert 0.8 < neighbours < 0.92
        assert 0.2 < afar < 0.6


def test_a_spatter_that_hits_nothing_leaves_the_image() -> None:
    """Where no drop exceeds the threshold the authors' script divides 0 by 0."""
    images = flat(120, count=400, side=8)
    out = corrupt(images, kind="spatter", severity=1, rng=rng())
    untouched = (out == images).all(axis=(1, 2, 3))
    assert 0 < untouched.sum() < len(images)
