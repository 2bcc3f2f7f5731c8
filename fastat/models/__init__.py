"""Networks by name, with the normalization inside: they take pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from fastat.models.normalized import Normalized
from fastat.models.preact_resnet import preact_resnet18
from fastat.models.small_cnn import small_cnn
from fastat.models.wide_resnet import wide_resnet_28_10, wide_resnet_34_10

__all__ = [
    "Normalized",
    "build",
    "names",
    "preact_resnet18",
    "small_cnn",
    "wide_resnet_28_10",
    "wide_resnet_34_10",
]

WITH_WIDTH = ("small_cnn",)
"""The names of the networks whose width is free."""

_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "small_cnn": small_cnn,
    "preact_resnet18": preact_resnet18,
    "wide_resnet_28_10": wide_resnet_28_10,
    "wide_resnet_34_10": wide_resnet_34_10,
}


def names() -> tuple[str, ...]:
    """The names that :func:`build` knows."""
    return tuple(_NETWORKS)


def build(
    name: str,
    num_classes: int,
    in_channels: int,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    width: int | None = None,
) -> Normalized:
    """A freshly initialized network that takes pixels [B, in_channels, H, W] in [0, 1] and returns [B, num_classes].

    Args:
        name: one of :func:`names`.
        num_classes: length of the logits, at least 2.
        in_channels: channels of the image.
        mean: a number or one per channel, in pixel units; see :class:`Normalized`.
        std: a number or one per channel, above zero.
        width: channels of the first stage, for a network whose width is free; its own default for None.

    Raises:
        ValueError: an unknown name, fewer than two classes, mean and std that do not fit in_channels, or a width below
            1 or for a network that has a fixed one.
    """
    if name not in _NETWORKS:
        raise ValueError(f"unknown model {name!r}; known are {', '.join(_NETWORKS)}")
    if num_classes < 2 or in_channels < 1:
        raise ValueError(f"needs num_classes >= 2 and in_channels >= 1, got {num_classes} and {in_channels}")
    if width is not None and (name not in WITH_WIDTH or width < 1):
        raise ValueError(f"width is free for {', '.join(WITH_WIDTH)} only, and at least 1; got {width} for {name}")
    free = {} if width is None else {"width": width}
    network = Normalized(_NETWORKS[name](num_classes, in_channels, **free), mean, std)
    for statistic, value in (("mean", network.mean), ("std", network.std)):
        if value.numel() not in (1, in_channels):
            raise ValueError(f"{statistic} has {value.numel()} entries for {in_channels} channels")
    return network
