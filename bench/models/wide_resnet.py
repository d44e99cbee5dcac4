"""Wide residual networks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class WideBlock(nn.Module):
    """BatchNorm-ReLU-Conv twice, dropout before the second convolution, added to the block's input.

    Where the number of channels changes, a 1x1 convolution of the first ReLU's output takes the input's place.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.projection = None
        if in_channels != out_channels:
            self.projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x), inplace=True)
        shortcut = x if self.projection is None else self.projection(activated)
        hidden = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        out: Tensor = self.conv2(self.dropout(hidden)) + shortcut
        return out


class WideResNet(nn.Module):
    """WRN-depth-widen_factor of Zagoruyko and Komodakis 2016: WRN-28-10 has 36.5 M parameters.

    channels: of the images.  depth: 6n + 4, for n blocks in each of three stages.  dropout: the probability
    of dropping inside each block.  Raises ValueError for another depth.

    Initialised as in szagoruyko/wide-residual-networks (Lua): convolutions from N(0, 2 / (k^2 out_channels)),
    the classifier's bias 0 and its weights PyTorch's default.  BatchNorm scales start at 1, PyTorch's default
    today; Torch 7 drew them from U(0, 1).
    """

    def __init__(self, channels: int, num_classes: int, *, depth: int, widen_factor: int, dropout: float) -> None:
        super().__init__()
        num_blocks, remainder = divmod(depth - 4, 6)
        if remainder or num_blocks < 1:
            raise ValueError(f"depth = {depth}: a wide ResNet has depth 6n + 4: 10, 16, 22, 28, 34, 40, ...")
        width = 16 * widen_factor
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.stages = nn.Sequential(
            _stage(16, width, num_blocks=num_blocks, stride=1, dropout=dropout),
            _stage(width, 2 * width, num_blocks=num_blocks, stride=2, dropout=dropout),
            _stage(2 * width, 4 * width, num_blocks=num_blocks, stride=2, dropout=dropout),
        )
        self.bn = nn.BatchNorm2d(4 * width)
        self.classifier = nn.Linear(4 * width, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        features = F.relu(self.bn(self.stages(self.stem(x))), inplace=True)
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


def _stage(in_channels: int, out_channels: int, *, num_blocks: int, stride: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        WideBlock(in_channels, out_channels, stride=stride, dropout=dropout),
        *(WideBlock(out_channels, out_channels, stride=1, dropout=dropout) for _ in range(num_blocks - 1)),
    )
