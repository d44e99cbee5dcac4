"""AugMix's images: a photograph mixed with chains of simple operations on it, for whole batches.

The nine operations do what Pillow does, rounding included, so that an image here is the image of the authors' script.
The random numbers are drawn on the host and are the same on every device.

Source: Hendrycks et al. 2020, arXiv 1912.02781, sec. 3; github.com/google-research/augmix.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MOST = 10
"""The level at which an operation is at its strongest (PARAMETER_MAX in AutoAugment, where the scale comes from)."""

_LEAST = 0.1
"""The lowest level that is drawn."""


class Recipe(NamedTuple):
    """What is drawn for a batch of B images.

    m: (B,) in [0, 1], the weight of the mixed chains; the image itself weighs 1 - m.
    weights: (B, width), those of the chains among themselves; each row sums to 1.
    operations: (depth, width, B), each an index into OPERATIONS, or -1 where the chain has ended.
    levels: (depth, width, B), strengths in [0.1, severity) with a random sign.
    """

    m: NDArray[np.float64]
    weights: NDArray[np.float64]
    operations: NDArray[np.int64]
    levels: NDArray[np.float64]


def augmix(
    pixels: Tensor,
    *,
    rng: np.random.Generator,
    severity: float = 3,
    width: int = 3,
    depth: int | None = None,
    alpha: float = 1.0,
) -> Tensor:
    """(1 - m) * pixels + m * sum_i w_i * chain_i(pixels), with m, w and the chains drawn for each image.

    pixels: (B, C, H, W) uint8, left as they are.  Returns (B, C, H, W) float32 in [0, 255].
    severity: the highest level of an operation, in [0.1, 10]; the authors take 3 for CIFAR and 1 for ImageNet.
    width: the number of chains.  depth: the operations in each; None draws 1, 2 or 3 for each chain.
    alpha: the parameter, positive, of both m ~ Beta(alpha, alpha) and w ~ Dirichlet(alpha, ..., alpha).
    Raises ValueError for a value out of range.
    """
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels are {pixels.dtype}: AugMix works on uint8, before normalisation")
    recipe = draw_recipe(rng, len(pixels), severity=severity, width=width, depth=depth, alpha=alpha)
    return follow(recipe, pixels)


def draw_recipe(
    rng: np.random.Generator, n: int, *, severity: float, width: int, depth: int | None, alpha: float
) -> Recipe:
    """What augmix draws for n images; see there."""
    if not _LEAST <= severity <= _MOST:
        raise ValueError(f"severity is {severity}, which must be in [{_LEAST}, {_MOST}]")
    if width < 1 or (depth is not None and depth < 1):
        raise ValueError(f"width is {width} and depth {depth}: AugMix needs at least one chain of one operation")
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}, which must be positive")
    m = rng.beta(alpha, alpha, n)
    weights = rng.dirichlet([alpha] * width, n)
    depths = rng.integers(1, 4, size=(width, n)) if depth is None else np.full((width, n), depth)
    shape = (3 if depth is None else depth, width, n)
    operations = rng.integers(len(OPERATIONS), size=shape)
    levels = rng.uniform(_LEAST, severity, size=shape) * rng.choice([-1, 1], size=shape)
    ended = np.arange(shape[0])[:, None, None] >= depths
    return Recipe(m, weights, np.where(ended, -1, operations), levels)


def follow(recipe: Recipe, pixels: Tensor) -> Tensor:
    """The mixture that a recipe describes.  pixels: (B, C, H, W) uint8.  Returns float32 in [0, 255]."""
    depth, width, _ = recipe.operations.shape
    chains = pixels.repeat(width, 1, 1, 1)
    for operations, levels in zip(recipe.operations.reshape(depth, -1), recipe.levels.reshape(depth, -1), strict=True):
        chains = _apply(operations, levels, chains)
    shares = np.column_stack([1 - recipe.m, recipe.m[:, None] * recipe.weights])
    own, *others = torch.from_numpy(shares).to(pixels.device, torch.float32)[..., None, None, None].unbind(1)
    mixed = pixels * own
    for chain, share in zip(chains.chunk(width), others, strict=True):
        mixed.addcmul_(chain.to(torch.float32), share)
    return mixed.clamp_(max=255)  # the shares sum to 1 only up to rounding


def _apply(operations: NDArray[np.int64], levels: NDArray[np.float64], images: Tensor) -> Tensor:
    """To each image its operation, or none for -1: sorted by operation, so that each is called once for all of its own.

    operations, levels: (B,).  images: (B, C, H, W) uint8.  Returns the same in the same order.
    """
    order = np.argsort(operations, kind="stable")
    back = np.argsort(order)
    counts = np.bincount(operations + 1, minlength=len(OPERATIONS) + 1)
    unchanged, *groups = _chosen(images, order).split_with_sizes(counts.tolist())
    _, *group_levels = np.split(levels[order], counts.cumsum()[:-1])
    changed = [
        operation(group, own_levels)
        for operation, group, own_levels in zip(OPERATIONS.values(), groups, group_levels, strict=True)
        if len(group)
    ]
    return _chosen(torch.cat([unchanged, *changed]), back)


def _chosen(images: Tensor, index: NDArray[np.int64]) -> Tensor:
    return images.index_select(0, torch.from_numpy(index).to(images.device, non_blocking=True))


def autocontrast(images: Tensor) -> Tensor:
    """Stretch the values of each channel to the whole of [0, 255]; a channel of one value stays.

    images: (B, C, H, W) uint8.  Returns the same.  Source: PIL.ImageOps.autocontrast without cutoff.
    """
    low, high = (extreme.to(torch.float64) for extreme in images.flatten(2).aminmax(dim=2))
    constant = low == high
    # In double precision and in this order, because a sum just below a whole number is truncated to the one below it.
    # Divided by a tensor: a number divided by one is computed as its product with the reciprocal, which rounds twice.
    white = torch.full_like(low, 255)
    scale = white / torch.where(constant, white, high - low)
    offset = torch.where(constant, 0, -low * scale)
    return images.to(torch.float64).mul_(scale[..., None, None]).add_(offset[..., None, None]).to(torch.uint8)


def equalize(images: Tensor) -> Tensor:
    """Spread the values of each channel so that they are about equally frequent; a channel of one value stays.

    images: (B, C, H, W) uint8.  Returns the same.  As in Pillow, whose steps are whole numbers of pixels, a channel
    stays also where fewer than 255 pixels are darker than its brightest value.  Source: PIL.ImageOps.equalize.
    """
    batch, channels, height, width = images.shape
    values = images.flatten(2).to(torch.int64)
    rows = torch.arange(batch * channels, device=images.device).view(batch, channels, 1)
    # One dimension: there scatter_add_ has a deterministic version on a GPU.
    histogram = torch.zeros(batch * channels * 256, dtype=torch.int64, device=images.device)
    places = (values + 256 * rows).flatten()
    histogram = histogram.scatter_add_(0, places, torch.ones_like(places)).view(batch, channels, 256)
    brightest = histogram.gather(2, values.amax(2, keepdim=True))
    step = (height * width - brightest) // 255
    darker = histogram.cumsum(2) - histogram
    table = ((darker + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return table.to(torch.uint8).gather(2, values).view_as(images)


def posterize(images: Tensor, bits: NDArray[np.integer]) -> Tensor:
    """Keep only the highest bits of each value.

    images: (B, C, H, W) uint8.  bits: (B,) in [1, 8].  Returns like images.  Source: PIL.ImageOps.posterize.
    """
    return images & _per_image((256 - 2 ** (8 - bits)).astype(np.uint8), images)


def solarize(images: Tensor, threshold: NDArray[np.integer]) -> Tensor:
    """Invert the values from a threshold on.

    images: (B, C, H, W) uint8.  threshold: (B,) in [0, 256].  Returns like images.  Source: PIL.ImageOps.solarize.
    """
    inverted = images.to(torch.int16) >= _per_image(threshold.astype(np.int16), images)
    return images ^ inverted.to(torch.uint8).mul_(255)


def translate_x(images: Tensor, pixels: NDArray[np.integer]) -> Tensor:
    """Move to the left by whole pixels, or to the right where they are negative; black comes in.

    images: (B, C, H, W) uint8.  pixels: (B,).  Returns like images.
    Source: PIL.Image.transform with the affine map (1, 0, pixels, 0, 1, 0).
    """
    width = images.shape[3]
    columns = torch.arange(width, device=images.device) + _per_image(pixels.astype(np.int64), images)
    moved = images.gather(3, columns.clamp(0, width - 1).expand_as(images))
    return moved.mul_((columns >= 0) & (columns < width))


def translate_y(images: Tensor, pixels: NDArray[np.integer]) -> Tensor:
    """Move up by whole pixels, or down where they are negative; black comes in.

    images: (B, C, H, W) uint8.  pixels: (B,).  Returns like images.
    Source: PIL.Image.transform with the affine map (1, 0, 0, 0, 1, pixels).
    """
    return translate_x(images.transpose(2, 3), pixels).transpose(2, 3)


def shear_x(images: Tensor, factor: NDArray[np.float64]) -> Tensor:
    """Shift each row by factor times its distance from the upper border, to the left where factor is positive.

    images: (B, C, H, W) uint8.  factor: (B,).  Returns like images: bilinear, truncated, black from outside.
    Source: PIL.Image.transform with the affine map (1, factor, 0, 0, 1, 0).
    """
    height, width = images.shape[2:]
    x = _centres(width, images) + _per_image(factor, images) * _centres(height, images)[:, None]
    inside = (x >= 0) & (x < width)
    left, right, part = _neighbours(x, width)
    between = _between(images.gather(3, left.expand_as(images)), images.gather(3, right.expand_as(images)), part)
    return between.to(torch.uint8).mul_(inside)


def shear_y(images: Tensor, factor: NDArray[np.float64]) -> Tensor:
    """Shift each column by factor times its distance from the left border, upwards where factor is positive.

    images: (B, C, H, W) uint8.  factor: (B,).  Returns like images: bilinear, truncated, black from outside.
    Source: PIL.Image.transform with the affine map (1, 0, 0, factor, 1, 0).
    """
    return shear_x(images.transpose(2, 3), factor).transpose(2, 3)


def rotate(images: Tensor, degrees: NDArray[np.number]) -> Tensor:
    """Rotate counterclockwise, as seen, about the centre of the image.

    images: (B, C, H, W) uint8.  degrees: (B,).  Returns like images: bilinear, truncated, black from outside.
    Source: PIL.Image.rotate.
    """
    height, width = images.shape[2:]
    # Pillow's matrix to the last bit: where a source position is a whole number, the last bit decides.
    angles = [-math.radians(angle % 360) for angle in degrees.tolist()]
    cosines = np.array([round(math.cos(angle), 15) for angle in angles])
    sines = np.array([round(math.sin(angle), 15) for angle in angles])
    x_shifts = cosines * (-width / 2) + sines * (-height / 2) + width / 2
    y_shifts = -sines * (-width / 2) + cosines * (-height / 2) + height / 2
    cos, sin, x_shift, y_shift = (_per_image(values, images) for values in (cosines, sines, x_shifts, y_shifts))
    column, row = _centres(width, images), _centres(height, images)[:, None]
    x = cos * column + sin * row + x_shift
    y = -sin * column + cos * row + y_shift
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    left, right, x_part = _neighbours(x, width)
    upper, lower, y_part = _neighbours(y, height)

    flat = images.flatten(2)

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        return flat.gather(2, (rows * width + columns).flatten(2).expand_as(flat)).view_as(images)

    above = _between(at(upper, left), at(upper, right), x_part)
    below = _between(at(lower, left), at(lower, right), x_part)
    return _between(above, below, y_part).to(torch.uint8).mul_(inside)


def _per_image(values: NDArray[np.generic], images: Tensor) -> Tensor:
    """(B,) on the host to (B, 1, 1, 1) on the device of the images."""
    return torch.from_numpy(values).to(images.device, non_blocking=True).view(-1, 1, 1, 1)


def _centres(side: int, images: Tensor) -> Tensor:
    """Where the pixels of a side have their centres: 0.5, 1.5, ..."""
    return torch.arange(side, dtype=torch.float64, device=images.device) + 0.5


def _neighbours(positions: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels whose centres are before and after each position, int64, and how far it is from one to the other.

    Beyond the outermost centres the outermost pixel is both.
    """
    positions = positions - 0.5
    before = positions.floor()
    part = positions - before
    index = before.to(torch.int64)
    return index.clamp(0, side - 1), (index + 1).clamp_(0, side - 1), part


