"""Normalization as the first layer of a network, so that attacks see pixels."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor, nn

from fastat.support.threat import as_float

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Normalized(nn.Module):
    """A model that takes pixels in [0, 1] and normalizes them itself: ``model((x - mean) / std)``.

    With the normalization inside, eps and the box keep their pixel units in every attack.

    Args:
        model: the network, which takes normalized images [B, C, ...].
        mean: a number, or one per channel, in pixel units.
        std: a number, or one per channel, in pixel units; above zero.

    Raises:
        TypeError: the input is no floating-point tensor.
        ValueError: mean or std is empty, not finite or not flat, std has an entry <= 0, their lengths disagree, or (on
            the forward pass) the input's channels are not as many as the entries.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", _per_channel("mean", mean))
        self.register_buffer("std", _per_channel("std", std))
        if bool((self.std <= 0).any()):
            raise ValueError(f"std must be above zero, got {std}")
        if self.mean.numel() > 1 and self.std.numel() > 1 and self.mean.numel() != self.std.numel():
            raise ValueError(f"mean has {self.mean.numel()} entries, std has {self.std.numel()}")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the pixels x [B, C, ...], float in [0, 1]."""
        channels = max(self.mean.numel(), self.std.numel())
        if not isinstance(x, Tensor) or x.dtype not in _FLOATS:
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"x must be a floating-point tensor [B, C, ...] of pixels in [0, 1], got {found}")
        if x.dim() < 2 or (channels > 1 and x.shape[1] != channels):
            raise ValueError(f"mean and std are for {channels} channels, got an input of shape {tuple(x.shape)}")
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return self.model((x - self.mean.to(x.dtype).view(shape)) / self.std.to(x.dtype).view(shape))


def _per_channel(name: str, value: float | Sequence[float]) -> Tensor:
    parts = value if isinstance(value, list | tuple) else [value]
    numbers = [as_float(part) if isinstance(part, Real) else part for part in parts]
    tensor = torch.as_tensor(numbers if parts is value else numbers[0], dtype=torch.float32)
    if tensor.dim() > 1 or tensor.numel() == 0 or not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be a finite number or one per channel, got {value}")
    return tensor.detach().clone().reshape(-1)
