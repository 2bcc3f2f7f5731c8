"""Wide residual networks (Zagoruyko and Komodakis 2016)."""

from __future__ import annotations

from torch import nn

from fastat.models.preact import initialize, stage


def wide_resnet_28_10(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """WRN-28-10, 36.5 million parameters for ten classes. See :func:`wide_resnet`."""
    return wide_resnet(28, 10, num_classes, in_channels)


def wide_resnet_34_10(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """WRN-34-10, 46.2 million parameters for ten classes. See :func:`wide_resnet`."""
    return wide_resnet(34, 10, num_classes, in_channels)


def wide_resnet_34_20(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """WRN-34-20, 184.5 million parameters for ten classes. See :func:`wide_resnet`."""
    return wide_resnet(34, 20, num_classes, in_channels)


def wide_resnet(depth: int, widen: int, num_classes: int, in_channels: int) -> nn.Module:
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
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth must be 6 n + 4 with n >= 1, got {depth}")
    network = nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, padding=1, bias=False),
        stage(16, 16 * widen, blocks, stride=1),
        stage(16 * widen, 32 * widen, blocks, stride=2),
        stage(32 * widen, 64 * widen, blocks, stride=2),
        nn.BatchNorm2d(64 * widen),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64 * widen, num_classes),
    )
    return initialize(network)
