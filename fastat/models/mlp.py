"""A fully connected network: no batch norm, no convolution."""

from __future__ import annotations

from torch import nn


def mlp(num_classes: int = 10, inputs: int = 784, width: int = 256) -> nn.Module:
    """Two hidden layers with ReLU.

    Args:
        num_classes: length of the logits.
        inputs: numbers in an image, C H W.
        width: units of each hidden layer.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width),
        nn.ReLU(inplace=True),
        nn.Linear(width, num_classes),
    )
