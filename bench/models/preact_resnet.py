"""The pre-activation ResNet-18 of the mixup paper's code, which is not the textbook one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PreActBlock(nn.Module):
    """BatchNorm-ReLU-Conv twice, added to a shortcut that starts after the first ReLU.

    The shortcut carries relu(bn1(x)) even where it has no projection; He et al. 2016b carry x itself.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x), inplace=True)
        hidden = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        out: Tensor = self.conv2(self.dropout(hidden)) + self.shortcut(activated)
        return out


class PreActResNet18(nn.Module):
    """Conv-BatchNorm-ReLU stem, four stages of two pre-activation blocks, global average pooling, linear.

    channels: of the images.  width: channels of the first stage; each later stage doubles them and halves
    the resolution.  At width 64 it has 11,171,274 parameters on CIFAR-10.  dropout: the probability, between the two
    convolutions of each block, where the paper's Table 2 has it.

    Wired as `models/resnet.py` in facebookresearch/mixup-cifar10, the code of Zhang et al. 2018: unlike the
    textbook's (He et al. 2016b), its stem has BatchNorm and ReLU, its identity shortcuts start after the
    ReLU, and the last stage is pooled without BatchNorm and ReLU.  Initialised, as there, by PyTorch's
    defaults; those have since changed for BatchNorm, whose scale was drawn from U(0, 1) and now starts at 1.
    """

    def __init__(self, channels: int, num_classes: int, *, width: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(
            _stage(width, width, stride=1, dropout=dropout),
            _stage(width, 2 * width, stride=2, dropout=dropout),
            _stage(2 * width, 4 * width, stride=2, dropout=dropout),
            _stage(4 * width, 8 * width, stride=2, dropout=dropout),
        )
        self.classifier = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stages(self.stem(x))
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


def _stage(in_channels: int, out_channels: int, *, stride: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        PreActBlock(in_channels, out_channels, stride=stride, dropout=dropout),
        PreActBlock(out_channels, out_channels, stride=1, dropout=dropout),
    )
