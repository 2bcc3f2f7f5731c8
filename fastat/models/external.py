"""Networks of timm and torchvision by their names there, freshly initialized."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

PREFIXES = ("timm:", "torchvision:")


def zoo_model(name: str, num_classes: int, in_channels: int, pretrained: bool = False) -> nn.Module:
    """The network "timm:NAME" or "torchvision:NAME".

    Args:
        name: with its prefix.
        num_classes: length of the logits.
        in_channels: channels of the image; torchvision's take 3.
        pretrained: with the library's weights, which it fetches where they are not at hand; a classifier for another
            number of classes is new.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: there is no such network, or it does not take so many channels.
    """
    library, _, short = name.partition(":")
    make = _timm if library == "timm" else _torchvision
    return make(short, num_classes, in_channels, pretrained)


def zoo_statistics(name: str) -> tuple[list[float], list[float]]:
    """Mean and deviation of the channels that the library's weights for that name were trained with."""
    library, _, short = name.partition(":")
    known: Any
    if library == "timm":
        import timm

        known = timm.get_pretrained_cfg(short)
    else:
        from torchvision import models as torchvision_models

        known = torchvision_models.get_model_weights(short).DEFAULT.transforms()
    if known is None:
        raise ValueError(f"{name} has no pretrained weights")
    return list(known.mean), list(known.std)


def _timm(name: str, num_classes: int, in_channels: int, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("networks of timm need it: pip install 'fastat[models]'") from error
    _check_known(f"timm:{name}", name, timm.list_models())
    model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels)
    return model


def _torchvision(name: str, num_classes: int, in_channels: int, pretrained: bool) -> nn.Module:
    from torchvision import models as torchvision_models  # slow to import

    # of the networks for classification alone: the others return something else than logits
    _check_known(f"torchvision:{name}", name, torchvision_models.list_models(module=torchvision_models))
    if in_channels != 3:
        raise ValueError(f"torchvision:{name} takes images of 3 channels, got {in_channels}")
    options = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision_models.get_model(name, weights=None, num_classes=num_classes, **options)
    if pretrained:
        weights = torchvision_models.get_model_weights(name).DEFAULT.get_state_dict(progress=False)
        own = model.state_dict()
        model.load_state_dict({**own, **{key: t for key, t in weights.items() if _same_shape(t, own.get(key))}})
    return model


def _same_shape(t: Tensor, other: Tensor | None) -> bool:
    return other is not None and t.shape == other.shape


def _check_known(full: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name, known, n=3)) or "none"
        raise ValueError(f"model {full!r} is not known; names close to it: {close}")
