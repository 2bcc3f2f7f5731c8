"""Wide residual networks (Zagoruyko and Komodakis 2016).

Modules have the names that they have in RobustBench and in the code of TRADES, so that weights load by name.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastat.models.preact import initialize, rename, shortcut_convolution, stage


def wide_resnet_28_10(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """WRN-28-10, 36.5 million parameters for ten classes. See :class:`WideResNet`."""
    return WideResNet(28, 10, num_classes, in_channels)


def wide_resnet_34_10(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """WRN-34-10, 46.2 million parameters for ten classes. See :class:`WideResNet`."""
    return WideResNet(34, 10, num_classes, in_channels)


def wide_resnet_34_20(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """WRN-34-20, 184.5 million parameters for ten classes. See :class:`WideResNet`."""
    return WideResNet(34, 20, num_classes, in_channels)


_OLD_NAMES = {"0": "conv1", **{str(i): f"block{i}.layer" for i in range(1, 4)}, "4": "bn1", "8": "fc"}
"""What run folders of the first versions call the modules."""


class WideBlock(nn.Module):
    """x -> shortcut(x) + conv(relu(bn(conv(relu(bn(x)))))), as :class:`fastat.models.preact.PreActBlock`."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.convShortcut = shortcut_convolution(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, channels, H / stride, W / stride]."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        residual = self.conv1(activated)
        return shortcut + self.conv2(F.relu(self.bn2(residual)))


class WideStage(nn.Module):
    """A row of blocks, the first of which changes the shape."""

    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = stage(in_channels, channels, blocks, stride, WideBlock)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, channels, H / stride, W / stride]."""
        changed: Tensor = self.layer(x)
        return changed


class WideResNet(nn.Module):
    """WRN-depth-widen of Zagoruyko and Komodakis (2016, table 1), without dropout.

    Three stages of 16, 32, 64 times ``widen`` channels with (depth - 4) / 6 pre-activation blocks each.

    Args:
        depth: 6 n + 4 for n blocks a stage.
        widen: widening factor k.
        num_classes: length of the logits.
        in_channels: channels of the image.

    Raises:
        ValueError: depth is not 6 n + 4 with n >= 1.
    """

    def __init__(self, depth: int, widen: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6 n + 4 with n >= 1, got {depth}")
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1 = WideStage(16, 16 * widen, blocks, stride=1)
        self.block2 = WideStage(16 * widen, 32 * widen, blocks, stride=2)
        self.block3 = WideStage(32 * widen, 64 * widen, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> logits [B, num_classes]."""
        for layer in (self.conv1, self.block1, self.block2, self.block3):
            x = layer(x)
        x = F.adaptive_avg_pool2d(F.relu(self.bn1(x), inplace=True), 1)
        logits: Tensor = self.fc(x.flatten(1))
        return logits

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        rename(state_dict, prefix, _OLD_NAMES)
        for key in [key for key in state_dict if key.startswith(prefix) and key.endswith(".shortcut.weight")]:
            state_dict[key.removesuffix("shortcut.weight") + "convShortcut.weight"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *rest)
