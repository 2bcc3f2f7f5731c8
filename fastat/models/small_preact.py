"""A PreAct ResNet that is small enough to be trained for digits on a CPU."""

from __future__ import annotations

from torch import nn

from fastat.models.preact import initialize, stage


def small_preact(num_classes: int = 10, in_channels: int = 1, width: int = 16) -> nn.Module:
    """PreAct ResNet-14: three stages of two blocks at full, half and quarter resolution; 174,778 parameters on digits.

    The PreAct ResNet-18 of :func:`fastat.models.preact_resnet18` without its last stage, and narrower. Takes images of
    any size.

    Args:
        num_classes: length of the logits.
        in_channels: channels of the image.
        width: channels of the stem and the first stage; the others have two and four times as many.
    """
    network = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        stage(width, width, blocks=2, stride=1),
        stage(width, 2 * width, blocks=2, stride=2),
        stage(2 * width, 4 * width, blocks=2, stride=2),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )
    return initialize(network)
