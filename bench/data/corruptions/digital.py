"""What happens to an image after it is taken: light, contrast, colour, distortion, resolution, compression."""

from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bench.data.corruptions import filters
from bench.data.corruptions.pixels import as_colour, intensities, luma, truncated


def brightness(images: Tensor, summand: float, _rng: np.random.Generator) -> Tensor:
    """Brighter by a summand to the value of HSV; hue and saturation stay, so that all channels scale alike."""
    x = intensities(images)
    value = x.amax(dim=1, keepdim=True)
    brighter = (value + summand).clamp(max=1)
    return truncated(torch.where(value > 0, x * (brighter / value), brighter))


def contrast(images: Tensor, kept: float, _rng: np.random.Generator) -> Tensor:
    """Every value nearer to its channel's mean over the image."""
    x = intensities(images)
    mean = x.mean(dim=(2, 3), keepdim=True)
    return truncated((x - mean).mul_(kept).add_(mean))


def saturate(images: Tensor, c: tuple[float, float], _rng: np.random.Generator) -> Tensor:
    """Another saturation in HSV; hue and value stay.  Grey has red's hue, so that a summand turns it red."""
    factor, summand = c
    x = intensities(as_colour(images))
    value, least = x.amax(dim=1, keepdim=True), x.amin(dim=1, keepdim=True)
    chroma = value - least
    saturation = torch.where(value > 0, chroma / value, 0.0).mul_(factor).add_(summand).clamp_(0, 1)
    # How far each channel lies below the value, as a share of the farthest: for red's hue 0, 1, 1.
    red = torch.tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)
    depth = torch.where(chroma > 0, (value - x) / chroma, red)
    out = truncated(value * (1 - saturation * depth))
    return luma(out) if images.shape[1] == 1 else out


def elastic_transform(images: Tensor, c: tuple[float, float, float], rng: np.random.Generator) -> Tensor:
    """A random affine map, then a smooth random displacement of every pixel, each interpolated linearly."""
    batch, _, height, width = images.shape
    longer = max(height, width)
    displacement, sigma, reach = (share * longer for share in c)
    x = _sampled(intensities(images), _affine_points(batch, height, width, reach, rng), border_repeats=False)
    shift = torch.zeros(2, batch, height, width)
    if displacement > 0:
        noise = torch.from_numpy(rng.random((2, batch, height, width), dtype=np.float32)).mul_(2).sub_(1)
        shift = filters.gaussian_blur(noise, sigma, mode="reflect", truncate=3).mul_(displacement)
    grid = torch.stack([torch.arange(width).expand(height, width), torch.arange(height)[:, None].expand(-1, width)])
    return truncated(_sampled(x, shift + grid[:, None], border_repeats=True))


def pixelate(images: Tensor, kept: float, _rng: np.random.Generator) -> Tensor:
    """Shrunk and enlarged again by Pillow's box filter."""
    height, width = images.shape[-2:]
    small_height, small_width = max(1, int(height * kept)), max(1, int(width * kept))
    planes = images.numpy().reshape(-1, height, width)
    small = _box_width(_box_width(planes, small_width).swapaxes(1, 2), small_height)
    large = _box_width(_box_width(small.swapaxes(1, 2), width).swapaxes(1, 2), height).swapaxes(1, 2)
    return torch.from_numpy(large.copy().reshape(images.shape))


def jpeg_compression(images: Tensor, quality: int, _rng: np.random.Generator) -> Tensor:
    """To JPEG and back by Pillow, colour at half the resolution; a grey image as a grey JPEG."""
    from PIL import Image

    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    out = np.empty_like(pixels)
    for image, target in zip(pixels, out, strict=True):
        file = BytesIO()
        Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(file, "JPEG", quality=quality)
        target[:] = np.asarray(Image.open(file, formats=("JPEG",))).reshape(image.shape)
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def _affine_points(batch: int, height: int, width: int, reach: float, rng: np.random.Generator) -> Tensor:
    """(2, batch, H, W): where each pixel's value comes from, x before y.

    The map takes three points about the centre to places at most `reach` away along either axis.
    """
    centre, arm = np.array([width // 2, height // 2]), min(height, width) // 3
    before = centre + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    after = before + rng.uniform(-reach, reach, size=(batch, 3, 2))
    back = np.linalg.solve(np.concatenate([after, np.ones((batch, 3, 1))], axis=2), before)
    along_x, along_y, constant = torch.from_numpy(back.astype(np.float32)).permute(1, 2, 0)[..., None, None]
    points: Tensor = along_x * torch.arange(width) + along_y * torch.arange(height)[:, None] + constant
    return points


def _sampled(x: Tensor, points: Tensor, *, border_repeats: bool) -> Tensor:
    """x at points (2, B, H, W) in pixels, linearly interpolated; mirrored, with the border pixels twice or once."""
    height, width = x.shape[-2:]
    size = torch.tensor([width, height]).view(2, 1, 1, 1)
    normalized = (2 * points + 1) / size - 1 if border_repeats else 2 * points / (size - 1) - 1
    return F.grid_sample(
        x,
        normalized.permute(1, 2, 3, 0),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=not border_repeats,
    )


def _box_width(planes: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """(n, H, W) resized to another width: Pillow resizes one axis after the other, so that all rows can go at once."""
    from PIL import Image

    count, height, _ = planes.shape
    rows = Image.fromarray(np.ascontiguousarray(planes).reshape(count * height, -1))
    resized = rows.resize((width, count * height), Image.Resampling.BOX)
    return np.asarray(resized).reshape(count, height, width)
