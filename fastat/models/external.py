"""Networks of timm and torchvision by their names there, freshly initialized."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn

PREFIXES = ("timm:", "torchvision:")


def zoo_model(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """The network "timm:NAME" or "torchvision:NAME".

    Args:
        name: with its prefix.
        num_classes: length of the logits.
        in_channels: channels of the image; torchvision's take 3.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: there is no such network, or it does not take so many channels.
    """
    library, _, short = name.partition(":")
    return (
        _timm(short, num_classes, in_channels) if library == "timm" else _torchvision(short, num_classes, in_channels)
    )


def _timm(name: str, num_classes: int, in_channels: int) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("networks of timm need it: pip install 'fastat[models]'") from error
    _check_known(f"timm:{name}", name, timm.list_models())
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    return model


def _torchvision(name: str, num_classes: int, in_channels: int) -> nn.Module:
    from torchvision import models as torchvision_models  # slow to import

    # of the networks for classification alone: the others return something else than logits
    _check_known(f"torchvision:{name}", name, torchvision_models.list_models(module=torchvision_models))
    if in_channels != 3:
        raise ValueError(f"torchvision:{name} takes images of 3 channels, got {in_channels}")
    options = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision_models.get_model(name, weights=None, num_classes=num_classes, **options)


def _check_known(full: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name, known, n=3)) or "none"
        raise ValueError(f"model {full!r} is not known; names close to it: {close}")
