"""PreAct ResNets for 32x32 images; the one of 18 layers is the network of most adversarial-training papers.

Modules have the names that they have in RobustBench and in the code of most papers, so that weights load by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastat.models.preact import PreActBlock, PreActBottleneck, initialize, rename, stage


def preact_resnet18(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """11.17 million parameters for ten classes. See :class:`PreActResNet`."""
    return PreActResNet((2, 2, 2, 2), PreActBlock, (64, 128, 256, 512), num_classes, in_channels)


def preact_resnet34(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """21.28 million parameters for ten classes. See :class:`PreActResNet`."""
    return PreActResNet((3, 4, 6, 3), PreActBlock, (64, 128, 256, 512), num_classes, in_channels)


def preact_resnet50(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """23.51 million parameters for ten classes, blocks of three convolutions. See :class:`PreActResNet`."""
    return PreActResNet((3, 4, 6, 3), PreActBottleneck, (256, 512, 1024, 2048), num_classes, in_channels)


_OLD_NAMES = {"0": "conv1", **{str(i): f"layer{i}" for i in range(1, 5)}, "5": "bn", "9": "linear"}
"""What run folders of the first versions call the modules."""


class PreActResNet(nn.Module):
    """Pre-activation ResNet (He et al. 2016) in its CIFAR form: 3x3 stem, no pooling before the stages.

    Batch norm and ReLU before the global average. Takes images of any size; each of the last three stages halves it.

    Args:
        blocks: number of blocks of each of the four stages.
        block: their kind.
        channels: width of each stage.
        num_classes: length of the logits.
        in_channels: channels of the image.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        block: type[PreActBlock] | type[PreActBottleneck],
        channels: Sequence[int],
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        widths = (64, *channels)
        stages = [
            stage(widths[i], widths[i + 1], number, 1 if i == 0 else 2, block) for i, number in enumerate(blocks)
        ]  # made before the stem, as ever: a seed gives the same weights
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn = nn.BatchNorm2d(channels[-1])
        self.linear = nn.Linear(channels[-1], num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> logits [B, num_classes]."""
        for layer in (self.conv1, self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        x = F.adaptive_avg_pool2d(F.relu(self.bn(x), inplace=True), 1)
        logits: Tensor = self.linear(x.flatten(1))
        return logits

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        rename(state_dict, prefix, _OLD_NAMES)
        for key in [key for key in state_dict if key.startswith(prefix) and key.endswith(".shortcut.weight")]:
            state_dict[key.removesuffix("weight") + "0.weight"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *rest)
