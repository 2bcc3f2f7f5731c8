"""Pre-activation residual blocks (He et al. 2016, "Identity Mappings in Deep Residual Networks", figure 1b)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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


def shortcut_convolution(in_channels: int, channels: int, stride: int) -> nn.Module | None:
    """A 1x1 convolution where the shape changes; None where it does not."""
    if stride == 1 and in_channels == channels:
        return None
    return nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Module | None:
    convolution = shortcut_convolution(in_channels, channels, stride)
    return None if convolution is None else nn.Sequential(convolution)


def stage(
    in_channels: int, channels: int, blocks: int, stride: int, block: Callable[[int, int, int], nn.Module]
) -> nn.Sequential:
    """A row of blocks of equal width; the first one changes the shape."""
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels, channels, 1) for _ in range(blocks - 1)))


def initialize(network: nn.Module) -> None:
    """He-normal convolutions (fan out) and a zero bias in the linear layer, in place; draws from torch's generator."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def rename(state: dict[str, Any], prefix: str, new_names: Mapping[str, str]) -> None:
    """Gives the entries of a state dict, in place, the names that a network's modules have today.

    Args:
        prefix: of the network's own entries.
        new_names: the beginning of a name, up to a dot, by what it was before.
    """
    for key in [key for key in state if key.startswith(prefix)]:
        first, _, rest = key[len(prefix) :].partition(".")
        if first in new_names:
            state[f"{prefix}{new_names[first]}.{rest}"] = state.pop(key)
