"""Which network a run trains."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """Which network a run trains."""

    model: str = "small_cnn"
    """small_cnn, mlp, preact_resnet18, _34, _50, wide_resnet_28_10, _34_10, _34_20, timm:NAME or torchvision:NAME."""
    width: int | None = None
    """Channels of the first stage of small_cnn (32 if not given), units of mlp (256); the others have fixed widths."""
