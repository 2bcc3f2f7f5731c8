"""Which network a run trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelConfig:
    """Which network a run trains."""

    model: str = "small_cnn"
    """small_cnn, mlp, preact_resnet18, _34, _50, wide_resnet_28_10, _34_10, _34_20, timm:NAME, torchvision:NAME, or a
    function of your own that makes it, package.module:function, called with num_classes, in_channels and image_size as
    far as it takes them."""
    width: int | None = None
    """Channels of the first stage of small_cnn (32 if not given), units of mlp (256); the others have fixed widths."""
    init: str | None = None
    """File of weights to start from: a state dict, also as other code wraps it. A classifier for another number of
    classes is left out."""
    pretrained: bool = False
    """Start from the weights that timm or torchvision have under that name, with the normalization they go with."""
    normalize: Literal["data", "imagenet", "none"] = "data"
    """What pixels are normalized by before the network: mean and deviation of the channels of the training images, the
    usual numbers of ImageNet, or nothing."""
