"""PreAct ResNets for 32x32 images; the one of 18 layers is the network of most adversarial-training papers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fastat.models.preact import PreActBlock, PreActBottleneck, initialize, stage


def preact_resnet18(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """11.17 million parameters for ten classes. See :func:`preact_resnet`."""
    return preact_resnet((2, 2, 2, 2), PreActBlock, (64, 128, 256, 512), num_classes, in_channels)


def preact_resnet34(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """21.28 million parameters for ten classes. See :func:`preact_resnet`."""
    return preact_resnet((3, 4, 6, 3), PreActBlock, (64, 128, 256, 512), num_classes, in_channels)


def preact_resnet50(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """23.51 million parameters for ten classes, blocks of three convolutions. See :func:`preact_resnet`."""
    return preact_resnet((3, 4, 6, 3), PreActBottleneck, (256, 512, 1024, 2048), num_classes, in_channels)


def preact_resnet(
    blocks: Sequence[int],
    block: type[PreActBlock] | type[PreActBottleneck],
    channels: Sequence[int],
    num_classes: int,
    in_channels: int,
) -> nn.Module:
    """Pre-activation ResNet (He et al. 2016) in its CIFAR form: 3x3 stem, no pooling before the stages.

    Batch norm and ReLU before the global average. Takes images of any size; each of the last three stages halves it.

    Args:
        blocks: number of blocks of each of the four stages.
        block: their kind.
        channels: width of each stage.
        num_classes: length of the logits.
        in_channels: channels of the image.
    """
    widths = (64, *channels)
    stages = [
        stage(widths[i], widths[i + 1], number, stride=1 if i == 0 else 2, block=block)
        for i, number in enumerate(blocks)
    ]
    network = nn.Sequential(
        nn.Conv2d(in_channels, 64, 3, padding=1, bias=False),
        *stages,
        nn.BatchNorm2d(channels[-1]),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels[-1], num_classes),
    )
    return initialize(network)
