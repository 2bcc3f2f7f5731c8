"""PreAct ResNets for 32x32 images; the one of 18 layers is the network of most adversarial-training papers.

Modules have the names of RobustBench's PreActResNet, and the function is that of its second block (the shortcut takes
the activated input) with the batch norm before the linear layer: such weights load. Those of its first block, which
Wong et al. (2020) use, lack the batch norm "bn" and are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from fastat.models.preact import PreActBlock, PreActBottleneck, PreActNetwork, initialize, row_of_blocks


def preact_resnet18(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """11.17 million parameters for ten classes. See :class:`PreActResNet`."""
    return PreActResNet((2, 2, 2, 2), PreActBlock, (64, 128, 256, 512), num_classes, in_channels)


def preact_resnet34(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """21.28 million parameters for ten classes. See :class:`PreActResNet`."""
    return PreActResNet((3, 4, 6, 3), PreActBlock, (64, 128, 256, 512), num_classes, in_channels)


def preact_resnet50(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """23.51 million parameters for ten classes, blocks of three convolutions. See :class:`PreActResNet`."""
    return PreActResNet((3, 4, 6, 3), PreActBottleneck, (256, 512, 1024, 2048), num_classes, in_channels)


class PreActResNet(PreActNetwork):
    """Pre-activation ResNet (He et al. 2016) in its CIFAR form: 3x3 stem, no pooling before the stages.

    Batch norm and ReLU before the global average. Takes images of any size; each of the last three stages halves it.

    Args:
        blocks: number of blocks of each of the four stages.
        block: their kind.
        channels: width of each stage.
        num_classes: length of the logits.
        in_channels: channels of the image.
    """

    stages = ("conv1", "layer1", "layer2", "layer3", "layer4")
    head = ("bn", "linear")
    first_names: ClassVar = {
        "0": "conv1", "1": "layer1", "2": "layer2", "3": "layer3", "4": "layer4", "5": "bn", "9": "linear",
    }  # fmt: skip
    shortcut_weight = "shortcut.0.weight"

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
        layers = [
            row_of_blocks(widths[i], widths[i + 1], number, 1 if i == 0 else 2, block)
            for i, number in enumerate(blocks)
        ]  # made before the stem, as ever: a seed gives the same weights
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.bn = nn.BatchNorm2d(channels[-1])
        self.linear = nn.Linear(channels[-1], num_classes)
        initialize(self)
