"""A network that is small enough to be trained hundreds of times on a CPU."""

from __future__ import annotations

from torch import nn


def small_mlp(num_classes: int = 10, in_features: int = 64, width: int = 256) -> nn.Module:
    """One hidden layer of ReLUs on the flattened pixels; no state but its weights.

    On 70% of the digits it reaches 97 to 98% test accuracy; a small convolutional network without batch norm costs
    three times as much and does no better.

    Args:
        num_classes: length of the logits.
        in_features: C * H * W of the images; 64 for digits.
        width: hidden units.
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, num_classes))