def _between(a: Tensor, b: Tensor, part: Tensor) -> Tensor:
    """a + (b - a) * part in double precision, rounded after each step as in Pillow, unlike torch.lerp."""
    # Converted first: torch takes four times as long for operands of different types.
    a, b = a.to(torch.float64), b.to(torch.float64)
    return b.sub_(a).mul_(part).add_(a)


def _whole(levels: NDArray[np.float64], most: float) -> NDArray[np.int64]:
    """The share of `most` that a level stands for, truncated to a whole number."""
    return (levels * most / _MOST).astype(np.int64)


OPERATIONS: dict[str, Callable[[Tensor, NDArray[np.float64]], Tensor]] = {
    "autocontrast": lambda images, _: autocontrast(images),
    "equalize": lambda images, _: equalize(images),
    "posterize": lambda images, levels: posterize(images, 4 - _whole(abs(levels), 4)),
    "rotate": lambda images, levels: rotate(images, _whole(levels, 30)),
    "solarize": lambda images, levels: solarize(images, 256 - _whole(abs(levels), 256)),
    "shear_x": lambda images, levels: shear_x(images, levels * 0.3 / _MOST),
    "shear_y": lambda images, levels: shear_y(images, levels * 0.3 / _MOST),
    "translate_x": lambda images, levels: translate_x(images, _whole(levels, images.shape[3] / 3)),
    "translate_y": lambda images, levels: translate_y(images, _whole(levels, images.shape[2] / 3)),
}
"""The operations at a signed level for each image, with the authors' magnitudes; those without a direction ignore the
sign.  They leave out what resembles the corruptions of ImageNet-C."""
