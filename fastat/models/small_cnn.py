"""A small convolutional network for digits, MNIST and quick runs on colour images."""

from __future__ import annotations

from torch import nn


def small_cnn(num_classes: int = 10, in_channels: int = 1, width: int = 32) -> nn.Module:
    """Three stages of two 3x3 convolutions at full, half and quarter resolution, for images of 4x4 pixels and more.

    The last stage is averaged over a 2x2 grid rather than over the whole image: strokes keep their rough position, and
    the number of parameters does not depend on the image size.

    Args:
        num_classes: length of the logits.
        in_channels: channels of the image.
        width: channels of the first stage; the others have two and four times as many.
    """
    return nn.Sequential(
        _stage(in_channels, width, stride=1),
        _stage(width, 2 * width, stride=2),
        _stage(2 * width, 4 * width, stride=2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * width, num_classes),
    )


def _stage(in_channels: int, channels: int, stride: int) -> nn.Module:
    return nn.Sequential(_conv(in_channels, channels, stride), _conv(channels, channels, 1))


def _conv(in_channels: int, channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
