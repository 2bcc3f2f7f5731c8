"""Pre-activation residual blocks (He et al. 2016, "Identity Mappings in Deep Residual Networks", figure 1b)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """x -> shortcut(x) + conv(relu(bn(conv(relu(bn(x)))))), 3x3 convolutions.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input, else the identity on x. What the
    convolution is called is the only difference between kinds of this block.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def changed(self, activated: Tensor) -> Tensor | None:
        """The shortcut's convolution of the activated input; None where there is none."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, channels, H / stride, W / stride]."""
        activated = F.relu(self.bn1(x))
        shortcut = self.changed(activated)
        residual = self.conv1(activated)
        return (x if shortcut is None else shortcut) + self.conv2(F.relu(self.bn2(residual)))


class PreActBlock(BasicBlock):
    """The block of PreAct ResNets."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.shortcut = _shortcut(in_channels, channels, stride)

    def changed(self, activated: Tensor) -> Tensor | None:
        """See :class:`BasicBlock`."""
        return None if self.shortcut is None else self.shortcut(activated)


class PreActBottleneck(nn.Module):
    """The block of the deeper networks: 1x1, 3x3 and 1x1 convolutions, the first two with a quarter of the channels."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        inner = channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.shortcut = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, channels, H / stride, W / stride]."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        residual = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return shortcut + self.conv3(F.relu(self.bn3(residual)))


def shortcut_convolution(in_channels: int, channels: int, stride: int) -> nn.Module | None:
    """A 1x1 convolution where the shape changes; None where it does not."""
    if stride == 1 and in_channels == channels:
        return None
    return nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Module | None:
    convolution = shortcut_convolution(in_channels, channels, stride)
    return None if convolution is None else nn.Sequential(convolution)


def row_of_blocks(
    in_channels: int, channels: int, blocks: int, stride: int, block: Callable[[int, int, int], nn.Module]
) -> nn.Sequential:
    """Blocks of equal width; the first one changes the shape."""
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels, channels, 1) for _ in range(blocks - 1)))


class PreActNetwork(nn.Module):
    """What networks of these blocks share: a stem, stages, batch norm, ReLU, the global average, a linear layer.

    Each names its modules as the field does; weights under the names of fastat's first versions load too.
    """

    stages: ClassVar[tuple[str, ...]]
    """The modules before the batch norm, in their order."""
    head: ClassVar[tuple[str, str]]
    """The batch norm and the linear layer."""
    first_names: ClassVar[Mapping[str, str]]
    """What the first versions called the modules, by the beginning of the name."""
    shortcut_weight: ClassVar[str]
    """What a block calls the weight that was "shortcut.weight"."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> logits [B, num_classes]."""
        for stage in self.stages:
            x = getattr(self, stage)(x)
        norm, linear = (getattr(self, name) for name in self.head)
        logits: Tensor = linear(F.adaptive_avg_pool2d(F.relu(norm(x), inplace=True), 1).flatten(1))
        return logits

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[prefix + self._name_of(key.removeprefix(prefix))] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _name_of(self, saved: str) -> str:
        first, dot, rest = saved.partition(".")
        if first not in self.first_names:
            return saved
        if rest.endswith("shortcut.weight"):
            rest = rest.removesuffix("shortcut.weight") + self.shortcut_weight
        return self.first_names[first] + dot + rest


def initialize(network: nn.Module) -> None:
    """He-normal convolutions (fan out) and a zero bias in the linear layer, in place; draws from torch's generator."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
