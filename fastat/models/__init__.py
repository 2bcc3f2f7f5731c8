"""Networks by name, which take pixels in [0, 1] and normalize them, and access to the parts of any network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fastat.models.access import (
    Model,
    any_compiled,
    buffers_put_back,
    class_logits,
    fresh_casts,
    in_eval_mode,
    innermost,
    logits_of,
    modes_kept,
    run_eagerly,
    uncompiled,
    unwrapped,
)
from fastat.models.config import ModelConfig
from fastat.models.external import PREFIXES, zoo_model, zoo_statistics
from fastat.models.features import Features, with_features
from fastat.models.half import OF_A_LOSS, directions, half_scale
from fastat.models.mlp import mlp
from fastat.models.normalized import Normalized
from fastat.models.own import is_own, own_model
from fastat.models.preact_resnet import preact_resnet18, preact_resnet34, preact_resnet50
from fastat.models.sharded import is_sharded, keep_gathered, reshard
from fastat.models.sight import modules_in_sight
from fastat.models.small_cnn import small_cnn
from fastat.models.threads import TrainingWatch, watched
from fastat.models.weights import check_tensors, closest_network, load_weights, read_weights
from fastat.models.wide_resnet import wide_resnet_28_10, wide_resnet_34_10, wide_resnet_34_20
from fastat.support import did_you_mean

__all__ = [
    "OF_A_LOSS",
    "WITH_WIDTH",
    "Features",
    "Model",
    "ModelConfig",
    "Normalized",
    "TrainingWatch",
    "any_compiled",
    "buffers_put_back",
    "build",
    "check_name",
    "check_tensors",
    "class_logits",
    "closest_named",
    "directions",
    "fresh_casts",
    "half_scale",
    "in_eval_mode",
    "innermost",
    "is_own",
    "is_sharded",
    "keep_gathered",
    "load_weights",
    "logits_of",
    "mlp",
    "modes_kept",
    "modules_in_sight",
    "names",
    "own_model",
    "preact_resnet18",
    "preact_resnet34",
    "preact_resnet50",
    "read_weights",
    "reshard",
    "run_eagerly",
    "size_of",
    "small_cnn",
    "title",
    "uncompiled",
    "unwrapped",
    "watched",
    "wide_resnet_28_10",
    "wide_resnet_34_10",
    "wide_resnet_34_20",
    "with_features",
]

WITH_WIDTH = ("small_cnn", "mlp")
"""The names of the networks whose width is free."""

_NETWORKS: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    "small_cnn": ("small CNN", small_cnn),
    "mlp": ("MLP", mlp),
    "preact_resnet18": ("PreAct ResNet-18", preact_resnet18),
    "preact_resnet34": ("PreAct ResNet-34", preact_resnet34),
    "preact_resnet50": ("PreAct ResNet-50", preact_resnet50),
    "wide_resnet_28_10": ("WRN-28-10", wide_resnet_28_10),
    "wide_resnet_34_10": ("WRN-34-10", wide_resnet_34_10),
    "wide_resnet_34_20": ("WRN-34-20", wide_resnet_34_20),
}


def names() -> tuple[str, ...]:
    """The names that :func:`build` knows besides ``timm:NAME`` and ``torchvision:NAME``."""
    return tuple(_NETWORKS)


def check_name(name: str) -> None:
    """Raises ValueError for a name that :func:`build` cannot know; any is taken that a library or a module may have."""
    if name not in _NETWORKS and not name.startswith(PREFIXES) and not is_own(name):
        known = f"{', '.join(names())}, timm:NAME, torchvision:NAME, package.module:function"
        raise ValueError(f"model must be one of {known}, got {name!r}{did_you_mean(name, names())}")


def title(name: str) -> str:
    """What tables and figures call a network."""
    return _NETWORKS[name][0] if name in _NETWORKS else name.replace(":", " ")


def build(
    name: str,
    num_classes: int,
    in_channels: int,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    width: int | None = None,
    *,
    image_size: tuple[int, ...] | None = None,
    pretrained: bool = False,
) -> Normalized:
    """A freshly initialized network that takes pixels [B, in_channels, H, W] in [0, 1] and returns [B, num_classes].

    Args:
        name: one of :func:`names`, "timm:NAME", "torchvision:NAME", or "package.module:function" for one's own.
        num_classes: length of the logits, at least 2.
        in_channels: channels of the image.
        mean: a number or one per channel, in pixel units; see :class:`Normalized`.
        std: a number or one per channel, above zero.
        width: channels of the first stage, or units of a layer, for a network whose width is free; its own default for
            None.
        image_size: (H, W), which "mlp" must know; the others take any. (L,) or () of inputs [B, in_channels, L] or
            [B, in_channels], which "mlp" and functions of one's own take.
        pretrained: with the weights that timm or torchvision have, and the normalization these were trained with.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: an unknown name, fewer than two classes, mean and std that do not fit in_channels, a width below 1
            or for a network that has a fixed one, no image size where there must be one.
    """
    check_name(name)
    if num_classes < 2 or in_channels < 1:
        raise ValueError(f"needs num_classes >= 2 and in_channels >= 1, got {num_classes} and {in_channels}")
    if width is not None and (name not in WITH_WIDTH or width < 1):
        raise ValueError(f"width is free for {', '.join(WITH_WIDTH)} only, and at least 1; got {width} for {name}")
    if image_size is not None and len(image_size) != 2 and name != "mlp" and not is_own(name):
        raise ValueError(
            f"{name} takes images [C, H, W], got inputs {[in_channels, *image_size]}: take mlp, or one of your own"
        )
    free = {} if width is None else {"width": width}
    if name in _NETWORKS:
        bare = _NETWORKS[name][1](num_classes, _inputs(name, in_channels, image_size), **free)
    elif name.startswith(PREFIXES):
        bare = zoo_model(name, num_classes, in_channels, pretrained)
        if pretrained and in_channels == 3:
            mean, std = zoo_statistics(name)
    else:
        bare = own_model(name, num_classes, in_channels, () if image_size is None else image_size)
    network = Normalized(bare, mean, std)
    for statistic, value in (("mean", network.mean), ("std", network.std)):
        if value.numel() not in (1, in_channels):
            raise ValueError(f"{statistic} has {value.numel()} entries for {in_channels} channels")
    return network


def _inputs(name: str, in_channels: int, image_size: tuple[int, ...] | None) -> int:
    """Channels, or for the fully connected network all numbers of an image."""
    if name != "mlp":
        return in_channels
    if image_size is None:
        raise ValueError("mlp needs image_size, got None")
    return math.prod((in_channels, *image_size))


def size_of(name: str, num_classes: int, image_shape: tuple[int, ...], width: int | None) -> int:
    """How many numbers a network has, found without memory for them: exactly of :func:`names`, at least of timm and
    torchvision, 0 of one's own.

    Raises:
        ValueError: there is no such network of this size.
    """
    channels, *size = image_shape
    if name not in _NETWORKS:
        return 0 if is_own(name) else channels + num_classes
    free = {} if width is None or name not in WITH_WIDTH else {"width": width}
    try:
        with torch.device("meta"):
            network = _NETWORKS[name][1](num_classes, _inputs(name, channels, tuple(size)), **free)
    except (OverflowError, RuntimeError, TypeError) as error:
        raise ValueError(f"{name} of {free or 'its'} width for {num_classes} classes cannot be made") from error
    return sum(value.numel() for value in network.state_dict().values())


def closest_named(weights: Mapping[str, Tensor], num_classes: int, image_shape: tuple[int, ...]) -> str:
    """The one of :func:`names` that weights of other code fit best, for images (C, H, W); "" if they fit none."""
    channels, *size = image_shape
    made = {
        name: partial(network, num_classes, _inputs(name, channels, tuple(size)))
        for name, (_, network) in _NETWORKS.items()
    }
    return closest_network(weights, made)
