"""From the losses of samples to one number, or not."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Reduction = Literal["mean", "none"]


def reduced(losses: Tensor, reduction: Reduction) -> Tensor:
    """Their mean, or the losses themselves.

    Raises:
        ValueError: reduction is neither "mean" nor "none".
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    return losses.mean() if reduction == "mean" else losses
