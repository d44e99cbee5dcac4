"""How thickly a liquid covers each pixel: water with its glints, and mud.

Water takes four operations of OpenCV, done here for a whole batch: Canny's edges, the 5 x 5 chamfer distance, histogram
equalisation, and 8-bit filters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.corruptions import filters
from bench.data.corruptions.pixels import truncated

# Canny's thresholds on the sum of the absolute Sobel derivatives.
_LOW, _HIGH = 50, 150
# tan(22.5 degrees) in OpenCV's 15-bit fixed point.
_TAN_22 = 13573
# The chamfer distance's steps: along an axis, along a diagonal, and a knight's move.
_STEPS = {(0, 1): 1.0, (1, 1): 1.4, (1, 2): 2.1969}
_FAR = 20.0
_GLINT = torch.tensor([[-2.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [0.0, 1.0, 2.0]]).view(1, 1, 3, 3)


def mud_layer(layer: Tensor, *, threshold: float, sigma: float) -> Tensor:
    """(B, 1, H, W) in [0, 1]: where the layer exceeds the threshold, blurred, and only where that leaves 0.8."""
    cover = filters.gaussian_blur((layer > threshold).to(torch.float32), sigma)
    return cover.masked_fill_(cover < 0.8, 0)


def water_layer(layer: Tensor, *, threshold: float) -> Tensor:
    """(B, 1, H, W) in [0, 1], each image's largest 1: the layer above the threshold times its glints.

    0 everywhere where nothing exceeds the threshold; the authors' script would divide 0 by 0.
    """
    liquid = truncated(layer.masked_fill(layer < threshold, 0)).to(torch.float32)
    distance = _chamfer_distance(canny_edges(liquid))
    distance = (_box_sum(distance) / 9 + 1e-4).floor()
    glints = F.conv2d(_mirrored(_equalized(distance)), _GLINT).clamp(0, 255)
    wet = liquid * (_box_sum(glints) / 9).round()
    return wet / wet.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)


def canny_edges(images: Tensor) -> Tensor:
    """Canny's edges, as OpenCV finds them with aperture 3 and the L1 norm: (B, 1, H, W) whole numbers to booleans."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate").to(torch.int32)
    down = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    dx, dy = down[..., 2:] - down[..., :-2], across[..., 2:, :] - across[..., :-2, :]
    height, width = dx.shape[-2:]
    size = dx.abs() + dy.abs()
    around = F.pad(size, (1, 1, 1, 1))

    def neighbour(down: int, right: int) -> Tensor:
        return around[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    tan_22 = dx.abs() * _TAN_22
    rise = dy.abs() << 15
    horizontal, vertical = rise < tan_22, rise > tan_22 + (dx.abs() << 16)
    falling = (dx ^ dy) >= 0
    peak = torch.where(
        horizontal,
        (size > neighbour(0, -1)) & (size >= neighbour(0, 1)),
        torch.where(
            vertical,
            (size > neighbour(-1, 0)) & (size >= neighbour(1, 0)),
            torch.where(
                falling,
                (size > neighbour(-1, -1)) & (size > neighbour(1, 1)),
                (size > neighbour(-1, 1)) & (size > neighbour(1, -1)),
            ),
        ),
    )
    weak = (peak & (size > _LOW)).to(torch.float32)
    edges = (peak & (size > _HIGH)).to(torch.float32)
    while True:
        grown = torch.minimum(F.max_pool2d(edges, 3, stride=1, padding=1), weak)
        if torch.equal(grown, edges):
            return edges > 0
        edges = grown


def _chamfer_distance(edges: Tensor) -> Tensor:
    """The distance to the nearest edge, at most 20, over steps to the 16 nearest neighbours.

    Source: Borgefors 1986, with the lengths of OpenCV's distanceTransform (DIST_L2, 5 x 5).
    """
    height, width = edges.shape[-2:]
    distance = torch.where(edges, 0.0, _FAR)
    while True:
        padded = F.pad(distance, (2, 2, 2, 2), value=_FAR)
        nearer = distance
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                length = _STEPS.get((min(abs(dy), abs(dx)), max(abs(dy), abs(dx))))
                if length is not None:
                    from_there = padded[..., 2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width] + length
                    nearer = torch.minimum(nearer, from_there)
        if torch.equal(nearer, distance):
            return distance
        distance = nearer


def _equalized(images: Tensor) -> Tensor:
    """Histogram equalisation of each image, whole numbers 0..255: the darkest becomes 0, the brightest 255."""
    batch, pixels = len(images), images[0].numel()
    values = images.view(batch, pixels).to(torch.int64)
    counts = torch.zeros(batch, 256, dtype=torch.int64)
    counts.scatter_add_(1, values, torch.ones_like(values))
    darkest = values.amin(dim=1, keepdim=True)
    num_darkest = counts.gather(1, darkest)
    flat = num_darkest == pixels
    scale = 255 / (pixels - num_darkest).clamp(min=1).to(torch.float32)
    table = ((counts.cumsum(dim=1) - num_darkest) * scale).round()
    return torch.where(flat, darkest, table.gather(1, values)).view_as(images)


def _box_sum(images: Tensor) -> Tensor:
    return F.avg_pool2d(_mirrored(images), 3, stride=1, divisor_override=1)


def _mirrored(images: Tensor) -> Tensor:
    return F.pad(images, (1, 1, 1, 1), mode="reflect")
