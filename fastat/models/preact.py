"""Pre-activation residual blocks (He et al. 2016, "Identity Mappings in Deep Residual Networks", figure 1b)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PreActBlock(nn.Module):
    """x -> shortcut(x) + conv(relu(bn(conv(relu(bn(x)))))), 3x3 convolutions.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input, else the identity on x.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, channels, H / stride, W / stride]."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        residual = self.conv1(activated)
        return shortcut + self.conv2(F.relu(self.bn2(residual)))


class PreActBottleneck(nn.Module):
    """The block of the deeper networks: 1x1, 3x3 and 1x1 convolutions, the first two with a quarter of the channels."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        inner = channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.shortcut = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, channels, H / stride, W / stride]."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        residual = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return shortcut + self.conv3(F.relu(self.bn3(residual)))


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Module | None:
    """A 1x1 convolution where the shape changes; None where it does not."""
    if stride == 1 and in_channels == channels:
        return None
    return nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)


def stage(
    in_channels: int,
    channels: int,
    blocks: int,
    stride: int,
    block: type[PreActBlock] | type[PreActBottleneck] = PreActBlock,
) -> nn.Sequential:
    """A row of blocks of equal width; the first one changes the shape."""
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels, channels, 1) for _ in range(blocks - 1)))


def initialize(network: nn.Module) -> nn.Module:
    """He-normal convolutions (fan out) and a zero bias in the linear layer, in place; draws from torch's generator."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return network
