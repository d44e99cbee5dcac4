"""A multi-layer perceptron on the flattened pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(input_shape: tuple[int, int, int], num_classes: int, *, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers with ReLU between them, and after it dropout; PyTorch's default initialisation.

    hidden: the width of each hidden layer.  With (128, 64) on 28x28 grey images this is the 784-128-64-10
    network of mixup tutorials, 109,386 parameters.
    """
    if any(width < 1 for width in hidden):
        raise ValueError(f"hidden = {list(hidden)}: every hidden layer needs at least one unit")
    widths = [math.prod(input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))
