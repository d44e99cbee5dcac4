"""LeNet-5 as it is built today."""

from __future__ import annotations

from torch import nn


def lenet(input_shape: tuple[int, int, int], num_classes: int, *, dropout: float) -> nn.Sequential:
    """The layout of LeNet-5 (LeCun et al. 1998), with ReLU and max-pooling; PyTorch's default initialisation.

    The original sees MNIST padded to 32x32; so an image with a side below 32 is padded by 2 in the first
    convolution: 61,706 parameters at 28x28 grey, 62,006 at 32x32 colour.  Raises ValueError below 28x28.
    dropout: the probability, after each of the two hidden fully connected layers.
    """
    channels, height, width = input_shape
    if min(height, width) < 28:
        raise ValueError(f"lenet needs images of at least 28x28 pixels, these have {height}x{width}; try mlp")
    padding = 2 if min(height, width) < 32 else 0

    def side_after(side: int) -> int:
        return ((side + 2 * padding - 4) // 2 - 4) // 2

    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=padding),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * side_after(height) * side_after(width), 120),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(120, 84),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(84, num_classes),
    )
