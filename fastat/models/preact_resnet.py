"""PreAct ResNet-18 for 32x32 images, the network of most adversarial-training papers."""

from __future__ import annotations

from torch import nn

from fastat.models.preact import initialize, stage


def preact_resnet18(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Pre-activation ResNet-18 (He et al. 2016) in its CIFAR form: 3x3 stem, no pooling before the stages.

    Stages of 64, 128, 256, 512 channels with two blocks each, batch norm and ReLU before the global average. 11.17
    million parameters for ten classes. Takes images of any size; each of the last three stages halves it.

    Args:
        num_classes: length of the logits.
        in_channels: channels of the image.
    """
    network = nn.Sequential(
        nn.Conv2d(in_channels, 64, 3, padding=1, bias=False),
        stage(64, 64, blocks=2, stride=1),
        stage(64, 128, blocks=2, stride=2),
        stage(128, 256, blocks=2, stride=2),
        stage(256, 512, blocks=2, stride=2),
        nn.BatchNorm2d(512),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, num_classes),
    )
    return initialize(network)
