"""Wide residual networks (Zagoruyko and Komodakis 2016).

Modules have the names that they have in RobustBench and in the code of TRADES, and the function is theirs: weights
from there load. Those of TRADES and of networks after it hold a stage "sub_block1" that no forward pass uses; it is
left out.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from fastat.models.preact import BasicBlock, PreActNetwork, initialize, row_of_blocks, shortcut_convolution


def wide_resnet_28_10(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """WRN-28-10, 36.5 million parameters for ten classes. See :class:`WideResNet`."""
    return WideResNet(28, 10, num_classes, in_channels)


def wide_resnet_34_10(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """WRN-34-10, 46.2 million parameters for ten classes. See :class:`WideResNet`."""
    return WideResNet(34, 10, num_classes, in_channels)


def wide_resnet_34_20(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """WRN-34-20, 184.5 million parameters for ten classes. See :class:`WideResNet`."""
    return WideResNet(34, 20, num_classes, in_channels)


class WideBlock(BasicBlock):
    """The block of wide residual networks."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.convShortcut = shortcut_convolution(in_channels, channels, stride)

    def changed(self, activated: Tensor) -> Tensor | None:
        """See :class:`fastat.models.preact.BasicBlock`."""
        return None if self.convShortcut is None else self.convShortcut(activated)


class WideStage(nn.Module):
    """A row of blocks, the first of which changes the shape."""

    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = row_of_blocks(in_channels, channels, blocks, stride, WideBlock)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, channels, H / stride, W / stride]."""
        changed: Tensor = self.layer(x)
        return changed


class WideResNet(PreActNetwork):
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

    stages = ("conv1", "block1", "block2", "block3")
    head = ("bn1", "fc")
    first_names: ClassVar = {
        "0": "conv1", "1": "block1.layer", "2": "block2.layer", "3": "block3.layer", "4": "bn1", "8": "fc",
    }  # fmt: skip
    shortcut_weight = "convShortcut.weight"

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

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for key in [key for key in state_dict if key.startswith(f"{prefix}sub_block1.")]:
            del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *rest)
